"""Attacks by what is sent: code in artifacts, graphs that reach out, bombs, odd numbers, markup, fields not to be set.

Live, over REST and where it takes the content over gRPC, through the edge and at the services' own ports.
"""

import hashlib
import io
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import httpx
import numpy as np
import psutil
import pytest
from clave.stack import processes
from clave.stack.layout import Layout
from clave_contracts.inference_grpc import open_inference_pb2 as pb
from clave_testing.patience import PATIENCE_S
from clave_testing.served_models import API, onnx_model, upload, version_request
from clave_testing.stack import Stack
from onnx import ModelProto, TensorProto, helper

pytestmark = pytest.mark.stack
SERVICES = ("gateway", "registry", "features", "inference", "monitor", "trainer")
MLFLOW = "/api/2.0/mlflow"
MIB = 1024 * 1024
GROWTH_MAX = 100 * MIB


@pytest.fixture(scope="module")
def owner(stack: Stack) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=stack.url, headers=stack.headers, timeout=PATIENCE_S) as client:
        yield client


@pytest.fixture(scope="module")
def model(owner: httpx.Client) -> str:
    name = f"contents-{uuid4().hex[:8]}"
    assert owner.post(f"{API}/models", json={"name": name}).status_code == 201
    return name


def register(owner: httpx.Client, model: str, artifacts: list[dict[str, Any]], **changes: Any) -> httpx.Response:
    return owner.post(f"{API}/models/{model}/versions", json=version_request(artifacts, **changes))


def doors(stack: Stack, service: str) -> tuple[str, str]:
    return stack.url, stack.services[service]["http"]


def rss(stack: Stack) -> dict[str, int]:
    """Resident bytes by program."""
    found: dict[str, int] = {}
    for process in processes.find_processes(Layout.at(stack.data_dir).stack_id):
        try:
            found[process.program] = found.get(process.program, 0) + psutil.Process(process.pid).memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return found


def require_bounded(stack: Stack, before: dict[str, int]) -> None:
    grown = {name: size - before.get(name, size) for name, size in rss(stack).items()}
    assert max(grown.values()) < GROWTH_MAX, grown


class TestCodeInArtifacts:
    """Attack 6: nothing unpickles what a client sent; a file that could run code is kept at most, never deployed."""

    @pytest.mark.parametrize(
        "path", ["model.pkl", "model.joblib", "python_model.cloudpickle", "model.pt", "model.onnx"]
    )
    def test_a_pickle_is_never_opened(self, owner: httpx.Client, model: str, tmp_path: Path, path: str) -> None:
        canary = tmp_path / "canary"
        # What unpickling would run: posix.system("touch canary").
        pickled = b"cposix\nsystem\n(S'touch " + str(canary).encode() + b"'\ntR."
        answer = register(owner, model, [upload(owner, path, pickled)])
        if path == "model.onnx":
            assert (answer.status_code, answer.json()["code"]) == (422, "unsafe_model"), answer.text
        elif answer.status_code == 201:
            version = answer.json()["version"]
            deployed = owner.post(
                f"{API}/endpoints",
                json={"name": f"{model}-{version}", "model": model, "version": version, "namespace": "Development"},
            )
            assert deployed.status_code == 409, deployed.text
            assert owner.get(f"{API}/models/{model}/versions/{version}/card").status_code == 200
        logged = owner.put(f"/api/2.0/mlflow-artifacts/artifacts/0/{uuid4().hex}/artifacts/{path}", content=pickled)
        assert logged.status_code == 200, logged.text
        assert not canary.exists()


def reaching(location: str) -> bytes:
    """A graph whose weights lie in another file."""
    graph = ModelProto.FromString(onnx_model())
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3, 1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    del graph.graph.initializer[:]
    graph.graph.initializer.append(tensor)
    return bytes(graph.SerializeToString())


def of_domain(domain: str) -> bytes:
    """A graph with an operator that a loader would look for in a library."""
    graph = ModelProto.FromString(onnx_model())
    graph.graph.node[0].domain = domain
    graph.opset_import.append(helper.make_opsetid(domain, 1))
    return bytes(graph.SerializeToString())


