"""Commit: what a container changes becomes a layer, and with its image's layers a new image.

Called by the command `commit` and by builds.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from unionfs.container import roots
from unionfs.container.lifecycle import Container
from unionfs.container.merged import Packer, opened
from unionfs.container.state import Record, open_process
from unionfs.errors import UnionfsError
from unionfs.image import manifest
from unionfs.image.changes import apply_changes
from unionfs.image.database import Database
from unionfs.image.images import Image
from unionfs.image.packing import open_for_writing
from unionfs.image.store import Store
from unionfs.linux import files


def commit(
    container: Container, name: str = "", *, changes: Sequence[str] = (), message: str = "", author: str = "",
    pauses: bool = True,
) -> Image:  # fmt: skip
    """Make an image of a container as it is. `pauses`: it stands still meanwhile. Raises UnionfsError."""
    record = container.record
    paused = pauses and record.is_running and not container.is_paused
    if paused:
        container.pause()
    try:
        with Database(container.root) as database:
            store = Store(database)
            base = store.resolve(record.image) if record.image else None
            layer = add_layer(store, record)
    finally:
        if paused:
            container.unpause()
    with Database(container.root) as database:
        config = apply_changes(_config(record, base), changes)
        return _enter(Store(database), base, layer, config, name, " ".join(record.spec.argv), message, author)


def add_layer(store: Store, record: Record) -> str:
    """The diffID of a container's changes, or where its lower layers are no image's, of all that it shows; the layer is
    in the store then."""
    if record.is_running:
        _sync(record)
    place = roots.place_of(store.database, record)
    with store.blobs.aside() as path:
        with open(path, "xb") as out, opened(place, record.spec.storage) as union, open_for_writing(out) as tar:
            if record.image is None:
                Packer(union, tar).tree(union.root, ".")
            else:
                Packer(union, tar).changes()
        with open(path, "rb") as packed:
            return store.add_layer(packed)


def _sync(record: Record) -> None:
    """What its processes wrote may not be in the layer yet."""
    with suppress(OSError, UnionfsError):  # it has ended: then all is there
        fd = open_process(record, "root", os.O_DIRECTORY)
        try:
            files.sync_filesystem(fd)
        finally:
            os.close(fd)


def _config(record: Record, base: Image | None) -> dict[str, Any]:
    """The rules of the container, as those that containers of the new image start from."""
    spec = record.spec
    before = base.rules if base else {}
    return {
        **before,
        "Env": [word for word in spec.env if not word.startswith("HOSTNAME=")],
        "Cmd": list(spec.argv[spec.entrypoint_length :]) or None,
        "Entrypoint": list(spec.argv[: spec.entrypoint_length]) or None,
        "WorkingDir": spec.workdir,
        "User": spec.user,
        "Labels": dict(spec.labels) or None,
        "ExposedPorts": {port: {} for port in spec.ports} or None,
    }


def _enter(
    store: Store, base: Image | None, layer: str, config: dict[str, Any], name: str, words: str, message: str,
    author: str,
) -> Image:  # fmt: skip
    layers = [*(base.layers if base else ()), layer]
    document = manifest.new_config(base.config if base else None, layers, config, words, message)
    if author:
        document["author"] = author
    return store.add_image(manifest.encode(document), layers, [name] if name else [])
