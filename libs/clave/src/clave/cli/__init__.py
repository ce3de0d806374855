"""The command line ``clave``: data on stdout, talk on stderr, exit codes that say what kind of thing happened.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 this machine or its environment is in the way, 4 refused (a gate, a
policy, a rule), 5 time-out, 130 interrupted.
"""


def main() -> None:
    """Run the command line."""
    from clave.cli.entry import run  # noqa: PLC0415 - `import clave.cli` alone should cost nothing

    run()
