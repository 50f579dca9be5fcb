"""One more process in a container that runs: `exec`.

Called by `lifecycle.py`, and by the command. It needs no monitor: a helper process joins the container's namespaces by
one setns(2) on a pidfd, and forks; its child is born in the container's pid namespace and becomes the program. Without
a terminal the program has the caller's own streams; with one, the terminal is opened in the container's /dev/pts and
its other end is sent here.
"""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple, NoReturn

from unionfs.container import frames, process
from unionfs.container.attach import session
from unionfs.container.cgroup import Cgroup
from unionfs.container.explain import Explainer
from unionfs.container.process import Program, Streams
from unionfs.container.spec import merge_variables
from unionfs.container.state import Record, open_process
from unionfs.errors import UnionfsError
from unionfs.linux import namespaces, sockets, terminal
from unionfs.linux.namespaces import (
    CLONE_NEWCGROUP,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
)
from unionfs.linux.sockets import Socket

_NAMESPACES = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWCGROUP
_CHUNK = 1 << 16
NOWHERE = Streams()
"""/dev/null."""


class Entered(NamedTuple):
    """A program that runs in a container: its pid here, its helper's, and the master of its terminal or -1."""

    pid: int
    helper: int
    master: int


def execute(
    record: Record, argv: Sequence[str], *, environment: Iterable[str] = (), workdir: str = "", user: str = "",
    tty: bool = False, streams: Streams = NOWHERE, explain: int = -1,
) -> Entered:  # fmt: skip
    """See Container.exec."""
    if Cgroup.of(record.id).is_frozen():
        raise UnionfsError(f"container {record.name}", "is paused", f"unionfs unpause {record.name}")
    spec = record.spec
    terminal = ("TERM=xterm",) if tty else ()
    run = Program.of(spec)._replace(
        argv=tuple(argv), env=merge_variables(terminal, spec.env, tuple(environment)),
        workdir=workdir or spec.workdir, user=user or spec.user, tty=tty,
    )  # fmt: skip
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        return enter(record, run, Streams(*(null if fd < 0 else fd for fd in streams)), Explainer(explain))
    finally:
        os.close(null)


def enter(record: Record, run: Program, streams: Streams, explain: Explainer) -> Entered:
    """Start `run` in the container, with these streams, or with a terminal (run.tty). Returns when the program runs.

    Raises StartError, and UnionfsError when the container does not run.
    """
    target = open_process(record)
    told, telling = os.pipe2(os.O_CLOEXEC)
    born, bearing = os.pipe2(os.O_CLOEXEC)
    here, there = sockets.pair()
    helper = os.fork()
    if helper == 0:
        os.close(told)
        os.close(born)
        here.close()
        _helper(record, run, streams, explain, target, telling, bearing, there)
    for fd in (telling, bearing, target):
        os.close(fd)
    there.close()
    try:
        master = sockets.receive_descriptor(here) if run.tty else -1
    except EOFError:
        master = -1
    failure = process.read_failure(told)
    pid = int.from_bytes(os.read(born, 4), "little")
    os.close(told)
    os.close(born)
    here.close()
    if failure is not None or not pid:
        os.waitpid(helper, 0)
        raise failure or UnionfsError(f"container {record.name}", "ended meanwhile")
    return Entered(pid, helper, master)


def _helper(
    record: Record, run: Program, streams: Streams, explain: Explainer, target: int, telling: int, bearing: int,
    there: Socket,
) -> NoReturn:  # fmt: skip
    """Joins, forks, waits, and ends as the program does."""
    status = process.FAILED
    try:
        cgroup = Cgroup.of(record.id)
        explain.step(f"setns(pidfd, {namespaces.names_of(_NAMESPACES)})", "joins the container", "setns(2)")
        with cgroup.joining() as join:
            own, its = (os.readlink(f"/proc/{pid}/ns/user") for pid in ("self", record.pid))
            namespaces.setns(target, _NAMESPACES | (0 if own == its else CLONE_NEWUSER))
            child = os.fork()
            if child == 0:
                join()
                process.run_inside(run, streams, telling, there if run.tty else None, explain)
        os.write(bearing, child.to_bytes(4, "little"))
        os.close(bearing)
        os.close(telling)
        there.close()
        for stream in (0, 1, 2):
            os.close(stream)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    except BaseException as failure:
        process.tell_failure(telling, failure)
    os._exit(status if status >= 0 else 128 - status)


def wait(entered: Entered) -> int:
    """The exit status, 128 + the signal's number where one ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(entered.helper, 0)[1])


def attend(entered: Entered, tty: bool, interactive: bool) -> int:
    """Wait for the program while the caller's terminal, if there is one, and signals go through to it."""
    status = session(_Running(entered), tty=tty, interactive=interactive and tty)
    return 0 if status is None else status


class _Running:
    """A program as the other side of a session: by its terminal, if it has one, and by its helper's end."""

    def __init__(self, entered: Entered) -> None:
        self.entered = entered
        self.helper = os.pidfd_open(entered.helper)
        self.typed = bytearray()
        if entered.master >= 0:
            os.set_blocking(entered.master, False)

    def fileno(self) -> int:
        return self.entered.master if self.entered.master >= 0 else self.helper

    def events(self) -> int:
        return select.POLLIN | (select.POLLOUT if self.typed else 0)

    def receive(self, mask: int) -> Iterator[tuple[bytes, bytes]]:
        if not mask:
            return
        if self.entered.master < 0:
            yield frames.EXITED, frames.NUMBER.pack(wait(self.entered))
            return
        self._flush()
        try:
            data = os.read(self.entered.master, _CHUNK)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.EIO:  # nobody has the terminal open any more
                raise
            data = b""
        if data:
            yield frames.OUTPUT, data
        else:
            yield frames.EXITED, frames.NUMBER.pack(wait(self.entered))

    def is_full(self) -> bool:
        return len(self.typed) >= frames.FULL

    def type(self, keys: bytes) -> None:
        self.typed += keys
        self._flush()

    def _flush(self) -> None:
        try:
            while self.typed:
                del self.typed[: os.write(self.entered.master, self.typed)]
        except OSError:
            return  # it takes no more now, or never: its end is seen by a read

    def end_input(self) -> None:
        pass

    def resize(self, rows: int, columns: int) -> None:
        terminal.set_size(self.entered.master, rows, columns)

    def signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.entered.pid, number)
