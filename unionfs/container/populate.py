"""What an image has at a volume's target is copied into the volume, while that is empty.

Called by `create.py`, at create and not at start, as docker does. It promises: the volume is empty or whole, whatever
interrupts; no symbolic link of the image leads outside its layers; owner, mode, times and attributes are the image's.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from unionfs.changes.export import export
from unionfs.union import path as paths
from unionfs.union.operations import Operations


def populate(lowers: Sequence[str], dialect: str, target: str, volume: str) -> bool:
    """Fill the directory `volume` with what the merged `lowers` (the topmost first) have at `target`.

    False, and nothing is changed, when it is not empty, or they have no directory there.
    """
    if os.listdir(volume):
        return False
    union = Operations(lower=[os.fsencode(layer) for layer in lowers], dialect=dialect, overlaps=True)
    try:
        path = paths.resolve(union, os.fsencode(target), follow_last=True)
        with paths.at(union, path) as inode:
            if not inode.is_dir:
                return False
        export(union.stack, os.fsencode(os.path.realpath(volume)), path=path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    finally:
        union.close()
    return True
