"""Routes on decisions, and AuthZEN's questions."""

from datetime import datetime
from typing import Annotated, Any

from clave_common.access import Caller, governed
from clave_common.errors import InvalidArgument
from clave_common.pages import PageSize
from clave_common.pages import page_size as bounded
from clave_contracts.gateway import API
from clave_contracts.schema import Answer
from fastapi import APIRouter, Path
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from clave_gateway.services.decisions import DecisionSearch, DecisionService
from clave_gateway.services.evaluation import EvaluationService
from clave_gateway.storage.decisions import DecisionRow

DecisionId = Annotated[str, Path(pattern=r"^dec_[0-9a-z]{26}$")]
_EVALUATIONS_MAX = 100


class DecisionView(Answer):
    """A decision as the log keeps it."""

    id: str
    at: datetime
    service: str
    subject: str
    action: str
    resource: str
    allow: bool
    reasons: list[str]
    policy_version: str
    engine: str
    input_digest: str


class DecisionPage(Answer):
    """Decisions, newest first."""

    decisions: list[DecisionView]


class ExplanationView(Answer):
    """Why a decision came out as it did, and what would be needed."""

    decision: DecisionView
    input: dict[str, Any]
    remedies: dict[str, str]
    rules: dict[str, str]
    again: dict[str, Any]


class AuthZenEntity(BaseModel):
    """Subject or resource of AuthZEN."""

    model_config = ConfigDict(extra="ignore")

    type: str = Field(max_length=100)
    id: str = Field(max_length=500)
    properties: dict[str, Any] = Field(default_factory=dict)


class AuthZenAction(BaseModel):
    """Action of AuthZEN."""

    model_config = ConfigDict(extra="ignore")

    name: str = Field(max_length=200)
    properties: dict[str, Any] = Field(default_factory=dict)


class Evaluation(BaseModel):
    """One AuthZEN question."""

    model_config = ConfigDict(extra="ignore")

    subject: AuthZenEntity
    action: AuthZenAction
    resource: AuthZenEntity
    context: dict[str, Any] = Field(default_factory=dict)


class Evaluations(BaseModel):
    """Several AuthZEN questions; what is missing in one comes from the top."""

    model_config = ConfigDict(extra="ignore")

    subject: AuthZenEntity | None = None
    action: AuthZenAction | None = None
    resource: AuthZenEntity | None = None
    context: dict[str, Any] | None = None
    evaluations: list[dict[str, Any]] = Field(min_length=1, max_length=_EVALUATIONS_MAX)


class EvaluationAnswer(Answer):
    """AuthZEN's answer."""

    decision: bool
    context: dict[str, Any] = Field(default_factory=dict)


class EvaluationAnswers(Answer):
    """AuthZEN's answers, in the order of the questions."""

    evaluations: list[EvaluationAnswer]


def _view(row: DecisionRow) -> DecisionView:
    return DecisionView(**{name: getattr(row, name) for name in DecisionView.model_fields})


def decisions_router(service: DecisionService) -> APIRouter:
    """Routes on the log of decisions."""
    router = APIRouter(prefix=f"{API}/decisions", tags=["decisions"])

    @router.get("")
    async def recent(
        caller: Caller = governed("audit:log.read", resource_id="decisions"),
        subject: str | None = None,
        action: str | None = None,
        allow: bool | None = None,  # noqa: FBT001 - a query parameter, named by its callers
        page_size: PageSize = 50,
    ) -> DecisionPage:
        """List recent decisions: every denial, every full-audit allow, a sample of the others."""
        wanted = DecisionSearch(subject=subject, action=action, allow=allow)
        rows = await service.recent(caller, wanted, limit=bounded(page_size))
        return DecisionPage(decisions=[_view(row) for row in rows])

    @router.get("/{decision_id}")
    async def explain(
        decision_id: DecisionId, caller: Caller = governed("access:evaluate", in_operation=True)
    ) -> ExplanationView:
        """Explain a decision: run it again, and say what would be needed."""
        found = await service.explain(caller, decision_id)
        return ExplanationView(
            decision=_view(found.row),
            input=found.row.input,
            remedies=found.remedies,
            rules=found.rules,
            again={
                "allow": found.again_allow,
                "reasons": found.again_reasons,
                "policy_version": found.again_policy_version,
                "same": found.same,
            },
        )

    return router


def authzen_router(service: EvaluationService) -> APIRouter:
    """AuthZEN's Authorization API 1.0."""
    router = APIRouter(prefix="/access/v1", tags=["authzen"])

    @router.post("/evaluation")
    async def evaluation(
        body: Evaluation, caller: Caller = governed("access:evaluate", in_operation=True)
    ) -> EvaluationAnswer:
        """Answer one question without doing anything."""
        decision = await service.evaluate(caller, body.model_dump())
        return EvaluationAnswer(decision=decision.allow, context={"reasons": list(decision.reasons)})

    @router.post("/evaluations")
    async def evaluations(
        body: Evaluations, caller: Caller = governed("access:evaluate", in_operation=True)
    ) -> EvaluationAnswers:
        """Answer several questions."""
        shared = body.model_dump(exclude={"evaluations"}, exclude_none=True)
        try:
            questions = [Evaluation.model_validate({**shared, **each}).model_dump() for each in body.evaluations]
        except ValidationError as error:
            field = ".".join(str(part) for part in error.errors()[0]["loc"])
            raise InvalidArgument(f"evaluations: {field}: {error.errors()[0]['msg']}.", field=field) from error
        decisions = [await service.evaluate(caller, question) for question in questions]
        return EvaluationAnswers(
            evaluations=[
                EvaluationAnswer(decision=decision.allow, context={"reasons": list(decision.reasons)})
                for decision in decisions
            ]
        )

    return router
