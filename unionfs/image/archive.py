"""Layer archives: a tar unpacked into a directory that is a layer. The reverse is in `packing.py`.

Called by the store. OCI's layers mark deletions by files `.wh.NAME` and `.wh..wh..opq`, as the dialect "aufs" does, so
that a layer unpacked is a layer of ours. It promises: whatever the archive says, nothing outside the directory is made,
changed or read (each name is resolved with the directory as root, openat2(2)); an archive that is refused is named with
the entry and the reason. Device nodes are made, and are inert: containers' roots are mounted nodev.

Sources: the OCI image specification's layer.md, pax in POSIX.1-2008, tar(5). Attributes are kept as SCHILY.xattr.* do.
"""

from __future__ import annotations

import errno
import os
import stat
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any, NamedTuple

from unionfs import events
from unionfs.errors import UnionfsError
from unionfs.image.overlay import OPAQUE, RESERVED, WHITEOUT
from unionfs.image.packing import OURS, SPECIAL, XATTR
from unionfs.linux import files, mountfd

_LONGEST_HEADER = 1 << 20
_CHUNK = 1 << 20
_KINDS = {kind: mode for mode, kind in SPECIAL.items()}


class Limits(NamedTuple):
    """How much an archive may hold."""

    size: int = 1 << 38
    entries: int = 1 << 22


class Unpacked(NamedTuple):
    """Bytes of the files, and whether there are whiteouts or opaque marks."""

    size: int
    has_marks: bool


class _Header(tarfile.TarInfo):
    """Headers about headers are read into memory whole: a long one is refused before."""

    def _proc_pax(self, archive: tarfile.TarFile) -> Any:
        self._refuse_long()
        return super()._proc_pax(archive)  # type: ignore[misc]

    def _proc_gnulong(self, archive: tarfile.TarFile) -> Any:
        self._refuse_long()
        return super()._proc_gnulong(archive)  # type: ignore[misc]

    def _refuse_long(self) -> None:
        if self.size > _LONGEST_HEADER:
            raise UnionfsError("the archive", f"has a header of {self.size} bytes, {_LONGEST_HEADER} are the most")


LIMITS = Limits()


def unpack(
    stream: IO[bytes], directory: str, limits: Limits = LIMITS, is_layer: bool = True,
    owner: tuple[int, int] | None = None, mode: int | None = None,
) -> Unpacked:  # fmt: skip
    """Unpack a tar, uncompressed, into a directory. Raises UnionfsError for what an archive must not have.

    `is_layer`: names that begin with .wh. are marks; otherwise they are names like any other. `owner`: to whom all of
    it belongs then, user and group, and `mode` what rights there are; by default the archive says.
    """
    root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with _opened(stream) as archive:
            unpacking = _Unpacking(root, limits, is_layer, owner, mode)
            for entry in archive:
                unpacking.take(archive, entry)
        unpacking.finish()
    except tarfile.TarError as error:
        raise UnionfsError("the archive", f"is damaged: {error}", "get it again") from error
    except EOFError as error:
        raise UnionfsError("the archive", "ends too early", "get it again") from error
    finally:
        os.close(root)
    return Unpacked(unpacking.size, bool(unpacking.marks))


@contextmanager
def _opened(stream: IO[bytes]) -> Iterator[tarfile.TarFile]:
    archive = tarfile.open(
        fileobj=stream, mode="r|", tarinfo=_Header, encoding="utf-8", errors="surrogateescape", ignore_zeros=False
    )
    try:
        yield archive
    finally:
        archive.close()


