"""One directory on disk, seen as a layer of a union.

Read `layer.py` first (objects and directories held by descriptors), then `whiteout.py` (how a deletion is written),
`workdir.py` (where things are built before they are published) and `stack.py` (the layers of a mount, checked).
Every change of a real layer goes through this floor, and each one is an event.
"""
