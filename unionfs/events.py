"""What happened, and who listens; and the one log.

Events are for programs: `if events.listeners: events.emit("change", what=..., path=...)` costs one test of an empty
list when nobody listens. The log is for people: each message is one write(2), so lines of different threads do not
mix, to standard error until `log_to` says otherwise; it is an event of kind "log" too. Neither ever raises.
Floor 0: imports nothing of ours.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from types import TracebackType

Listener = Callable[[str, dict[str, object]], None]
Sink = Callable[[str, str], None]
"""Takes the importance ("info", "warning" or "error") and the message."""

listeners: list[Listener] = []


def emit(kind: str, **fields: object) -> None:
    """Tell every listener. A listener that fails is named in the log, and what it watches goes on."""
    for listener in tuple(listeners):
        try:
            listener(kind, fields)
        except Exception as failure:
            if kind != "log":
                error(f"a listener failed on {kind}: {failure!r}")


def to_descriptor(fd: int, dated: bool = False) -> Sink:
    """A sink that writes lines to a descriptor, each with its local date and time if asked."""

    def write(importance: str, message: str) -> None:
        label = "" if importance == "info" else f"{importance}: "
        date = time.strftime("%Y-%m-%d %H:%M:%S ") if dated else ""
        try:
            os.write(fd, f"{date}unionfs: {label}{message}\n".encode(errors="surrogateescape"))
        except OSError:
            pass  # a log that is full or gone has nobody left to tell

    return write


_STANDARD_ERROR = 2
_sink: Sink = to_descriptor(_STANDARD_ERROR)


def log_to(sink: Sink | int) -> None:
    """Send the log to this descriptor, or call this function for every message."""
    global _sink
    _sink = to_descriptor(sink) if isinstance(sink, int) else sink


def log(importance: str, message: str) -> None:
    if listeners:
        emit("log", importance=importance, message=message)
    try:
        _sink(importance, message)
    except Exception:
        pass  # as above


def info(message: str) -> None:
    log("info", message)


def warning(message: str) -> None:
    log("warning", message)


def error(message: str) -> None:
    log("error", message)


def exception(message: str) -> None:
    """Log the exception that is being handled, as an error with its traceback."""
    lines = [message]
    failure = sys.exception()
    while failure is not None:
        lines += _frames(failure.__traceback__)
        lines.append(f"{type(failure).__name__}: {failure}")
        failure = failure.__cause__ or (None if failure.__suppress_context__ else failure.__context__)
        if failure is not None:
            lines.append("came after:")
    error("\n".join(lines))


def _frames(traceback: TracebackType | None) -> list[str]:
    """Written here because the traceback module takes longer to import than the rest of a mount's start."""
    frames = []
    while traceback is not None:
        code = traceback.tb_frame.f_code
        frames.append(f'  File "{code.co_filename}", line {traceback.tb_lineno}, in {code.co_qualname}')
        traceback = traceback.tb_next
    return frames
