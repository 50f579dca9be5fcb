"""The monitor: the one process that answers for a running container.

Forked by `lifecycle.py` for each start; it outlives the command line. It owns, and undoes at the end: a mount namespace
of its own with the container's root in it, the daemon that serves that root, the cgroup, the log, the socket for those
who attach, and the exit status in the state. The kernel helps where it is killed: its container is killed with it, its
mount namespace goes with its last process, and whoever looks at the state next sees that it is gone.

It has one thread and one loop; nothing in it waits but the loop itself.
"""

from __future__ import annotations

import math
import os
import select
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from unionfs import events
from unionfs.container import frames, process, roots, storage
from unionfs.container.cgroup import Cgroup
from unionfs.container.explain import Explainer
from unionfs.container.frames import Frames
from unionfs.container.log import Writer
from unionfs.container.process import StartError, Streams
from unionfs.container.state import CREATED, CREATING, EXITED, RUNNING, STARTING, Containers, Record
from unionfs.container.uplink import Uplink
from unionfs.errors import UnionfsError
from unionfs.image.database import Database
from unionfs.linux import memory, mountfd, mounts, namespaces, sockets, terminal
from unionfs.linux.namespaces import CLONE_NEWNS
from unionfs.linux.sockets import Socket

if TYPE_CHECKING:
    from unionfs.fuse.yielding import Watch

SOCKET = "attach.sock"
_CHUNK = 1 << 16
_LEAVING_SECONDS = 30.0
_SETTLING_SECONDS = 1.0
_LOST_DAEMON = "the daemon that served its root was killed"


