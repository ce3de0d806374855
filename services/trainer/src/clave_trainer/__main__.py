"""`python -m clave_trainer serve | worker | migrate`."""

import os
import sys
from collections.abc import Callable

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read when OpenMP's library is loaded


def _serve() -> int:
    from clave_trainer.app import run_service  # noqa: PLC0415 - each command loads what it needs

    return run_service()


def _worker() -> int:
    from clave_trainer.worker_app import run_worker  # noqa: PLC0415 - see above

    return run_worker()


def _migrate() -> int:
    from clave_trainer.app import run_migrations  # noqa: PLC0415 - see above

    return run_migrations()


COMMANDS: dict[str, Callable[[], int]] = {"serve": _serve, "worker": _worker, "migrate": _migrate}


def main(arguments: list[str]) -> int:
    """Run one command."""
    if len(arguments) != 1 or arguments[0] not in COMMANDS:
        sys.stderr.write(f"usage: python -m clave_trainer {'|'.join(COMMANDS)}\n")
        return 2
    return COMMANDS[arguments[0]]()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
