"""A dentry: a name in the merged tree.

Made by `inode.py` at a lookup. It lives as long as its inode is referenced; a directory's inode lists the dentries in
it that are known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unionfs.union.inode import DirInode, Inode


class Dentry:
    """`in_upper`: the upper layer itself holds this name (an alias of a copied-up hard link may be lower still)."""

    __slots__ = ("in_upper", "inode", "name", "parent")

    def __init__(self, parent: DirInode, name: bytes, inode: Inode, in_upper: bool) -> None:
        self.parent = parent
        self.name = name
        self.inode = inode
        self.in_upper = in_upper

    def path(self) -> bytes:
        """The path in the merged tree, from its root, without a leading slash."""
        parts = [self.name]
        dentry = self.parent.dentry
        while dentry is not None:
            parts.append(dentry.name)
            dentry = dentry.parent.dentry
        return b"/".join(reversed(parts))
