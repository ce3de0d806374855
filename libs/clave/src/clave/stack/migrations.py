"""Migrate every service in one process: ``python -m clave.stack.migrations gateway registry ...``.

Each service's own command (``python -m clave_<service> migrate``) is run as it is, one after the other. They share the
interpreter, so what they all import is loaded once instead of six times: most of a first start was spent on that.
After each service one line ``migrated <service>`` goes to stdout; whoever reads it may start that service.
"""

import runpy
import sys


def main(services: list[str]) -> int:
    """Run the migrations in order; stops at the first that fails and gives its exit code."""
    for service in services:
        sys.argv = [f"clave_{service}", "migrate"]
        try:
            runpy.run_module(f"clave_{service}", run_name="__main__", alter_sys=True)
        except SystemExit as ended:
            if ended.code:
                sys.stderr.write(f"failed {service}\n")
                return ended.code if isinstance(ended.code, int) else 1
        sys.stdout.write(f"migrated {service}\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
