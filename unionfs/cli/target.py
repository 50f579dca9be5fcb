"""Which union is meant: one that is mounted, or an upper that was.

Used by `inspect.py` and `keep.py`. A mount says itself what its layers are (the virtual attribute user.unionfs.config
of its root); an upper names its work directory (the attribute unionfs.work), which holds the same in stack.json. The
layers are then opened read-only and without locks, so that a union can be looked at while it is in use.
"""

from __future__ import annotations

import errno
import json
import os
from contextlib import suppress
from typing import Any, NamedTuple

from unionfs.cli.command import shown
from unionfs.container import rootless, roots
from unionfs.container.lifecycle import Container
from unionfs.container.state import Containers
from unionfs.container.storage import DIALECTS as DIALECTS_OF_DRIVERS
from unionfs.errors import UnionfsError
from unionfs.image.database import Database
from unionfs.image.images import Image, Images
from unionfs.layer.stack import STACK_FILE, Stack
from unionfs.layer.whiteout import DIALECTS, Dialect
from unionfs.linux import mounts

FSTYPE = b"fuse.unionfs"
CONFIG = b"user.unionfs.config"
STATS = b"user.unionfs.stats"
_PREFIXES = (b"trusted.", b"user.")
_VERSION = 1


class Target(NamedTuple):
    """A union's layers, all paths absolute. `mountpoint` is None where an upper was given."""

    lower: tuple[bytes, ...]
    upper: bytes | None
    work: bytes | None
    dialect: str
    userxattr: bool
    mountpoint: bytes | None
    path: bytes = b"/"
    """What was named inside the union."""
    overlaps: bool = False
    """A layer may lie inside another one, as a container's whose lower layer is the machine's root."""
    container: str = ""
    """The id, where a container was named."""
    is_image: bool = False
    """Its lower layers are an image's, which others share."""
    made_by: tuple[str, ...] = ()
    """Of an image, the step that made each layer, as far as it says so."""

    @property
    def layers(self) -> tuple[bytes, ...]:
        return (self.upper, *self.lower) if self.upper is not None else self.lower

    def role(self, index: int) -> str:
        """Of the layer with that index: upper or lower."""
        return "upper" if index == 0 and self.upper is not None else "lower"

    def open(self) -> Stack:
        """All layers, the upper too, to be read."""
        return Stack.open(self.layers, dialect=self.dialect, userxattr=self.userxattr, overlaps=self.overlaps)

    def open_lower(self) -> Stack:
        return Stack.open(self.lower, dialect=self.dialect, userxattr=self.userxattr, overlaps=self.overlaps)

    def make_dialect(self) -> Dialect:
        return DIALECTS[self.dialect](b"user." if self.userxattr else b"trusted.")


def find(place: str) -> Target:
    """The union mounted on the directory `place`, or that of the upper `place`, or a container's of that name, where
    there is no such path. Raises UnionfsError."""
    if "/" not in place and not os.path.lexists(place):
        rootless.enter()  # what is in its layers may be closed to this user, and open to its root
        with Database() as database:
            return _of_container(database, place)
    path = mounts.absolute(os.fsencode(place))
    target = _of_mount(path) or _of_upper(path)
    if target is None:
        raise _unknown(place, path)
    if target.path != b"/":
        root = shown(target.mountpoint or target.upper or b"")
        raise UnionfsError(shown(place), "lies inside a union", f"name the union itself: {root}")
    return target


def find_any(place: str) -> Target:
    """As `find`; or the layers of an image, where there is no container of that name. Raises UnionfsError."""
    try:
        return find(place)
    except UnionfsError as failure:
        if os.path.lexists(place):
            raise
        with Database() as database:
            images = Images(database)
            try:
                return _of_image(images, images.resolve(place))
            except UnionfsError:
                raise failure from None


def find_path(place: str) -> Target:
    """The union that a path lies in, which need not exist there. A symbolic link at its end is not followed."""
    parent, name = os.path.split(os.path.abspath(os.fsencode(place)))
    for path in (os.path.join(os.path.realpath(parent), name), mounts.absolute(os.fsencode(place))):
        target = _of_mount(path) or _of_upper(path, inside=True)
        if target is not None:
            return target
    raise UnionfsError(shown(place), "lies in no union", "the unions of this machine: findmnt -t fuse.unionfs")


def asked_at(target: Target) -> bytes | None:
    """Where a union that serves can be asked: its mount, or the root of a container that runs; None: nowhere."""
    if not target.container:
        return target.mountpoint
    record = Container(target.container).record
    return b"/proc/%d/root" % record.pid if record.is_running else None


def needs_upper(target: Target) -> tuple[bytes, bytes]:
    """The upper and the work directory. Raises UnionfsError when the union is read-only."""
    if target.upper is None or target.work is None:
        point = shown(target.mountpoint or b"")
        raise UnionfsError(point, "is a read-only union: it has no upper layer, so nothing was changed")
    return target.upper, target.work


# --- a container


def _of_container(database: Database, name: str) -> Target:
    try:
        record = Containers(database).find(name)
    except UnionfsError as error:
        why = "there is no such path, and no container of that name"
        raise UnionfsError(shown(name), why, error.hint) from error
    place = roots.place_of(database, record)
    return Target(
        tuple(map(os.fsencode, place.lower)), os.fsencode(place.upper), os.fsencode(place.work),
        DIALECTS_OF_DRIVERS[record.spec.storage], False, None, overlaps=place.overlaps, container=record.id,
        is_image=record.image is not None,
    )  # fmt: skip


