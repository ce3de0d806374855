"""The computing half of a step, in a process of its own: `python -m clave_trainer.runtime.compute FOLDER`.

It reads ``FOLDER/request.json`` and the files named there, and writes ``FOLDER/result.json`` and files below
``FOLDER/out``; lines of JSON on its standard output tell progress. It knows no service, no database and no secret.
A process of its own can be ended at any moment (cancel, time limit, lost lease), gives its memory back, and starts
with OpenMP's settings already in its environment. When its standard input closes, its worker is gone, and it ends.
"""

import json
import os
import resource
import sys
import threading
import warnings
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

from clave_common.errors import ClaveError

Report = Callable[[float, str], None]
Computation = Callable[[Path, dict[str, Any], Report], dict[str, Any]]
RESULT_FILE, REQUEST_FILE, OUT_FOLDER = "result.json", "request.json", "out"
_ORPHANED = 75
_UNWANTED = frozenset({"pandas", "matplotlib", "sklearn"})


class _Unwanted(MetaPathFinder):
    """Hides packages that Arrow and XGBoost load where they find them; pandas alone takes a second."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:  # noqa: ARG002 - the protocol's signature
        """Refuse unwanted packages, leave all others to the next finder."""
        if fullname.partition(".")[0] in _UNWANTED:
            raise ModuleNotFoundError(fullname, name=fullname)


def validate(folder: Path, request: dict[str, Any], report: Report) -> dict[str, Any]:
    """Look at a training set; faults refuse the run."""
    from clave_trainer.domain.training_data import inspect  # noqa: PLC0415 - each step loads what it needs

    report(0.1, "reading the training set")
    frame, dealt = _frame_and_deal(folder, request)
    report(0.6, "inspecting the training set")
    found = inspect(frame.rows, frame.label, frame.features, dealt)
    facts = {**found.facts, "warnings": found.warnings, "entities": len(set(frame.keys))}
    return {"refused": found.faults, "facts": facts} if found.faults else {"facts": facts}


def train(folder: Path, request: dict[str, Any], report: Report) -> dict[str, Any]:
    """Train a booster and save it with its kept rounds."""
    from clave_trainer.runtime import training  # noqa: PLC0415 - loads XGBoost

    frame, dealt = _frame_and_deal(folder, request)
    fit, validation = frame.take(dealt.train), _one_each(frame.take(dealt.validation))
    report(0.0, f"learning from {len(fit.keys)} rows")
    trained = training.train(fit, validation, request["params"], report)
    trained.booster.save_model(folder / OUT_FOLDER / "model.ubj")
    (folder / OUT_FOLDER / "model.json").write_bytes(trained.booster.save_raw("json"))
    return {
        "facts": {
            "rounds": trained.rounds,
            "rounds_tried": trained.rounds_tried,
            "threshold": trained.threshold,
            "validation_log_loss": trained.log_loss[trained.rounds - 1],
            "importance": trained.importance,
            "features": frame.features,
            "levels": frame.levels,
            "rows": {"train": len(fit.keys), "validation": len(validation.keys)},
            "threads": training.threads(),
        }
    }


def export(folder: Path, request: dict[str, Any], report: Report) -> dict[str, Any]:
    """Write the booster as an ONNX graph."""
    from clave_trainer.runtime import onnx_export  # noqa: PLC0415 - loads ONNX

    report(0.3, "writing the graph")
    options = onnx_export.ExportOptions(
        threshold=request["threshold"], feature_names=request["features"], metadata=request["metadata"]
    )
    proto = onnx_export.export((folder / "model.json").read_bytes(), options)
    content = proto.SerializeToString(deterministic=True)
    (folder / OUT_FOLDER / "model.onnx").write_bytes(content)
    return {"facts": {"bytes": len(content), "nodes": len(proto.graph.node)}}


def parity(folder: Path, request: dict[str, Any], report: Report) -> dict[str, Any]:
    """Prove that the graph answers as the booster does; a difference refuses the run."""
    import xgboost  # noqa: PLC0415 - loads XGBoost

    from clave_trainer.runtime.parity import prove  # noqa: PLC0415 - loads ONNX Runtime

    frame, _ = _frame_and_deal(folder, request)
    booster = xgboost.Booster(model_file=folder / "model.ubj")
    report(0.3, f"comparing {len(frame.keys)} real rows and as many made ones as the proof needs")
    model = (folder / "model.onnx").read_bytes()
    proof = prove(booster, model, frame.rows, threshold=request["threshold"], seed=int(request["params"]["seed"]))
    facts = proof.as_facts()
    if proof.holds:
        return {"facts": facts}
    reason = (
        f"parity: the exported graph differs from the booster by {proof.difference_relative:.2g} "
        f"(limit {proof.tolerance:g}) and in {proof.labels_different} labels"
    )
    return {"facts": facts, "refused": [reason]}


def evaluate(folder: Path, request: dict[str, Any], report: Report) -> dict[str, Any]:
    """Compute every gate and write the evaluation and the monitoring reference."""
    from clave_trainer.runtime.report import evaluation_report  # noqa: PLC0415 - loads ONNX Runtime

    frame, dealt = _frame_and_deal(folder, request)
    return evaluation_report(folder, request, frame, dealt, report)


COMPUTATIONS: dict[str, Computation] = {
    "validate": validate,
    "train": train,
    "export": export,
    "parity": parity,
    "evaluate": evaluate,
}


def _frame_and_deal(folder: Path, request: dict[str, Any]) -> Any:
    from clave_trainer.domain.split import SplitRule, deal  # noqa: PLC0415 - numpy, not needed by every step
    from clave_trainer.runtime.frames import read_frame  # noqa: PLC0415 - loads Arrow

    frame = read_frame(folder / "training_set.parquet", request["columns"])
    split = request["split"]
    rule = SplitRule(request["salt"], validation=split["validation"], test=split["test"])
    return frame, deal(frame.keys, rule)


def _one_each(frame: Any) -> Any:
    from clave_trainer.domain.split import latest_of_each  # noqa: PLC0415 - numpy, see above

    return frame.take(latest_of_each(frame.keys, frame.at))


def _end_with_worker() -> None:
    """End this process once the worker's end of standard input is closed: nobody waits for the result."""

    def watch() -> None:
        while os.read(sys.stdin.fileno(), 4096):  # unbuffered: a buffer's lock would block the exit
            pass
        os._exit(_ORPHANED)

    threading.Thread(target=watch, daemon=True).start()


def _say(progress: float, message: str) -> None:
    sys.stdout.write(json.dumps({"progress": round(progress, 4), "message": message}) + "\n")
    sys.stdout.flush()


def main(folder: Path) -> int:
    """Run one computation; its result, refusal or error is in the result file."""
    warnings.simplefilter("ignore")  # progress is the only thing to be said on the output
    sys.meta_path.insert(0, _Unwanted())
    request = json.loads((folder / REQUEST_FILE).read_text())
    limit = int(request.get("memory_bytes_max") or 0)
    if limit:
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    _end_with_worker()
    (folder / OUT_FOLDER).mkdir(exist_ok=True)
    try:
        result = COMPUTATIONS[request["step"]](folder, request, _say)
    except ClaveError as error:
        result = {"error": {"code": error.code, "detail": error.detail}}
    except MemoryError:
        result = {"error": {"code": "out_of_memory", "detail": "The step needs more memory than it may take."}}
    partial = folder / f"{RESULT_FILE}.partial"
    partial.write_text(json.dumps(result))
    partial.rename(folder / RESULT_FILE)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