GRAPHS = {
    "absolute": reaching("/etc/passwd"),
    "relative": reaching("../../../../etc/passwd"),
    "beside": reaching("weights.bin"),
    "its own name": reaching("model.onnx"),
    "descriptor": reaching("/proc/self/environ"),
    "custom operator": of_domain("com.evil"),
    "microsoft's": of_domain("com.microsoft.nchwc"),
    "endless": onnx_model()[:-2] + b"\xff\xff\xff\xff\xff",
}


class TestGraphs:
    """Attack 7: a graph that reaches out is refused at the upload, before a runtime opens it."""

    @pytest.mark.parametrize("name", GRAPHS)
    def test_a_graph_that_reaches_out_is_refused(self, owner: httpx.Client, model: str, name: str) -> None:
        artifacts = [upload(owner, "model.onnx", GRAPHS[name]), upload(owner, "weights.bin", bytes(12))]
        answer = register(owner, model, artifacts)
        assert (answer.status_code, answer.json()["code"]) == (422, "unsafe_model"), answer.text
        assert "root:" not in answer.text


def gzip_bomb(size: int, *, layers: int = 1) -> bytes:
    """Zeros, compressed a thousand times, and that again."""
    packer, block = zlib.compressobj(6, wbits=31), bytes(MIB)
    packed = b"".join(packer.compress(block) for _ in range(size // MIB)) + packer.flush()
    for _ in range(layers - 1):
        packed = zlib.compress(packed, wbits=31)
    return packed


class TestBombs:
    """Attack 8: what is small and grows, or nests, costs no memory and is refused or stored as the bytes it is."""

    def test_compressed_bodies_never_grow_beyond_the_limit(self, stack: Stack, owner: httpx.Client) -> None:
        bombs = {
            "gzip": gzip_bomb(100 * MIB),
            "deflate": zlib.compress(bytes(50 * MIB), 6),
            "gzip, gzip": gzip_bomb(100 * MIB, layers=2),
            "br": b"\xcf\xff\xff\x7f" * 1000,
            "zstd": b"\x28\xb5\x2f\xfd" + b"\xff" * 1000,
        }
        before = rss(stack)
        targets = {
            "gateway": "/api/gateway/v1/keys",
            "registry": f"{API}/models",
            "features": "/api/features/v1/views",
            "inference": "/v2/models/any/infer",
            "monitor": "/api/monitor/v1/feedback",
            "trainer": "/api/trainer/v1/pipelines",
        }
        for service, path in targets.items():
            for base in doors(stack, service):
                for encoding, content in bombs.items():
                    headers = {"content-encoding": encoding, "content-type": "application/json"}
                    answer = owner.post(base + path, content=content, headers=headers)
                    assert 400 <= answer.status_code < 500, (service, encoding, answer.status_code, answer.text)
        require_bounded(stack, before)

    def test_nested_archives_are_bytes_like_any_other(self, stack: Stack, owner: httpx.Client, model: str) -> None:
        inner = io.BytesIO()
        with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("zeros", bytes(50 * MIB))
        outer = io.BytesIO()
        with zipfile.ZipFile(outer, "w", zipfile.ZIP_DEFLATED) as archive:
            for number in range(16):
                archive.writestr(f"{number}.zip", inner.getvalue())
            archive.writestr("../../../../tmp/escaped", b"x")
        before = rss(stack)
        files = {"model.zip": outer.getvalue(), "model.tar.gz": gzip_bomb(100 * MIB), "model.onnx": outer.getvalue()}
        for path, data in files.items():
            answer = register(owner, model, [upload(owner, path, data)])
            assert answer.status_code in {201, 422}, answer.text
        require_bounded(stack, before)

    def test_a_table_that_unpacks_to_gigabytes_is_refused(self, stack: Stack, owner: httpx.Client) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        out = io.BytesIO()
        zeros = pa.table({"customer_id": pa.array(np.zeros(20_000_000, np.int64))})
        pq.write_table(zeros, out, compression="zstd")
        before = rss(stack)
        for base in doors(stack, "features"):
            answer = owner.post(
                f"{base}/api/features/v1/views/any/data",
                content=out.getvalue(),
                headers={"content-type": "application/vnd.apache.parquet"},
            )
            assert 400 <= answer.status_code < 500, answer.text
        require_bounded(stack, before)

    def test_a_tensor_over_grpc_is_bounded_too(self, stack: Stack) -> None:
        metadata = (("authorization", stack.headers["authorization"]),)
        asked = pb.ModelInferRequest(model_name="any", raw_input_contents=[bytes(40 * MIB)])
        asked.inputs.add(name="x", datatype="FP32", shape=[10 * MIB])
        before = rss(stack)
        for address in (stack.grpc, stack.services["inference"]["grpc"]):
            for compression in (grpc.Compression.NoCompression, grpc.Compression.Gzip):
                with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError) as caught:
                    channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(
                        asked.SerializeToString(), metadata=metadata, timeout=PATIENCE_S, compression=compression
                    )
                assert caught.value.code() in {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE}
        require_bounded(stack, before)


ODD_BODIES = {
    "deep list": b"[" * 100_000,
    "deep object": b'{"inputs":' * 100_000,
    "long number": b'{"name": ' + b"1" * 100_000 + b"}",
    "infinite": b'{"name": 1e400, "inputs": [{"name": "x", "shape": [1e400], "datatype": "FP32", "data": [1e400]}]}',
    "not a number": b'{"name": NaN, "inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [NaN]}]}',
    "many keys": b"{" + b",".join(b'"k%d":1' % number for number in range(200_000)) + b"}",
    "twice": b'{"name":"a","name":"b","name":{"c":1}}',
    "lone surrogate": b'{"name": "\\ud800", "inputs": "\\ud800"}',
    "no utf8": b"\xff\xfe\x00",
    "nothing": b"",
}


class TestOddBodies:
    """Attacks 9 and 10, at the doors that the gateway's own attack tests do not try."""

    @pytest.mark.parametrize("name", ODD_BODIES)
    def test_odd_bodies_are_refused(self, stack: Stack, owner: httpx.Client, name: str) -> None:
        for service, path in (
            ("registry", f"{API}/models"),
            ("registry", f"{MLFLOW}/registered-models/create"),
            ("inference", "/v2/models/any/infer"),
            ("features", "/get-online-features"),
            ("monitor", "/api/monitor/v1/feedback"),
            ("trainer", "/api/trainer/v1/pipelines"),
        ):
            for base in doors(stack, service):
                answer = owner.post(base + path, content=ODD_BODIES[name], headers={"content-type": "application/json"})
                assert 400 <= answer.status_code < 500, (path, name, answer.status_code, answer.text[:300])
                assert "Traceback" not in answer.text


NOT_TO_BE_SET = {
    "tenant": "rival",
    "status": "approved",
    "approvals": [{"by": "user:bob", "decision": "approve"}],
    "signature_verified": True,
    "created_by": "user:nobody",
    "created_at": "2001-01-01T00:00:00Z",
    "mac": "0" * 64,
    "decision_id": "dec_0",
}


# Protocols of others, which ignore what they do not know.
LENIENT = {"/access/v1/evaluation", "/access/v1/evaluations"}


def creating_routes(stack: Stack) -> list[tuple[str, str, str, dict[str, Any]]]:
    """Every documented route that takes a JSON object: (service, method, path, schema of the object)."""
    found = []
    for service in SERVICES:
        document = httpx.get(
            f"{stack.services[service]['http']}/api/{service}/v1/openapi.json", timeout=PATIENCE_S
        ).json()
        schemas = document["components"]["schemas"]
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                content = operation.get("requestBody", {}).get("content", {}) if isinstance(operation, dict) else {}
                schema = content.get("application/json", {}).get("schema", {})
                named = schemas.get(schema.get("$ref", "").rpartition("/")[2], schema)
                if named.get("type") == "object" and "properties" in named:
                    found.append((service, method.upper(), path, named))
    return found


class TestMassAssignment:
    """Attack 15: what the service decides itself cannot be written along with what a caller may write."""

    def test_every_documented_body_refuses_fields_that_are_not_its_own(self, stack: Stack, owner: httpx.Client) -> None:
        every = creating_routes(stack)
        assert len(every) > 30
        for service, method, path, schema in every:
            foreign = {name: value for name, value in NOT_TO_BE_SET.items() if name not in schema["properties"]}
            concrete = path.replace("{version}", "1").replace("{", "").replace("}", "")
            answer = owner.request(method, stack.services[service]["http"] + concrete, json=foreign)
            assert 400 <= answer.status_code < 500, (method, path, answer.status_code, answer.text[:300])
            assert schema.get("additionalProperties") is False or path in LENIENT, (method, path)

    def test_a_version_says_nothing_about_itself_that_the_registry_decides(
        self, owner: httpx.Client, model: str
    ) -> None:
        artifact = upload(owner, "model.onnx", onnx_model())
        for name, value in NOT_TO_BE_SET.items():
            answer = register(owner, model, [artifact], **{name: value})
            assert answer.status_code == 422, (name, answer.text)
        made = register(owner, model, [artifact], contributors=["user:somebody-else"])
        assert made.status_code == 201, made.text
        assert {"user:admin", "user:somebody-else"} <= set(made.json()["contributors"]), made.text
        assert made.json()["status"] == "draft"

    def test_mlflows_bodies_set_no_more(self, owner: httpx.Client) -> None:
        name = f"mass-{uuid4().hex[:8]}"
        made = owner.post(f"{MLFLOW}/registered-models/create", json={"name": name, **NOT_TO_BE_SET})
        assert made.status_code in {200, 400}, made.text
        if made.status_code == 200:
            shown = owner.get(f"{API}/models/{name}").json()
            assert (shown["tenant"], shown["created_by"]) == ("default", "user:admin")
            assert not shown["created_at"].startswith("2001")


HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "[x](javascript:alert(1))",
    "{{7*191}}",
    "${7*191}",
    "{% for x in [].__class__.__base__.__subclasses__() %}{{x}}{% endfor %}",
    "\x1b[31mred\r\nSet-Cookie: x=1",
)


