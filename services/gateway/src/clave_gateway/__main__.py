"""`python -m clave_gateway serve | migrate | policy-test | policy-page`."""

import argparse
import asyncio
import sys
from pathlib import Path

from clave_common.errors import ClaveError
from clave_common.logs import configure_logs
from clave_common.migrations import migrate
from clave_common.serve import serve

from clave_gateway.app import SERVICE, Settings, create_app
from clave_gateway.policy_cases import CaseReport, run_case_file
from clave_gateway.policy_files import read_policy, shipped_policy_dir
from clave_gateway.policy_page import policy_page
from clave_gateway.storage.tables import metadata


def main() -> int:
    """Run one command; returns the process's exit status."""
    parser = argparse.ArgumentParser(prog="clave_gateway")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("serve", help="serve the HTTP API")
    commands.add_parser("migrate", help="bring the schema to its newest revision")
    test = commands.add_parser("policy-test", help="run worked decisions against a policy")
    test.add_argument("--cases", type=Path, default=shipped_policy_dir() / "cases" / "decisions.json")
    test.add_argument("--data", type=Path, help="data to decide by; the cases file names its own")
    test.add_argument("--policy", type=Path, default=shipped_policy_dir() / "clave", help="folder of .rego files")
    test.add_argument("--engine", choices=("embedded", "opa"), default="embedded")
    commands.add_parser("policy-page", help="print the page 'Who may do what'")
    arguments = parser.parse_args()
    if arguments.command == "policy-page":
        sys.stdout.write(policy_page(read_policy(shipped_policy_dir()).data))
        return 0
    if arguments.command == "policy-test":
        return _policy_test(arguments)
    settings = Settings()
    configure_logs(service=SERVICE, form=settings.peers.log_format, level=settings.peers.log_level)
    if arguments.command == "migrate":
        migrate(url=settings.database_url.get_secret_value(), package="clave_gateway", metadata=metadata)
    else:
        serve(create_app(settings), settings)
    return 0


def _policy_test(arguments: argparse.Namespace) -> int:
    try:
        report = asyncio.run(
            run_case_file(arguments.cases, policy=arguments.policy, engine=arguments.engine, data=arguments.data)
        )
    except ClaveError as error:
        sys.stderr.write(f"{error.detail}\n")
        return 2
    sys.stdout.write(report_text(report))
    return 0 if report.passed else 1


def report_text(report: CaseReport) -> str:
    """Write a report for people."""
    lines = [
        f"{failure.id} {failure.note}\n  expected {failure.expected}\n  found    {failure.found}"
        for failure in report.failures
    ]
    lines.append(f"{report.cases - len(report.failures)} of {report.cases} cases pass on {report.engine}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
