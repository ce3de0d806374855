"""The steps that make and judge a candidate: train, export, parity, evaluate."""

from typing import Any

from clave_contracts.problems import ServiceProblem
from clave_contracts.registry import GateVerdict, Version

from clave_trainer.domain.pipeline_steps import TRAIN, TRAINING_SET
from clave_trainer.runtime.artifacts import Pointer
from clave_trainer.services.engine import StepRefused, StepResult
from clave_trainer.steps.context import Outcome, StepContext
from clave_trainer.steps.data import NOT_FOUND, data_request

GRAPH = "model.onnx"


async def train(context: StepContext) -> Outcome:
    """Train on the snapshot; the booster is stored with its kept rounds only."""
    result, stored = await context.compute(
        data_request(context), files=["training_set.parquet"], keep=["model.ubj", "model.json"]
    )
    facts = result["facts"]
    message = (
        f"{facts['rounds']} of {facts['rounds_tried']} rounds kept, "
        f"validation log loss {facts['validation_log_loss']:.4f}"
    )
    return StepResult({"artifacts": stored, "facts": facts}, message)


async def export(context: StepContext) -> Outcome:
    """Write the booster as an ONNX graph."""
    learned = context.facts(TRAIN)
    request = {
        "threshold": learned["threshold"],
        "features": learned["features"],
        "metadata": {
            "run": context.run.id,
            "training_set": context.facts(TRAINING_SET)["digest"],
            "booster": context.artifact("model.ubj")["digest"],
        },
    }
    result, stored = await context.compute(request, files=["model.json"], keep=[GRAPH])
    facts = result["facts"]
    return StepResult({"artifacts": stored, "facts": facts}, f"{facts['bytes'] / 1024:.0f} KiB")


async def parity(context: StepContext) -> Outcome:
    """Prove that the graph answers as the booster does, or refuse the run."""
    request = {**data_request(context), "threshold": context.facts(TRAIN)["threshold"]}
    result, _ = await context.compute(request, files=["training_set.parquet", "model.ubj", GRAPH], keep=[])
    facts = result["facts"]
    gate = parity_gate(facts)
    if result.get("refused"):
        return StepRefused(result["refused"], output={"facts": facts}, gates=[gate])
    return StepResult({"facts": facts}, gate.detail, gates=[gate])


def parity_gate(facts: dict[str, Any]) -> GateVerdict:
    """Render the proof as a gate."""
    rows = facts["rows_real"] + facts["rows_made"]
    return GateVerdict(
        gate="parity",
        verdict="passed" if facts["holds"] else "failed",
        detail=(
            f"largest relative difference {facts['difference_relative']:.1e} over {rows} rows, "
            f"{facts['rows_with_missing']} of them with missing values"
        ),
        estimate=facts["difference_relative"],
        limit=facts["tolerance"],
        n=rows,
    )


async def evaluate(context: StepContext) -> Outcome:
    """Judge the candidate by every gate, against the endpoint's live version where there is one."""
    learned, run = context.facts(TRAIN), context.run
    champion = await live_version(context)
    request: dict[str, Any] = {
        **data_request(context),
        "policy": run.spec.gates.model_dump(),
        "threshold": learned["threshold"],
        "importance": learned["importance"],
        "evaluation_after": run.evaluation_after.isoformat() if run.evaluation_after else None,
    }
    graph: Pointer | None = None
    if champion is not None:
        graph = graph_of(champion)
        request["champion"] = {
            "version": champion.version,
            "columns": champion.signature.columns,
            "threshold": champion.signature.threshold,
        }
    result, stored = await context.compute(
        request,
        files=["training_set.parquet", GRAPH],
        keep=["reference.parquet"],
        champion=graph,
    )
    facts = result["facts"]
    facts["gates"] = [parity_gate(context.facts("parity")).model_dump(), *facts["gates"]]
    verdicts = [GateVerdict.model_validate(gate) for gate in facts["gates"]]
    output = {"artifacts": stored, "facts": facts, "window": result["window"]}
    if result.get("refused"):
        return StepRefused(result["refused"], output=output, gates=verdicts)
    review = [gate.gate for gate in verdicts if gate.verdict == "review"]
    told = f"; for review: {', '.join(review)}" if review else ""
    return StepResult(output, f"gates passed on {facts['rows']} rows ({result['window']}){told}", gates=verdicts)


async def live_version(context: StepContext) -> Version | None:
    """Ask the registry which version the endpoint serves; None before the first."""
    registry, spec = context.peers.registry, context.run.spec
    try:
        endpoint = await registry.endpoint(spec.endpoint)
    except ServiceProblem as problem:
        if problem.status == NOT_FOUND:
            return None
        raise
    if endpoint.live_version is None:
        return None
    return await registry.version(endpoint.model, endpoint.live_version)


def graph_of(version: Version) -> Pointer | None:
    """Find the pointer of a version's graph."""
    for artifact in version.artifacts:
        if artifact.path == GRAPH:
            return {"digest": artifact.digest, "size": artifact.size}
    return None