class TestMarkup:
    """Attack 17: texts of people are data in every form of a card."""

    @pytest.mark.parametrize("form", ["html", "md", "annex-iv-md", "huggingface", "json"])
    def test_a_card_runs_nothing_of_what_people_wrote(self, owner: httpx.Client, model: str, form: str) -> None:
        text = " ".join(HOSTILE)
        card = {
            "overview": text,
            "algorithm": HOSTILE[0],
            "intended_use": text,
            "limitations": list(HOSTILE),
            "usage_notes": [text],
            "ethical_considerations": text,
            "owners": [HOSTILE[1]],
            "display_name": HOSTILE[0],
        }
        made = register(owner, model, [upload(owner, "model.onnx", onnx_model())], card=card, description=text)
        assert made.status_code == 201, made.text
        shown = owner.get(f"{API}/models/{model}/versions/{made.json()['version']}/card", params={"format": form})
        assert shown.status_code == 200, shown.text
        assert "1337" not in shown.text
        assert "set-cookie" not in shown.headers
        assert "\x1b" not in shown.text
        if form == "json":
            assert shown.headers["content-type"].startswith("application/json")
            return
        plain = shown.text if form == "html" else shown.text.replace("\\<", "").replace("\\]", "")
        for tag in ("<script>alert", "<img src=x", "" if form == "html" else "](javascript:"):
            assert not tag or tag not in plain, tag
        if form == "html":
            assert "default-src 'none'" in shown.headers["content-security-policy"]
            assert "frame-ancestors 'none'" in shown.headers["content-security-policy"]
            assert shown.headers["x-frame-options"] == "DENY"


def test_blobs_of_strangers_are_never_pages(owner: httpx.Client) -> None:
    page = b"<html><script>alert(1)</script>" + uuid4().bytes
    digest = hashlib.sha256(page).hexdigest()
    assert owner.put(f"{API}/blobs/{digest}", content=page, headers={"content-type": "text/html"}).status_code == 200
    shown = owner.get(f"{API}/blobs/{digest}")
    assert not shown.headers["content-type"].startswith("text/html")
    assert shown.headers["x-content-type-options"] == "nosniff"
