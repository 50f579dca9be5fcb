"""A union filesystem in userspace: several directories seen as one, writable through the topmost.

    with unionfs.Union(lower=["/etc"], upper="up", work="work") as union:    # in this process, nothing is mounted
        union.write_bytes("hosts", b"127.0.0.1 localhost\\n")

    with unionfs.mount("merged", lower=["/etc"], upper="up", work="work") as mounted:    # for every program
        print(os.listdir(mounted.path))

    box = unionfs.Container.create("debian:12", ["ls", "/"])    # a process with a union as its root
    box.attach(box.start())

The layout, one floor a folder, each imports from those below it only:

    cli/         words in, tables out
    explore/     a union, seen in a browser            lab/      labs and quiz: rebuilt piece by piece
    container/   a process, a root of layers, namespaces; read lifecycle.py first
    image/       what a container starts from, in OCI's words
    network/     bridges, names, published ports
    fuse/        from kernel requests to union operations, and back
    changes/     what an upper layer changes, kept or dropped
    union/       many layers seen as one tree; read lookup.py first
    layer/       one directory on disk, seen as a layer: whiteouts, work directory, stack
    linux/       the kernel's doors, thin and typed
    errors.py, events.py     failures told to people; what happened, and who listens

`import unionfs` loads next to nothing: each name below is imported when it is first asked for (PEP 562).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unionfs.container.build import build
    from unionfs.container.changes import diff
    from unionfs.container.commit import commit
    from unionfs.container.lifecycle import Container
    from unionfs.errors import Faults, UnionfsError
    from unionfs.fuse.session import Mount, mount
    from unionfs.union.union import Union

__version__ = "0.1.0"

__all__ = ["Container", "Faults", "Mount", "Union", "UnionfsError", "build", "commit", "diff", "mount"]

_HOMES = {
    "Container": "unionfs.container.lifecycle",
    "Faults": "unionfs.errors",
    "Mount": "unionfs.fuse.session",
    "Union": "unionfs.union.union",
    "UnionfsError": "unionfs.errors",
    "build": "unionfs.container.build",
    "commit": "unionfs.container.commit",
    "diff": "unionfs.container.changes",
    "mount": "unionfs.fuse.session",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
