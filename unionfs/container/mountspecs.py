"""The words of -v, --mount, --tmpfs and --volumes-from, as mounts; and which of them a container gets in the end.

Called by the command line and `create.py`. Pure functions; the rules and the errors are docker's.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from unionfs.container.quantities import parse_size
from unionfs.container.spec import BIND, TMPFS, VOLUME, Mount, normal
from unionfs.errors import UnionfsError, did_you_mean

_RIGHTS, _LABELS, _COPY, _CACHES = ("ro", "rw"), ("z", "Z"), ("nocopy",), ("consistent", "cached", "delegated")
_PROPAGATIONS = ("private", "rprivate", "slave", "rslave", "shared", "rshared")
_KEYS = {
    "type": "type", "source": "source", "src": "source", "target": "target", "destination": "target", "dst": "target",
    "readonly": "readonly", "ro": "readonly", "bind-propagation": "propagation", "volume-nocopy": "nocopy",
    "tmpfs-size": "size", "tmpfs-mode": "mode",
}  # fmt: skip
_ONLY_FOR = {"propagation": BIND, "nocopy": VOLUME, "size": TMPFS, "mode": TMPFS}
_TMPFS_WORDS = ("ro", "rw", "nosuid", "suid", "nodev", "dev", "noexec", "exec")
_TRUE, _FALSE = ("", "1", "true", "t"), ("0", "false", "f")


def parse_volume(word: str, cwd: str) -> Mount:
    """`-v [SOURCE:]TARGET[:MODE]`; a relative source begins with a dot, and starts at `cwd`. Raises UnionfsError."""
    fields = word.split(":")
    if not word or len(fields) > 3 or not all(fields):
        raise _invalid(word)
    if len(fields) == 1:
        return Mount(VOLUME, "", _target(fields[0], word))
    source, target, mode = (*fields, "")[:3]
    is_bind = source.startswith(("/", "./", "../")) or source in (".", "..")
    if len(fields) == 2 and not target.startswith("/"):
        raise _invalid(word)
    mount = _moded(Mount(BIND if is_bind else VOLUME, source, _target(target, word)), mode)
    return mount._replace(source=os.path.normpath(os.path.join(cwd, source)), creates=True) if is_bind else mount


def _moded(mount: Mount, mode: str) -> Mount:
    """The mode of -v: at most one word of each group."""
    groups: list[Sequence[str]] = [_RIGHTS, _LABELS, _CACHES, _PROPAGATIONS if mount.kind == BIND else _COPY]
    words = mode.split(",") if mode else []
    for group in groups:
        if len([word for word in words if word in group]) > 1:
            raise UnionfsError(f"invalid mode: {mode}", f"only one of {', '.join(group)}")
    for word in words:
        if not any(word in group for group in groups):
            known = [known for group in groups for known in group]
            hint = did_you_mean(word, known) or f"known are {', '.join(known)}"
            raise UnionfsError(f"invalid mode: {mode}", "", hint)
    propagation = next((word for word in words if word in _PROPAGATIONS), mount.propagation)
    return mount._replace(read_only="ro" in words, propagation=propagation, copies="nocopy" not in words)


def parse_mount(word: str, cwd: str) -> Mount:
    """`--mount type=bind,source=/a,target=/b,readonly`. Raises UnionfsError."""
    fields: dict[str, str] = {}
    for part in word.split(","):
        key, equals, value = part.partition("=")
        if key.lower() not in _KEYS:
            hint = did_you_mean(key, _KEYS) or f"known are {', '.join(_KEYS)}"
            raise UnionfsError(f"--mount {word}", f"unexpected key '{key}' in '{part}'", hint)
        name = _KEYS[key.lower()]
        if not equals and name not in ("readonly", "nocopy"):
            raise UnionfsError(f"--mount {word}", f"invalid field '{part}' must be a key=value pair")
        fields[name] = value
    kind = fields.get("type", VOLUME)
    if kind not in (BIND, VOLUME, TMPFS):
        hint = did_you_mean(kind, (BIND, VOLUME, TMPFS)) or "bind, volume or tmpfs"
        raise UnionfsError(f"--mount {word}", f"mount type {kind} is unknown", hint)
    for name, only in _ONLY_FOR.items():
        if name in fields and only != kind:
            raise UnionfsError(f"--mount {word}", f"{name} is for type={only}")
    if "target" not in fields:
        raise UnionfsError(f"--mount {word}", "target is required", "target=/path in the container")
    mount = Mount(kind, fields.get("source", ""), _target(fields["target"], word), _true(fields, "readonly", word))
    return _of_type(mount, fields, word, cwd)


def _of_type(mount: Mount, fields: dict[str, str], word: str, cwd: str) -> Mount:
    if mount.kind == BIND:
        if not mount.source:
            raise UnionfsError(f"--mount {word}", "type=bind needs a source", "source=/path of the host")
        propagation = fields.get("propagation", mount.propagation)
        if propagation not in _PROPAGATIONS:
            hint = did_you_mean(propagation, _PROPAGATIONS) or f"known are {', '.join(_PROPAGATIONS)}"
            raise UnionfsError(f"--mount {word}", f"invalid propagation {propagation}", hint)
        return mount._replace(source=os.path.normpath(os.path.join(cwd, mount.source)), propagation=propagation)
    if mount.kind == VOLUME:
        if "/" in mount.source:
            raise UnionfsError(f"--mount {word}", f"{mount.source} is no volume's name", "type=bind for a directory")
        return mount._replace(copies=not _true(fields, "nocopy", word))
    if mount.source:
        raise UnionfsError(f"--mount {word}", "a tmpfs has no source")
    size = [f"size={parse_size(fields['size'])}"] if "size" in fields else []
    return mount._replace(options=(*size, *_modes(fields.get("mode"), word)))


def _modes(mode: str | None, word: str) -> list[str]:
    if mode is None:
        return []
    if not mode or mode.strip("01234567"):
        raise UnionfsError(word, f"invalid mode {mode}", "an octal number, as in 1777")
    return [f"mode={mode}"]


def _true(fields: dict[str, str], name: str, word: str) -> bool:
    value = fields.get(name, "false").lower()
    if value not in _TRUE + _FALSE:
        raise UnionfsError(f"--mount {word}", f"invalid value for {name}: {value}", "true or false")
    return value in _TRUE


def parse_tmpfs(word: str) -> Mount:
    """`--tmpfs /run:size=64m,mode=1777`. Raises UnionfsError."""
    target, _, options = word.partition(":")
    words = [option for option in options.split(",") if option]
    for option in words:
        name, equals, value = option.partition("=")
        if name == "size" and equals:
            parse_size(value.removesuffix("%") if value.endswith("%") else value)
        elif name == "mode" and equals:
            _modes(value, f"--tmpfs {word}")
        elif name not in ("nr_inodes", "uid", "gid") and option not in _TMPFS_WORDS:
            hint = did_you_mean(name, (*_TMPFS_WORDS, "size", "mode")) or "size=, mode=, ro, exec, ..."
            raise UnionfsError(f"--tmpfs {word}", f"invalid tmpfs option {option}", hint)
    return Mount(TMPFS, "", _target(target, word), "ro" in words, options=tuple(words))


def parse_volumes_from(word: str) -> tuple[str, bool]:
    """`--volumes-from CONTAINER[:ro|rw|z|Z]`: the name, and whether read-only. Raises UnionfsError."""
    name, colon, mode = word.partition(":")
    if not name or (colon and mode not in _RIGHTS + _LABELS):
        raise UnionfsError(f"invalid mode: {mode}" if name else f"--volumes-from {word}", "", "CONTAINER[:ro|rw]")
    return name, mode == "ro"


def combine(
    shared: Iterable[tuple[Sequence[Mount], bool]], own: Sequence[Mount], image_volumes: Iterable[str]
) -> tuple[Mount, ...]:
    """The mounts of a container: those of other containers, over them its own, and anonymous volumes for what the image
    declares and nothing covers; by the depth of their targets. Raises UnionfsError for a target that is given twice."""
    mounts = {
        mount.target: mount._replace(read_only=mount.read_only or read_only, copies=False)
        for others, read_only in shared
        for mount in others
    }
    seen: set[str] = set()
    for mount in own:
        if mount.target in seen:
            raise UnionfsError(f"Duplicate mount point: {mount.target}", "", "give each target once")
        seen.add(mount.target)
        mounts[mount.target] = mount
    for path in image_volumes:
        target = normal(path)
        mounts.setdefault(target, Mount(VOLUME, "", target))
    return tuple(sorted(mounts.values(), key=lambda mount: (mount.target.count("/"), mount.target)))


def _target(path: str, word: str) -> str:
    if not path.startswith("/"):
        raise UnionfsError(f"invalid volume specification: '{word}'", f"mount path must be absolute: {path}")
    target = normal(path)
    if target == "/":
        raise UnionfsError(f"invalid volume specification: '{word}'", "destination can't be '/'")
    return target


def _invalid(word: str) -> UnionfsError:
    return UnionfsError(f"invalid volume specification: '{word}'", "", "[SOURCE:]TARGET[:MODE], as in /srv/www:/www:ro")
