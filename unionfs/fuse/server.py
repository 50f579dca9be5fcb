"""The loop: a request, its row in the table, the answer. Helper threads for what may wait long.

Called by `mount.py` with a mounted connection. It promises that no request ends the service: a failure is an errno, an
unknown exception EIO with its traceback in the log, a message that is no message EIO.

One thread reads and answers, without a hand-over to another, which would cost more than most answers. What may block
goes to a helper with its buffer. The kernel orders requests that depend on each other by waiting for answers, so
answers may overtake.
"""

from __future__ import annotations

import errno
import signal
from collections.abc import Callable
from queue import SimpleQueue
from threading import Lock, Thread
from time import perf_counter_ns

from unionfs import events
from unionfs.errors import UnionfsError
from unionfs.fuse import dispatch, protocol, wire
from unionfs.fuse.affinity import Affinity
from unionfs.fuse.calls import Connection
from unionfs.fuse.device import Device
from unionfs.fuse.dispatch import HAND_OVER, HandOver, Row
from unionfs.fuse.index import Index
from unionfs.fuse.wire import Reply, Request, WireError
from unionfs.linux.scheduling import begin_thread
from unionfs.union.operations import Inode, Operations

HELPERS = 8
"""Threads at most for what blocks. More wait in a queue, and can be interrupted there."""


