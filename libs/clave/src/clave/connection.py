"""How to reach a stack: ``connection.json`` of a local one, or ``CLAVE_URL`` and ``CLAVE_API_KEY`` of any."""

import json
import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from clave.failures import EnvironmentFailure, NotRunning
from clave.profile import read_profile
from clave.stack.layout import Layout


@dataclass(frozen=True)
class Connection:
    """Where a stack is and the key to speak to it with.

    Attributes:
        url: Base of every REST path.
        grpc: ``host:port`` of gRPC.
        api_key: The caller's key.
        key_file: File the key came from, None when it came from elsewhere.
        ca_file: Authorities to trust for an https address; None for the system's.
    """

    url: str
    grpc: str
    api_key: str
    key_file: Path | None = None
    ca_file: Path | None = None

    @property
    def tls(self) -> ssl.SSLContext:
        """How to judge the certificate of an https address."""
        return ssl.create_default_context(cafile=None if self.ca_file is None else str(self.ca_file))


def default_data_dir() -> Path:
    """``CLAVE_DATA_DIR``, else ``.clave`` in the current folder."""
    return Path(os.environ.get("CLAVE_DATA_DIR") or ".clave")


def write_connection(layout: Layout, content: dict[str, Any]) -> None:
    """Write connection.json so that nobody reads half of it."""
    draft = layout.connection.with_suffix(".new")
    draft.write_text(json.dumps(content, indent=2) + "\n")
    draft.replace(layout.connection)


def find_connection(
    *,
    data_dir: Path | None = None,
    url: str | None = None,
    api_key: str | None = None,
    ca_file: Path | None = None,
) -> Connection:
    """Find the stack: explicit values, then ``CLAVE_URL``, the data directory, the profile of `clave login`.

    Args:
        data_dir: Data directory of a local stack; the default one when None.
        url: Base address given by the user.
        api_key: Key given by the user.
        ca_file: Authorities given by the user; ``CLAVE_CA_FILE``, then what the local stack names, when None.

    Raises:
        EnvironmentFailure: An address without a key.
        NotRunning: The data directory holds no running stack.
    """
    authorities = ca_file or (Path(os.environ["CLAVE_CA_FILE"]) if os.environ.get("CLAVE_CA_FILE") else None)
    if authorities is not None and not authorities.is_file():
        raise EnvironmentFailure(
            f"There is no file {authorities}.", remedy="Name the authority's PEM in CLAVE_CA_FILE."
        )
    key = api_key or os.environ.get("CLAVE_API_KEY")
    address = url or (None if data_dir else os.environ.get("CLAVE_URL"))
    if address:
        if not key:
            raise EnvironmentFailure(
                f"No API key for {address}.",
                remedy="Set CLAVE_API_KEY, or give --api-key (it shows in the process list).",
            )
        return Connection(url=address.rstrip("/"), grpc=urlsplit(address).netloc, api_key=key, ca_file=authorities)
    layout = Layout.at(data_dir or default_data_dir())
    try:
        known = json.loads(layout.connection.read_text())
    except FileNotFoundError as error:
        profile = read_profile() if data_dir is None else None
        if profile is not None:
            return Connection(
                url=profile.url,
                grpc=urlsplit(profile.url).netloc,
                api_key=key or profile.credential,
                ca_file=authorities or profile.ca_file,
            )
        raise NotRunning(
            f"No stack runs from {layout.root}.",
            remedy="Start one with `clave up`, name its folder with --data-dir, or set CLAVE_URL and CLAVE_API_KEY.",
        ) from error
    key_file = Path(known["admin_key_file"])
    return Connection(
        url=known["url"],
        grpc=known["grpc"],
        api_key=key or key_file.read_text().strip(),
        key_file=None if key else key_file,
        ca_file=authorities or (Path(known["ca_file"]) if "ca_file" in known else None),
    )
