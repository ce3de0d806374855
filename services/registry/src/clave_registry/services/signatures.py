"""Operations on signatures: take one that verifies, list them, and tell whether a version is signed now.

A signature counts while its key is trusted: it is verified when it comes, and again whenever a version is about to be
released, shown as signed, or handed to inference.
"""

from dataclasses import dataclass

from clave_common.access import Caller
from clave_common.clock import Clock
from clave_common.database import Database, Transaction
from clave_contracts import registry as contract

from clave_registry.domain.model_signature import InvalidSignature
from clave_registry.domain.version import Quorum
from clave_registry.runtime.trusted_keys import TrustedKeys
from clave_registry.services.governance import record_change, version_path
from clave_registry.services.versions import version_of
from clave_registry.storage import signatures, versions
from clave_registry.storage.records import EntryRow, SignatureRow, VersionRow


@dataclass(frozen=True, slots=True)
class ReleaseRules:
    """What the registry itself asks of a release, beside policy: people, and keys that it trusts."""

    quorum: Quorum
    trusted: TrustedKeys


class Signatures:
    """Take and show signatures."""

    def __init__(self, database: Database, clock: Clock, *, trusted: TrustedKeys) -> None:
        self._database = database
        self._clock = clock
        self._trusted = trusted

    async def add(self, caller: Caller, model: str, version: int, bundle: bytes) -> contract.VersionSignatures:
        """Take a signature that verifies; the same key's again replaces it.

        Raises:
            InvalidSignature: The key is not trusted, the signature does not hold, or it is over other files.
        """
        async with self._database.transaction() as tx:
            model_row, row = await version_of(tx, caller, model, version, lock=True)
            files = files_of(await versions.entries_of(tx, [row.manifest_digest]))
            key_id = self._trusted.verify(bundle, files)
            now = self._clock.now()
            await signatures.put(tx, row, key_id=key_id, bundle=bundle, at=now, by=caller.acting_for)
            await versions.remember(tx, row, at=now, by=caller.acting_for, action="signed", detail=f"key {key_id}")
            path = version_path(model, version)
            await record_change(
                tx, caller, "registry:version.tag", path, tenant=model_row.tenant, what="signed", key_id=key_id
            )
            return await self._shown(tx, row, files)

    async def get(self, caller: Caller, model: str, version: int) -> contract.VersionSignatures:
        """List a version's signatures with whether each verifies now."""
        async with self._database.transaction() as tx:
            _, row = await version_of(tx, caller, model, version)
            return await self._shown(tx, row, files_of(await versions.entries_of(tx, [row.manifest_digest])))

    async def _shown(self, tx: Transaction, row: VersionRow, files: dict[str, str]) -> contract.VersionSignatures:
        found = await signatures.of_versions(tx, [(row.model_id, row.version)])
        shown = [
            contract.VersionSignature(
                key_id=one.key_id,
                verified=verifies(self._trusted, one, files),
                added_at=one.at,
                added_by=one.by,
                bundle=one.bundle.decode(),
            )
            for one in found
        ]
        return contract.VersionSignatures(verified=any(one.verified for one in shown), signatures=shown)


def files_of(entries: list[EntryRow]) -> dict[str, str]:
    """Give a manifest as signers see it: path to sha256."""
    return {entry.path: entry.digest for entry in entries}


def verifies(trusted: TrustedKeys, signature: SignatureRow, files: dict[str, str]) -> bool:
    """Tell whether a stored signature verifies now."""
    try:
        trusted.verify(signature.bundle, files)
    except InvalidSignature:
        return False
    return True


async def signature_verified(tx: Transaction, trusted: TrustedKeys, row: VersionRow) -> bool:
    """Tell whether a version carries a signature that verifies now."""
    found = await signatures.of_versions(tx, [(row.model_id, row.version)])
    if not found:
        return False
    files = files_of(await versions.entries_of(tx, [row.manifest_digest]))
    return any(verifies(trusted, one, files) for one in found)
