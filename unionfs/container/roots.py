"""What a container has on the disk: its layers, its own files, its volumes; and how all that is removed.

Called by the monitor, by `lifecycle.py` and by those who look at a container that does not run. A container's layers,
the topmost first:

    containers/ID/upper      what it changes
    the image's layers       or the directories of --rootfs
    base/                    the lowest, one for all: the mount points of /proc, /dev, /sys and of files in /etc, so
                             that an image without them can be started, and no container's changes begin with them
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress

from unionfs.container import uplink
from unionfs.container.cgroup import Cgroup
from unionfs.container.rootfs import Source, open_source
from unionfs.container.spec import TMPFS, VOLUME, Mount, Spec
from unionfs.container.state import REMOVING, Containers, Record
from unionfs.container.storage import DIALECTS, Place
from unionfs.container.volumes import Volumes, clear
from unionfs.image.database import Database
from unionfs.image.images import Images
from unionfs.linux import files

_BASE = "base"
_BASE_DIRECTORIES = ("proc", "dev", "sys", "etc")
FILES = ("hostname", "hosts", "resolv.conf")
"""Files of /etc that the launcher writes, beside the container's log, and mounts; the last two at each start
(wiring.py)."""


def make(database: Database, container: str, spec: Spec) -> None:
    """The directories and files of a new container."""
    _make_base(database)
    folder = database.path("containers", container)
    os.mkdir(folder, 0o711)
    for name in ("upper", "work", "merged"):
        os.mkdir(os.path.join(folder, name), 0o755)
    for name in FILES:
        with open(os.path.join(folder, name), "x", encoding="utf-8") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(f"{spec.hostname}\n" if name == "hostname" else "")


def _make_base(database: Database) -> None:
    if os.path.isdir(database.path(_BASE)):
        return
    aside = database.aside()
    for name in _BASE_DIRECTORIES:
        os.makedirs(os.path.join(aside, name), 0o755)
    for name in FILES:
        with open(os.path.join(aside, "etc", name), "x"):
            pass
    try:
        os.rename(aside, database.path(_BASE))
    except OSError:
        files.remove_tree(os.fsencode(aside))  # another process was faster


def place_of(database: Database, record: Record) -> Place:
    """Where the layers of a container are, and its merged tree."""
    lower = list(lower_layers(database, record))
    folder = database.path("containers", record.id)
    upper, work, target, log = (os.path.join(folder, name) for name in ("upper", "work", "merged", "monitor.log"))
    if _state_in_rootfs(database, record) is None:  # else the kernel's overlayfs refuses a layer in a layer
        lower.append(database.path(_BASE))
    return Place(lower, upper, work, target, log, overlaps=record.image is None)


def lower_layers(database: Database, record: Record) -> Sequence[str]:
    """The read-only layers, the topmost first, without the base."""
    if record.image is None:
        return record.spec.rootfs
    images = Images(database)
    return images.layer_directories(images.resolve(record.image), DIALECTS[record.spec.storage])


def open_sources(database: Database, spec: Spec) -> list[Source]:
    """The trees of all mounts of a container, taken where the machine's own mounts are seen. Raises UnionfsError."""
    volumes = Volumes(database)
    opened: list[Source] = []
    try:
        for mount in spec.mounts:
            path = volumes.path(mount.source) if mount.kind == VOLUME else mount.source
            opened.append(open_source(mount, path))
    except BaseException:
        close_sources(opened)
        raise
    return opened


def hidden_state(database: Database, record: Record) -> list[Source]:
    """Where a lower layer is a directory of the machine's that holds this state (--rootfs /): an empty, closed
    directory over it, so that no container comes to another's files, or to its own by another way."""
    inside = _state_in_rootfs(database, record)
    if inside is None:
        return []
    return [Source(Mount(TMPFS, "", inside, read_only=True, options=("size=0", "mode=0")), -1, True)]


def _state_in_rootfs(database: Database, record: Record) -> str | None:
    """Where a container would see this state, "/path", since one of its lower layers holds it."""
    for folder in record.spec.rootfs:
        inside = os.path.relpath(os.path.realpath(database.root), folder)
        if inside != ".." and not inside.startswith("../"):
            return f"/{inside}"
    return None


def open_files(folder: str, spec: Spec) -> list[Source]:
    """The launcher's own files in /etc, but where the user mounts something else."""
    targets = {mount.target for mount in spec.mounts}
    wanted = [name for name in FILES if f"/etc/{name}" not in targets and "/etc" not in targets]
    return [open_source(Mount("bind", os.path.join(folder, name), f"/etc/{name}"), os.path.join(folder, name))
            for name in wanted]  # fmt: skip


def close_sources(sources: Sequence[Source]) -> None:
    for source in sources:
        if source.tree >= 0:
            os.close(source.tree)


def space_of(path: str, directories: bool = True) -> int:
    """Bytes that what is below a directory takes on the disk."""
    total = 0
    for folder, folders, names in os.walk(path):
        for name in (*folders, *names) if directories else names:
            total += os.lstat(os.path.join(folder, name)).st_blocks * 512
    return total


def remove(database: Database, record: Record, volumes: bool) -> None:
    """Remove a container that does not run: its row last, so that what a crash leaves is found again.

    `volumes`: its anonymous volumes too, but those that another container uses.
    """
    containers = Containers(database)
    containers.claim(record.id, REMOVING, ("creating", "created", "exited", REMOVING))
    Cgroup.of(record.id).remove()
    uplink.clear(database, record.id)
    _remove_tree(containers.directory(record.id))
    with database.writing() as connection:
        released = Volumes(database).release(connection, record.id) if volumes else []
        connection.execute("DELETE FROM containers WHERE id = ?", (record.id,))
    for aside in released:
        clear(aside)


def _remove_tree(path: str) -> None:
    """All of it; the kernel's overlayfs leaves a directory without rights."""
    with suppress(FileNotFoundError):
        os.chmod(os.path.join(path, "work", "work"), 0o700)
    files.remove_tree(os.fsencode(path))