def _of_image(images: Images, image: Image) -> Target:
    steps = [step.get("created_by", "") for step in image.config.get("history") or [] if not step.get("empty_layer")]
    made_by = dict(zip(image.layers, steps, strict=False))
    directories = images.layer_directories(image)
    made = tuple(made_by.get(layer, "") for layer in dict.fromkeys(reversed(image.layers)))
    return Target(tuple(map(os.fsencode, directories)), None, None, "aufs", False, None, is_image=True, made_by=made)


# --- a mounted union


def _of_mount(path: bytes) -> Target | None:
    table = mounts.table()
    here = [entry for entry in table if entry.point == path]
    entry = here[-1] if here else mounts.find(os.path.dirname(path), table)
    if entry.fstype != FSTYPE:
        return None
    inside = os.path.join(entry.root, os.path.relpath(path, entry.point)) if path != entry.point else entry.root
    roots = [other.point for other in table if other.device == entry.device and other.root == b"/"]
    point = entry.point if entry.point in roots or not roots else roots[0]
    return _target(_ask(point), point, os.path.join(b"/", inside))


def _ask(point: bytes) -> Any:
    try:
        return json.loads(os.getxattr(point, CONFIG))
    except OSError as error:
        name = shown(point)
        if error.errno == errno.ENOTCONN:
            hint = f"unionfs umount {name}   and then name its upper layer instead"
            raise UnionfsError(name, "its daemon is gone", hint) from error
        if error.errno == errno.EACCES:
            raise UnionfsError(name, "is the mount of another user", "ask as that user") from error
        hint = "another program's union? Its own tools know its layers"
        raise UnionfsError(name, "does not say which layers it has", hint) from error


def _target(config: Any, mountpoint: bytes | None, path: bytes) -> Target:
    if config.get("version") != _VERSION:
        what = shown(mountpoint or os.fsencode(config.get("upperdir") or ""))
        raise UnionfsError(what, f"its layers are written in format {config.get('version')}", "use a newer unionfs")
    upper, work = config["upperdir"], config["workdir"]
    return Target(
        lower=tuple(map(os.fsencode, config["lowerdir"])),
        upper=os.fsencode(upper) if upper else None,
        work=os.fsencode(work) if work else None,
        dialect=config["dialect"],
        userxattr=config["userxattr"],
        mountpoint=mountpoint,
        path=path,
    )


def users_of(layer: bytes) -> list[bytes]:
    """Where unions are mounted, ours or overlayfs's, that this directory is a layer of."""
    users = []
    for entry in mounts.table():
        layers: list[bytes] = []
        if entry.fstype == FSTYPE:
            with suppress(OSError, ValueError, KeyError):
                layers = list(_target(json.loads(os.getxattr(entry.point, CONFIG)), entry.point, b"/").layers)
        elif entry.fstype == b"overlay":
            for option in entry.options:
                if option.startswith((b"lowerdir=", b"upperdir=")):
                    layers += option.partition(b"=")[2].split(b":")
        if layer in layers and entry.point not in users:
            users.append(entry.point)
    return users


# --- an upper


def _of_upper(path: bytes, inside: bool = False) -> Target | None:
    """That of the upper `path`, or `inside` of one above it."""
    upper = path
    while True:
        work = _work_of(upper)
        if work is not None:
            rest = os.path.relpath(path, upper) if path != upper else b""
            return _target(_recorded(upper, work), None, os.path.join(b"/", rest))
        if not inside or upper == os.path.dirname(upper):
            return None
        upper = os.path.dirname(upper)


def _work_of(upper: bytes) -> bytes | None:
    """The work directory that an upper names; None when it is no upper of ours."""
    for prefix in _PREFIXES:
        with suppress(OSError):
            return os.getxattr(upper, prefix + b"unionfs.work", follow_symlinks=False)
    return None


def _recorded(upper: bytes, work: bytes) -> Any:
    """What stack.json says. Raises UnionfsError, too, when it is that of another upper: this one is a copy then."""
    name, record = f"upperdir {shown(upper)}", os.path.join(work, STACK_FILE)
    hint = "mount it where it is now: that renews the record"
    try:
        with open(record, encoding="utf-8", errors="surrogateescape") as file:
            config = json.load(file)
    except (OSError, ValueError) as error:
        why = (error.strerror or "").lower() if isinstance(error, OSError) else "is no JSON"
        raise UnionfsError(name, f"the record of its layers, {shown(record)}: {why}", hint) from error
    other = os.fsencode(config.get("upperdir") or "")
    try:
        is_same = os.path.samefile(other, upper)
    except OSError:
        is_same = False
    if not is_same:
        raise UnionfsError(name, f"was copied or moved: its record says that it is {shown(other)}", hint)
    return config


def _unknown(place: str, path: bytes) -> UnionfsError:
    if not os.path.lexists(path):
        return UnionfsError(shown(place), "no such directory", "give the place of a mount, or an upper layer")
    if not os.path.isdir(path):
        return UnionfsError(shown(place), "not a directory", "give the place of a mount, or an upper layer")
    hint = "give the place of a mount (findmnt -t fuse.unionfs lists them), or an upper layer that was mounted once"
    if os.geteuid() != 0:
        hint += "; what root mounted, only root can read: sudo"
    return UnionfsError(shown(place), "is neither a mounted union nor an upper layer of one", hint)
