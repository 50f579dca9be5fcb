"""Copy files into a container and out of it, whether it runs or not, by docker's table.

Called by the command `cp`. Both sides speak tar through a pipe: the container's side is a child process that has the
container's root as its own (chroot(2)), so that no symbolic link in there, nor one that is put there meanwhile, leads
to the machine's files. A container that does not run is mounted for as long as that takes.

    source        target is not there       is a file           is a directory
    file          becomes that file         replaces it         goes into it
    directory     becomes that directory    an error            goes into it
    directory/.   becomes that directory    an error            what is in it goes into it
"""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, NamedTuple, NoReturn

from unionfs.container import process, rootfs, roots, storage
from unionfs.container.lifecycle import Container
from unionfs.container.privileges import user_here
from unionfs.container.state import open_process
from unionfs.errors import UnionfsError
from unionfs.image.archive import unpack
from unionfs.image.database import Database
from unionfs.image.packing import open_for_writing, pack_path
from unionfs.linux import mountfd, mounts, namespaces
from unionfs.linux.namespaces import CLONE_NEWNS

_CHUNK = 1 << 20
Wanted = Callable[[str], bool]


class Rights(NamedTuple):
    """To whom what is copied in belongs, by the container's own passwd(5), and the mode of all of it; "" and None: as
    they were."""

    owner: str = ""
    mode: int | None = None


ROOT, KEPT = Rights("0:0"), Rights()


def everything(path: str) -> bool:
    """Nothing is left out."""
    return True


class Target(NamedTuple):
    """Where an archive is unpacked, and the name that its top object gets; "." for what is in a directory."""

    folder: str
    name: str


def copy_out(container: Container, path: str, to: str, *, follow: bool = False, keeps_owner: bool = False) -> None:
    """Copy `path` of the container to the path `to` of this machine. Raises UnionfsError."""
    with root_of(container) as root:
        is_directory = _inside(root, lambda: _kind(path, follow))
        target = _target(path, to, is_directory == b"d")
        owner = None if keeps_owner else (os.geteuid(), os.getegid())
        with _packing_inside(root, path, target.name, follow) as stream:
            unpack(stream, target.folder, is_layer=False, owner=owner)


def copy_in(
    container: Container, path: str, to: str, rights: Rights, *, follow: bool = False, wanted: Wanted = everything
) -> None:
    """Copy `path` of this machine to the path `to` of the container, of a directory what is `wanted` by its path in
    there. Raises UnionfsError."""
    if not os.path.lexists(path):
        raise UnionfsError(path, "there is no such file or directory")
    is_directory = _kind(path, follow) == b"d"
    with root_of(container) as root:
        reading, writing = os.pipe2(os.O_CLOEXEC)

        def take() -> bytes:
            os.close(writing)
            target = _target(path, to, is_directory)
            os.write(answer, target.name.encode(errors="surrogateescape"))
            os.close(answer)
            with open(reading, "rb") as stream:
                return _take(stream, target.folder, rights)

        named, answer = os.pipe2(os.O_CLOEXEC)
        child = _Child(root, take)
        os.close(reading)
        os.close(answer)
        with open(named, "rb") as stream:
            name = os.fsdecode(stream.read())
        with open(writing, "wb") as out, suppress(BrokenPipeError):
            if name:
                with open_for_writing(out) as tar:
                    pack_path(tar, path, name, follow, wanted)
        child.result()


def archive_out(container: Container, path: str, out: IO[bytes], *, follow: bool = False) -> None:
    """Write `path` of the container to a stream, as a tar whose top object has its name."""
    with root_of(container) as root:
        name = os.path.basename(os.path.normpath(path)) or "."
        with _packing_inside(root, path, name, follow) as stream:
            while data := stream.read(_CHUNK):
                out.write(data)


def archive_in(container: Container, source: IO[bytes], to: str, rights: Rights) -> None:
    """Unpack a tar in the container's directory `to`."""

    def take() -> bytes:
        if not os.path.isdir(to):
            raise UnionfsError(to, "is no directory in the container", "an archive is unpacked in one that is there")
        return _take(source, to, rights)

    with root_of(container) as root:
        _inside(root, take)


def _take(stream: IO[bytes], folder: str, rights: Rights) -> bytes:
    """Inside: unpack what comes."""
    owner: tuple[int, int] | None = None
    if rights.owner:
        user = user_here(rights.owner)
        owner = (user.uid, user.gid)
    unpack(stream, folder, is_layer=False, owner=owner, mode=rights.mode)
    return b""


# --- what is where


def _kind(path: str, follow: bool) -> bytes:
    """b"d" for a directory, b"f" for anything else. Raises UnionfsError when there is nothing."""
    try:
        mode = (os.stat if follow or path.endswith("/") else os.lstat)(path).st_mode
    except OSError as error:
        raise UnionfsError(path, (error.strerror or str(error)).lower()) from error
    return b"d" if stat.S_ISDIR(mode) else b"f"