class Server:
    """One connection and its service. `opening` and `coherent`: the mount options open= and coherent."""

    def __init__(
        self, operations: Operations, device: Device, opening: str = "passthrough", coherent: bool = False,
        index: Index | None = None, affinity: Affinity | None = None,
    ) -> None:  # fmt: skip
        self._device = device
        self._connection = Connection(operations, opening, coherent)
        if index is not None:
            self._connection.nodes.use(index)
        self._connection.interrupt = self._interrupt
        self._connection.notify = device.notify
        self._connection.request_names = [row.name for row in dispatch.TABLE]
        self._connection.passthrough.connection = device.descriptor
        operations.tell_of_changes(self._changed)
        self._rows = list(dispatch.TABLE)
        self._affinity = affinity or Affinity()
        self._connection.scheduling = self._affinity.told
        self._helpers = Helpers(self._help, device.recycle)

    @property
    def data_path(self) -> str:
        """Who carries the data of open files, in words; known when it is ready."""
        return self._connection.data_path.told

    def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Serve until the file system is unmounted; `ready` is called when it answers. Closes the device and the union.

        Raises UnionfsError when the kernel is too old, OSError when the device fails.
        """
        request = self._device.request()
        try:
            if self._shake_hands(request):
                ready()
                self._serve(request)
        finally:
            self._helpers.stop()
            self._device.close()
            self._connection.operations.close()

    def _shake_hands(self, request: Request) -> bool:
        """Answer INIT, the first request, and nothing else before it. False: unmounted already."""
        while True:
            try:
                if not self._device.receive(request):
                    return False
                if self._answer_first(request):
                    return True
            except WireError as fault:
                self._device.send(request.unique, self._malformed(request, fault))

    def _answer_first(self, request: Request) -> bool:
        unique, row = request.unique, dispatch.TABLE[protocol.INIT]
        if request.opcode != protocol.INIT:
            raise WireError(f"{request} came before INIT")
        if row.decode(request)[0] > protocol.MAJOR:  # it is told ours, and asks again with that
            self._device.send(unique, wire.initialised(unique, (protocol.MINOR_NEWEST, 0)))
            return False
        try:
            reply = self._answer(row, request)
        except UnionfsError:
            self._device.send(unique, wire.error(unique, errno.EPROTO))
            raise
        assert not isinstance(reply, HandOver)
        self._rows = dispatch.rows_for(self._connection.flags)
        self._device.send(unique, reply)
        self._connection.data_path.find(self._connection.flags, self._connection.passthrough)
        return True

    def _serve(self, request: Request) -> None:
        device, rows, known = self._device, self._rows, len(self._rows)
        receive, perform, send = device.receive, self._perform, device.send
        counts, until_look = self._connection.counts, 1
        while True:
            try:
                if not receive(request):
                    return
            except WireError as fault:
                send(request.unique, self._malformed(request, fault))
                continue
            until_look -= 1
            if not until_look:
                until_look = self._affinity.follow(request)
            opcode = request.opcode
            if opcode < known:
                row = rows[opcode]
                counts[opcode] += 1
            else:
                row = dispatch.UNKNOWN
            reply = perform(row, request, False)
            if not isinstance(reply, HandOver):
                send(request.unique, reply)
            elif self._helpers.submit(row, request):
                request = device.request()
            else:
                self._help(row, request)

    def _perform(self, row: Row, request: Request, helping: bool) -> Reply | HandOver:
        """The answer to a request, whatever happens. `helping`: in a helper, where nothing is handed over."""
        if events.listeners:
            return self._watched(row, request, helping)
        try:
            return self._answer(row, request, helping)
        except OSError as error:
            return wire.error(request.unique, error.errno or errno.EIO)
        except Exception as fault:
            return self._failed(row, request, fault)

    def _answer(self, row: Row, request: Request, helping: bool = False) -> Reply | HandOver:
        arguments = row.decode(request)
        call = row.call if helping else row.on_main
        result = call(self._connection, request, *arguments)
        return HAND_OVER if result is HAND_OVER else row.encode(request.unique, result)

    def _failed(self, row: Row, request: Request, fault: Exception) -> Reply:
        """A message that is no message, or a fault of the program: logged, and the service goes on."""
        if isinstance(fault, WireError):
            return self._malformed(request, fault)
        events.exception(f"{row.name} of node {request.nodeid} failed")
        return wire.error(request.unique, errno.EIO)

    def _malformed(self, request: Request, fault: WireError) -> Reply:
        events.error(f"malformed message from the kernel: {fault}")
        return wire.error(request.unique, fault.errno)

    def _watched(self, row: Row, request: Request, helping: bool) -> Reply | HandOver:
        """`_perform` for listeners: an event when a thread begins with a request, and one with the time in microseconds
        and the errno of its answer. What comes of that thread in between belongs to it."""
        start, number, arguments, result = perf_counter_ns(), 0, (), None
        reply: Reply | HandOver
        events.emit("begin", unique=request.unique)
        try:
            arguments = row.decode(request)
            result = (row.call if helping else row.on_main)(self._connection, request, *arguments)
            reply = HAND_OVER if result is HAND_OVER else row.encode(request.unique, result)
        except OSError as error:
            number = error.errno or errno.EIO
            reply = wire.error(request.unique, number)
        except Exception as fault:
            number = errno.EIO
            reply = self._failed(row, request, fault)
        if reply is not HAND_OVER:
            events.emit(
                "request", op=row.name, unique=request.unique, nodeid=request.nodeid, pid=request.pid,
                us=(perf_counter_ns() - start) // 1000, errno=number, fields=row.fields, arguments=arguments,
                result=result,
            )  # fmt: skip
        return reply

    def _help(self, row: Row, request: Request) -> None:
        """Make a call that may wait long, and answer."""
        self._connection.operations.set_interrupt_check(lambda: request.interrupted)
        reply = self._perform(row, request, True)
        assert not isinstance(reply, HandOver)
        self._helpers.finished(request)
        self._device.send(request.unique, reply)

    def _changed(self, inode: Inode) -> None:
        """Its attributes are no longer those that the kernel was told to keep."""
        nodeid = self._connection.nodes.nodeid_of(inode)
        if nodeid is not None:
            self._device.notify(wire.invalidate_attributes(nodeid))

    def _interrupt(self, unique: int) -> None:
        """The caller of that request got a signal. One that waits is answered at once, one that runs sees a flag."""
        if self._helpers.cancel(unique):
            self._device.send(unique, wire.error(unique, errno.EINTR))


class Helpers:
    """Threads that are made when they are needed, and end with the service.

    A request is in `_waiting` until a helper takes it out, or the main thread does, to cancel it: one of them gets it.
    """

    def __init__(self, work: Callable[[Row, Request], None], recycle: Callable[[Request], None]) -> None:
        self._work = work
        self._recycle = recycle
        self._queue: SimpleQueue[tuple[Row, Request] | None] = SimpleQueue()
        self._lock = Lock()
        self._idle = 0
        self._threads: list[Thread] = []
        self._waiting: dict[int, Request] = {}
        self._running: dict[int, Request] = {}

    def submit(self, row: Row, request: Request) -> bool:
        """Have a helper serve the request. False: there is none, and none can be made."""
        request.interrupted = False
        with self._lock:
            wanted = not self._idle and len(self._threads) < HELPERS
            self._idle -= bool(self._idle)
        if wanted:
            self._start_one()
        if not self._threads:
            return False
        self._waiting[request.unique] = request
        self._queue.put((row, request))
        return True

    def _start_one(self) -> None:
        thread = Thread(target=self._run, name=f"unionfs helper {len(self._threads) + 1}")
        try:
            thread.start()
        except RuntimeError as error:
            events.warning(f"a helper thread could not be started: {error}")
        else:
            self._threads.append(thread)

    def _run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # they are to wake the main thread
        begin_thread()
        while (job := self._queue.get()) is not None:
            row, request = job
            self._running[request.unique] = request
            if self._waiting.pop(request.unique, None) is None:
                self.finished(request)
            else:
                self._work(row, request)
            self._recycle(request)
            with self._lock:
                self._idle += 1

    def finished(self, request: Request) -> None:
        self._running.pop(request.unique, None)

    def cancel(self, unique: int) -> bool:
        """True: the request was still waiting, and nobody will serve it. Else it is told, if it is known at all."""
        if self._waiting.pop(unique, None) is not None:
            return True
        running = self._running.get(unique)
        if running is not None:
            running.interrupted = True
        return False

    def stop(self) -> None:
        """Interrupt what runs, and wait for the threads' end."""
        for request in (*self._running.copy().values(), *self._waiting.copy().values()):
            request.interrupted = True
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()
