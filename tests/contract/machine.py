"""Random start layers and random operations, as a hypothesis state machine over a `World`. For test_random.py.

Names are few, so that operations meet; a path is an object that is there, or a name in it that may be. A step that
makes no sense (a file as a directory) is as welcome as any: what is compared is the errno then.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from tests.contract import layers
from tests.contract.mounter import Mounter
from tests.contract.world import Kinds, Opened, World
from tests.model import EXCHANGE, KEEP_SIZE, NOREPLACE, PUNCH_HOLE, UTIME_NOW, ZERO_RANGE, Model, Node

NAMES = "abcd"
DEEPEST = 4
SECOND = 1_000_000_000

spots = st.tuples(st.integers(0, 60), st.sampled_from(NAMES), st.integers(0, 9))
"""Where: which of the objects that are there, a name, and one in ten is to be a place that makes no sense."""
Spot = tuple[int, str, int]
modes = st.sampled_from([0o600, 0o644, 0o755, 0o4711, 0o2755, 0o6777, 0o1777, 0o400, 0])
ids = st.sampled_from([-1, 0, 1, 1000])
contents = st.sampled_from([b"", b"x", b"text", b"y" * 4096, b"longer " * 1000])
sizes = st.sampled_from([0, 1, 3, 100, 4095, 4096, 4097, 8192, 20_000])
times = st.sampled_from([None, UTIME_NOW, 0, 1, 5 * SECOND + 123_456_789, 1_234_567_890_987_654_321])
xattrs = st.sampled_from([b"user.a", b"user.b", b"trusted.c", b"trusted.overlay.d"])
openings = st.sampled_from([
    os.O_RDONLY, os.O_RDWR, os.O_WRONLY, os.O_RDWR | os.O_CREAT, os.O_RDWR | os.O_CREAT | os.O_EXCL,
    os.O_RDWR | os.O_TRUNC, os.O_WRONLY | os.O_CREAT | os.O_TRUNC,
    os.O_RDONLY | os.O_NOFOLLOW, os.O_RDONLY | os.O_TRUNC,
])  # fmt: skip

# --- start layers

paths = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map("/".join)
owners = st.sampled_from([0, 1, 1000])
some_xattrs = st.sampled_from([{}, {b"user.a": b"1"}, {b"trusted.c": b"\0", b"user.b": b""}])
objects = st.one_of(
    st.tuples(contents, modes, owners, owners, some_xattrs, sizes, sizes).map(lambda drawn: layers.File(*drawn)),
    st.tuples(contents, modes).map(lambda drawn: layers.File(*drawn)),
    st.tuples(
        st.sampled_from([0o755, 0o700, 0o2775, 0o1777]),
        owners,
        owners,
        st.booleans(),
        some_xattrs,
    ).map(lambda drawn: layers.Dir(*drawn)),
    paths.map(lambda target: layers.Symlink(target)),
    st.sampled_from([layers.Special(stat.S_IFIFO | 0o600), layers.Special(stat.S_IFSOCK | 0o644)]),
    st.just(layers.WHITEOUT),
)
rough_layers = st.lists(st.tuples(paths, objects, st.integers(0, 9)), max_size=9)
"""Objects at paths; the number says with which earlier file it is hard linked, if there is one."""


def sound(rough: list[list[tuple[str, Any, int]]]) -> list[layers.Layer]:
    """Layers that can be built: parents are directories, and a whiteout hides something. From the bottom to the top."""
    done: list[layers.Layer] = []
    for number, wanted in enumerate(rough):
        below = layers.merged(done[::-1])
        layer: dict[str, Any] = {}
        for path, what, twin in wanted:
            if path in layer or not _fits(layer, path) or (what is layers.WHITEOUT and not _hides(layer, below, path)):
                continue
            files = [name for name, other in layer.items() if isinstance(other, layers.File)]
            if isinstance(what, layers.File) and files and twin % 2:
                layer[path] = layers.Link(files[twin % len(files)])
            elif isinstance(what, layers.File):
                layer[path] = what._replace(content=what.content + b"%d%s" % (number, path.encode()))
            else:
                layer[path] = what
        done.append(layer)
    return _whole_links(done)[::-1]


def _fits(layer: dict[str, Any], path: str) -> bool:
    above = path.split("/")
    parents = ["/".join(above[:depth]) for depth in range(1, len(above))]
    below = any(name.startswith(path + "/") for name in layer)
    return not below and all(isinstance(layer.get(parent, layers.Dir()), layers.Dir) for parent in parents)


def _hides(layer: dict[str, Any], below: Model, path: str) -> bool:
    """Whether a whiteout hides something. In an opaque directory it would not, and overlayfs lists it there."""
    above = path.split("/")
    parents = [layer.get("/".join(above[:depth])) for depth in range(1, len(above))]
    return _there(below, path) and not any(isinstance(parent, layers.Dir) and parent.opaque for parent in parents)


def _there(model: Model, path: str) -> bool:
    try:
        directory = model.resolve(os.path.dirname(path))[2]
    except OSError:
        return False
    return directory is not None and os.fsencode(os.path.basename(path)) in directory.entries


def _whole_links(done: list[layers.Layer]) -> list[layers.Layer]:
    """Links of which the merged tree hides a name count it all the same, as overlayfs does; no start state has them."""
    model = layers.merged(done[::-1])
    whole = []
    for layer in done:
        kept = dict(layer)
        sources = {what.source for what in layer.values() if isinstance(what, layers.Link)}
        for source in sources:
            names = [source, *(name for name, what in layer.items() if what == layers.Link(source))]
            nodes = {id(_node(model, name)) for name in names}
            first = _node(model, source)
            whole_group = len(nodes) == 1 and first is not None and first.nlink == len(names)
            if not whole_group or bytes(first.data).rstrip(b"\0") != layer[source].content:  # type: ignore[union-attr]
                kept.update(dict.fromkeys(names, layer[source]))
        whole.append(kept)
    return whole


def _node(model: Model, path: str) -> Node | None:
    try:
        return model.node(path)
    except OSError:
        return None


# --- operations


DIR, FILE, SYMLINK = stat.S_IFDIR, stat.S_IFREG, stat.S_IFLNK


class Machine(RuleBasedStateMachine):
    kinds: ClassVar[Kinds]
    mounter: ClassVar[Mounter]
    every: ClassVar[int] = 6
    """After so many operations the whole trees are compared."""

    world: World

    def __init__(self) -> None:
        super().__init__()
        self.steps = self.last_remount = 0

    @property
    def fusepy(self) -> bool:
        return any(kind == "fusepy" for kind, *_ in self.kinds)

    @initialize(rough=st.lists(rough_layers, min_size=1, max_size=3), upper=rough_layers)
    def start(self, rough: list[Any], upper: Any) -> None:
        first, *lowers = sound([*rough, upper])
        self.world = World(self.kinds, lowers, first, self.mounter)
        self.world.check()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.close()

    # Choosing

    def old(self, spot: Spot, *kinds: int) -> str:
        """A path that is there, mostly of one of the given types."""
        number, name, odd = spot
        known = list(self.world.model.paths())
        fitting = [path for path, node in known if not kinds or node.kind in kinds]
        if odd == 9 or not fitting:
            fitting = [path for path, _ in known] + [f"{path}/{name}" for path, _ in known] or [name]
        return fitting[number % len(fitting)]

    def new(self, spot: Spot) -> str:
        """A path that is mostly not there, in a directory that is."""
        number, name, odd = spot
        model = self.world.model
        folders = [("", model.root), *((path, node) for path, node in model.paths() if node.is_dir)]
        folders = [(path, node) for path, node in folders if path.count("/") < DEEPEST - 1]
        places = [(path, other, node) for path, node in folders for other in NAMES]
        free = [f"{path}/{other}".strip("/") for path, other, node in places if other.encode() not in node.entries]
        return free[number % len(free)] if odd < 9 and free else self.old((number, name, 9))

    def file(self, number: int) -> Opened:
        return self.world.open[number % len(self.world.open)]

    def apply(self, operation: str, *arguments: Any) -> Any:
        answer = self.world.apply(operation, *arguments)
        self.steps += 1
        if self.steps % self.every == 0:
            self.world.check()
        return answer

    # Names

    @rule(spot=spots, mode=modes)
    def mkdir(self, spot: Spot, mode: int) -> None:
        self.apply("mkdir", self.new(spot), mode & 0o1777)

    @rule(spot=spots, mode=modes)
    def mknod(self, spot: Spot, mode: int) -> None:
        self.apply("mknod", self.new(spot), stat.S_IFIFO | mode & 0o777)

    @rule(spot=spots, to=paths)
    def symlink(self, spot: Spot, to: str) -> None:
        self.apply("symlink", to, self.new(spot))

    @rule(source=spots, spot=spots)
    def link(self, source: Spot, spot: Spot) -> None:
        self.apply("link", self.old(source, FILE, SYMLINK, stat.S_IFIFO), self.new(spot))

    @rule(spot=spots)
    def unlink(self, spot: Spot) -> None:
        self.apply("unlink", self.old(spot, FILE, SYMLINK, stat.S_IFIFO, stat.S_IFSOCK))

    @rule(spot=spots)
    def rmdir(self, spot: Spot) -> None:
        self.apply("rmdir", self.old(spot, DIR))

    @rule(spot=spots)
    def remove_tree(self, spot: Spot) -> None:
        """What rm -rf does, name by name: directories become empty by whiteouts, and go."""
        path = self.old(spot, DIR)
        below = [(name, node.is_dir) for name, node in self.world.model.paths() if (name + "/").startswith(path + "/")]
        for name, is_dir in reversed(below):
            self.apply("rmdir" if is_dir else "unlink", name)

    @rule(source=spots, spot=spots, flags=st.sampled_from([0, 0, NOREPLACE]))
    def rename(self, source: Spot, spot: Spot, flags: int) -> None:
        self.apply("rename", self.old(source), self.new(spot), 0 if self.fusepy else flags)

    @rule(source=spots, spot=spots)
    def rename_directory(self, source: Spot, spot: Spot) -> None:
        self.apply("rename", self.old(source, DIR), self.new(spot))

    @rule(source=spots, spot=spots, flags=st.sampled_from([0, EXCHANGE, EXCHANGE]))
    def rename_onto(self, source: Spot, spot: Spot, flags: int) -> None:
        """Onto something that is there; mostly of the same kind, when that is to be replaced."""
        path, flags = self.old(source), 0 if self.fusepy else flags
        node = _node(self.world.model, path)
        kinds = () if flags or node is None else (DIR,) if node.is_dir else (FILE, SYMLINK)
        self.apply("rename", path, self.old(spot, *kinds), flags)

    # Attributes

    @rule(spot=spots, mode=modes)
    def chmod(self, spot: Spot, mode: int) -> None:
        self.apply("chmod", self.old(spot), mode)

    @rule(spot=spots, uid=ids, gid=ids)
    def chown(self, spot: Spot, uid: int, gid: int) -> None:
        self.apply("chown", self.old(spot), uid, gid)

    @rule(spot=spots, atime=times, mtime=times)
    def utime(self, spot: Spot, atime: int | None, mtime: int | None) -> None:
        """Both times left out, the kernel does not even look at the path (utimensat(2))."""
        path = self.old(spot)
        if (atime, mtime) != (None, None) and self.apply("utime", path, atime, mtime) is None:
            self.world.check_time(path)

    @rule(spot=spots, name=xattrs, value=contents, flags=st.sampled_from([0, 0, os.XATTR_CREATE, os.XATTR_REPLACE]))
    def setxattr(self, spot: Spot, name: bytes, value: bytes, flags: int) -> None:
        self.apply("setxattr", self.old(spot), name, value[:100], flags)

    @rule(spot=spots, name=xattrs)
    def getxattr(self, spot: Spot, name: bytes) -> None:
        self.apply("getxattr", self.old(spot), name)

    @rule(spot=spots, name=xattrs)
    def removexattr(self, spot: Spot, name: bytes) -> None:
        self.apply("removexattr", self.old(spot), name)

    # Data, by path

    def _opens_at_once(self, path: str) -> bool:
        """A fifo waits for its other end, so none is opened."""
        node = None
        try:
            node = self.world.model.resolve(path, follow=True)[2]
        except OSError:
            pass
        return node is None or not stat.S_ISFIFO(node.mode)

    @rule(spot=spots, data=contents, number=st.integers(0, 1))
    def write(self, spot: Spot, data: bytes, number: int) -> None:
        path = self.new(spot) if number % 2 else self.old(spot, FILE)
        if self._opens_at_once(path):
            self.apply("write_bytes", path, data)

    @rule(spot=spots)
    def read(self, spot: Spot) -> None:
        path = self.old(spot, FILE, SYMLINK)
        if self._opens_at_once(path):
            self.apply("read_bytes", path)

    @rule(spot=spots, size=sizes)
    def truncate(self, spot: Spot, size: int) -> None:
        self.apply("truncate", self.old(spot, FILE), size)

    @rule(spot=spots)
    def listdir(self, spot: Spot) -> None:
        path = self.old(spot, DIR)
        if self._opens_at_once(path):
            self.apply("listdir", path)

    @rule(spot=spots)
    def readlink(self, spot: Spot) -> None:
        self.apply("readlink", self.old(spot, SYMLINK))

    # Open files

    @precondition(lambda self: len(self.world.open) < 5)
    @rule(spot=spots, flags=openings, mode=modes)
    def open_file(self, spot: Spot, flags: int, mode: int) -> None:
        path = self.new(spot) if flags & os.O_CREAT else self.old(spot, FILE)
        node = self.world.model
        try:
            found = node.resolve(path, follow=not flags & (os.O_NOFOLLOW | os.O_EXCL))[2]
        except OSError:
            found = None
        reads_directory = found is not None and found.is_dir and not flags & ~os.O_NOFOLLOW
        if self._opens_at_once(path) and not reads_directory:
            self.world.open_file("open", path, flags, mode | 0o600)

    @precondition(lambda self: len(self.world.open) < 5 and not self.fusepy)
    @rule(spot=spots, mode=modes)
    def tmpfile(self, spot: Spot, mode: int) -> None:
        self.world.open_file("tmpfile", self.old(spot, DIR), os.O_RDWR, mode)

    @precondition(lambda self: any(not opened.model.node.nlink for opened in self.world.open) and not self.fusepy)
    @rule(spot=spots, number=st.integers(0, 9))
    def link_file(self, spot: Spot, number: int) -> None:
        """Files made by tmpfile only: what was unlinked gets no name again (ENOENT, which our path API cannot know)."""
        made = [opened for opened in self.world.open if not opened.model.node.nlink and opened.model.node.without_name]
        if made:
            self.apply("link_file", made[number % len(made)], self.new(spot))

    @precondition(lambda self: self.world.open)
    @rule(number=st.integers(0, 9), data=contents, offset=sizes)
    def pwrite(self, number: int, data: bytes, offset: int) -> None:
        self.apply("pwrite", self.file(number), data, offset)

    @precondition(lambda self: self.world.open)
    @rule(number=st.integers(0, 9), size=sizes, offset=sizes)
    def pread(self, number: int, size: int, offset: int) -> None:
        self.apply("pread", self.file(number), size, offset)

    @precondition(lambda self: self.world.open)
    @rule(number=st.integers(0, 9), size=sizes)
    def ftruncate(self, number: int, size: int) -> None:
        self.apply("truncate", self.file(number), size)

    @precondition(lambda self: self.world.open and not self.fusepy)
    @rule(
        number=st.integers(0, 9), offset=sizes, length=sizes,
        mode=st.sampled_from([0, KEEP_SIZE, PUNCH_HOLE | KEEP_SIZE, ZERO_RANGE, ZERO_RANGE | KEEP_SIZE]),
    )  # fmt: skip
    def fallocate(self, number: int, mode: int, offset: int, length: int) -> None:
        self.apply("fallocate", self.file(number), mode, offset, length)

    @precondition(lambda self: self.world.open)
    @rule(one=st.integers(0, 9), other=st.integers(0, 9), offset=sizes, to=sizes, length=sizes)
    def copy(self, one: int, other: int, offset: int, to: int, length: int) -> None:
        self.apply("copy_range", self.file(one), offset, self.file(other), to, length)

    @precondition(lambda self: self.world.open)
    @rule(number=st.integers(0, 9))
    def close_file(self, number: int) -> None:
        self.world.close_file(self.file(number))

    # The whole

    @precondition(lambda self: self.steps > self.last_remount + 3)
    @rule()
    def remount(self) -> None:
        self.last_remount = self.steps
        self.world.remount()

    @precondition(lambda self: self.steps > self.last_remount + 5 and not self.world.has_links and self._no_links_now())
    @rule()
    def freeze(self) -> None:
        """Hard links are kept by the work directory, which does not become a lower layer."""
        self.last_remount = self.steps
        self.world.freeze()

    def _no_links_now(self) -> bool:
        return all(node.is_dir or node.nlink == 1 for _, node in self.world.model.paths())


def machine(name: str, kinds: Kinds, mounter: Mounter) -> Callable[[], Machine]:
    return type(name, (Machine,), {"kinds": kinds, "mounter": mounter})
