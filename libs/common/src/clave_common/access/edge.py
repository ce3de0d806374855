"""Whose word on the client's address counts: the edge's, and only with proof.

Envoy tells services where a client comes from in ``x-envoy-external-address``. Whoever reaches a service's own port
could write that header too, so the edge adds a secret of the installation, ``x-clave-edge``, which it strips from
whatever comes in. An address that is claimed without the secret is no address: rules on networks refuse it.
"""

import hmac
from pathlib import Path

from clave_common.access.verification import Presented

EDGE_KEY_FILE = "edge.key"
ADDRESS_HEADER = "x-envoy-external-address"
PROOF_HEADER = "x-clave-edge"


class EdgeProof:
    """Judges claims about a client's address.

    Args:
        secret: What the edge adds to each request; None where the installation has no edge, and then only the
            connection's own other end counts.
    """

    def __init__(self, secret: bytes | None) -> None:
        self._secret = secret or None

    @classmethod
    def from_folder(cls, secrets_dir: Path) -> "EdgeProof":
        """Read ``edge.key``; an installation without one believes nobody."""
        try:
            return cls((secrets_dir / EDGE_KEY_FILE).read_bytes().strip())
        except FileNotFoundError:
            return cls(None)

    def address(self, presented: Presented) -> str | None:
        """Tell a client's address; None where it is claimed without proof."""
        if presented.claimed_ip is None or self._secret is None:
            return presented.source_ip
        proof = (presented.edge_proof or "").encode("latin-1", "replace")
        return presented.claimed_ip if hmac.compare_digest(proof, self._secret) else None
