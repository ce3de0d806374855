"""``python -m clave_monitor serve | migrate``."""

import sys

from clave_common.logs import configure_logs
from clave_common.migrations import migrate
from clave_common.serve import serve

from clave_monitor.app import Settings, create_app
from clave_monitor.storage.tables import metadata


def main(arguments: list[str]) -> int:
    """Run one command; 0 when it went well, 2 when there is no such command."""
    settings = Settings()
    configure_logs(service="monitor", form=settings.peers.log_format, level=settings.peers.log_level)
    match arguments:
        case ["serve"]:
            serve(create_app(settings), settings)
        case ["migrate"]:
            migrate(url=settings.database_url.get_secret_value(), package="clave_monitor", metadata=metadata)
        case _:
            sys.stderr.write("usage: python -m clave_monitor serve | migrate\n")
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
