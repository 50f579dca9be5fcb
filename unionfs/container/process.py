"""The first process of a container, from its fork to its exec; and one more process in a container that runs.

Called by `monitor.py` (a start) and `enter.py` (an exec). The steps of a start, in order, two processes side by side:

    the monitor                      the process
    unshare(CLONE_NEWPID), fork      joins its cgroup, unshares the other namespaces
    waits                            host name, mounts, pivot_root, its terminal
                                     limits, user, capabilities, seccomp, exec

What fails is told through a pipe that exec closes: its end without a word is the sign that the program runs. Exit
statuses are docker's: 125 the launcher failed, 126 the program cannot be invoked, 127 there is none.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple, NoReturn

from unionfs import events
from unionfs.container import init, rootfs, ulimits
from unionfs.container.cgroup import Cgroup
from unionfs.container.explain import Explainer
from unionfs.container.privileges import become, user_here
from unionfs.container.rootfs import Source
from unionfs.container.seccomp import program
from unionfs.container.spec import Spec
from unionfs.errors import UnionfsError
from unionfs.linux import namespaces, seccomp, terminal
from unionfs.linux.namespaces import (
    CLONE_NEWCGROUP,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUTS,
)
from unionfs.linux.sockets import Socket, send_descriptor

FAILED, CANNOT_INVOKE, NOT_FOUND = 125, 126, 127
NAMESPACES = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWCGROUP


class StartError(UnionfsError):
    """The process could not be started; `exit_status` is 125, 126 or 127."""

    def __init__(self, what: str, why: str, hint: str, exit_status: int) -> None:
        super().__init__(what, why, hint)
        self.exit_status = exit_status


class Streams(NamedTuple):
    """The descriptors that become 0, 1 and 2 of a process; -1 each where a terminal is opened inside."""

    input: int = -1
    output: int = -1
    error: int = -1


class Program(NamedTuple):
    """What is run in a container, and as whom: the part of a Spec that an exec has of its own."""

    argv: tuple[str, ...]
    env: tuple[str, ...]
    workdir: str
    user: str
    tty: bool
    capabilities: tuple[str, ...]
    seccomp: bool
    no_new_privs: bool

    @classmethod
    def of(cls, spec: Spec) -> Program:
        return cls(
            spec.argv, spec.env, spec.workdir, spec.user, spec.tty, spec.capabilities, spec.seccomp, spec.no_new_privs,
        )  # fmt: skip


# --- the first process


class Root(NamedTuple):
    """What process 1 makes its root of: where the merged tree is mounted in the monitor's mount namespace, the trees of
    the user's mounts, and those of the launcher's own files; and a descriptor of its network namespace, or one of the
    two below."""

    path: str
    sources: Sequence[Source]
    files: Sequence[Source]
    network: int


OF_MACHINE, OF_ITS_OWN = -1, -2
"""In place of a network namespace's descriptor: that of the machine, and a new one with a loopback only."""


def start(spec: Spec, root: Root, streams: Streams, terminal_to: Socket, cgroup: Cgroup, explain: Explainer) -> int:
    """Start the container's process and return its pid, when its program runs.

    `terminal_to` is sent the master of its terminal (spec.tty). Raises StartError. The calling thread must be this
    process's only one.
    """
    reading, told = os.pipe2(os.O_CLOEXEC)
    what = "the next child is process 1 of a new pid namespace"
    explain.step("unshare(CLONE_NEWPID); fork()", what, "pid_namespaces(7)")
    with cgroup.joining() as join:
        pid = _fork_into_new_pid_namespace()
        if pid == 0:
            os.close(reading)
            _first_process(spec, root, streams, terminal_to, join, explain, told)
    os.close(told)
    failure = read_failure(reading)
    os.close(reading)
    if failure is not None:
        os.waitpid(pid, 0)
        raise failure
    return pid


