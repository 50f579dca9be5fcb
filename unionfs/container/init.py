"""`--init`: process 1 that does what the kernel expects of one, and no more.

Called by `process.py`. Process 1 inherits orphans and must reap them, and signals whose action is the default do not
reach it (pid_namespaces(7)); so the program runs as its child. It ends as that child ends.
"""

from __future__ import annotations

import os
import signal

from unionfs.linux import namespaces

_NOT_PASSED = (signal.SIGCHLD, signal.SIGKILL, signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
_KEEPS_ITS_WORD = 128


def fork_and_stay(has_terminal: bool) -> None:
    """Return in the child; the parent stays here, passes signals on and reaps, until the child has ended."""
    passed = {number for number in signal.valid_signals() if number not in _NOT_PASSED}
    signal.pthread_sigmask(signal.SIG_BLOCK, passed | {signal.SIGCHLD})
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        os.setpgid(0, 0)
        if has_terminal:
            signal.signal(signal.SIGTTOU, signal.SIG_IGN)
            os.tcsetpgrp(0, os.getpgrp())
            signal.signal(signal.SIGTTOU, signal.SIG_DFL)
        return
    namespaces.set_dumpable(False)
    namespaces.set_name(b"unionfs-init")
    _close_all()
    while True:
        number = signal.sigwait(passed | {signal.SIGCHLD})
        if number != signal.SIGCHLD:
            os.kill(child, number)
        elif (status := _reap(child)) is not None:
            os._exit(status if status >= 0 else _KEEPS_ITS_WORD - status)


def _close_all() -> None:
    """The program's streams end when the program ends, and what failed is told by it alone."""
    for name in os.listdir("/proc/self/fd"):
        try:
            os.close(int(name))
        except OSError:
            pass  # the listing's own


def _reap(child: int) -> int | None:
    """Take in all that have ended; the exit status of `child` when it is among them, negative for a signal."""
    ended: int | None = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        if pid == child:
            ended = os.waitstatus_to_exitcode(status)
