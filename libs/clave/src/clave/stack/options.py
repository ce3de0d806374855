"""How a stack was asked to run, kept beside its ports so that the next `clave up` runs it the same way."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from clave.failures import EnvironmentFailure
from clave.stack.certificates import Certificate, ensure_certificate, local_hosts, own_certificate
from clave.stack.layout import SERVICES, Layout


@dataclass(frozen=True)
class StackOptions:
    """What may differ between two starts.

    Attributes:
        tls: Whether the public port speaks TLS.
        tls_cert: The user's own chain, absolute; None for a generated certificate.
        tls_key: Its key.
        mutual_tls: Whether the edge and the services speak mutual TLS among themselves.
    """

    tls: bool = False
    tls_cert: str | None = None
    tls_key: str | None = None
    mutual_tls: bool = False

    @property
    def scheme(self) -> str:
        """Scheme of the public address."""
        return "https" if self.tls else "http"

    @property
    def inner_scheme(self) -> str:
        """Scheme of the services' addresses."""
        return "https" if self.mutual_tls else "http"

    def changed(
        self, *, tls: bool | None, tls_cert: Path | None, tls_key: Path | None, mutual_tls: bool | None
    ) -> "StackOptions":
        """Apply what the user named; None leaves a thing as it was.

        Raises:
            EnvironmentFailure: A certificate without its key, or the reverse, or beside ``--no-tls``.
        """
        if (tls_cert is None) != (tls_key is None) or (tls is False and tls_cert is not None):
            raise EnvironmentFailure(
                "The options for TLS do not belong together.",
                remedy="Give --tls-cert and --tls-key, or --tls alone for a generated certificate, or --no-tls.",
            )
        options = self
        if tls is not None:
            options = replace(options, tls=tls, tls_cert=None, tls_key=None)
        if tls_cert is not None and tls_key is not None:
            certificate, key = tls_cert.expanduser().resolve(), tls_key.expanduser().resolve()
            options = replace(options, tls=True, tls_cert=str(certificate), tls_key=str(key))
        return options if mutual_tls is None else replace(options, mutual_tls=mutual_tls)


def read_options(layout: Layout) -> StackOptions:
    """Read the options of the last start; the defaults where there was none."""
    try:
        return StackOptions(**json.loads(layout.options.read_text()))
    except FileNotFoundError:
        return StackOptions()


def record_options(layout: Layout, options: StackOptions) -> None:
    """Keep the options for the next start."""
    layout.options.write_text(json.dumps(asdict(options), indent=2) + "\n")


def public_certificate(layout: Layout, options: StackOptions) -> Certificate | None:
    """The certificate of the public port: the user's, or a generated one; None without TLS."""
    if not options.tls:
        return None
    if options.tls_cert is not None and options.tls_key is not None:
        return own_certificate(Path(options.tls_cert), Path(options.tls_key))
    return ensure_certificate(layout.tls / "public", "edge", hosts=local_hosts())


def inner_certificates(layout: Layout, options: StackOptions) -> dict[str, Certificate]:
    """Certificates for the hops behind the edge, by program; empty without mutual TLS."""
    if not options.mutual_tls:
        return {}
    folder = layout.tls / "services"
    return {
        name: ensure_certificate(folder, name, hosts=(name, "localhost", "127.0.0.1"), client=True)
        for name in (*SERVICES, "edge", "stack")
    }
