"""``python -m clave_registry serve | migrate``."""

import sys

from clave_common.logs import configure_logs
from clave_common.migrations import migrate
from clave_common.serve import serve

from clave_registry.app import Settings, create_app
from clave_registry.storage.mlflow.tables import metadata


def main(arguments: list[str]) -> int:
    """Run one command; 0 when it went well, 2 when there is no such command."""
    settings = Settings()
    configure_logs(service="registry", form=settings.peers.log_format, level=settings.peers.log_level)
    match arguments:
        case ["serve"]:
            serve(create_app(settings), settings)
        case ["migrate"]:
            migrate(url=settings.database_url.get_secret_value(), package="clave_registry", metadata=metadata)
        case _:
            sys.stderr.write("usage: python -m clave_registry serve | migrate\n")
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
