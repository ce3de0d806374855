"""The reference model of the benchmark: XGBoost, 300 trees, depth 6, 45 float32 columns, and 64 rows to ask about."""

from pathlib import Path

import numpy as np
import orjson
import xgboost
from clave_contracts.inference_grpc import open_inference_pb2 as pb
from clave_contracts.registry import Signature, TensorSpec
from clave_trainer.runtime.onnx_export import ExportOptions, export

COLUMNS = 45
ROWS = 20_000
BODIES = 64


def make(folder: Path) -> None:
    """Train, export and write request bodies, unless that was done before."""
    if (folder / "model.onnx").exists() and (folder / "mlflow.bodies").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(7)
    rows = rng.normal(size=(ROWS, COLUMNS)).astype(np.float32)
    rows[:, 30:38] = rng.integers(0, 5, size=(ROWS, 8))
    margin = rows[:, 0] * 1.2 - rows[:, 1] * rows[:, 2] + 0.5 * np.sin(3 * rows[:, 3]) + (rows[:, 31] == 2) * 1.5 - 1.7
    outcome = (rng.random(ROWS) < 1 / (1 + np.exp(-margin))).astype(int)
    rows[rng.random(rows.shape) < 0.03] = np.nan
    parameters = {"objective": "binary:logistic", "max_depth": 6, "eta": 0.05, "nthread": 2, "seed": 7}
    booster = xgboost.train(parameters, xgboost.DMatrix(rows, outcome), 300)
    booster.save_model(folder / "model.json")
    model = export((folder / "model.json").read_bytes(), ExportOptions())
    write_bodies(folder, rows[:BODIES])
    np.save(folder / "rows.npy", rows[:BODIES])
    (folder / "model.onnx").write_bytes(model.SerializeToString())


def write_bodies(folder: Path, rows: np.ndarray) -> None:
    """Write one request per row: as JSON, as a gRPC message, and in the peers' own shapes."""
    records: dict[str, list[bytes]] = {"json": [], "grpc": [], "bentoml": [], "mlflow": []}
    for row in rows:
        data = [float(value) for value in np.nan_to_num(row, nan=0.5)]  # not every server knows null
        tensor = {"name": "input", "shape": [1, COLUMNS], "datatype": "FP32", "data": data}
        records["json"].append(orjson.dumps({"inputs": [tensor]}))
        records["bentoml"].append(orjson.dumps({"data": [data]}))
        records["mlflow"].append(orjson.dumps({"inputs": [data]}))
        message = pb.ModelInferRequest(model_name="churn")
        message.inputs.add(name="input", datatype="FP32", shape=[1, COLUMNS])
        message.raw_input_contents.append(np.array(data, np.float32).tobytes())
        records["grpc"].append(message.SerializeToString())
    for name, bodies in records.items():
        (folder / f"{name}.bodies").write_bytes(b"".join(b"%d\n%b" % (len(body), body) for body in bodies))


def signature() -> Signature:
    """What the model takes and gives."""
    return Signature(
        inputs=[TensorSpec(name="input", datatype="FP32", shape=[-1, COLUMNS])],
        outputs=[TensorSpec(name="probabilities", datatype="FP32", shape=[-1, 2])],
        columns=[f"f{i}" for i in range(COLUMNS)],
        positive_output="probabilities:1",
    )
