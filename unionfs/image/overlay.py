"""A layer in the kernel overlayfs's words, beside the one that has OCI's: what `--storage overlay` mounts.

Called by the store for layers that hold whiteouts or opaque marks; others are the same in both. It is made once:
directories anew, everything else hard links to the same files, whiteouts as character devices 0:0.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress

from unionfs.image.database import Database
from unionfs.linux import files

WHITEOUT, OPAQUE, RESERVED = ".wh.", ".wh..wh..opq", ".wh..wh."
"""OCI's marks (layer.md), as our dialect aufs has them; what else begins with RESERVED is no name of a layer's."""

_FOLDER = "layers-overlay"
_OPAQUE_XATTR = "trusted.overlay.opaque"


def translated(database: Database, layer: str, name: str) -> str:
    """The path of the translation, made if need be."""
    path = database.path(_FOLDER, name)
    if not os.path.isdir(path):
        os.makedirs(database.path(_FOLDER), 0o711, exist_ok=True)
        aside = database.aside()
        try:
            _copy(layer, aside)
            os.rename(aside, path)
        except OSError:
            files.remove_tree(os.fsencode(aside))
            if not os.path.isdir(path):  # not just another process that was faster
                raise
    return path


def _copy(source: str, target: str) -> None:
    os.mkdir(target, 0o700)
    for name in os.listdir(source):
        old, new = f"{source}/{name}", f"{target}/{name}"
        if name == OPAQUE:
            os.setxattr(target, _OPAQUE_XATTR, b"y")
        elif name.startswith(WHITEOUT):
            os.mknod(f"{target}/{name.removeprefix(WHITEOUT)}", stat.S_IFCHR | 0o600, 0)
        elif stat.S_ISDIR(os.lstat(old).st_mode):
            _copy(old, new)
        else:
            os.link(old, new, follow_symlinks=False)
    st = os.stat(source)
    os.chown(target, st.st_uid, st.st_gid)
    for attribute in os.listxattr(source):
        with suppress(OSError):
            os.setxattr(target, attribute, os.getxattr(source, attribute))
    os.chmod(target, stat.S_IMODE(st.st_mode))
    os.utime(target, ns=(st.st_atime_ns, st.st_mtime_ns))
