"""The steps that hand a candidate over: register, approve, roll out. The last two wait without holding a worker."""

import asyncio
from typing import Any

import orjson
from clave_common.blobstore import bytes_of
from clave_contracts.problems import ServiceProblem
from clave_contracts.registry import (
    Artifact,
    DatasetRef,
    EndpointCreate,
    Evaluation,
    Lineage,
    ModelCreate,
    RolloutCreate,
    Signature,
    SubmitRequest,
    TensorSpec,
    Version,
    VersionCreate,
)

from clave_trainer.domain.pipeline_steps import EVALUATE, REGISTER, TRAIN, TRAINING_SET
from clave_trainer.runtime.artifacts import Pointer
from clave_trainer.runtime.origin import code_version, environment_digest
from clave_trainer.services.engine import StepRefused, StepResult, StepWaits
from clave_trainer.steps.context import Outcome, StepContext
from clave_trainer.steps.data import NOT_FOUND
from clave_trainer.steps.learning import live_version

APPROVAL_POLL_S = 2.0
ROLLOUT_POLL_S = 2.0
_MEDIA = {
    "model.onnx": "application/onnx",
    "model.ubj": "application/ubjson",
    "signature.json": "application/json",
    "evaluation.json": "application/json",
    "monitoring/reference.parquet": "application/vnd.apache.parquet",
}


async def register(context: StepContext) -> Outcome:
    """Upload the artifacts and register the version; repeating it finds the same version again."""
    run, spec = context.run, context.run.spec
    registry = context.peers.registry
    signature = signature_of(context.facts(TRAIN))
    evaluation = Evaluation.model_validate(context.facts(EVALUATE))
    pointers = {
        "model.onnx": context.artifact("model.onnx"),
        "model.ubj": context.artifact("model.ubj"),
        "signature.json": await _store_json(context, signature.model_dump(mode="json")),
        "evaluation.json": await _store_json(context, evaluation.model_dump(mode="json")),
        "monitoring/reference.parquet": context.artifact("reference.parquet"),
    }
    for path, pointer in pointers.items():
        await context.report(0.5, f"uploading {path}")
        if not await registry.has_blob(pointer["digest"]):
            await registry.put_blob(pointer["digest"], context.blobs.read(pointer["digest"]))
    await _ensure_model(context)
    champion = await live_version(context)
    request = VersionCreate(
        artifacts=[
            Artifact(path=path, digest=each["digest"], size=each["size"], media_type=_MEDIA[path])
            for path, each in pointers.items()
        ],
        signature=signature,
        params={**spec.params, "rounds_kept": context.facts(TRAIN)["rounds"]},
        lineage=lineage_of(context, champion, environment=await asyncio.to_thread(environment_digest)),
        evaluation=evaluation,
        card=spec.card.model_copy(update={"algorithm": spec.card.algorithm or "Gradient-boosted trees (XGBoost)"}),
        description=run.reason,
        contributors=[run.requested_by],
    )
    version = await registry.create_version(
        spec.model, request, idempotency_key=f"{run.id}-register", on_behalf_of=run.on_behalf_of
    )
    output = {"facts": {"model": version.model, "version": version.version, "manifest": version.manifest_digest}}
    row = {"model": version.model, "model_version": version.version}
    return StepResult(output, f"{version.model} version {version.version}", run=row)


def signature_of(learned: dict[str, Any]) -> Signature:
    """Describe the graph's input and outputs."""
    return Signature(
        inputs=[TensorSpec(name="input", datatype="FP32", shape=[-1, len(learned["features"])])],
        outputs=[
            TensorSpec(name="label", datatype="INT64", shape=[-1]),
            TensorSpec(name="probabilities", datatype="FP32", shape=[-1, 2]),
        ],
        columns=learned["features"],
        levels=learned["levels"],
        positive_output="probabilities:1",
        threshold=learned["threshold"],
        task="binary",
    )


def lineage_of(context: StepContext, champion: Version | None, *, environment: str) -> Lineage:
    """Say where the version comes from: data, definitions, code, environment, cause."""
    made = context.facts(TRAINING_SET)
    run = context.run
    return Lineage(
        run_id=run.id,
        pipeline=f"{run.pipeline}@{run.pipeline_version}",
        trigger=run.trigger,
        datasets=[
            DatasetRef(
                id=made["id"],
                name=made["name"],
                digest=made["digest"],
                manifest_digest=made["manifest_digest"],
                rows=made["rows"],
                feature_service=made["feature_service"],
                feature_views=made["feature_views"],
                as_of=made["as_of"],
                columns=[column["name"] for column in made["columns"]],
                consent_policy=made.get("consent_policy"),
            )
        ],
        parent_version=champion.version if champion else None,
        code_version=code_version(),
        environment_digest=environment,
        retraining_decision_id=run.retraining_decision_id,
    )


