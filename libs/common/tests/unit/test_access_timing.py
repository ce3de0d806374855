"""Attack 13: how long a refusal takes tells nothing about which keys exist.

A clock is a poor judge on a shared machine, so the work itself is compared: the very same calls, in the same order,
for an unknown id (a revoked key is one) and for a known id with a wrong secret. Then 10,000 of each are refused in
turns, and the share of pairs in which one kind took longer must stay near a half.
"""

import random
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import Any

import pytest
from clave_common.access import credentials
from clave_common.access.api_keys import ApiKey, new_api_key
from clave_common.access.credentials import LocalVerifier
from clave_common.access.failed_attempts import FailedAttempts
from clave_common.access.policy_bundle import PolicyBundle
from clave_common.access.service_tokens import ServiceTokenVerifier
from clave_common.access.snapshot import KeyRecord, Snapshot
from clave_common.access.verification import Presented
from clave_common.errors import Unauthenticated

PEPPER = b"pepper"
ROUNDS = 10_000


class Known:
    """A verifier that knows two hundred keys, and guesses at them."""

    def __init__(self, secrets: Path) -> None:
        self.keys = [new_api_key() for _ in range(200)]
        self.refreshed = 0
        until = time.time() + 3600
        records = {
            key.id: KeyRecord(key.id, key.mac(PEPPER), "app:shop", "default", (), (), until) for key in self.keys
        }
        self.held = Snapshot(1, time.time(), MappingProxyType(records), PolicyBundle({}, {}))
        self.verifier = LocalVerifier(
            pepper=PEPPER,
            snapshot=lambda: self.held,
            service_tokens=ServiceTokenVerifier.from_file("registry", secrets / "services.jwks.json"),
            failed=FailedAttempts(burst=1e12, per_second=1e9),
            refresh=self.refresh,
        )

    async def refresh(self) -> None:
        self.refreshed += 1

    def guesses(self) -> tuple[str, str]:
        """An unknown id, and a known one with a wrong secret."""
        known, guess = random.Random(1).choice(self.keys), new_api_key()
        return guess.text, ApiKey(known.environment, known.id, guess.secret).text


@pytest.fixture
def known(secrets_dir: Path) -> Known:
    return Known(secrets_dir)


def finish(work: Coroutine[Any, Any, Any]) -> None:
    """Run a coroutine that waits for nothing to its refusal."""
    with pytest.raises(Unauthenticated):
        work.send(None)


def calls_of(verifier: LocalVerifier, text: str) -> list[str]:
    """Names of every Python and C function that refusing a credential calls, in order."""
    seen: list[str] = []

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            seen.append(frame.f_code.co_qualname)
        elif event == "c_call":
            seen.append(argument.__qualname__)

    work = verifier.verify(Presented(f"Bearer {text}", "10.0.0.1"))
    sys.setprofile(note)
    try:
        work.send(None)
    except Unauthenticated:
        pass
    finally:
        sys.setprofile(None)
    return seen


def test_every_wrong_key_makes_the_same_calls_and_looks_for_news_once(known: Known) -> None:
    guesses = known.guesses()
    for text in guesses:  # what is set up once is set up now
        finish(known.verifier.verify(Presented(f"Bearer {text}", "10.0.0.1")))
    before = known.refreshed
    unknown, wrong = (calls_of(known.verifier, text) for text in guesses)
    assert known.refreshed - before == len(guesses)
    assert unknown == wrong
    assert sum("compare_digest" in name for name in unknown) == sum(name == "hmac_digest" for name in unknown) == 2


def test_ten_thousand_refusals_of_each_kind_take_alike(known: Known) -> None:
    texts = known.guesses()
    taken: list[list[int]] = [[], []]
    order = random.Random(2)
    for _ in range(ROUNDS):
        for kind in order.sample((0, 1), 2):
            work = known.verifier.verify(Presented(f"Bearer {texts[kind]}", "10.0.0.1"))
            began = time.perf_counter_ns()
            try:
                work.send(None)
            except Unauthenticated:
                taken[kind].append(time.perf_counter_ns() - began)
    unknown, wrong = taken
    longer = sum(a > b for a, b in zip(unknown, wrong, strict=True)) / ROUNDS
    assert 0.4 < longer < 0.6, longer


def test_no_slow_hash_lies_on_this_path() -> None:
    source = Path(credentials.__file__).read_text()
    assert not any(word in source for word in ("argon2", "bcrypt", "scrypt", "pbkdf2"))
