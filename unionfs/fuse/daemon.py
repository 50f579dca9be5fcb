"""A process of its own for a mount: started, and ready or failed when its starter goes on.

Called by the command line. The daemon has a session of its own, `/` as its directory, and /dev/null for its standard
streams, so that nothing waits for it that should not. Until it is ready it speaks on the streams it was started with.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from unionfs import events
from unionfs.errors import UnionfsError

_READY = b"\0"


class DaemonError(UnionfsError):
    """The daemon ended before it was ready; the text is its own."""

    def __init__(self, text: str, exit_status: int) -> None:
        super().__init__(text)
        self.exit_status = exit_status


def daemonize(run: Callable[[Callable[[], None]], None]) -> int:
    """Call `run(ready)` in a daemon and return its process id as soon as `run` has called `ready`.

    Raises DaemonError, with what `run` failed with, when it ends before that. To be called before any thread is made.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(reading)
        os._exit(_daemon(run, writing))
    os.close(writing)
    with open(reading, "rb") as pipe:
        told = pipe.read()
    if told == _READY:
        return process
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    text = os.fsdecode(told) or f"the daemon ended with status {status} and no word"
    raise DaemonError(text, status if status > 0 else 1)


def _daemon(run: Callable[[Callable[[], None]], None], pipe: int) -> int:
    """In the child: its exit status. Nothing may be raised into the frames of the starter."""
    is_ready = False

    def ready() -> None:
        nonlocal is_ready
        is_ready = True
        _release_streams()
        _tell(pipe, _READY)

    try:
        os.setsid()
        os.chdir("/")
        run(ready)
        return 0
    except BaseException as failure:
        return _failed(failure, None if is_ready else pipe)


def _failed(failure: BaseException, pipe: int | None) -> int:
    """Tell the starter, or the log when that has gone its way."""
    if isinstance(failure, SystemExit):
        return failure.code if isinstance(failure.code, int) else 0
    if not isinstance(failure, UnionfsError | OSError):
        events.exception("the daemon failed")
    if pipe is None:
        events.error(str(failure))
    else:
        _tell(pipe, os.fsencode(str(failure)))
    return failure.exit_status if isinstance(failure, UnionfsError) else 1


def _tell(pipe: int, words: bytes) -> None:
    try:
        os.write(pipe, words)
    except BrokenPipeError:
        pass  # the starter was ended while it waited
    os.close(pipe)


def _release_streams() -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    if null > 2:
        os.close(null)
