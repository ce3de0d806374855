"""Gives the trainer's integration tests their bench."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from trainer_bench import bench_of


@pytest.fixture
async def trainer(service_database, redis_url, secrets_dir, tmp_path):
    """A running trainer without workers; `start_worker` starts one."""
    async with bench_of(service_database("trainer"), redis_url, secrets_dir, tmp_path) as bench:
        yield bench
