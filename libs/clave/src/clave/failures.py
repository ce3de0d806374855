"""What can keep a command from doing what was asked; the command line prints it and exits with `exit_code`.

Failure
+-- EnvironmentFailure   this machine is in the way: a port, a folder, memory, a missing program (3)
|   +-- NotRunning       the command needs a running stack
+-- StartFailed          a process did not become healthy (1)
+-- Refused              a gate, a policy or a rule said no (4)
+-- TimedOut             it may still come to an end, but not within the time given (5)
"""


class Failure(Exception):
    """Something the user can act on.

    Args:
        what: What happened, in one sentence.
        remedy: What to do about it; a command where there is one.
        log: The last lines of the log that matters, oldest first.
    """

    exit_code = 1

    def __init__(self, what: str, *, remedy: str = "", log: list[str] | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy
        self.log = log or []


class EnvironmentFailure(Failure):
    """This machine is in the way."""

    exit_code = 3


class NotRunning(EnvironmentFailure):
    """The command needs a running stack."""


class StartFailed(Failure):
    """A process did not become healthy."""


class Refused(Failure):
    """A gate, a policy or a rule said no."""

    exit_code = 4


class TimedOut(Failure):
    """The time given is over."""

    exit_code = 5
