"""The subjects of the contract: one interface by path, and what stands behind it.

    model       tests/model.py, no layers
    core        unionfs.Union in this process
    native      a directory mounted by our native engine
    fusepy      a directory mounted by our fusepy engine
    kernel      a directory mounted by the kernel's overlayfs: the oracle of the overlay dialect

Paths are relative to the union's root. A symbolic link in the last place is followed by open and truncate only. The
names of the methods are those of unionfs.Union; for the mounted ones each is the system call itself.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path as FilePath
from typing import Any, NamedTuple

import pytest

import unionfs
from tests.contract import layers
from tests.contract.mounter import Mounter
from tests.model import ANY, NOW, UTIME_NOW, Model

Path = str | bytes
libc = ctypes.CDLL(None, use_errno=True)
libc.renameat2.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
libc.utimensat.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int]
libc.getxattr.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t]
_HERE, _NO_FOLLOW, _FOLLOW, _OMIT = -100, 0x100, 0x400, (1 << 30) - 2

KERNEL_OPTIONS = "redirect_dir=on,index=on,metacopy=off"
"""With these, directories can be renamed and hard links stay links. All layers lie on one filesystem: no xino."""


subjects, differs = pytest.mark.subjects, pytest.mark.differs


def fails(number: int, call: Callable[..., Any], *arguments: Any) -> None:
    """The call is refused with that errno."""
    with pytest.raises(OSError) as raised:
        call(*arguments)
    got = errno.errorcode.get(raised.value.errno or 0, str(raised.value))
    assert got == errno.errorcode[number], f"{got}, expected {errno.errorcode[number]}, of {call.__name__}{arguments}"


def check(result: int, path: object = None) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return result


class Attributes(NamedTuple):
    """What a test looks at; ours have the same names."""

    ino: int
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    size: int
    blocks: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    dev: int


def attributes(st: os.stat_result) -> Attributes:
    return Attributes(
        st.st_ino, st.st_mode, st.st_nlink, st.st_uid, st.st_gid, st.st_rdev, st.st_size, st.st_blocks,
        st.st_atime_ns, st.st_mtime_ns, st.st_ctime_ns, st.st_dev,
    )  # fmt: skip


class Entry(NamedTuple):
    """One record of a listing; `offset` is where the next one begins."""

    name: bytes
    ino: int
    type: int
    offset: int


# --- the model


class ModelSubject(Model):
    """The model, with the interface of the others."""

    kind, dialect, name = "model", "", "model"

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.root = model.root

    def stat(self, path: Path) -> Attributes:  # type: ignore[override]
        node = self.node(path)
        now = time.time_ns()
        atime, mtime = (now if moment in (NOW, ANY) else moment for moment in (node.atime, node.mtime))
        return Attributes(
            node.ino, node.mode, node.nlink, node.uid, node.gid, node.rdev, node.size, len(node.pages) * 8,
            atime, mtime, now, 0,
        )  # fmt: skip

    def entries(self, path: Path) -> list[Entry]:
        directory = self.node(path)
        self.listdir(path)
        return [Entry(name, node.ino, node.kind >> 12, 0) for name, node in directory.entries.items()]

    def remount(self) -> None:
        pass

    def close(self) -> None:
        pass


# --- the real ones


class Subject:
    """A union of real layers. `lowers` topmost first; `upper` and `work` are None in a read-only one."""

    kind = ""
    copyup: str | None = None
    """How files are copied up; where this is said, those of any size."""
    opening: str | None = None
    """The mount option open=, or "coherent"."""
    index = False
    """Whether the layer index is used."""

    def __init__(self, lowers: Sequence[FilePath], upper: FilePath | None, work: FilePath | None, dialect: str) -> None:
        self.lowers, self.upper, self.work, self.dialect = list(lowers), upper, work, dialect

    @property
    def copying(self) -> dict[str, Any]:
        return {"copyup": self.copyup, "copyup_threshold": 1} if self.copyup else {}

    @property
    def name(self) -> str:
        return self.kind if self.kind == "kernel" else f"{self.kind}-{self.dialect}"

    def marks(self) -> set[tuple[str, str]]:
        """What stands in the upper layer."""
        assert self.upper is not None
        return set(layers.marks(self.upper, self.dialect))

    def in_upper(self, path: str) -> bool:
        """Does the upper hold an object of that name itself?"""
        return any(found == path and what != "whiteout" for found, what in self.marks())

    def open_union(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    def remount(self) -> None:
        self.close()
        self.open_union()


class Core(Subject):
    """unionfs.Union in this process; what is not said here is its own method."""

    kind = "core"
    union: Any = None

    def open_union(self) -> None:
        self.union = unionfs.Union(self.lowers, self.upper, self.work, dialect=self.dialect, **self.copying)

    def close(self) -> None:
        if self.union is not None:
            self.union.close()
            self.union = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.union, name)

    def entries(self, path: Path) -> list[Any]:
        return [entry for entry in self.union.scandir(path) if entry.name not in (b".", b"..")]


class File:
    """An open file of a mounted subject."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def fileno(self) -> int:
        return self.fd

    def __enter__(self) -> File:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def pread(self, size: int, offset: int) -> bytes:
        return os.pread(self.fd, size, offset)

    def pwrite(self, data: bytes, offset: int) -> int:
        return os.pwrite(self.fd, data, offset)

    def truncate(self, size: int) -> None:
        os.ftruncate(self.fd, size)

    def fallocate(self, mode: int, offset: int, length: int) -> None:
        check(libc.fallocate(self.fd, mode, offset, length))

    def lseek(self, offset: int, whence: int) -> int:
        return os.lseek(self.fd, offset, whence)

    def copy_range(self, offset: int, other: File, other_offset: int, length: int) -> int:
        return os.copy_file_range(self.fd, other.fd, length, offset, other_offset)

    def fsync(self) -> None:
        os.fsync(self.fd)

    def stat(self) -> Attributes:
        return attributes(os.fstat(self.fd))

    def fchmod(self, mode: int) -> None:
        os.fchmod(self.fd, mode)


