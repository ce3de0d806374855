"""A run from its request to its rollout, on real Postgres and Valkey with a real worker."""

import pytest
from trainer_bench import step
from trainer_peers import table

pytestmark = pytest.mark.integration


async def test_a_first_run_goes_from_data_to_a_live_version(trainer):
    trainer.start_worker()
    run = await trainer.ended((await trainer.start_run(reason="first")).id)
    assert run.status == "succeeded", run.reasons
    assert [each.state for each in run.steps] == ["succeeded"] * 10
    version = trainer.peers.versions[0]
    assert {each["path"] for each in version["artifacts"]} == {
        "model.onnx",
        "model.ubj",
        "signature.json",
        "evaluation.json",
        "monitoring/reference.parquet",
    }
    assert version["contributors"] == ["user:ada"]
    assert version["evaluation"]["passed"]
    assert version["evaluation"]["metrics"]["test"]["auc"] > 0.7
    assert version["lineage"]["datasets"][0]["feature_views"] == {"customer": 1}
    assert trainer.peers.endpoint["live_version"] == run.model_version == 1
    assert {gate.gate: gate.verdict for gate in run.gates}["parity"] == "passed"
    assert ("/api/features/v1/training-sets", "user:ada") in trainer.peers.callers
