"""What the policy's tests share: the sample data, the worked cases, and questions built from them."""

import copy
import json
import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

from clave_common.access.engine import EmbeddedEngine
from clave_common.access.policy_bundle import PolicyBundle
from clave_gateway.policy_cases import CaseFile, read_cases
from clave_gateway.policy_files import read_modules, read_policy, shipped_policy_dir

POLICIES = shipped_policy_dir()
OPA_VERSION = "v1.20.2"
OPA_BUILD_S_MAX = 480
CASES: CaseFile = read_cases(POLICIES / "cases" / "decisions.json")
BY_ID = {case["id"]: case for case in CASES.cases}


def opa_program() -> str | None:
    """A real OPA: the program that CLAVE_TEST_OPA names, one on PATH, or one that Go built before.

    With CLAVE_TEST_OPA_BUILD=1, as in CI, and Go on PATH it is built once, into the user's cache: four minutes of CPU.
    """
    named = os.environ.get("CLAVE_TEST_OPA") or shutil.which("opa")
    if named:
        return named
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "clave" / "opa" / OPA_VERSION
    built = folder / "opa"
    if not built.exists() and os.environ.get("CLAVE_TEST_OPA_BUILD") and shutil.which("go"):
        build = ["go", "install", "-trimpath", "-ldflags", "-s -w", f"github.com/open-policy-agent/opa@{OPA_VERSION}"]
        with suppress(subprocess.TimeoutExpired):  # where there is no way to Go's modules
            environment = {**os.environ, "GOBIN": str(folder), "CGO_ENABLED": "0"}
            subprocess.run(build, env=environment, timeout=OPA_BUILD_S_MAX, check=False)
    return str(built) if built.exists() else None


def sample_bundle(**changes: Any) -> PolicyBundle:
    """The policy with the sample tenants' data, some of it changed."""
    return PolicyBundle(modules=read_modules(POLICIES / "clave"), data={**copy.deepcopy(dict(CASES.data)), **changes})


def shipped_bundle() -> PolicyBundle:
    """The policy as it ships."""
    return read_policy(POLICIES)


def engine(bundle: PolicyBundle | None = None) -> EmbeddedEngine:
    """An embedded engine loaded with a bundle, the sample one when none is given."""
    made = EmbeddedEngine()
    made.use(bundle or sample_bundle())
    return made


class BareBundle(PolicyBundle):
    """Data as a bare OPA holds them: nothing arranged beforehand."""

    def document(self) -> dict[str, Any]:
        """Give the data as they are."""
        return dict(self.data)


def bare(bundle: PolicyBundle) -> EmbeddedEngine:
    """An embedded engine that works everything out in the rules."""
    return engine(BareBundle(bundle.modules, bundle.data))


def question(case_id: str, **changes: Any) -> dict[str, Any]:
    """A case's input with some values changed; keys are paths such as ``resource__properties__status``."""
    asked: dict[str, Any] = copy.deepcopy(dict(BY_ID[case_id]["input"]))
    for path, value in changes.items():
        *parents, last = path.split("__")
        target = asked
        for parent in parents:
            target = target.setdefault(parent, {})
        if value is ...:
            target.pop(last, None)
        else:
            target[last] = value
    return asked


def reasons(asked: dict[str, Any], made: EmbeddedEngine | None = None) -> list[str]:
    """The reasons of a decision."""
    document = (made or engine()).evaluate(json.dumps(asked).encode())
    assert document["allow"] is (document["reasons"] == [])
    return list(document["reasons"])


FUZZ = int(os.environ.get("CLAVE_TEST_POLICY_FUZZ", "300"))