def _fork_into_new_pid_namespace() -> int:
    """Only this child is to be born there: the namespace of later children is put back. In a user namespace that is not
    allowed, where the machine's own pid namespace is another's; the monitor forks nothing more."""
    before = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        namespaces.unshare(CLONE_NEWPID)
        pid = os.fork()
        if pid:
            with suppress(PermissionError):
                namespaces.setns(before, CLONE_NEWPID)
        return pid
    finally:
        os.close(before)


def _first_process(
    spec: Spec, root: Root, streams: Streams, terminal_to: Socket, join: Callable[[], None], explain: Explainer,
    told: int,
) -> NoReturn:  # fmt: skip
    """Never returns into the frames of the monitor."""
    try:
        namespaces.die_with_parent(signal.SIGKILL)
        os.setsid()
        os.umask(0)
        explain.head("process 1 of the container:")
        explain.step('write("0") to .../unionfs/ID/tasks', "its cgroup: limits, counts, freezer", "cgroups(7)")
        join()
        flags = NAMESPACES | (CLONE_NEWNET if root.network == OF_ITS_OWN else 0)
        explain.step(f"unshare({namespaces.names_of(flags)})", "what it sees is its own", "namespaces(7)")
        namespaces.unshare(flags)
        if root.network == OF_ITS_OWN:
            explain.step("ioctl(SIOCSIFFLAGS, lo, IFF_UP)", "a network with nothing but itself", "netdevice(7)")
            terminal.loopback_up()
        elif root.network != OF_MACHINE:
            explain.step("setns(fd, CLONE_NEWNET)", "the network that the monitor has made", "setns(2)")
            namespaces.setns(root.network, CLONE_NEWNET)
        explain.step(f"sethostname({spec.hostname})", "", "uts_namespaces(7)")
        namespaces.set_hostname(os.fsencode(spec.hostname))
        fd = rootfs.build(root.path, root.sources, root.files, spec.read_only, explain)
        rootfs.enter(fd, explain)
        os.umask(0o022)
        if spec.tty:
            streams = _open_terminal(terminal_to, explain)
        ulimits.apply(spec.ulimits)
        run = Program.of(spec)
        if spec.init:
            explain.step("fork()", "process 1 stays: it passes signals on and reaps orphans (--init)", "wait(2)")
            init.fork_and_stay(spec.tty)
        _become_and_exec(run, streams, explain)
    except BaseException as failure:
        if not isinstance(failure, UnionfsError):
            events.exception("the first process failed")
        tell_failure(told, failure)
    os._exit(FAILED)


def _open_terminal(to: Socket, explain: Explainer) -> Streams:
    """A terminal of the container's own devpts becomes the controlling one; its master goes to the other side."""
    explain.step('open("/dev/ptmx"), TIOCSCTTY', "a terminal; its other end goes out by SCM_RIGHTS", "pts(4)")
    master = os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    slave = terminal.open_slave(master)
    send_descriptor(to, master)
    os.close(master)
    terminal.make_controlling(slave)
    return Streams(slave, slave, slave)


# --- from here on the same for an exec


def _become_and_exec(run: Program, streams: Streams, explain: Explainer) -> NoReturn:
    """The last steps: streams, user, rights, program. Raises StartError and OSError."""
    for number, fd in enumerate(streams):
        os.dup2(fd, number)
    user = user_here(run.user)
    environment = _environment(run.env, user.home)
    if run.tty:
        os.fchown(0, user.uid, -1)
    _enter_directory(run.workdir)
    caps = ", ".join(run.capabilities) or "none"
    explain.step(f"setgid({user.gid}), setuid({user.uid}), capset", f"capabilities: {caps}", "capabilities(7)")
    rules = program(run.capabilities) if run.seccomp else b""
    if rules and not run.no_new_privs:  # loading it needs a capability that the program does not get
        seccomp.load(rules)
    become(user, run.capabilities, run.no_new_privs)
    if run.no_new_privs:
        explain.step("prctl(PR_SET_NO_NEW_PRIVS)", "setuid programs give nothing", "prctl(2)")
    if rules:
        what = f"{len(rules) // 8} instructions say which system calls there are"
        explain.step("seccomp(SET_MODE_FILTER)", what, "seccomp(2)")
        if run.no_new_privs:
            seccomp.load(rules)
    _exec(run.argv, environment, explain)


