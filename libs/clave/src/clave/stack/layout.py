"""Where the local stack keeps its files, below one data directory.

    DIR/connection.json     how to reach the stack; commands, SDK and tests read it
    DIR/secrets/   0700     pepper, signing keys, passwords, the first admin key; every file 0600
    DIR/postgres/           the database cluster
    DIR/valkey/             the append-only file
    DIR/blobs/<service>/    artifacts, history, prediction log
    DIR/services/<service>/ caches and spools
    DIR/logs/               one rotated log for each process
    DIR/run/                what a start writes anew: configurations, process ids

Sockets live in DIR/run/sock, or in a short private folder of the runtime directory when that path is too long for
a unix socket (107 bytes).
"""

import hashlib
import os
import stat
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from clave.failures import EnvironmentFailure

SERVICES = ("gateway", "registry", "features", "inference", "monitor", "trainer")
SOCKET_PATH_BYTES_MAX = 107
# The longest socket name that is put into the socket folder.
_LONGEST_SOCKET_NAME = "envoy_udp_parent_4294967295"
_PRIVATE = 0o700
_TRAVERSABLE = 0o711


@dataclass(frozen=True)
class Layout:
    """The paths of one stack.

    Attributes:
        root: The data directory, absolute and without symbolic links.
    """

    root: Path

    @classmethod
    def at(cls, data_dir: Path) -> "Layout":
        """Resolve a data directory as the user wrote it."""
        return cls(root=data_dir.expanduser().resolve())

    @cached_property
    def stack_id(self) -> str:
        """Name of the stack in its processes' environment: the same for the same folder, 16 hex digits."""
        return hashlib.sha256(os.fsencode(self.root)).hexdigest()[:16]

    @property
    def connection(self) -> Path:
        """The file through which everything finds the stack."""
        return self.root / "connection.json"

    @property
    def demo_mark(self) -> Path:
        """There while a demo made this folder and nobody else has used it; the next demo may then delete it."""
        return self.root / "made-by-demo"

    @property
    def secrets(self) -> Path:
        """Folder of the generated secrets, 0700."""
        return self.root / "secrets"

    @property
    def tls(self) -> Path:
        """Folder of generated certificates and their keys."""
        return self.secrets / "tls"

    @property
    def options(self) -> Path:
        """How the stack was asked to run."""
        return self.run / "options.json"

    @property
    def edge_configuration(self) -> Path:
        """Envoy's configuration; it holds the edge's secret, so it is 0600."""
        return self.run / "envoy.yaml"

    @property
    def admin_key(self) -> Path:
        """File holding the first admin's API key, 0600."""
        return self.secrets / "admin.key"

    @property
    def postgres(self) -> Path:
        """Folder above the database cluster."""
        return self.root / "postgres"

    @property
    def cluster(self) -> Path:
        """The database cluster itself (PGDATA)."""
        return self.postgres / "data"

    @property
    def valkey(self) -> Path:
        """Folder of Valkey's append-only file."""
        return self.root / "valkey"

    @property
    def logs(self) -> Path:
        """Folder of the logs."""
        return self.root / "logs"

    @property
    def run(self) -> Path:
        """Folder of everything that a start writes anew."""
        return self.root / "run"

    @property
    def programs(self) -> Path:
        """Folder of the launch specifications; they hold passwords, so it is 0700."""
        return self.run / "programs"

    def log(self, program: str) -> Path:
        """Log of one process."""
        return self.logs / f"{program}.log"

    def service_data(self, service: str) -> Path:
        """Cache and spool of one service."""
        return self.root / "services" / service

    def blobs(self, service: str) -> Path:
        """Object store of one service."""
        return self.root / "blobs" / service

    @cached_property
    def sockets(self) -> Path:
        """Folder of the unix sockets, short enough for every socket in it."""
        inside = self.run / "sock"
        if _fits(inside):
            return inside
        runtime = os.environ.get("XDG_RUNTIME_DIR")
        if runtime and os.access(runtime, os.W_OK) and _fits(Path(runtime) / f"clave-{self.stack_id}"):
            return Path(runtime) / f"clave-{self.stack_id}"
        return Path(tempfile.gettempdir()) / f"clave-{os.getuid()}-{self.stack_id}"

    @property
    def postgres_sockets(self) -> Path:
        """Folder of Postgres's socket; belongs to the user Postgres runs as."""
        return self.sockets / "pg"

    @property
    def valkey_socket(self) -> Path:
        """Valkey's socket."""
        return self.sockets / "valkey.sock"

    @property
    def supervisor_socket(self) -> Path:
        """The supervisor's control socket."""
        return self.sockets / "supervisor.sock"

    @property
    def edge_admin_socket(self) -> Path:
        """Envoy's administration socket, 0600."""
        return self.sockets / "edge-admin.sock"

    def create(self) -> None:
        """Make every folder with its mode.

        Raises:
            EnvironmentFailure: A folder cannot be made, or the socket folder belongs to somebody else.
        """
        # Postgres may run as another user when clave runs as root; it must reach its cluster, and no more.
        above_postgres = _TRAVERSABLE if os.geteuid() == 0 else _PRIVATE
        try:
            self.root.mkdir(mode=above_postgres, parents=True, exist_ok=True)
            for folder, mode in (
                (self.run, above_postgres),
                (self.sockets, above_postgres),
                (self.postgres, above_postgres),
                (self.postgres_sockets, _PRIVATE),
                (self.secrets, _PRIVATE),
                (self.programs, _PRIVATE),
                (self.valkey, _PRIVATE),
                (self.logs, _PRIVATE),
                *((self.service_data(service), _PRIVATE) for service in SERVICES),
                *((self.blobs(service), _PRIVATE) for service in SERVICES),
            ):
                folder.mkdir(mode=mode, parents=True, exist_ok=True)
            _check_owner(self.sockets)
            _probe_write(self.root)
        except OSError as error:
            raise EnvironmentFailure(
                f"The data directory {self.root} cannot be used: {error.strerror} ({error.filename}).",
                remedy="Give a folder you can write to with --data-dir DIR or CLAVE_DATA_DIR, or free some space.",
            ) from error


def _fits(folder: Path) -> bool:
    return len(os.fsencode(folder / _LONGEST_SOCKET_NAME)) <= SOCKET_PATH_BYTES_MAX


def _check_owner(folder: Path) -> None:
    """Refuse a socket folder that somebody else made first in a shared temporary directory."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise EnvironmentFailure(
            f"The socket folder {folder} belongs to somebody else.",
            remedy="Choose a data directory with a shorter path, or set XDG_RUNTIME_DIR to a private folder.",
        )


def _probe_write(folder: Path) -> None:
    probe = folder / ".write-probe"
    probe.write_bytes(b"clave")
    probe.unlink()
