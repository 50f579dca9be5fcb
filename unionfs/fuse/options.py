r"""Mount options: the string after -o, read into a MountRequest.

Called by the command line and, for `escape`, by session.py. The words are overlayfs's where it has them (mount(8),
Documentation/filesystems/overlayfs.rst): options are separated by `,`, lower layers by `:` with the topmost first,
and `\,` `\:` `\\` stand for the character itself. It promises to honour a word or to refuse it, never to drop one,
and to name every fault at once.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from unionfs.errors import Faults, UnionfsError, did_you_mean
from unionfs.layer.whiteout import DIALECTS
from unionfs.linux.mounts import FLAG_WORDS
from unionfs.union.completion import COMPLETE, WHEN
from unionfs.union.copyup import COPYUP, THRESHOLD

ENGINES = ("auto", "native", "fusepy")
INDEX = ("auto", "on", "off")
FOLLOW, NORMAL = SCHEDULING = ("follow", "normal")
OPENINGS = ("passthrough", "cached")
SYSLOG = b"syslog"
DEFAULT_SOURCE = b"unionfs"

VALUES = {
    "lowerdir": "DIR[:DIR...]",
    "upperdir": "DIR",
    "workdir": "DIR",
    "dialect": "|".join(DIALECTS),
    "copyup": "|".join(COPYUP),
    "copyup_threshold": "BYTES",
    "copyup_complete": "|".join(WHEN),
    "open": "|".join(OPENINGS),
    "index": "|".join(INDEX),
    "scheduling": "|".join(SCHEDULING),
    "engine": "|".join(ENGINES),
    "log": "FILE|syslog",
    "fsname": "NAME",
}
"""Options that need a value, and what it looks like."""

SWITCHES = ("userxattr", "volatile", "coherent", "allow_other", "default_permissions")
"""Options without a value. Permissions are always the kernel's to check: `default_permissions` asks for what is so."""

OTHERS_WORDS = (
    *("defaults", "auto", "noauto", "nofail", "_netdev", "user", "nouser", "users", "nousers"),
    *("owner", "noowner", "group", "nogroup"),
)
"""What fstab(5) says to mount(8) and systemd, not to a filesystem: read, and nothing to do."""
OTHERS_PREFIXES = ("x-", "X-", "comment=", "user=", "uhelper=", "helper=")

_CHOICES = {
    "dialect": tuple(DIALECTS), "open": OPENINGS, "engine": ENGINES, "copyup": COPYUP, "copyup_complete": WHEN,
    "index": INDEX, "scheduling": SCHEDULING,
}  # fmt: skip
_FIELDS = {"index": "layer_index"}
"""Where a request's field cannot be named as the option is: a tuple has a method `index`."""
_UNITS = {"": 0, "K": 10, "M": 20, "G": 30}

_OVERLAYFS = ("is the kernel overlayfs's, and has no meaning here", "leave it out")
_BRANCHES = ("is another union filesystem's", "write lowerdir=A:B,upperdir=U,workdir=W")
_KNOWN_ELSEWHERE = {
    "remount": ("a mounted union cannot be changed", "unmount it and mount it anew"),
    "metacopy": ("is the kernel overlayfs's", "write copyup=auto: metadata alone is copied for a change of metadata"),
    **dict.fromkeys(("nfs_export", "redirect_dir", "uuid", "xino"), _OVERLAYFS),
    **dict.fromkeys(("br", "cow", "dirs"), _BRANCHES),
}
"""Words that people bring along: why they are refused, and what to say in their place."""


class MountRequest(NamedTuple):
    """What the user asked for: layers, and how to mount them. Paths are absolute; None is "not given"."""

    lower: tuple[bytes, ...] = ()
    upper: bytes | None = None
    work: bytes | None = None
    dialect: str = "aufs"
    userxattr: bool = False
    volatile: bool = False
    copyup: str | None = None
    """None: the dialect's default."""
    copyup_threshold: int = THRESHOLD
    copyup_complete: str = COMPLETE
    open: str = "passthrough"
    """How data goes: "passthrough" where the kernel can carry it, or "cached", without requests for open and close."""
    coherent: bool = False
    """Every descriptor shows what was written, whenever it was opened: files below are not passed through."""
    layer_index: str = "auto"
    """Whether there is to be a layer index: "auto", "on", "off"."""
    scheduling: str = FOLLOW
    """Whether the daemon follows its client to its CPU and gives way to it, or is scheduled as any process."""
    allow_other: bool = False
    """Other users may look into the mount; for root it is so anyway."""
    words: tuple[str, ...] = ()
    """Words of mount(8) for the mount itself, as in "nosuid", in the order given."""
    source: bytes = DEFAULT_SOURCE
    """What the mount table shows as the source."""
    log: bytes | None = None
    """A file's absolute path, or SYSLOG; None: standard error in the foreground, else syslog."""
    engine: str = "auto"

    @property
    def flags(self) -> tuple[str, ...]:
        """The words for the mount itself. Without an upper layer it is read-only, whatever else was said."""
        return self.words if self.upper else (*self.words, "ro")