class Mounted(Subject):
    """A union mounted on the directory `point`."""

    def __init__(
        self, lowers: Sequence[FilePath], upper: FilePath | None, work: FilePath | None, dialect: str, point: FilePath
    ) -> None:
        super().__init__(lowers, upper, work, dialect)
        self.point = point
        self.is_mounted = False

    def at(self, path: Path) -> bytes:
        path = os.fsencode(path).strip(b"/")
        return os.path.join(os.fsencode(self.point), path) if path else os.fsencode(self.point)

    # Reading

    def stat(self, path: Path) -> Attributes:
        return attributes(os.lstat(self.at(path)))

    def listdir(self, path: Path) -> list[Any]:
        return os.listdir(self.at(path) if isinstance(path, bytes) else os.fsdecode(self.at(path)))

    def entries(self, path: Path) -> list[Entry]:
        with self.open_directory(path) as fd:
            return [entry for block in blocks(fd) for entry in block if entry.name not in (b".", b"..")]

    @contextmanager
    def open_directory(self, path: Path) -> Iterator[int]:
        fd = os.open(self.at(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield fd
        finally:
            os.close(fd)

    def readlink(self, path: Path) -> bytes:
        return os.readlink(self.at(path))

    def read_bytes(self, path: Path) -> bytes:
        with open(self.at(path), "rb", buffering=0) as file:
            return file.readall()

    def statfs(self) -> os.statvfs_result:
        return os.statvfs(self.point)

    # Changing names

    def mkdir(self, path: Path, mode: int = 0o755) -> None:
        os.mkdir(self.at(path), mode)

    def mknod(self, path: Path, mode: int, rdev: int = 0) -> None:
        os.mknod(self.at(path), mode, rdev)

    def symlink(self, target: Path, path: Path) -> None:
        os.symlink(os.fsencode(target), self.at(path))

    def link(self, source: Path, path: Path) -> None:
        os.link(self.at(source), self.at(path), follow_symlinks=False)

    def unlink(self, path: Path) -> None:
        os.unlink(self.at(path))

    def rmdir(self, path: Path) -> None:
        os.rmdir(self.at(path))

    def rename(self, source: Path, path: Path, flags: int = 0) -> None:
        check(libc.renameat2(_HERE, self.at(source), _HERE, self.at(path), flags), path)

    # Files

    def open(self, path: Path, flags: int, mode: int = 0o644) -> File:
        return File(os.open(self.at(path), flags | os.O_CLOEXEC, mode))

    def write_bytes(self, path: Path, data: bytes) -> None:
        with self.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as file:
            file.pwrite(data, 0)

    def tmpfile(self, path: Path, flags: int = os.O_RDWR, mode: int = 0o600) -> File:
        return File(os.open(self.at(path), flags | os.O_TMPFILE | os.O_CLOEXEC, mode))

    def link_file(self, file: File, path: Path) -> None:
        check(libc.linkat(_HERE, b"/proc/self/fd/%d" % file.fd, _HERE, self.at(path), _FOLLOW), path)

    def truncate(self, path: Path, size: int) -> None:
        os.truncate(self.at(path), size)

    # Attributes

    def chmod(self, path: Path, mode: int) -> None:
        """Of the object itself: a symbolic link has no mode to change (EOPNOTSUPP)."""
        fd = os.open(self.at(path), os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.chmod(f"/proc/self/fd/{fd}", mode)
        finally:
            os.close(fd)

    def chown(self, path: Path, uid: int, gid: int) -> None:
        os.lchown(self.at(path), uid, gid)

    def utime(self, path: Path, atime_ns: int | None, mtime_ns: int | None) -> None:
        times = struct.pack("<qqqq", *_timespec(atime_ns), *_timespec(mtime_ns))
        check(libc.utimensat(_HERE, self.at(path), times, _NO_FOLLOW), path)

    def getxattr(self, path: Path, name: bytes) -> bytes:
        return os.getxattr(self.at(path), name, follow_symlinks=False)

    def setxattr(self, path: Path, name: bytes, value: bytes, flags: int = 0) -> None:
        os.setxattr(self.at(path), name, value, flags, follow_symlinks=False)

    def listxattr(self, path: Path) -> list[bytes]:
        return [os.fsencode(name) for name in os.listxattr(self.at(path), follow_symlinks=False)]

    def removexattr(self, path: Path, name: bytes) -> None:
        os.removexattr(self.at(path), name, follow_symlinks=False)


def _timespec(nanoseconds: int | None) -> tuple[int, int]:
    if nanoseconds is None:
        return 0, _OMIT
    return (0, UTIME_NOW) if nanoseconds == UTIME_NOW else divmod(nanoseconds, 1_000_000_000)


def blocks(fd: int, size: int = 32768) -> Iterator[list[Entry]]:
    """What each getdents64(2) gives, "." and ".." among it, from where the descriptor is; `size` bytes at a time."""
    buffer = ctypes.create_string_buffer(size)
    while filled := check(libc.getdents64(fd, buffer, size)):
        found, position, raw = [], 0, buffer.raw
        while position < filled:
            ino, offset, length, kind = struct.unpack_from("<QqHB", raw, position)
            name = raw[position + 19 : position + length].split(b"\0", 1)[0]
            found.append(Entry(name, ino, kind, offset))
            position += length
        yield found


class Ours(Mounted):
    """Mounted by one of our engines, in a daemon of its own that logs to a file."""

    mounter: Mounter

    def open_union(self) -> None:
        self.daemon = self.mounter.mount(self, self.log)
        self.is_mounted = True

    @property
    def log(self) -> FilePath:
        return self.point.parent / f"{self.point.name}.log"

    def close(self) -> None:
        if self.is_mounted:
            unionfs.Mount(os.fsencode(self.point)).unmount()
            self.is_mounted = False

    def complaints(self) -> str:
        """What the daemon logged, if an exception that it did not know is in it: then, it is a fault of ours."""
        text = self.log.read_text() if self.log.exists() else ""
        return text if ", line " in text else ""


class Native(Ours):
    kind = "native"


class Fusepy(Ours):
    kind = "fusepy"


class Kernel(Mounted):
    """Linux's own overlayfs."""

    kind = "kernel"
    options = KERNEL_OPTIONS

    def open_union(self) -> None:
        options = "lowerdir=" + ":".join(map(str, self.lowers)) + f",{self.options}"
        if self.upper is not None:
            options += f",upperdir={self.upper},workdir={self.work}"
        command = ["mount", "-t", "overlay", "overlay", "-o", options, str(self.point)]
        for attempt in range(100):
            result = subprocess.run(command, capture_output=True, text=True)
            if not result.returncode or "already mounted" not in result.stderr:
                break
            # Another process's new mount namespace still holds what was unmounted here, and so the upper.
            time.sleep(0.1 if attempt else 0.01)
        if result.returncode:
            raise OSError(errno.EINVAL, f"{' '.join(command)}: {result.stderr.strip()}")
        self.is_mounted = True

    def close(self) -> None:
        if self.is_mounted:
            subprocess.run(["umount", str(self.point)], check=True)
            self.is_mounted = False


OPENINGS = ("cached", "coherent")
"""Variants of the native engine: how it opens files."""

MOUNTED: dict[str, type[Mounted]] = {"native": Native, "fusepy": Fusepy, "kernel": Kernel}


def subject_of(
    kind: Sequence[str], places: tuple[list[FilePath], FilePath | None, FilePath | None],
    directory: Callable[[str], FilePath], mounter: Mounter,
) -> Subject:  # fmt: skip
    """Not mounted yet. `kind`: one of conftest.SUBJECTS; `places`: lowers, upper, work; `directory` makes one more."""
    subject: Subject
    if kind[0] == "core":
        subject = Core(*places, kind[1])
    else:
        subject = MOUNTED[kind[0]](*places, kind[1], directory("merged"))
        if isinstance(subject, Ours):
            subject.mounter = mounter
    for variant in kind[2:]:
        if variant in OPENINGS:
            subject.opening = variant
        elif variant == "index":
            subject.index = True
        else:
            subject.copyup = variant
    return subject
