"""An identity provider on loopback: serves its key set over HTTP, and signs tokens of whoever a test names."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from joserfc import jwt
from joserfc.jwk import RSAKey

AUDIENCE = "clave"


class Issuer:
    """What signs.

    Attributes:
        keys: Those that it publishes; the first one signs.
        url: Where it is.
        fetches: How often its keys were asked for.
    """

    def __init__(self) -> None:
        self.keys = [RSAKey.generate_key(2048, {"kid": "one"})]
        self.url = ""
        self.fetches = 0

    def key_set(self) -> bytes:
        """The public keys, as they are served."""
        return json.dumps({"keys": [{**key.as_dict(private=False), "kid": key.kid} for key in self.keys]}).encode()

    def token(self, *, key: Any = None, header: dict[str, Any] | None = None, **claims: Any) -> str:
        """Sign a token that is good for five minutes, for ana who showed a second factor unless the claims differ."""
        now = int(time.time())
        named = {
            "iss": self.url,
            "aud": AUDIENCE,
            "sub": "42",
            "preferred_username": "ana",
            "groups": ["engineers"],
            "amr": ["pwd", "mfa"],
            "iat": now,
            "exp": now + 300,
            **claims,
        }
        alg = {"alg": "RS256", "kid": "one", **(header or {})}
        return jwt.encode(alg, named, key or self.keys[0], algorithms=["RS256"])

    def settings(self) -> dict[str, str]:
        """What services are told about it."""
        return {
            "CLAVE_OIDC_ISSUER": self.url,
            "CLAVE_OIDC_AUDIENCE": AUDIENCE,
            "CLAVE_OIDC_JWKS_URL": f"{self.url}/jwks",
        }


@contextmanager
def serving_issuer() -> Iterator[Issuer]:
    """Serve an issuer from a thread for as long as it is needed."""
    made = Issuer()

    class Keys(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.fetches += 1
            body = made.key_set()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Keys) as server:
        made.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield made
        finally:
            server.shutdown()
            thread.join()
