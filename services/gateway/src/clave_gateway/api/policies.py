"""Routes on policies and lockdown."""

from datetime import datetime
from typing import Annotated, Any

from clave_common.access import Caller, governed
from clave_common.pages import PageSize
from clave_common.pages import page_size as bounded
from clave_contracts.gateway import API
from clave_contracts.schema import Answer, Count, Request
from fastapi import APIRouter, Path
from pydantic import Field, StringConstraints

from clave_gateway.services.policies import PolicyService
from clave_gateway.storage.policies import BundleRow

Version = Annotated[int, Path(ge=1, le=2**62)]
ModuleName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,60}\.rego$")]
ModuleText = Annotated[str, StringConstraints(max_length=200_000)]


class PolicyUpload(Request):
    """A candidate; what is left out comes from the policy in force."""

    modules: dict[ModuleName, ModuleText] | None = Field(default=None, max_length=50)
    data: dict[str, Any] | None = None
    note: str = Field(default="", max_length=2_000)


class PolicySummary(Answer):
    """A policy without its text."""

    version: int
    digest: str
    origin: str
    note: str
    created_by: str
    created_at: datetime
    activated_by: str | None
    activated_at: datetime | None
    plan: dict[str, Any] | None


class Policy(PolicySummary):
    """A policy."""

    modules: dict[str, str]
    data: dict[str, Any]
    signature: str


class PolicyPage(Answer):
    """Policies, newest first, and the version in force."""

    active: int | None
    policies: list[PolicySummary]


class Activation(Request):
    """What whoever activates has read."""

    accept_differences: Count = Field(default=0, description="Decisions that come out differently, by the plan.")


class LockdownChange(Request):
    """Declare or end lockdown."""

    on: bool
    reason: str = Field(min_length=5, max_length=500)


class Lockdown(Answer):
    """Whether the installation is locked down."""

    on: bool


def _summary(row: BundleRow) -> PolicySummary:
    return PolicySummary(**{name: getattr(row, name) for name in PolicySummary.model_fields})


def policies_router(service: PolicyService) -> APIRouter:
    """Routes on policies."""
    router = APIRouter(prefix=f"{API}/policies", tags=["policies"])

    @router.get("")
    async def list_policies(
        caller: Caller = governed("policy:bundle.read", resource_id="policies"),  # noqa: ARG001
        page_size: PageSize = 50,
    ) -> PolicyPage:
        """List policies, newest first."""
        active, rows = await service.list_policies(limit=bounded(page_size))
        return PolicyPage(active=active, policies=[_summary(row) for row in rows])

    @router.get("/{version}")
    async def read(
        version: Version,
        caller: Caller = governed("policy:bundle.read", resource_id="policies/{version}"),  # noqa: ARG001
    ) -> Policy:
        """Read one policy with its modules and data."""
        row = await service.read(version)
        return Policy(**{name: getattr(row, name) for name in Policy.model_fields})

    @router.post("", status_code=201)
    async def upload(
        body: PolicyUpload, caller: Caller = governed("policy:bundle.write", in_operation=True)
    ) -> PolicySummary:
        """Upload a candidate; it must compile."""
        return _summary(await service.upload(caller, modules=body.modules, data=body.data, note=body.note))

    @router.post("/{version}/plan")
    async def plan(
        version: Version, caller: Caller = governed("policy:bundle.write", in_operation=True)
    ) -> dict[str, Any]:
        """Run the decision matrix, a fuzz and a replay of recent decisions on a candidate."""
        return await service.plan(caller, version)

    @router.post("/{version}/activate")
    async def activate(
        version: Version,
        body: Activation | None = None,
        caller: Caller = governed("policy:bundle.activate", in_operation=True),
    ) -> PolicySummary:
        """Put a planned candidate in force."""
        accepted = body.accept_differences if body else 0
        return _summary(await service.activate(caller, version, accept_differences=accepted))

    @router.post("/rollback")
    async def rollback(caller: Caller = governed("policy:bundle.rollback", in_operation=True)) -> PolicySummary:
        """Put the previous policy back in force."""
        return _summary(await service.rollback(caller))

    return router


def lockdown_router(service: PolicyService) -> APIRouter:
    """The route that declares lockdown."""
    router = APIRouter(prefix=API, tags=["lockdown"])

    @router.put("/lockdown")
    async def set_lockdown(
        body: LockdownChange, caller: Caller = governed("admin:lockdown.set", in_operation=True)
    ) -> Lockdown:
        """Refuse every change, or allow them again; what is exempt is policy data (lockdown_exempt)."""
        return Lockdown(on=await service.set_lockdown(caller, on=body.on, reason=body.reason))

    return router
