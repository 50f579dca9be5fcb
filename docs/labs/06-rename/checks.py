"""Lab 6: redirects in small stacks, renames in a union, and mv over a union that answers EXDEV."""

import errno
import os

from unionfs.lab.checks import Wrong, check, compare, expect, union_of
from unionfs.lab.stacks import OPAQUE, REDIRECT, WHITEOUT, cases, draw, shown_by, told

NAMES = [{}, {"old/a": "text"}, {"new": f"{REDIRECT}old"}, {"new": f"{REDIRECT}old", "old": WHITEOUT}]
PATHS = [{}, {"p/old/a": "text"}, {"q/new": f"{REDIRECT}/p/old"}, {"q/new": OPAQUE}, {"q/new/b": "text"}]


@check(2)
def to_another_name(student):
    """A redirect without a slash: below, the directory has that name, in the same parent."""
    compare(student, cases(NAMES, 3))


@check(2)
def to_another_place(student):
    """A redirect with a slash: below, it is at that path of the layers there."""
    compare(student, cases(PATHS, 3))


@check(3)
def a_rename_and_what_it_shows(student):
    """Renamed twice, moved, and mounted again: the union shows what a plain directory would."""
    stack = [{}, {"d/a": "one", "d/e/b": "two", "other/c": "three"}]
    deeds = [("d", "x"), ("x/e", "other/e"), ("x", "other/e/x"), ("other", "o")]
    with union_of(student.Union, stack, writable=True) as made:
        for source, target in deeds:
            made.rename(source, target)
        mine, place = shown_by(made), made.place
        made.close()
        with student.Union(lower=[place / "0", place / "1"]) as again:
            later = shown_by(again)
    right = {
        "o": "directory", "o/c": "'three'", "o/e": "directory", "o/e/b": "'two'", "o/e/x": "directory",
        "o/e/x/a": "'one'",
    }  # fmt: skip
    for when, found in (("", mine), (" and mounting again", later)):
        if found != right:
            told_deeds = "; ".join(f"mv {source} {target}" for source, target in deeds)
            raise Wrong(f"over\n{draw(stack)}\nafter {told_deeds}{when}\n"
                        f"yours shows    {told(found)}\nshould show    {told(right)}")  # fmt: skip


class Refusing:
    """A union that renames no directory with a lower part, as the kernel's overlayfs without redirect_dir."""

    def __init__(self, union, lower):
        self._union, self._lower = union, lower
        self.renames = 0

    def __getattr__(self, name):
        return getattr(self._union, name)

    def rename(self, source, target):
        self.renames += 1
        if os.path.isdir(self._lower / source):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), source)
        self._union.rename(source, target)


@check(2)
def mv_copies_where_it_must(student):
    """move over a union that answers EXDEV for lower directories: all of it is at its new place, and only there."""
    stack = [{}, {"d/a": "one", "d/e/b": "two", "f": "three"}]
    with union_of(student.TrueUnion, stack, writable=True) as made:
        made.chmod("d/a", 0o640)
        made.chmod("d/e", 0o750)
        refusing = Refusing(made, made.place / "1")
        student.module.move(refusing, "d", "x")
        student.module.move(refusing, "f", "g")
        expect("what is shown", shown_by(made), {
            "g": "'three'", "x": "directory", "x/a": "'one'", "x/e": "directory", "x/e/b": "'two'",
        })  # fmt: skip
        expect("the mode of x/a", oct(made.stat("x/a").mode & 0o7777), oct(0o640))
        expect("the mode of x/e", oct(made.stat("x/e").mode & 0o7777), oct(0o750))


@check(1)
def mv_copies_nothing_it_need_not(student):
    """move over a union that renames: one rename, and nothing else."""
    with union_of(student.TrueUnion, [{}, {"d/a": "one"}], writable=True) as made:
        refusing = Refusing(made, made.place / "nothing")
        student.module.move(refusing, "d", "x")
        expect("renames", refusing.renames, 1)
        expect("copies in the upper", os.listdir(made.place / "0" / "x"), [".wh..wh..redirect"])
    with union_of(student.TrueUnion, [{}, {"d/a": "one"}], writable=True) as made:
        try:
            student.module.move(Refusing(made, made.place / "nothing"), "none", "x")
        except FileNotFoundError:
            return
        raise Wrong("moving a name that is not there must raise FileNotFoundError")
