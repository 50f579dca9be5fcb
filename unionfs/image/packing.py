"""Pack: a layer, or any directory, as a tar that other tools read as a layer of OCI's.

Called by the store and by `export`. It promises: names in order, so that the same directory gives the same bytes;
owners, modes, times to the nanosecond, attributes, hard links and devices as they are; our own bookkeeping left out.
"""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import IO

OURS = ("trusted.overlay.", "user.overlay.", "trusted.unionfs.", "user.unionfs.")
_XATTR = "SCHILY.xattr."


def pack(directory: str, out: IO[bytes], prefix: str = "", wanted: Callable[[str], bool] = lambda path: True) -> None:
    """Write the tree below `directory` to `out`, names beginning with `prefix`. `wanted(path)` says what is taken, by
    the path in the tree; what is below a directory that is not is left out too. Sockets are left out."""
    linked: dict[tuple[int, int], str] = {}
    with open_for_writing(out) as tar:
        for path, place in _walk(directory, "", wanted):
            add(tar, place, prefix + path, linked)


def open_for_writing(out: IO[bytes]) -> tarfile.TarFile:
    """A tar of today's form (pax) that goes to a stream."""
    return tarfile.open(
        fileobj=out, mode="w|", format=tarfile.PAX_FORMAT, encoding="utf-8", errors="surrogateescape"
    )


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


def add(tar: tarfile.TarFile, place: str, name: str, linked: dict[tuple[int, int], str]) -> None:
    """One object, under a name. `linked` are the names that were given to objects with several, by device and inode."""
    st = os.lstat(place)
    if stat.S_ISSOCK(st.st_mode):
        return
    entry = tarfile.TarInfo(name)
    entry.mode, entry.uid, entry.gid, entry.mtime = stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid, int(st.st_mtime)
    seconds, nanoseconds = divmod(st.st_mtime_ns, 1_000_000_000)
    headers = {}
    if nanoseconds:
        headers["mtime"] = f"{seconds}.{nanoseconds:09d}"
    first = linked.setdefault((st.st_dev, st.st_ino), name) if st.st_nlink > 1 else name
    if stat.S_ISDIR(st.st_mode):
        entry.type = tarfile.DIRTYPE
    elif first != name:
        entry.type, entry.linkname = tarfile.LNKTYPE, first
    elif stat.S_ISREG(st.st_mode):
        entry.size = st.st_size
    elif stat.S_ISLNK(st.st_mode):
        entry.type, entry.linkname = tarfile.SYMTYPE, os.readlink(place)
    else:
        entry.type = {stat.S_IFCHR: tarfile.CHRTYPE, stat.S_IFBLK: tarfile.BLKTYPE}.get(
            stat.S_IFMT(st.st_mode), tarfile.FIFOTYPE
        )
        entry.devmajor, entry.devminor = os.major(st.st_rdev), os.minor(st.st_rdev)
    if entry.type != tarfile.LNKTYPE:
        headers.update(_xattrs(place))
    entry.pax_headers = headers
    if entry.isreg():
        with open(place, "rb") as file:
            tar.addfile(entry, file)
    else:
        tar.addfile(entry)


def _xattrs(place: str) -> dict[str, str]:
    found = {}
    with suppress(OSError):
        for name in sorted(os.listxattr(place, follow_symlinks=False)):
            if not name.startswith(OURS) and not name.startswith("security.selinux"):
                value = os.getxattr(place, name, follow_symlinks=False)
                found[_XATTR + name] = value.decode("utf-8", "surrogateescape")
    return found