class _Unpacking:
    def __init__(
        self, root: int, limits: Limits, is_layer: bool, owner: tuple[int, int] | None, mode: int | None
    ) -> None:
        self.owner, self.mode = owner, mode
        self.root = root
        self.limits = limits
        self.is_layer = is_layer
        self.size = self.entries = 0
        self.marks: list[tuple[str, str]] = []
        """Directory and name of each whiteout and opaque mark."""
        self._times: dict[str, tuple[int, int]] = {}
        """Directories' times: set last, since what is made in them moves them."""
        self._modes: dict[str, int] = {}

    def take(self, archive: tarfile.TarFile, entry: tarfile.TarInfo) -> None:
        self.entries += 1
        self.size += entry.size if entry.isreg() else 0
        if self.entries > self.limits.entries or self.size > self.limits.size:
            most = f"{self.limits.entries} files or {self.limits.size} bytes"
            raise UnionfsError("the archive", f"holds more than {most}")
        folder, name = self._split(entry.name, entry)
        try:
            if not name:
                self._directory_attributes("", entry)
            elif self.is_layer and name.startswith(WHITEOUT):
                self._mark(folder, name, entry)
            else:
                self._make(archive, entry, folder, name)
        except OSError as error:
            raise _refused(entry, self._reason(error)) from error

    def _reason(self, error: OSError) -> str:
        if error.errno == errno.ENOSPC:
            return "there is no room for it on the disk"
        return (error.strerror or str(error)).lower()

    def _split(self, path: str, entry: tarfile.TarInfo) -> tuple[str, str]:
        """Directory and name of a path in the archive, which may begin with / or ./ but must not climb."""
        parts = [part for part in path.split("/") if part not in ("", ".")]
        if ".." in parts:
            raise _refused(entry, 'its name has ".." in it')
        if "\0" in path:
            raise _refused(entry, "its name has a null byte in it")
        return "/".join(parts[:-1]), parts[-1] if parts else ""

    def _folder(self, path: str) -> int:
        """A descriptor of a directory inside, made if it is missing. A symbolic link is followed inside the root."""
        try:
            return mountfd.open_in_root(self.root, os.fsencode(path), os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            above, _, name = path.rpartition("/")
            fd = self._folder(above)
            try:
                os.mkdir(name, 0o755, dir_fd=fd)
                return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
            except FileExistsError:
                raise OSError(errno.ENOENT, "lies behind a symbolic link to nothing", path) from None
            finally:
                os.close(fd)

    def _mark(self, folder: str, name: str, entry: tarfile.TarInfo) -> None:
        if name.startswith(RESERVED) and name != OPAQUE:
            return  # aufs's own bookkeeping, which docker leaves out too
        if name.removeprefix(WHITEOUT) in ("", ".", "..") and name != OPAQUE:
            raise _refused(entry, "is a whiteout of no name")
        fd = self._folder(folder)
        try:
            with suppress(FileExistsError):
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                os.close(os.open(name, flags, 0o644, dir_fd=fd))
                self.marks.append((folder, name))
        finally:
            os.close(fd)

    def _make(self, archive: tarfile.TarFile, entry: tarfile.TarInfo, folder: str, name: str) -> None:
        fd = self._folder(folder)
        try:
            if not (self._clear(fd, name, entry.isdir()) and entry.isdir()):
                self._object(archive, entry, fd, name)
            if entry.isdir():
                self._directory_attributes(f"{folder}/{name}".lstrip("/"), entry)
            elif not entry.islnk():
                self._attributes(entry, fd, name)
        finally:
            os.close(fd)

    def _clear(self, fd: int, name: str, for_directory: bool) -> bool:
        """What has the name already goes, but for a directory that is to be one again: True."""
        try:
            mode = os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode
        except FileNotFoundError:
            return False
        if stat.S_ISDIR(mode):
            if for_directory:
                return True
            files.remove_tree_at(fd, os.fsencode(name))
        else:
            os.unlink(name, dir_fd=fd)
        return False

    def _object(self, archive: tarfile.TarFile, entry: tarfile.TarInfo, fd: int, name: str) -> None:
        if entry.isdir():
            os.mkdir(name, 0o700, dir_fd=fd)
        elif entry.isreg():
            self._file(archive, entry, fd, name)
        elif entry.issym():
            os.symlink(entry.linkname, name, dir_fd=fd)
        elif entry.islnk():
            self._link(entry, fd, name)
        elif entry.type in _KINDS:
            device = os.makedev(entry.devmajor, entry.devminor)
            if entry.ischr() and device == 0:
                raise _refused(entry, "is the kernel overlayfs's whiteout, which no layer of OCI's has")
            os.mknod(name, _KINDS[entry.type] | 0o600, device, dir_fd=fd)
        else:
            raise _refused(entry, f"is of the unknown type {entry.type!r}")

    def _file(self, archive: tarfile.TarFile, entry: tarfile.TarInfo, fd: int, name: str) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        content = archive.extractfile(entry)
        with open(os.open(name, flags, 0o600, dir_fd=fd), "wb") as file:
            while content is not None and (data := content.read(_CHUNK)):
                file.write(data)
            file.flush()
            if os.fstat(file.fileno()).st_size != entry.size:
                raise EOFError

    def _link(self, entry: tarfile.TarInfo, fd: int, name: str) -> None:
        folder, target = self._split(entry.linkname, entry)
        if not target:
            raise _refused(entry, "is a hard link to the root")
        try:
            source = mountfd.open_in_root(self.root, os.fsencode(folder), os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.link(target, name, src_dir_fd=source, dst_dir_fd=fd, follow_symlinks=False)
            finally:
                os.close(source)
        except FileNotFoundError:
            raise _refused(entry, f"is a hard link to {entry.linkname}, which is not in the archive") from None

    # Attributes

    def _attributes(self, entry: tarfile.TarInfo, fd: int, name: str) -> None:
        """Owner before mode and capabilities, which a change of owner takes away; times last."""
        self._own(entry, name, fd)
        if not entry.issym():
            os.chmod(name, self._mode(entry), dir_fd=fd)
        if entry.isreg():
            with _opened_at(fd, name) as file:
                _set_xattrs(entry, file)
        files.set_times(fd, os.fsencode(name), *_times(entry))

    def _directory_attributes(self, path: str, entry: tarfile.TarInfo) -> None:
        """Mode and times at the end: a directory may be closed to its owner, and changes with what is made in it."""
        fd = self._folder(path) if path else os.dup(self.root)
        try:
            self._own(entry, ".", fd)
            _set_xattrs(entry, fd)
        finally:
            os.close(fd)
        self._modes[path], self._times[path] = self._mode(entry), _times(entry)

    def _mode(self, entry: tarfile.TarInfo) -> int:
        return stat.S_IMODE(entry.mode) if self.mode is None else self.mode

    def _own(self, entry: tarfile.TarInfo, name: str, fd: int) -> None:
        if os.geteuid() != 0:
            return
        try:
            os.chown(name, *(self.owner or (entry.uid, entry.gid)), dir_fd=fd, follow_symlinks=False)
        except OSError as error:
            if error.errno != errno.EINVAL:  # in a user namespace: an id that is not mapped
                raise

    def finish(self) -> None:
        """What could not be done while the archive went on: marks beside what they name, directories' attributes."""
        for folder, name in self.marks:
            if name != OPAQUE:
                self._settle_mark(folder, name, name.removeprefix(WHITEOUT))
        for path in sorted(self._modes, key=len, reverse=True):
            with suppress(FileNotFoundError, NotADirectoryError):  # replaced by something else later on
                fd = mountfd.open_in_root(self.root, os.fsencode(path), os.O_RDONLY | os.O_DIRECTORY)
                os.fchmod(fd, self._modes[path])
                files.set_times(fd, b".", *self._times[path])
                os.close(fd)

    def _settle_mark(self, folder: str, mark: str, name: str) -> None:
        """A whiteout is about the layers below. Where this layer has the name too, it says the same by that."""
        fd = self._folder(folder)
        try:
            mode = os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode):
                path = f"{name}/{OPAQUE}"
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644, dir_fd=fd))
            os.unlink(mark, dir_fd=fd)
        except FileNotFoundError:
            pass  # the usual: the layer has no such name itself
        finally:
            os.close(fd)


