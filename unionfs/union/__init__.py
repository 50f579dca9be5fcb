"""Many layers seen as one tree. Knows nothing of FUSE.

Read in this order: `lookup.py` (a name, top-down), `listing.py` (a directory), `inode.py` and `dentry.py` (what is
remembered of both), `copyup.py` (the first change of a lower object), `change.py` (create, delete, rename),
`handle.py` (open files), `operations.py` (one method per operation; the lock order is at its head) and `union.py`
(the same by path).
"""
