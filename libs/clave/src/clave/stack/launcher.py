"""Start one program of the stack: ``python -m clave.stack.launcher SPEC.json`` replaces itself by it.

The specification (a private file, since it may hold passwords) names the arguments, the environment, the folder, and
as whom to run. The launcher ties the program's life to its parent's: when the supervisor dies, even by SIGKILL, the
kernel sends the program the signal named in the specification, so no server outlives the stack unseen.

Postgres refuses to run as root. Two ways out, both without a new account and without loosening any folder:
``user``: become an unprivileged uid (its folders were given to it); ``namespace``: enter a user namespace in which
root appears as an unprivileged uid, for when the program or its folders lie below a private folder such as /root.
"""

import ctypes
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

UNPRIVILEGED_UID = 65534
_CLONE_NEWUSER = 0x10000000
_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Read the specification, prepare this process, become the program."""
    spec: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    parent = os.getppid()
    os.umask(0o077)
    os.chdir(spec["cwd"])
    become(spec.get("run_as"))
    die_with_parent(signal.Signals[spec["death_signal"]], parent)
    environment = {**os.environ, **spec["env"]}
    os.execve(spec["argv"][0], spec["argv"], environment)  # noqa: S606 - the arguments come from our own file


def become(run_as: str | None) -> None:
    """Give up root in the named way; None keeps the present user."""
    if run_as == "user":
        os.setgroups([])
        os.setresgid(UNPRIVILEGED_UID, UNPRIVILEGED_UID, UNPRIVILEGED_UID)
        os.setresuid(UNPRIVILEGED_UID, UNPRIVILEGED_UID, UNPRIVILEGED_UID)
    elif run_as == "namespace":
        enter_user_namespace()


def enter_user_namespace() -> None:
    """Enter a user namespace in which the present user appears as an unprivileged one."""
    uid, gid = os.geteuid(), os.getegid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWUSER) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{UNPRIVILEGED_UID} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{UNPRIVILEGED_UID} {gid} 1")


def die_with_parent(number: signal.Signals, parent: int) -> None:
    """Ask the kernel for a signal at the parent's death; after every change of user, which would clear it."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
    if os.getppid() != parent:  # it died before the kernel knew
        sys.exit(1)


if __name__ == "__main__":
    main()
