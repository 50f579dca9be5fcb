"""The life of a container: create, start, stop, remove. The public face of the launcher for Python programs, and what
every command stands on; it reads like a table of contents.

    box = unionfs.Container.create("debian:12", ["sh", "-c", "echo hello > /greeting"])
    box.start()
    box.wait()                     # 0
    unionfs.diff(box)              # [Change(kind="A", path=b"/greeting", ...)]
    box.remove()

    create.py     what was asked for, and what the image says, become a Spec; a row in the state, directories, volumes
    monitor.py    a start forks the monitor: it mounts the root (storage.py), and
    process.py    forks process 1, which takes its namespaces, builds its root (rootfs.py), lays rights down, and execs
    attach.py     the user's terminal, through the monitor
    enter.py      one more process in it: exec

Every method raises UnionfsError with what was wrong and what to do. A `Container` is a name, not a resource: it holds
nothing open, and what it says is asked of the state each time.
"""

from __future__ import annotations

import os
import select
import signal as signals
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from unionfs.container import attach, create, enter, frames, log, monitor, names, process, roots, uplink
from unionfs.container.cgroup import Cgroup, Usage
from unionfs.container.create import Request
from unionfs.container.frames import Frames
from unionfs.container.process import StartError, Streams
from unionfs.container.state import RUNNING, STARTING, Containers, Record, open_process
from unionfs.errors import UnionfsError
from unionfs.image.database import Database, default_root
from unionfs.linux import namespaces, sockets

_PATIENCE_SECONDS = 60.0
"""How long a monitor may take for the end of its container: it gives the daemon 30 seconds, and the state's disk may be
slow."""


