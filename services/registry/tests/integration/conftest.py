"""Gives the registry's integration tests their bench."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from registry_bench import bench, policy_access, registry_url, running

__all__ = ["bench", "policy_access", "registry_url", "running"]