def _refused(entry: tarfile.TarInfo, why: str) -> UnionfsError:
    shown = entry.name if entry.name.isprintable() and len(entry.name) < 200 else repr(entry.name)[:200]
    return UnionfsError(f"the archive's entry {shown}", why, "it was not made by a tool that follows OCI's rules")


@contextmanager
def _opened_at(fd: int, name: str) -> Iterator[int]:
    file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
    try:
        yield file
    finally:
        os.close(file)


def _set_xattrs(entry: tarfile.TarInfo, file: int) -> None:
    for key, value in entry.pax_headers.items():
        name = key.removeprefix(XATTR)
        if name == key or name.startswith(OURS):
            continue
        try:
            os.setxattr(file, name, value.encode("utf-8", "surrogateescape"))
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EPERM):
                raise
            events.warning(f"{entry.name}: the attribute {name} cannot be kept here: {error.strerror}")


def _times(entry: tarfile.TarInfo) -> tuple[int, int]:
    """Access and modification in nanoseconds; a pax header has fractions that a float would round."""
    seconds, _, digits = entry.pax_headers.get("mtime", str(int(entry.mtime))).partition(".")
    try:
        moment = int(seconds) * 1_000_000_000 + int(digits[:9].ljust(9, "0") or 0)
    except ValueError:
        moment = 0
    return moment, moment
