"""The models of the benchmark, each in a folder of its own with 64 rows to ask about.

`make` trains the reference: XGBoost, 300 trees, depth 6, 45 float32 columns. `make_demo` trains what the churn demo
deploys: the real Telco table, the demo's own features and parameters, about 100 trees of depth 4, 17 columns. Both are
exported as the trainer does.
"""

import importlib.resources
import random
from pathlib import Path

import numpy as np
import orjson
import xgboost
import yaml
from clave.demo.telco import LABEL, Customer, load_market
from clave_contracts.inference_grpc import open_inference_pb2 as pb
from clave_contracts.registry import Signature, TensorSpec
from clave_trainer.runtime.onnx_export import ExportOptions, export

COLUMNS = 45
ROWS = 20_000
BODIES = 64
_LAST_WRITTEN = "explain.bodies"
_VALIDATION_SHARE = 0.2


def make(folder: Path) -> None:
    """Train, export and write request bodies, unless that was done before."""
    if (folder / _LAST_WRITTEN).exists():
        return
    rng = np.random.default_rng(7)
    rows = rng.normal(size=(ROWS, COLUMNS)).astype(np.float32)
    rows[:, 30:38] = rng.integers(0, 5, size=(ROWS, 8))
    margin = rows[:, 0] * 1.2 - rows[:, 1] * rows[:, 2] + 0.5 * np.sin(3 * rows[:, 3]) + (rows[:, 31] == 2) * 1.5 - 1.7
    outcome = (rng.random(ROWS) < 1 / (1 + np.exp(-margin))).astype(int)
    rows[rng.random(rows.shape) < 0.03] = np.nan
    parameters = {"objective": "binary:logistic", "max_depth": 6, "eta": 0.05, "nthread": 1, "seed": 7}
    write(folder, xgboost.train(parameters, xgboost.DMatrix(rows, outcome), 300), rows[:BODIES])


def make_demo(folder: Path) -> None:
    """Do the same with the demo's table, features and parameters."""
    if (folder / _LAST_WRITTEN).exists():
        return
    repository = importlib.resources.files("clave") / "demo" / "churn_repo"
    features = yaml.safe_load((repository / "features.yaml").read_text())
    parameters = dict(yaml.safe_load((repository / "pipelines" / "churn.yaml").read_text())["params"])
    market = load_market(7)
    customers = [*market.past, *market.wave]
    random.Random(7).shuffle(customers)
    rows = np.array([encoded(customer, features) for customer in customers], np.float32)
    outcome = np.array([customer[LABEL] for customer in customers])
    watched = int(len(rows) * _VALIDATION_SHARE)
    rounds, patience = parameters.pop("rounds"), parameters.pop("early_stopping_rounds")
    booster = xgboost.train(
        {**parameters, "objective": "binary:logistic", "nthread": 1, "seed": 7},
        xgboost.DMatrix(rows[watched:], outcome[watched:]),
        rounds,
        evals=[(xgboost.DMatrix(rows[:watched], outcome[:watched]), "validation")],
        early_stopping_rounds=patience,
        verbose_eval=False,
    )
    write(folder, booster[: booster.best_iteration + 1], rows[:BODIES])


def encoded(customer: Customer, features: dict) -> list[float]:
    """Give a customer's model inputs: categories as their codes, missing as NaN."""
    views = {view["name"]: {one["name"]: one for one in view["features"]} for view in features["feature_views"]}
    values = []
    for reference in features["feature_services"][0]["features"]:
        view, name = reference.split(":")
        value, levels = customer[name], views[view][name].get("levels")
        if levels is not None:
            value = levels.index(value) if value in levels else None
        values.append(np.nan if value is None else float({"Yes": 1, "No": 0}.get(value, value)))
    return values


def write(folder: Path, booster: xgboost.Booster, rows: np.ndarray) -> None:
    """Write the model in every form, and what to ask about it."""
    folder.mkdir(parents=True, exist_ok=True)
    booster.save_model(folder / "model.json")
    booster.save_model(folder / "model.ubj")
    (folder / "model.onnx").write_bytes(
        export((folder / "model.json").read_bytes(), ExportOptions()).SerializeToString()
    )
    np.save(folder / "rows.npy", rows)
    write_bodies(folder, rows)


def columns_of(folder: Path) -> int:
    """Count a model's columns."""
    return int(np.load(folder / "rows.npy", mmap_mode="r").shape[1])


def write_bodies(folder: Path, rows: np.ndarray) -> None:
    """Write one request per row: as JSON, as a gRPC message, and in the peers' own shapes; and one of all rows."""
    width = rows.shape[1]
    records: dict[str, list[bytes]] = {"json": [], "grpc": [], "bentoml": [], "mlflow": []}
    filled = np.nan_to_num(rows, nan=0.5)  # not every server knows null
    for row in filled:
        data = [float(value) for value in row]
        tensor = {"name": "input", "shape": [1, width], "datatype": "FP32", "data": data}
        records["json"].append(orjson.dumps({"inputs": [tensor]}))
        records["bentoml"].append(orjson.dumps({"data": [data]}))
        records["mlflow"].append(orjson.dumps({"inputs": [data]}))
        message = pb.ModelInferRequest(model_name="churn")
        message.inputs.add(name="input", datatype="FP32", shape=[1, width])
        message.raw_input_contents.append(np.array(data, np.float32).tobytes())
        records["grpc"].append(message.SerializeToString())
    table = {"name": "input", "shape": list(rows.shape), "datatype": "FP32", "data": filled.ravel().tolist()}
    records["explain"] = [orjson.dumps({"inputs": [table]})]
    for name, bodies in records.items():
        (folder / f"{name}.bodies").write_bytes(b"".join(b"%d\n%b" % (len(body), body) for body in bodies))


def signature(folder: Path) -> Signature:
    """What a model takes and gives."""
    columns = columns_of(folder)
    return Signature(
        inputs=[TensorSpec(name="input", datatype="FP32", shape=[-1, columns])],
        outputs=[TensorSpec(name="probabilities", datatype="FP32", shape=[-1, 2])],
        columns=[f"f{i}" for i in range(columns)],
        positive_output="probabilities:1",
    )
