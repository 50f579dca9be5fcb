"""A crash at every step of every operation leaves the old tree or the new one, and the next mount goes on from there.

A child process does the operation and ends, as by kill -9, right before the Nth change of a real layer, for every N.
The parent opens what is left: names, contents, owners, link counts and the times of files are all as before or all as
after (a hard link's count may be higher); when they are as before, the operation can be done again and gives what it
should.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
from contextlib import contextmanager

import pytest

from tests.contract import layers, tree
from tests.contract.conftest import require
from tests.contract.layers import WHITEOUT, Dir, File, Link, Special, Symlink
from tests.contract.subject import Core
from tests.model import EXCHANGE, Model
from unionfs import events

pytestmark = pytest.mark.apart

TOP = {
    "f": File(b"content of f" * 500, 0o640, 1, 2, {b"user.a": b"1"}), "d/a": b"a", "d/e/x": b"x", "l": Symlink("f"),
    "one": b"hard", "d/two": Link("one"), "d/e/three": Link("one"), "p": Special(stat.S_IFIFO | 0o600), "g": b"g",
    "opaque": Dir(opaque=True), "opaque/o": b"", "emptied/m": WHITEOUT,
}  # fmt: skip
BOTTOM = {"d/b": b"b", "d/e/y": b"y", "f": b"older", "emptied/m": b"", "opaque/hidden": b"", "low/z": b"z"}
UPPER = {"up": b"up", "new/n": b"n", "d/up": b"up", "g": b"upper g", "emptied": Dir(), "gone": WHITEOUT}
EMPTIED = [("unlink", "low/z"), ("unlink", "d/e/x"), ("unlink", "d/e/y"), ("unlink", "d/e/three")]
"""Done beforehand where an empty directory is wanted: whiteouts have emptied it."""
COPIED = [("chmod", "d/two", 0o600)]
"""Done beforehand where a copied-up hard link is wanted."""


DONE = 200


def write(u, path):
    with u.open(path, os.O_RDWR) as file:
        file.pwrite(b"W", 3)


def create(u, path):
    u.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600).close()


def cut(u, path):
    u.open(path, os.O_WRONLY | os.O_TRUNC).close()


def give_name(u, path):
    with u.tmpfile("d", os.O_RDWR, 0o600) as file:
        u.link_file(file, path)


OPERATIONS = {
    "chmod": ([], "chmod", "f", 0o600),
    "chmod below": ([], "chmod", "d/e/x", 0o600),
    "chmod of a directory": ([], "chmod", "d/e", 0o700),
    "chmod of a hard link": ([], "chmod", "d/two", 0o600),
    "chown of a symbolic link": ([], "chown", "l", 5, 6),
    "chown of a fifo": ([], "chown", "p", 5, 6),
    "utime": ([], "utime", "d/a", 1, 2),
    "setxattr": ([], "setxattr", "f", b"user.b", b"2"),
    "removexattr": ([], "removexattr", "f", b"user.a"),
    "truncate": ([], "truncate", "f", 100),
    "truncate to nothing": ([], "truncate", "f", 0),
    "open with O_TRUNC": ([], cut, "f"),
    "write": ([], write, "f"),
    "write to a hard link": ([], write, "d/two"),
    "write to a copied hard link": (COPIED, write, "one"),
    "create": ([], create, "d/created"),
    "create over a whiteout": ([("unlink", "d/a")], create, "d/a"),
    "mkdir": ([], "mkdir", "d/made", 0o750),
    "mkdir over a deleted directory": ([*EMPTIED, ("rmdir", "low")], "mkdir", "low"),
    "symlink over a whiteout": ([("unlink", "d/a")], "symlink", "target", "d/a"),
    "mknod": ([], "mknod", "d/p", stat.S_IFIFO | 0o600),
    "link": ([], "link", "f", "d/linked"),
    "link of a hard link": ([], "link", "one", "d/linked"),
    "link of a copied hard link": (COPIED, "link", "one", "d/linked"),
    "link of an upper file over a whiteout": ([("unlink", "d/a")], "link", "up", "d/a"),
    "give a name": ([], give_name, "d/named"),
    "unlink in the lower": ([], "unlink", "d/a"),
    "unlink in both": ([], "unlink", "g"),
    "unlink in the upper": ([], "unlink", "up"),
    "unlink one name": ([], "unlink", "one"),
    "unlink one name of a copy": (COPIED, "unlink", "d/two"),
    "unlink another name of a copy": (COPIED, "unlink", "one"),
    "unlink the last name": ([("unlink", "d/two"), ("unlink", "d/e/three")], "unlink", "one"),
    "unlink the last name of a copy": ([*COPIED, ("unlink", "d/two"), ("unlink", "one")], "unlink", "d/e/three"),
    "rmdir in the lower": (EMPTIED, "rmdir", "low"),
    "rmdir of a merged one": (EMPTIED, "rmdir", "emptied"),
    "rmdir of an emptied one": (EMPTIED, "rmdir", "d/e"),
    "rename": ([], "rename", "f", "d/renamed"),
    "rename onto a file": ([], "rename", "f", "d/a"),
    "rename onto an upper file": ([], "rename", "d/a", "g"),
    "rename of an upper file over a whiteout": ([("unlink", "d/a")], "rename", "up", "d/a"),
    "rename of a hard link": ([], "rename", "d/two", "two"),
    "rename onto a hard link": ([], "rename", "up", "one"),
    "rename onto a copied hard link": (COPIED, "rename", "up", "d/two"),
    "rename of a lower directory": ([], "rename", "d/e", "e"),
    "rename of a merged directory": ([], "rename", "d", "dd"),
    "rename of a renamed directory": ([("rename", "d", "dd")], "rename", "dd", "low/dd"),
    "rename of a new directory over a deleted one": ([*EMPTIED, ("rmdir", "low")], "rename", "new", "low"),
    "rename onto an emptied directory": (EMPTIED, "rename", "opaque", "d/e"),
    "rename of a new directory onto a merged empty one": (EMPTIED, "rename", "new", "emptied"),
    "exchange of files": ([], "rename", "f", "d/a", EXCHANGE),
    "exchange of an upper file and a lower directory": ([], "rename", "up", "d/e", EXCHANGE),
    "exchange of directories": ([], "rename", "d", "low", EXCHANGE),
    "exchange with a new directory": ([], "rename", "new", "d/e", EXCHANGE),
    "exchange of a hard link": ([], "rename", "one", "d/a", EXCHANGE),
}


@pytest.fixture(scope="module")
def lowers(tmp_path_factory):
    """For each dialect the two lower layers, shared by all: nobody changes them."""
    built = {}
    for dialect in ("aufs", "overlay"):
        built[dialect] = [tmp_path_factory.mktemp("lower") for _ in range(2)]
        for path, layer in zip(built[dialect], (TOP, BOTTOM), strict=True):
            layers.build(path, layer, dialect)
    return built


class Case:
    def __init__(self, place, lowers, dialect, before, operation):
        self.place, self.lowers, self.dialect = place, lowers, dialect
        self.before, self.operation = before, operation

    @contextmanager
    def open(self):
        union = Core(self.lowers, self.place / "upper", self.place / "work", self.dialect)
        union.open_union()
        try:
            yield union
        finally:
            union.close()

    def fresh(self):
        for name in ("upper", "work"):
            shutil.rmtree(self.place / name, ignore_errors=True)
            (self.place / name).mkdir(0o755)
        layers.build(self.place / "upper", UPPER, self.dialect)
        if self.before:
            with self.open() as union:
                for step in self.before:
                    do(union, *step)

    def crash(self, step: int) -> int:
        """Do the operation in a child that ends before the change number `step`; DONE when there is no such change."""
        child = os.fork()
        if child == 0:
            try:
                self._in_child(step)
            finally:
                os._exit(255)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def _in_child(self, step: int) -> None:
        changes = 0

        def count(kind, fields):
            nonlocal changes
            if kind == "change":
                changes += 1
                if changes == step:
                    os._exit(step)

        with self.open() as union:
            events.listeners.append(count)
            do(union, *self.operation)
            os._exit(DONE)


def do(target, operation, *arguments):
    if callable(operation):
        operation(target, *arguments)
    else:
        getattr(target, operation)(*arguments)


def expectations(case) -> tuple[dict, dict]:
    model: Model = layers.merged([UPPER, TOP, BOTTOM])
    for step in case.before:
        do(model, *step)
    old = tree.of_model(model)
    do(model, *case.operation)
    return old, tree.of_model(model)


def differences(expected, got):
    """A directory's times may be those of a step towards what did not happen, and the link count of a lower hard link
    too high, as on overlayfs: it is written beside the names, and one that is too low would lose the file."""
    return [line for line in tree.differences(expected, got) if not (PRESENT.search(line) or is_too_high(line))]


PRESENT = re.compile(" time: .*got -1$")
COUNT = re.compile(r" nlink: expected (\d+), got (\d+)$")


def is_too_high(line):
    count = COUNT.search(line)
    return count is not None and int(count[2]) > int(count[1])


@pytest.mark.parametrize("dialect", ["aufs", "overlay"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_crash_at_every_step(name, dialect, lowers, tmp_path):
    require("core")
    before, *operation = OPERATIONS[name]
    case = Case(tmp_path, lowers[dialect], dialect, before, operation)
    old, new = expectations(case)
    step, reached = 0, 0
    while reached != DONE:
        step += 1
        case.fresh()
        reached = case.crash(step)
        assert reached in (step, DONE), "the operation failed in the child"
        with case.open() as union:
            got = tree.of(union)
            assert reached != DONE or not any(map(is_too_high, tree.differences(new, got))), "nothing crashed"
            if differences(new, got):
                wrong = differences(old, got)
                assert not wrong, f"at change {step}, neither old: {wrong}, nor new: {differences(new, got)}"
                assert reached != DONE, "acknowledged, and not there"
                do(union, *operation)
                assert differences(new, tree.of(union)) == [], f"done again after the crash at change {step}"
        assert os.listdir(tmp_path / "work" / "work") == []
