"""Pack: a layer, or any directory, as a tar that other tools read as a layer of OCI's.

Called by the store and by `export`. It promises: names in order, so that the same directory gives the same bytes;
owners, modes, times to the nanosecond, attributes, hard links and devices as they are; our own bookkeeping left out.
"""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import IO, Any, NamedTuple

OURS = ("trusted.overlay.", "user.overlay.", "trusted.unionfs.", "user.unionfs.")
XATTR = "SCHILY.xattr."


Linked = dict[tuple[int, int], str]
SPECIAL = {stat.S_IFCHR: tarfile.CHRTYPE, stat.S_IFBLK: tarfile.BLKTYPE, stat.S_IFIFO: tarfile.FIFOTYPE}


class Object(NamedTuple):
    """What is to be packed: its name in the archive, and stat(2) of it. `several` tells an object with several names
    apart, `target` is what a symbolic link leads to."""

    name: str
    mode: int
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime_ns: int = 0
    rdev: int = 0
    several: tuple[int, int] | None = None
    target: str = ""
    xattrs: Mapping[bytes, bytes] = {}


def pack(directory: str, out: IO[bytes], prefix: str = "", wanted: Callable[[str], bool] = lambda path: True) -> None:
    """Write the tree below `directory` to `out`, names beginning with `prefix`. `wanted(path)` says what is taken, by
    the path in the tree; what is below a directory that is not is left out too. Sockets are left out."""
    linked: Linked = {}
    with open_for_writing(out) as tar:
        for path, place in _walk(directory, "", wanted):
            add(tar, place, prefix + path, linked)


def open_for_writing(out: IO[bytes]) -> tarfile.TarFile:
    """A tar of today's form (pax) that goes to a stream."""
    return tarfile.open(
        fileobj=out, mode="w|", format=tarfile.PAX_FORMAT, encoding="utf-8", errors="surrogateescape"
    )


def pack_path(
    tar: tarfile.TarFile, path: str, name: str, follow: bool = False, wanted: Callable[[str], bool] = lambda path: True
) -> None:
    """One path, with what of all below it is wanted, under another name. `follow`: a symbolic link's target in its
    place."""
    linked: Linked = {}
    place = os.path.realpath(path) if follow else path.rstrip("/") or "/"
    if not stat.S_ISDIR(os.lstat(place).st_mode):
        add(tar, place, name, linked)
        return
    for inner, found in _walk(place, "", wanted):
        add(tar, found, name if inner == "." else f"{name}/{inner}", linked)


def _walk(directory: str, path: str, wanted: Callable[[str], bool]) -> Iterator[tuple[str, str]]:
    """The path in the tree, and where that is; the root is "."."""
    yield path or ".", directory
    for name in sorted(os.listdir(directory)):
        inner, place = f"{path}/{name}" if path else name, f"{directory}/{name}"
        if not wanted(inner):
            continue
        if stat.S_ISDIR(os.lstat(place).st_mode):
            yield from _walk(place, inner, wanted)
        else:
            yield inner, place


def add(tar: tarfile.TarFile, place: str, name: str, linked: Linked) -> None:
    """One object of a directory, under a name."""
    st = os.lstat(place)
    target = os.readlink(place) if stat.S_ISLNK(st.st_mode) else ""
    several = (st.st_dev, st.st_ino) if st.st_nlink > 1 and not stat.S_ISDIR(st.st_mode) else None
    found = Object(
        name, st.st_mode, st.st_uid, st.st_gid, st.st_size, st.st_mtime_ns, st.st_rdev, several, target, _xattrs(place),
    )  # fmt: skip
    if stat.S_ISREG(st.st_mode):
        with open(place, "rb") as file:
            add_object(tar, found, file, linked)
    else:
        add_object(tar, found, None, linked)


def add_object(tar: tarfile.TarFile, found: Object, content: Any, linked: Linked) -> None:
    """One object; `content` is what a regular file's bytes are read from. `linked` are the names that were given to
    objects with several, by what tells them apart."""
    if stat.S_ISSOCK(found.mode):
        return
    entry = tarfile.TarInfo(found.name)
    entry.mode, entry.uid, entry.gid = stat.S_IMODE(found.mode), found.uid, found.gid
    seconds, nanoseconds = divmod(found.mtime_ns, 1_000_000_000)
    entry.mtime = seconds
    headers = {"mtime": f"{seconds}.{nanoseconds:09d}"} if nanoseconds else {}
    first = linked.setdefault(found.several, found.name) if found.several else found.name
    if stat.S_ISDIR(found.mode):
        entry.type = tarfile.DIRTYPE
    elif first != found.name:
        entry.type, entry.linkname = tarfile.LNKTYPE, first
    elif stat.S_ISREG(found.mode):
        entry.size = found.size
    elif stat.S_ISLNK(found.mode):
        entry.type, entry.linkname = tarfile.SYMTYPE, found.target
    else:
        entry.type = SPECIAL[stat.S_IFMT(found.mode)]
        entry.devmajor, entry.devminor = os.major(found.rdev), os.minor(found.rdev)
    if entry.type != tarfile.LNKTYPE:
        headers.update(_headers(found.xattrs))
    entry.pax_headers = headers
    tar.addfile(entry, content if entry.isreg() else None)


def _headers(xattrs: Mapping[bytes, bytes]) -> dict[str, str]:
    wanted = {os.fsdecode(name): value for name, value in sorted(xattrs.items())}
    return {
        XATTR + name: value.decode("utf-8", "surrogateescape")
        for name, value in wanted.items()
        if not name.startswith((*OURS, "security.selinux"))
    }


def _xattrs(place: str) -> dict[bytes, bytes]:
    found = {}
    with suppress(OSError):
        for name in os.listxattr(place, follow_symlinks=False):
            found[os.fsencode(name)] = os.getxattr(place, name, follow_symlinks=False)
    return found
