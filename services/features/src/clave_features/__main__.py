"""``python -m clave_features serve | migrate``."""

import argparse

from clave_common.logs import configure_logs
from clave_common.serve import serve

from clave_features.app import SERVICE, create_app
from clave_features.settings import Settings
from clave_features.storage.tables import metadata


def main() -> None:
    """Run the command named on the command line."""
    parser = argparse.ArgumentParser(prog="python -m clave_features", description=__doc__)
    parser.add_argument("command", choices=["serve", "migrate"])
    command = parser.parse_args().command
    settings = Settings()
    configure_logs(service=SERVICE, form=settings.peers.log_format, level=settings.peers.log_level)
    if command == "migrate":
        from clave_common.migrations import migrate  # noqa: PLC0415 - 11 MB that serving does not need

        migrate(url=settings.database_url.get_secret_value(), package="clave_features", metadata=metadata)
        return
    serve(create_app(settings), settings)


if __name__ == "__main__":
    main()
