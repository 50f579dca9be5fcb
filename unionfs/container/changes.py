"""What a container changes of its image.

Called by the command `diff`; apart from `lifecycle.py`, since a start has no use for what it loads.
"""

from __future__ import annotations

import os

from unionfs.changes.difference import Change, difference
from unionfs.container import roots
from unionfs.container.lifecycle import Container
from unionfs.container.spec import Spec
from unionfs.container.storage import DIALECTS
from unionfs.image.database import Database
from unionfs.layer.stack import Stack


def diff(container: Container) -> list[Change]:
    """What its own layer adds, changes and deletes, sorted by path, in the words of `docker diff`; mount points that
    its volumes needed are left out."""
    record = container.record
    with Database(container.root) as database:
        place = roots.place_of(database, record)
    layers = [os.fsencode(path) for path in (place.upper, *place.lower)]
    stack = Stack.open(layers, dialect=DIALECTS[record.spec.storage], overlaps=place.overlaps)
    try:
        found = difference(stack, stack.layers[0])
    finally:
        stack.close()
    return _without_targets(found, record.spec)


def _without_targets(found: list[Change], spec: Spec) -> list[Change]:
    """Mount points are made in the upper layer where the image lacks them: those are no change of the container's, nor
    are the directories above them, unless something else in there is."""
    made = set()
    for mount in spec.mounts:
        path = mount.target
        while path != "/":
            made.add(os.fsencode(path))
            path = os.path.dirname(path)
    others = {change.path for change in found if change.path not in made}
    return [
        change
        for change in found
        if change.path not in made or any(path.startswith(change.path + b"/") for path in others)
    ]