def _environment(words: Sequence[str], home: str) -> dict[str, str]:
    environment = dict(word.split("=", 1) for word in words if "=" in word)
    environment.setdefault("HOME", home or "/")
    return environment


def _enter_directory(path: str) -> None:
    """A working directory that is missing is made, as docker does."""
    try:
        os.makedirs(path, 0o755, exist_ok=True)
        os.chdir(path)
    except OSError as error:
        raise StartError(f"working directory {path}", error.strerror or "", "", CANNOT_INVOKE) from error


def _exec(argv: Sequence[str], environment: dict[str, str], explain: Explainer) -> NoReturn:
    path = _find(argv[0], environment.get("PATH", ""))
    explain.step(f"execve({path})", " ".join(argv), "execve(2)")
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # the interpreter ignores these, and that would be inherited
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    try:
        os.execve(path, list(argv), environment)
    except OSError as error:
        raise StartError(f'exec: "{argv[0]}"', _why(error), "", CANNOT_INVOKE) from error


def _why(error: OSError) -> str:
    if error.errno == errno.ENOENT:
        return "its interpreter or dynamic linker is not in the image"
    if error.errno == errno.ENOEXEC:
        return "exec format error: a program for another kind of machine, or a script without #!"
    return (error.strerror or str(error)).lower()


def _find(name: str, path: str) -> str:
    """The program by the container's PATH, as execvp(3). Raises StartError."""
    if "/" in name:
        candidates = [name]
    else:
        candidates = [f"{folder or '.'}/{name}" for folder in path.split(":")]
    failure = ""
    for candidate in candidates:
        try:
            mode = os.stat(candidate).st_mode
        except PermissionError:
            failure = "permission denied"
            continue
        except OSError:
            continue
        if stat.S_ISDIR(mode):
            failure = "is a directory"
        elif os.access(candidate, os.X_OK, effective_ids=True):
            return candidate
        else:
            failure = "permission denied"
    if failure:
        raise StartError(f'exec: "{name}"', failure, "", CANNOT_INVOKE)
    where = "no such file or directory" if "/" in name else "executable file not found in $PATH"
    raise StartError(f'exec: "{name}"', where, "", NOT_FOUND)


# --- what failed, from one process to another


def tell_failure(descriptor: int, failure: BaseException) -> None:
    """Write a failure for `read_failure`."""
    os.write(descriptor, words_of(failure))


def words_of(failure: BaseException) -> bytes:
    """A failure as `failure_of` reads it."""
    if isinstance(failure, UnionfsError):
        status = failure.exit_status if isinstance(failure, StartError) else FAILED
        fields = [failure.what, failure.why, failure.hint, status]
    elif isinstance(failure, OSError):
        what = os.fsdecode(failure.filename) if isinstance(failure.filename, str | bytes) else "the container's start"
        fields = [what, failure.strerror or str(failure), "unionfs run --explain shows the steps", FAILED]
    else:
        fields = ["the container's start", f"{type(failure).__name__}: {failure}", "", FAILED]
    return json.dumps(fields).encode()


def read_failure(descriptor: int) -> StartError | None:
    """What was told until the pipe was closed; None if nothing."""
    with open(os.dup(descriptor), "rb") as pipe:
        words = pipe.read()
    return failure_of(words) if words else None


def failure_of(words: bytes) -> StartError:
    """The failure that `words_of` wrote down."""
    return StartError(*json.loads(words))


# --- one more process


def run_inside(run: Program, streams: Streams, told: int, terminal_to: Socket | None, explain: Explainer) -> NoReturn:
    """Called in a child that is in the container's namespaces already: become the program. Never returns."""
    try:
        os.setsid()
        os.umask(0o022)
        if terminal_to is not None:
            streams = _open_terminal(terminal_to, explain)
        _become_and_exec(run, streams, explain)
    except BaseException as failure:
        tell_failure(told, failure)
    os._exit(FAILED)
