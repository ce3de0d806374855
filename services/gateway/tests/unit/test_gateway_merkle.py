"""The Merkle log proves what it should, and damage is named by its kind and first place."""

import base64

import pytest
from clave_gateway.domain.checkpoints import Checkpoint, CheckpointInvalid, read_checkpoint, sign_checkpoint
from clave_gateway.domain.merkle import (
    Frontier,
    consistency_proof,
    consistent,
    inclusion_proof,
    leaf_hash,
    root_from_inclusion,
    root_of,
)
from clave_gateway.domain.verification import Damage, StoredEntry, verify_log
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

# RFC 6962's reference implementation publishes these roots (certificate-transparency, merkletree tests).
KNOWN_INPUTS = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
KNOWN_ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
LEAVES = [leaf_hash(f"entry {number}".encode()) for number in range(40)]


def test_roots_are_those_of_the_reference_implementation() -> None:
    frontier = Frontier()
    for data, root in zip(KNOWN_INPUTS, KNOWN_ROOTS, strict=True):
        frontier = frontier.append(leaf_hash(bytes.fromhex(data)))
        assert frontier.root().hex() == root


@pytest.mark.parametrize("size", range(1, 41))
def test_every_entry_is_proven_and_no_other_is(size: int) -> None:
    leaves = LEAVES[:size]
    root = root_of(leaves)
    for index in range(size):
        proof = inclusion_proof(leaves, index)
        assert root_from_inclusion(leaves[index], index, size, proof) == root
        assert root_from_inclusion(leaf_hash(b"other"), index, size, proof) != root


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 33, 40])
def test_extensions_are_proven_and_rewrites_are_not(size: int) -> None:
    leaves = LEAVES[:size]
    rewritten = [leaf_hash(b"rewritten"), *leaves[1:]]
    for old_size in range(1, size + 1):
        proof = consistency_proof(leaves, old_size)
        claim = {"old_size": old_size, "size": size, "root": root_of(leaves), "proof": proof}
        assert consistent(old_root=root_of(leaves[:old_size]), **claim)
        assert not consistent(old_root=root_of(rewritten[:old_size]), **claim)


SIGNER = Ed25519PrivateKey.generate()
PUBLIC = SIGNER.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def verifies(signature: bytes, text: bytes) -> bool:
    try:
        SIGNER.public_key().verify(signature, text)
    except InvalidSignature:
        return False
    return True


def test_a_checkpoint_reads_back_and_no_altered_one_does() -> None:
    checkpoint = Checkpoint("clave/audit", 40, root_of(LEAVES))
    note = sign_checkpoint(checkpoint, public_key=PUBLIC, sign=SIGNER.sign)
    assert read_checkpoint(note, public_key=PUBLIC, verify=verifies) == checkpoint
    assert note.split("\n")[:2] == ["clave/audit", "40"]
    assert base64.b64decode(note.split("\n")[2]) == root_of(LEAVES)
    for altered in (note.replace("40", "41", 1), note.replace("clave/audit", "clave/other"), note[:-20], ""):
        with pytest.raises(CheckpointInvalid):
            read_checkpoint(altered, public_key=PUBLIC, verify=verifies)


def log(size: int = 40) -> list[StoredEntry]:
    return [StoredEntry(index, f"entry {index}".encode(), LEAVES[index]) for index in range(size)]


CHECKPOINTS = [Checkpoint("clave/audit", size, root_of(LEAVES[:size])) for size in (10, 30)]


def test_an_untouched_log_verifies() -> None:
    found = verify_log(log(), checkpoints=CHECKPOINTS, witness=LEAVES)
    assert found.damage is None
    assert found.root == root_of(LEAVES)


def test_an_edited_entry_is_altered_at_its_index() -> None:
    entries = log()
    entries[17] = StoredEntry(17, b"entry forged", LEAVES[17])
    found = verify_log(entries, checkpoints=CHECKPOINTS, witness=[])
    assert (found.damage, found.first_bad) == (Damage.ALTERED, 17)


def test_an_edit_with_its_leaf_recomputed_is_found_by_the_witness() -> None:
    entries = log()
    entries[17] = StoredEntry(17, b"entry forged", leaf_hash(b"entry forged"))
    found = verify_log(entries, checkpoints=CHECKPOINTS, witness=LEAVES)
    assert (found.damage, found.first_bad) == (Damage.ALTERED, 17)


def test_an_edit_with_its_leaf_recomputed_is_found_between_two_checkpoints_without_a_witness() -> None:
    entries = log()
    entries[17] = StoredEntry(17, b"entry forged", leaf_hash(b"entry forged"))
    found = verify_log(entries, checkpoints=CHECKPOINTS, witness=[])
    assert (found.damage, found.first_bad) == (Damage.ALTERED, 10)


def test_a_deleted_entry_is_a_gap() -> None:
    entries = log()
    del entries[5]
    found = verify_log(entries, checkpoints=CHECKPOINTS, witness=LEAVES)
    assert (found.damage, found.first_bad) == (Damage.GAP, 5)


def test_two_entries_in_each_others_place_are_altered() -> None:
    entries = log()
    entries[3], entries[4] = (
        StoredEntry(3, entries[4].canonical, entries[4].leaf),
        StoredEntry(4, entries[3].canonical, entries[3].leaf),
    )
    found = verify_log(entries, checkpoints=CHECKPOINTS, witness=LEAVES)
    assert (found.damage, found.first_bad) == (Damage.ALTERED, 3)


@pytest.mark.parametrize("witness", [LEAVES, []])
def test_a_log_cut_off_behind_a_checkpoint_is_truncated(witness: list[bytes]) -> None:
    found = verify_log(log(25), checkpoints=CHECKPOINTS, witness=witness)
    assert (found.damage, found.first_bad) == (Damage.TRUNCATED, 25)


def test_two_signed_roots_of_one_size_are_a_fork() -> None:
    other = Checkpoint("clave/audit", 30, root_of(LEAVES[1:31]))
    for checkpoints in ([*CHECKPOINTS, other], [other, *CHECKPOINTS]):
        found = verify_log(log(), checkpoints=checkpoints, witness=LEAVES)
        assert found.damage is Damage.FORKED