def _target(source: str, to: str, is_directory: bool) -> Target:
    """By docker's table. Raises UnionfsError."""
    if os.path.isdir(to):
        whole = source.endswith("/.") or os.path.normpath(source) in ("/", ".")
        return Target(to, "." if is_directory and whole else os.path.basename(os.path.normpath(source)))
    if os.path.exists(to):
        if is_directory:
            raise UnionfsError(to, "cannot copy a directory to a file", "name a directory, or a new name")
    elif to.endswith("/") and not is_directory:
        raise UnionfsError(to, "the destination directory must exist", "make it first, or leave the slash out")
    folder, name = os.path.split(os.path.normpath(to))
    if not os.path.isdir(folder or "."):
        raise UnionfsError(folder, "there is no such directory", "make it first")
    return Target(folder or ".", name)


# --- the container's side


@contextmanager
def root_of(container: Container) -> Iterator[int]:
    """A descriptor of a container's root, with its volumes; one that does not run is mounted meanwhile, in a mount
    namespace of its own, where the calling thread stays until the end of the block."""
    record = container.record
    if record.is_running:
        fd = open_process(record, "root", os.O_DIRECTORY)
        try:
            yield fd
        finally:
            os.close(fd)
        return
    before = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    with Database(container.root) as database:
        sources = roots.open_sources(database, record.spec)
        place = roots.place_of(database, record)
    daemon = -1
    try:
        namespaces.unshare(CLONE_NEWNS)
        mountfd.set_propagation(b"/", mountfd.MS_SLAVE)
        daemon = storage.mount(record.spec.storage, place, record.spec.storage_options).pid
        fd = os.open(place.target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        rootfs.mount_volumes(fd, sources)
        try:
            yield fd
        finally:
            os.close(fd)
            mounts.unmount(os.fsencode(place.target), mounts.MNT_DETACH)
    finally:
        namespaces.setns(before, CLONE_NEWNS)
        os.close(before)
        if daemon > 0:
            os.waitpid(daemon, 0)


class _Child:
    """A process whose root is the container's; what it returns, or what it fails with, comes by a pipe."""

    def __init__(self, root: int, act: Callable[[], bytes]) -> None:
        self._answer, answering = os.pipe2(os.O_CLOEXEC)
        self._failure, failing = os.pipe2(os.O_CLOEXEC)
        self._pid = os.fork()
        if self._pid == 0:
            _act(root, act, answering, failing)
        os.close(answering)
        os.close(failing)

    def result(self) -> bytes:
        with open(self._answer, "rb") as answer:
            content = answer.read()
        failure = process.read_failure(self._failure)
        os.close(self._failure)
        os.waitpid(self._pid, 0)
        if failure is not None:
            raise UnionfsError(failure.what, failure.why, failure.hint)
        return content


def _act(root: int, act: Callable[[], bytes], answering: int, failing: int) -> NoReturn:
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.fchdir(root)
        os.chroot(".")
        os.umask(0)
        os.write(answering, act())
    except BaseException as failure:
        process.tell_failure(failing, failure)
    os._exit(0)


def _inside(root: int, act: Callable[[], bytes]) -> bytes:
    return _Child(root, act).result()


@contextmanager
def _packing_inside(root: int, path: str, name: str, follow: bool) -> Iterator[IO[bytes]]:
    """A tar of a path inside, whose top object has this name."""
    reading, writing = os.pipe2(os.O_CLOEXEC)

    def give() -> bytes:
        os.close(reading)
        _kind(path, follow)
        with open(writing, "wb") as out, open_for_writing(out) as tar:
            pack_path(tar, path, name, follow)
        return b""

    child = _Child(root, give)
    os.close(writing)
    try:
        with open(reading, "rb") as stream:
            yield stream
    except UnionfsError:
        child.result()  # what failed there says more than an archive that ends too early
        raise
    child.result()


# --- what builds need besides


def make_directory(container: Container, path: str) -> None:
    """A directory of the container's, with those above it, where it is missing."""

    def make() -> bytes:
        os.umask(0o022)
        os.makedirs(path, 0o755, exist_ok=True)
        return b""

    with root_of(container) as root:
        _inside(root, make)


def copy_between(source: Container, path: str, target: Container, to: str, rights: Rights) -> None:
    """Copy from one container, which does not run, to another; of a directory what is in it."""
    with root_of(source) as root, root_of(target) as other:
        is_directory = _inside(root, lambda: _kind(path, True)) == b"d"
        whole = f"{path.rstrip('/')}/." if is_directory else path
        name = os.fsdecode(_inside(other, lambda: os.fsencode(_target(whole, to, is_directory).name)))
        with _packing_inside(root, path, name, True) as stream:
            _inside(other, lambda: _take(stream, _target(whole, to, is_directory).folder, rights))
