"""Mutual TLS between the edge and the services, and among these: whoever shows no certificate of ours is not heard.

``CLAVE_TLS_DIR`` names a folder with ``ca.pem`` and, for each service, ``<service>.pem`` and ``<service>.key``; unset,
services speak in the clear, which is meant for loopback and for networks of nobody else's. A certificate says that a
caller is one of the installation; who it is and what it may do is decided as ever, by its token and the policy.
"""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clave_common.settings import ServiceSettings

if TYPE_CHECKING:
    import grpc


@dataclass(frozen=True)
class MutualTls:
    """One service's certificate, its key, and the authority that all of them share."""

    certificate: Path
    key: Path
    authority: Path

    @classmethod
    def of(cls, folder: Path | None, service: str) -> "MutualTls | None":
        """Find a service's files; None where mutual TLS is off."""
        if folder is None:
            return None
        return cls(folder / f"{service}.pem", folder / f"{service}.key", folder / "ca.pem")

    @classmethod
    def serving(cls, settings: ServiceSettings) -> "MutualTls | None":
        """Find the files of the service that has these settings."""
        prefix = str(settings.model_config.get("env_prefix", ""))
        return cls.of(settings.peers.tls_dir, prefix.removeprefix("CLAVE_").rstrip("_").lower())

    def client_context(self) -> ssl.SSLContext:
        """Trust the installation's authority only, and show our certificate."""
        context = ssl.create_default_context(cafile=str(self.authority))
        context.load_cert_chain(self.certificate, self.key)
        return context

    def uvicorn_options(self) -> dict[str, Any]:
        """Options with which uvicorn wants a certificate from every caller."""
        return {
            "ssl_certfile": self.certificate,
            "ssl_keyfile": self.key,
            "ssl_ca_certs": str(self.authority),
            "ssl_cert_reqs": ssl.CERT_REQUIRED,
        }

    def grpc_credentials(self) -> "grpc.ServerCredentials":
        """Credentials with which a gRPC server wants a certificate from every caller."""
        import grpc  # noqa: PLC0415 - one service of six has it

        pair = (self.key.read_bytes(), self.certificate.read_bytes())
        return grpc.ssl_server_credentials([pair], self.authority.read_bytes(), require_client_auth=True)
