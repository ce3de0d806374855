"""`python -m clave_gateway.audit_check PROOF`: checks a kept proof of the audit log, without a gateway."""

import argparse
import json
import sys
from pathlib import Path

from clave_common.audit_signatures import signed_text

from clave_gateway.domain.proofs import ProofInvalid, check_proof
from clave_gateway.signing import verifies


def main() -> int:
    """Check one proof; returns the process's exit status."""
    parser = argparse.ArgumentParser(prog="clave_gateway.audit_check")
    parser.add_argument("proof", type=Path, help="JSON that 'clave audit prove' wrote")
    parser.add_argument("--key", help="base64 of the log's key; the proof's own when absent")
    parser.add_argument("--checkpoint", type=Path, help="a signed note that was kept elsewhere")
    arguments = parser.parse_args()
    try:
        kept = arguments.checkpoint.read_text() if arguments.checkpoint else None
        proof = json.loads(arguments.proof.read_text())
        said = check_proof(proof, verify=verifies, signed_text=signed_text, trusted_key=arguments.key, kept=kept)
    except (OSError, ValueError, ProofInvalid) as error:
        sys.stderr.write(f"The proof does not hold: {error}.\n")
        return 1
    sys.stdout.write(f"{said}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