def parse(text: bytes, cwd: bytes | None = None, faults: list[UnionfsError] | None = None) -> MountRequest:
    """Read an option string; relative paths start at `cwd` (default: the current directory).

    Raises Faults with everything that is wrong in it; or, when a list is given, adds to that, so that a caller can
    look for faults elsewhere before it raises all together.
    """
    found: list[UnionfsError] = []
    reader = _Reader(os.getcwdb() if cwd is None else cwd, found)
    for option in split(text, b","):
        reader.take(option)
    if faults is not None:
        faults += found
    elif found:
        raise Faults(found)
    return MountRequest(**reader.values, words=tuple(reader.words))  # type: ignore[arg-type]


def split(text: bytes, separator: bytes) -> list[bytes]:
    """The parts between unescaped separators; escapes stay as they are."""
    parts, pending = [], b""
    for piece in text.split(separator):
        part = pending + piece
        escaped = (len(piece) - len(piece.rstrip(b"\\"))) % 2
        pending = part + separator if escaped else b""
        if not escaped:
            parts.append(part)
    return [*parts, pending[:-1]] if pending else parts


def unescape(value: bytes) -> bytes:
    r"""`\,` `\:` `\\` become the character; a backslash before anything else stands for itself."""
    if b"\\" not in value:
        return value
    halves = [half.replace(b"\\,", b",").replace(b"\\:", b":") for half in value.split(b"\\\\")]
    return b"\\".join(halves)


def escape(value: bytes) -> bytes:
    """The opposite of `unescape`: a path as it must be written in an option string."""
    return value.replace(b"\\", b"\\\\").replace(b",", b"\\,").replace(b":", b"\\:")


def known() -> Iterator[str]:
    """Every word that `parse` takes, for suggestions, completion and the manual."""
    yield from VALUES
    yield from SWITCHES
    yield from FLAG_WORDS
    yield from OTHERS_WORDS


class _Reader:
    """Takes one option after the other; keeps values, flag words and faults."""

    def __init__(self, cwd: bytes, faults: list[UnionfsError]) -> None:
        self.cwd = cwd
        self.faults = faults
        self.values: dict[str, object] = {}
        self.words: list[str] = []
        self._seen: set[str] = set()

    def fault(self, what: str, why: str, hint: str = "") -> None:
        self.faults.append(UnionfsError(what, why, hint))

    def take(self, option: bytes) -> None:
        name, equals, value = os.fsdecode(option).partition("=")
        if not option or name in OTHERS_WORDS or os.fsdecode(option).startswith(OTHERS_PREFIXES):
            return
        if name in VALUES:
            self._take_value(name, os.fsencode(value))
        elif equals and (name in FLAG_WORDS or name in SWITCHES):
            self.fault(f'option "{name}"', f'takes no value, and "{value}" is given', f"write {name} alone")
        elif name in FLAG_WORDS:
            self.words.append(name)
        elif name in SWITCHES:
            if name != "default_permissions":
                self.values[name] = True
        else:
            self._unknown(name)

    def _unknown(self, name: str) -> None:
        hint = did_you_mean(name, known()) or r"unionfs mount --help lists them; a comma in a name is written \,"
        self.fault(f'option "{name}"', *_KNOWN_ELSEWHERE.get(name, ("there is no such option", hint)))

    def _take_value(self, name: str, value: bytes) -> None:
        if name in self._seen:
            self.fault(f'option "{name}"', "is given twice", f"write {name}= once")
            return
        self._seen.add(name)
        if not value:
            self.fault(f'option "{name}"', "has no value", f"write {name}={VALUES[name]}")
        elif name == "lowerdir":
            self.values["lower"] = self._layers(value)
        elif name in ("upperdir", "workdir"):
            self.values[name.removesuffix("dir")] = self._path(value)
        elif name == "log":
            self.values["log"] = SYSLOG if value == SYSLOG else self._path(value)
        elif name == "fsname":
            self.values["source"] = unescape(value)
        elif name == "copyup_threshold":
            self._size(name, os.fsdecode(value))
        else:
            self._choice(name, os.fsdecode(value), _CHOICES[name])

    def _size(self, name: str, value: str) -> None:
        """Bytes, or KiB, MiB, GiB by a letter after the number."""
        number, unit = (value[:-1], value[-1].upper()) if value[-1:].isalpha() else (value, "")
        if number.isdecimal() and number.isascii() and unit in _UNITS:
            self.values[name] = int(number) << _UNITS[unit]
        else:
            self.fault(f"{name}={value}", "is no size", f"write {name}=65536, or 64K, 1M, 1G")

    def _choice(self, name: str, value: str, choices: Iterable[str]) -> None:
        if value in choices:
            self.values[_FIELDS.get(name, name)] = value
        else:
            hint = did_you_mean(value, choices) or f"write {name}={VALUES[name]}"
            self.fault(f"{name}={value}", f"there is no such {name}", hint)

    def _layers(self, value: bytes) -> tuple[bytes, ...]:
        parts = split(value, b":")
        if b"" in parts[1:-1]:
            why = '"::" begins data-only layers in overlayfs, and they are not supported here'
            self.fault("lowerdir", why, r"write one : between two layers, and \: for a colon in a name")
        elif b"" in parts:
            end = "begins" if not parts[0] else "ends"
            self.fault("lowerdir", f'{end} with a ":", so one layer has no name', "take the colon away")
        return tuple(self._path(part) for part in parts if part)

    def _path(self, value: bytes) -> bytes:
        return os.path.join(self.cwd, unescape(value))