async def _store_json(context: StepContext, document: dict[str, Any]) -> Pointer:
    content = orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS)
    ref = await context.blobs.put(bytes_of(content))
    return {"digest": ref.digest, "size": ref.size}


async def _ensure_model(context: StepContext) -> None:
    spec = context.run.spec
    try:
        await context.peers.registry.create_model(
            ModelCreate(name=spec.model, description=spec.description), on_behalf_of=context.run.on_behalf_of
        )
    except ServiceProblem as problem:
        if problem.code not in {"already_exists", "model_exists", "name_taken"} and problem.status != 409:  # noqa: PLR2004 - HTTP's own number
            raise


async def approve(context: StepContext) -> Outcome:
    """Submit the version, then wait until policy or people have decided."""
    spec, run = context.run.spec, context.run
    registered = context.facts(REGISTER)
    registry = context.peers.registry
    version = await registry.version(registered["model"], registered["version"])
    if version.status == "draft":
        version = await registry.submit(
            version.model,
            version.version,
            SubmitRequest(namespace=spec.namespace),
            on_behalf_of=run.on_behalf_of,
        )
    match version.status:
        case "approved":
            by = version.approved_by or ", ".join(approval.by for approval in version.approvals) or "policy"
            return StepResult({"facts": {"approved_by": by}}, f"approved by {by}")
        case "rejected" | "archived":
            why = version.status_reason or "no reason given"
            return StepRefused([f"approval: version {version.version} is {version.status} ({why})"])
        case "submitted" | "draft":
            given = sum(approval.decision == "approve" for approval in version.approvals)
            message = f"waits for approval of version {version.version}: {given} of {version.approvals_needed} given"
            return StepWaits(message, APPROVAL_POLL_S)


async def roll_out(context: StepContext) -> Outcome:
    """Bring the version to its endpoint and wait until it is promoted or rolled back."""
    spec, run = context.run.spec, context.run
    registered = context.facts(REGISTER)
    if not run.roll_out:
        return StepResult({"facts": {"rolled_out": False}}, "the run asked for no rollout")
    if rollout_id := context.own.get("rollout_id"):
        return await _follow(context, str(rollout_id))
    registry, number = context.peers.registry, int(registered["version"])
    try:
        endpoint = await registry.endpoint(spec.endpoint)
    except ServiceProblem as problem:
        if problem.status != NOT_FOUND:
            raise
        await registry.create_endpoint(
            EndpointCreate(
                name=spec.endpoint,
                model=spec.model,
                namespace=spec.namespace,
                feature_service=spec.feature_service,
                version=number,
                description=spec.description,
            ),
            on_behalf_of=run.on_behalf_of,
        )
        return StepResult({"facts": {"live": number}}, f"version {number} is live, the endpoint's first")
    if endpoint.namespace != spec.namespace:
        where = f"{spec.endpoint} answers in {endpoint.namespace}"
        return StepRefused([f"rollout: the pipeline acts in {spec.namespace}, and {where}"])
    if endpoint.live_version == number:
        return StepResult({"facts": {"live": number}}, f"version {number} is live")
    rollout = await registry.create_rollout(
        spec.endpoint,
        RolloutCreate(version=number, plan=spec.rollout, reason=run.reason),
        idempotency_key=f"{run.id}-roll-out",
        on_behalf_of=run.on_behalf_of,
    )
    noted = {"rollout_id": rollout.id}
    return StepWaits(f"rollout {rollout.id} has begun", ROLLOUT_POLL_S, output=noted, run=noted)


async def _follow(context: StepContext, rollout_id: str) -> Outcome:
    rollout = await context.peers.registry.rollout(rollout_id)
    facts = {"rollout_id": rollout_id, "facts": {"state": rollout.state, "outcome": rollout.outcome}}
    match rollout.state:
        case "promoted":
            return StepResult(facts, f"version {rollout.version} is promoted")
        case "rolled_back" | "aborted":
            said = rollout.state.replace("_", " ")
            return StepRefused([f"rollout: {said} ({rollout.outcome or 'no reason given'})"], output=facts)
        case "pending" | "shadow" | "canary" | "paused":
            message = f"{rollout.state} at {rollout.weight:.0%} of the traffic"
            return StepWaits(message, ROLLOUT_POLL_S, output={"rollout_id": rollout_id})