class Container:
    """One container. `root` is the state's directory, by default $UNIONFS_ROOT or that of the user."""

    def __init__(self, name: str, root: str | None = None) -> None:
        """The container with this name, id, or beginning of an id. Raises UnionfsError when there is none."""
        self.root = root or default_root()
        with self._database() as database:
            self.id = Containers(database).find(name).id

    def _database(self) -> Database:
        return Database(self.root)

    @classmethod
    def create(
        cls, image: str = "", command: Sequence[str] = (), *, root: str | None = None, **settings: Any
    ) -> Container:
        """Make a container of an image, or with `rootfs=("DIR",)` of directories. `settings` are those of Request."""
        request = Request(image=image, command=tuple(command), **settings)
        return cls.make(request, root)

    @classmethod
    def make(cls, request: Request, root: str | None = None, starts: bool = False) -> Container:
        """The same by a Request. `starts`: it is started at once, and is nothing until then."""
        with Database(root or default_root()) as database:
            record = create.create(database, request, starts)
        made = cls.__new__(cls)
        made.root, made.id = database.root, record.id
        return made

    @classmethod
    def all(cls, root: str | None = None) -> list[Record]:
        """What there is, newest first."""
        with Database(root or default_root()) as database:
            return Containers(database).all()

    # Looking

    @property
    def record(self) -> Record:
        """The state as it is now. Raises UnionfsError when the container was removed."""
        with self._database() as database:
            return Containers(database).find(self.id)

    @property
    def directory(self) -> str:
        return os.path.join(self.root, "containers", self.id)

    @property
    def is_paused(self) -> bool:
        return Cgroup.of(self.id).is_frozen()

    def usage(self) -> Usage:
        """What it takes now: processor time, memory, processes."""
        return Cgroup.of(self.id).usage()

    def processes(self) -> list[int]:
        """The pids, as this machine sees them, of all that runs in it."""
        return Cgroup.of(self.id).processes()

    # Starting

    def start(self, explain: int = -1) -> Frames:
        """Start it and return, when its program runs, the connection to its monitor; to close it is to leave it alone.

        Raises StartError, whose exit status is 125, 126 or 127. `explain` is a descriptor for each step's line.
        """
        here, there = sockets.pair()
        pid = monitor.spawn(self.root, self.id, there, explain)
        there.close()
        connection = Frames(here)
        for kind, content in _until_started(connection):
            if kind == frames.FAILED:
                connection.close()
                os.waitpid(pid, 0)
                raise process.failure_of(content)
            return connection
        os.waitpid(pid, 0)
        raise StartError("the container's start", "its monitor was killed", "", process.FAILED)

    def attach(self, connection: Frames | None = None, *, interactive: bool = True, proxies: bool = True) -> int:
        """Attach this process's streams until the container ends: its exit status. Raises attach.Detached."""
        spec = self.record.spec if connection is not None else self._running().spec
        if connection is None:
            connection = Frames(sockets.connect(self.directory, monitor.SOCKET))
        status = attach.session(
            attach.Monitored(connection), tty=spec.tty, interactive=interactive and spec.interactive, proxies=proxies
        )
        return self.wait() if status is None else status

    def wait(self) -> int:
        """Wait for its end: its exit status, 128 + the signal's number where one ended it."""
        while True:
            record = self.record
            if record.status not in (STARTING, RUNNING):
                return record.exit_code
            _wait_for(record.owner, record.owner_start, None)

    # Signals

    def kill(self, number: int = signals.SIGKILL) -> None:
        """Send a signal to its first process."""
        record = self._running()
        with suppress(ProcessLookupError, UnionfsError):  # it has ended, and its monitor has not entered that yet
            self._send(record, open_process(record), number)
        if number == signals.SIGKILL:
            _wait_for(record.owner, record.owner_start, _PATIENCE_SECONDS)

    def _send(self, record: Record, process: int, number: int) -> None:
        try:
            signals.pidfd_send_signal(process, number)
        except PermissionError:  # it runs as another user of a user namespace: its monitor may
            connection = Frames(sockets.connect(self.directory, monitor.SOCKET))
            connection.put(frames.SIGNAL, frames.NUMBER.pack(number))
            connection.close()
        finally:
            os.close(process)

    def stop(self, timeout: float | None = None, number: int | None = None) -> None:
        """Its stop signal; after `timeout` seconds SIGKILL. One that does not run is fine as it is."""
        record = self.record
        if not record.is_running:
            return
        spec = record.spec
        self.unpause()
        with suppress(UnionfsError):
            self.kill(number or spec.stop_signal)
            if not _wait_for(record.owner, record.owner_start, spec.stop_timeout if timeout is None else timeout):
                self.kill()

    def pause(self) -> None:
        """Freeze all of its processes (cgroups(7))."""
        record = self._running()
        if self.is_paused:
            raise UnionfsError(f"container {record.name}", "is paused already", f"unionfs unpause {record.name}")
        Cgroup.of(self.id).freeze()

    def unpause(self) -> None:
        Cgroup.of(self.id).thaw()

    def _running(self) -> Record:
        record = self.record
        if not record.is_running:
            raise UnionfsError(f"container {record.name}", "is not running", f"unionfs start {record.name}")
        return record

    # Networks

    def connect(self, network: str, aliases: Sequence[str] = (), addresses: Sequence[str] = ()) -> None:
        """Put it on a network, with further names and addresses of one's choice there. Raises UnionfsError."""
        with self._database() as database:
            record = Containers(database).find(self.id)
            has_names = uplink.connect(database, record, network, aliases, addresses)
        if has_names and record.is_running:
            connection = Frames(sockets.connect(self.directory, monitor.SOCKET))
            connection.put(frames.NAMES)
            for _ in _until_started(connection):
                connection.close()

    def disconnect(self, network: str) -> None:
        """Take it off a network. Raises UnionfsError."""
        with self._database() as database:
            uplink.disconnect(database, Containers(database).find(self.id), network)

    # One more process

    def exec(
        self, argv: Sequence[str], *, environment: Iterable[str] = (), workdir: str = "", user: str = "",
        tty: bool = False, streams: Streams = enter.NOWHERE, explain: int = -1,
    ) -> enter.Entered:  # fmt: skip
        """Start one more program in it; it has the container's environment, working directory and user unless told
        otherwise, and the given streams, /dev/null where none are given, or a terminal. `enter.wait` waits for it.

        Raises StartError; UnionfsError when the container does not run or is paused.
        """
        return enter.execute(
            self.record, argv, environment=environment, workdir=workdir, user=user, tty=tty, streams=streams,
            explain=explain,
        )  # fmt: skip

    # What it said

    def logs(self, tail: int | None = None, follow: bool = False) -> Iterator[log.Line]:
        """The lines that it put out."""
        path = os.path.join(self.directory, "log.json")
        lines, offset = log.read(path, tail)
        yield from lines
        if follow:
            yield from log.follow(path, offset, lambda: self.record.status not in (STARTING, RUNNING))

    # The end

    def rename(self, name: str) -> None:
        word = names.check_name(name)
        with self._database() as database, database.writing() as connection:
            Containers(database).check_free(connection, word)
            connection.execute("UPDATE containers SET name=? WHERE id=?", (word, self.id))

    def remove(self, force: bool = False, volumes: bool = False) -> None:
        """Remove it; `force` kills it first; `volumes`: its anonymous volumes too."""
        record = self.record
        if record.status in (STARTING, RUNNING):
            if not force:
                state = "paused" if self.is_paused else record.status
                hint = f"stop it first (unionfs stop {record.name}), or use -f"
                raise UnionfsError(f"cannot remove container {record.name}", f"it is {state}", hint)
            self.unpause()
            with suppress(UnionfsError):  # it has ended meanwhile
                self.kill()
            _wait_for(record.owner, record.owner_start, _PATIENCE_SECONDS)
        with self._database() as database:
            with suppress(LookupError):  # it was to be removed at its end, and has been
                roots.remove(database, Containers(database).settled(Containers(database).get(self.id)), volumes)


def _until_started(connection: Frames) -> Iterator[tuple[bytes, bytes]]:
    """The frame that tells how the start went; those behind it stay for whoever attaches."""
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    while connection.is_open:
        poll.poll()
        came = list(connection.read())
        if came:
            connection.put_back(came[1:])
            yield came[0]
            return


def _wait_for(pid: int, start: int, seconds: float | None) -> bool:
    """Wait for a process's end, at most so long; whether it has ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except (ProcessLookupError, OSError):
        return True
    try:
        if namespaces.start_time(pid) != start:
            return True
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(None if seconds is None else seconds * 1000))
    finally:
        os.close(descriptor)
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)  # a child of this process is reaped