def spawn(root: str, container: str, starter: Socket, explain: int) -> int:
    """Fork a monitor that starts this container; it speaks to `starter`'s other side. Its pid."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            _become(explain)
            status = _Monitor(root, container, Frames(starter), Explainer(explain)).run()
        except BaseException:
            events.exception("the monitor failed")
        finally:
            os._exit(status)
    return pid


def _become(explain: int) -> None:
    """A session of its own, and no stream of the starter's but the one for explanations."""
    os.setsid()
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        if stream != explain:
            os.dup2(null, stream)
    os.close(null)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGWINCH):
        signal.signal(number, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


class _Monitor:
    def __init__(self, root: str, container: str, starter: Frames, explain: Explainer) -> None:
        self._open_database(root)
        self.id = container
        self.starter = starter
        self.explain = explain
        self.clients: list[Frames] = []
        self.cgroup = Cgroup.of(container)
        self.daemon = self.daemon_pid = -1
        self.watch: Watch | None = None
        self.master = self.input = -1
        self.outputs: dict[int, str] = {}
        self.error = ""
        self.is_settled = False
        """It has given back what the start alone needed."""
        self.uplink = Uplink(root, container)

    def run(self) -> int:
        """Start, stay until the end, undo. The exit status is this process's."""
        os.chdir("/")
        log = os.open(self._path("monitor.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        events.log_to(events.to_descriptor(log, dated=True))
        try:
            record = self.containers.claim(self.id, STARTING, (CREATING, CREATED, EXITED))
        except UnionfsError as failure:
            self._tell_failure(failure)
            return 1
        try:
            self.cgroup = Cgroup.create(self.id, record.spec.limits)
            self._start(record)
        except BaseException as failure:
            self._undo()
            self._failed(record, failure)
            return 1
        return self._watch(record)

    def _path(self, *names: str) -> str:
        return self.containers.directory(self.id, *names)

    # The start

    def _start(self, record: Record) -> None:
        spec = record.spec
        self.explain.head("the monitor:")
        self._wire(record)
        sources = roots.open_sources(self.database, spec)
        files = [*roots.open_files(self._path(), spec), *roots.hidden_state(self.database, record)]
        self.explain.step("unshare(CLONE_NEWNS)", "mounts that go when the last process goes", "mount_namespaces(7)")
        namespaces.unshare(CLONE_NEWNS)
        mountfd.set_propagation(b"/", mountfd.MS_SLAVE)
        place = roots.place_of(self.database, record)
        self.explain.step(f"mount {spec.storage} on {place.target}", f"{len(place.lower)} lower layers, one upper")
        foreign = [self.starter.fileno()]
        self.daemon_pid, self.watch = storage.mount(spec.storage, place, spec.storage_options, foreign, watches=True)
        if self.daemon_pid > 0:
            self.daemon = os.pidfd_open(self.daemon_pid)
        self.log = Writer(self._path("log.json"))
        self.listener = self._listen()
        streams = self._open_streams(record)
        here, there = sockets.pair()
        started = time.time()
        root = process.Root(place.target, sources, files, self.uplink.namespace)
        self.pid = process.start(spec, root, streams, there, self.cgroup, self.explain)
        there.close()
        for fd in set(streams) - {-1}:
            os.close(fd)
        if spec.tty:
            self.master = sockets.receive_descriptor(here)
            self.outputs = {self.master: "stdout"}
            self.input = os.dup(self.master) if spec.interactive else -1
        here.close()
        roots.close_sources([*sources, *files])
        self.process = os.pidfd_open(self.pid)
        start = namespaces.start_time(self.pid)
        self.containers.update(self.id, status=RUNNING, pid=self.pid, pid_start=start, started=started, error="")
        self.clients.append(self.starter)
        self.starter.put(frames.STARTED)
        self.database.close()  # takes a few milliseconds, which nobody waits for

    def _wire(self, record: Record) -> None:
        if self.uplink.make(self.database, record, self.explain):
            self.database.close()  # the helper is a fork that opens the state itself
            self.uplink.serve([self.starter.fileno()], self.explain)
            self._open_database(self.database.root)

    def _open_database(self, root: str) -> None:
        self.database = Database(root)
        self.containers = Containers(self.database)

    def _listen(self) -> Socket:
        with suppress(FileNotFoundError):
            os.unlink(self._path(SOCKET))
        return sockets.listen(self._path(), SOCKET)

    def _open_streams(self, record: Record) -> Streams:
        """The container's ends; ours go to `outputs` and `input`."""
        if record.spec.tty:
            return Streams()
        out, its_out = os.pipe2(os.O_CLOEXEC)
        error, its_error = os.pipe2(os.O_CLOEXEC)
        self.outputs = {out: "stdout", error: "stderr"}
        if record.spec.interactive:
            its_in, self.input = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(self.input, False)
        else:
            its_in = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        return Streams(its_in, its_out, its_error)

    def _failed(self, record: Record, failure: BaseException) -> None:
        """A container that could not be started stays as it was, with the reason."""
        if not isinstance(failure, UnionfsError | OSError):
            events.exception("the start failed")
        status = failure.exit_status if isinstance(failure, StartError) else process.FAILED
        with Database(self.database.root) as database:
            containers = Containers(database)
            before = EXITED if record.finished else CREATED
            containers.release(self.id, before, exit_code=status, error=str(failure))
            if record.spec.remove:
                roots.remove(database, containers.get(self.id), volumes=True)
        self._tell_failure(failure)
        self.uplink.tidy()

    def _tell_failure(self, failure: BaseException) -> None:
        self.starter.put(frames.FAILED, process.words_of(failure))
        self._deliver([self.starter])

    # The loop

    def _watch(self, record: Record) -> int:
        self.typed = bytearray()
        self.is_over = False
        self.ends_input = False
        for fd in self.outputs:
            os.set_blocking(fd, False)
        while not self.is_over:
            for act in self._wait():
                act()
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        status = 128 - status if status < 0 else status
        for fd in list(self.outputs):
            while fd in self.outputs and self._read_output(fd):
                pass
        self._finish(record, status)
        return 0

    def _wait(self) -> list[Callable[[], object]]:
        """What can be done now, each as a call."""
        actions: dict[int, tuple[int, Callable[[], object]]] = {
            self.process: (select.POLLIN, self._ended),
            self.listener.fileno(): (select.POLLIN, self._accept),
        }
        if self.daemon >= 0:
            actions[self.daemon] = (select.POLLIN, self._lost_daemon)
        if self.uplink.helper is not None:
            actions[self.uplink.helper.control.fileno()] = (select.POLLIN, self.uplink.lost_helper)
        if not any(client.is_full for client in self.clients):
            for fd in self.outputs:
                actions[fd] = (select.POLLIN, partial(self._read_output, fd))
        for client in self.clients:
            wanted = 0 if len(self.typed) >= frames.FULL else select.POLLIN
            wanted |= select.POLLOUT if client.has_waiting else 0
            actions[client.fileno()] = (wanted, partial(self._serve, client))
        if self.input >= 0 and self.typed:
            actions[self.input] = (select.POLLOUT, self._write_input)
        seconds = None
        if self.watch is not None:
            seconds = self.watch.seconds()
            if seconds is None:
                actions[self.watch.rings] = (select.POLLIN, self._look_after_daemon)
        poll = select.poll()
        for fd, (mask, _) in actions.items():
            poll.register(fd, mask)
        settles = seconds is None and not self.is_settled
        if settles:
            seconds = _SETTLING_SECONDS
        ready = [actions[fd][1] for fd, _ in poll.poll(None if seconds is None else math.ceil(seconds * 1000))]
        if settles and not ready:
            self.is_settled = True
            memory.give_back()
        if self.watch is not None and self.watch.seconds() == 0:
            ready.append(self._look_after_daemon)
        return ready

    def _look_after_daemon(self) -> None:
        """It gives way to its clients while there is work, and must not starve."""
        try:
            if self.watch is not None:
                self.watch.turn()
        except OSError:
            self.watch = None  # it ends

    def _ended(self) -> None:
        self.is_over = True

    def _lost_daemon(self) -> None:
        """Every access to its root fails now."""
        self.error = _LOST_DAEMON
        events.error(_LOST_DAEMON)
        os.close(self.daemon)
        self.daemon = -1
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def _accept(self) -> None:
        with suppress(BlockingIOError):
            self.clients.append(Frames(sockets.accept(self.listener)))

    def _serve(self, client: Frames) -> None:
        client.flush()
        for kind, content in client.read() if client.is_open else ():
            if kind == frames.INPUT:
                self.typed += content
            elif kind == frames.INPUT_END:
                self.ends_input = True
            elif kind == frames.RESIZE and self.master >= 0:
                terminal.set_size(self.master, *frames.SIZE.unpack(content))
            elif kind == frames.SIGNAL:
                with suppress(ProcessLookupError, ValueError):
                    os.kill(self.pid, *frames.NUMBER.unpack(content))
            elif kind == frames.NAMES:
                self.uplink.answer_names()
                client.put(frames.STARTED)
        if not client.is_open and client in self.clients:
            self.clients.remove(client)
        self._write_input()

    def _write_input(self) -> None:
        if self.input < 0:
            self.typed.clear()
            return
        try:
            while self.typed:
                del self.typed[: os.write(self.input, self.typed)]
        except BlockingIOError:
            return
        except OSError:
            self._close_input()
            return
        if self.ends_input and self.master < 0:
            self._close_input()

    def _close_input(self) -> None:
        """The program sees the end of its input. A terminal's input has none: its end is a key, ^D."""
        self.typed.clear()
        if self.input >= 0:
            os.close(self.input)
        self.input = -1

    def _read_output(self, fd: int) -> bool:
        """One piece of what it put out, to the log and to all who look; False when there is none now."""
        try:
            data = os.read(fd, _CHUNK)
        except BlockingIOError:
            return False
        except OSError:  # a terminal without a process
            data = b""
        if not data:
            if fd != self.master:
                os.close(fd)
            del self.outputs[fd]
            return False
        stream = self.outputs[fd]
        self.log.write(stream, data)
        for client in self.clients:
            client.put(frames.OUTPUT if stream == "stdout" else frames.ERROR, data)
        return True

    # The end

    def _finish(self, record: Record, status: int) -> None:
        self.log.close()
        if self.cgroup.oom_killed():
            self.error = "out of memory: killed at the limit of --memory"
        self._undo()
        with Database(self.database.root) as database:
            containers = Containers(database)
            containers.release(self.id, EXITED, exit_code=status, finished=time.time(), error=self.error)
            if record.spec.remove:
                with suppress(UnionfsError):
                    roots.remove(database, containers.get(self.id), volumes=True)
        for client in self.clients:
            client.put(frames.EXITED, frames.NUMBER.pack(status))
        self._deliver(self.clients)
        self.uplink.tidy()

    def _undo(self) -> None:
        """Unmount, and wait for the daemon: then the upper is whole and nobody's."""
        if self.watch is not None:
            with suppress(OSError):
                self.watch.end()  # nobody looks after it from here on
        with suppress(OSError):
            mounts.unmount(os.fsencode(self._path("merged")), mounts.MNT_DETACH)
        if self.daemon >= 0:
            poll = select.poll()
            poll.register(self.daemon, select.POLLIN)
            if not poll.poll(_LEAVING_SECONDS * 1000):
                events.error(f"the daemon {self.daemon_pid} did not end; killed")
                os.kill(self.daemon_pid, signal.SIGKILL)
        if self.daemon_pid > 0:
            os.waitpid(self.daemon_pid, 0)
        self.uplink.release()
        with suppress(FileNotFoundError):
            os.unlink(self._path(SOCKET))
        self.cgroup.remove()

    def _deliver(self, clients: list[Frames]) -> None:
        """All that waits for clients, as long as they live; nothing of the container is held any more."""
        while waiting := [client for client in clients if client.is_open and client.has_waiting]:
            poll = select.poll()
            for client in waiting:
                poll.register(client.fileno(), select.POLLOUT)
            poll.poll()
            for client in waiting:
                client.flush()
