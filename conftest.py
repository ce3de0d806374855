"""Fixtures for every test of the workspace; `tests/clave_testing/README.md` tells which there are."""

import atexit
import gc
from collections.abc import Callable
from pathlib import Path

import pytest
import structlog
from clave.stack.secrets import ensure_secrets
from clave_testing import servers
from clave_testing.patience import make_httpx_patient
from clave_testing.policies import opa_program
from clave_testing.stack import Stack, shared_stack


def pytest_configure(config: pytest.Config) -> None:
    gc.disable()  # until everything is imported
    atexit.register(gc.unfreeze)  # libraries in C take what is frozen to the end for a leak
    # As services log: structlog's own choice draws every local variable of a traceback, which takes half a minute.
    plain = [structlog.processors.add_log_level, structlog.processors.format_exc_info]
    structlog.configure(processors=[*plain, structlog.dev.ConsoleRenderer(colors=False)])
    make_httpx_patient()
    if not hasattr(config, "workerinput"):
        config.stash[_root] = servers.make_session_root()


def pytest_collection_finish() -> None:
    _freeze_what_lasts()
    gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    if nextitem is None or nextitem.path != item.path:
        _freeze_what_lasts()


def _freeze_what_lasts() -> None:
    """Take what outlives a file out of further collections: a million objects held servers up for seconds."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest: whatever is short then fills the other workers to the end."""
    order = ("e2e", "stack", "integration")
    items.sort(key=lambda item: next((place for place, mark in enumerate(order) if mark in item.keywords), len(order)))


def pytest_report_header() -> str:
    """Say which OPA judges beside the embedded engine."""
    program = opa_program()
    return f"policy referee: {program}" if program else "policy referee: NONE, the embedded engine alone is tested"


def pytest_unconfigure(config: pytest.Config) -> None:
    root = config.stash.get(_root, None)
    if root is not None:
        servers.stop_servers(root)


_root: pytest.StashKey[Path] = pytest.StashKey()


@pytest.fixture
def service_database() -> Callable[[str], str]:
    """A function: name of a service -> URL of a fresh database with that service's role and schema."""
    return servers.new_database


@pytest.fixture
def redis_url() -> str:
    """An empty Valkey database of this test's own."""
    return servers.new_redis()


@pytest.fixture(scope="session")
def stack() -> Stack:
    """The session's running stack: every service, Postgres, Valkey, Envoy, a worker. Mark the test `stack`."""
    return shared_stack()


@pytest.fixture
def secrets_dir(tmp_path: Path) -> Path:
    """A folder of freshly generated secrets, as the local stack makes them."""
    folder = tmp_path / "secrets"
    folder.mkdir(mode=0o700)
    ensure_secrets(folder, ("gateway", "registry", "features", "inference", "monitor", "trainer"))
    return folder
