"""Runs the command line and turns what went wrong into one clear message and an exit code."""

import sys
import traceback
from typing import TYPE_CHECKING, NoReturn

from clave.cli.app import app
from clave.cli.output import say
from clave.failures import Failure

if TYPE_CHECKING:
    from clave_contracts.problems import ServiceProblem

_FAILED, _ENVIRONMENT, _REFUSED, _TIMED_OUT, _INTERRUPTED = 1, 3, 4, 5, 130
_WHERE_TO_LOOK = {
    "model_not_found": "`clave models list` shows the registered models, `clave models create` makes one.",
    "version_not_found": "`clave models show MODEL` lists its versions.",
    "endpoint_not_found": "`clave endpoints list` shows the endpoints.",
    "model_unknown": "`clave endpoints list` shows the endpoints, `clave endpoints create` makes one.",
    "invalid_credential": "`clave config` shows where the key comes from that was sent.",
    "approvals_missing": "`clave versions show MODEL VERSION` says what it waits for.",
    "rollout_running": "`clave rollout watch ENDPOINT` follows it, `clave rollout abort ENDPOINT` ends it.",
}
_REFUSALS = {401, 403, 409, 412, 422, 428, 429}
_TIMEOUTS = {408, 504}
_AWAY = {0, 502, 503}


def run() -> NoReturn:
    """Run one command and exit; typer itself answers wrong usage (2) and Ctrl-C (130)."""
    try:
        app()
    except Failure as failure:
        sys.exit(_tell(failure))
    except SystemExit as ended:
        if ended.code == _INTERRUPTED:
            say("Interrupted; the same command may be given again.")
        raise
    except BrokenPipeError:
        sys.exit(0)  # `clave logs | head`: the reader has enough
    except Exception as error:  # noqa: BLE001 - the entry point: whatever it was, say it in one line
        sys.exit(_tell_unexpected(error))
    sys.exit(0)


def _tell(failure: Failure) -> int:
    """Print the log first and the important line last, where the eye is."""
    for line in failure.log:
        say(f"  | {line}")
    say(f"Error: {failure.what}")
    if failure.remedy:
        say(f"  {failure.remedy}")
    return failure.exit_code


def _tell_unexpected(error: Exception) -> int:
    from clave_contracts.problems import ServiceProblem  # noqa: PLC0415 - only commands that asked can raise it

    if isinstance(error, ServiceProblem):
        return _tell_problem(error)
    if "--debug" in sys.argv:
        traceback.print_exception(error)
    say(f"Error: {type(error).__name__}: {error}")
    say("  This is a fault of clave itself; the same command with `clave --debug ...` shows where.")
    return _FAILED


def _tell_problem(problem: "ServiceProblem") -> int:
    say(f"Error: {problem}")
    reasons = problem.problem.get("reasons")
    for reason in reasons if isinstance(reasons, list) else []:
        say(f"  - {reason}")
    facts = ", ".join(
        f"{name} {problem.problem[name]}" for name in ("code", "decision_id", "trace_id") if name in problem.problem
    )
    say(f"  status {problem.status}{', ' + facts if facts else ''}")
    if (look := _WHERE_TO_LOOK.get(str(problem.problem.get("code")))) is not None:
        say(f"  {look}")
    if problem.status in _AWAY:
        say("  `clave status` shows a local stack's processes; `clave config` where the address comes from.")
        return _ENVIRONMENT
    if problem.status in _REFUSALS:
        return _REFUSED
    return _TIMED_OUT if problem.status in _TIMEOUTS else _FAILED
