"""Lab 2: listings of small stacks; rmdir, which asks whether one is empty; and how much is read for that."""

import errno

from unionfs.lab.checks import Wrong, check, compare, union_of
from unionfs.lab.stacks import DIR, WHITEOUT, cases, draw

NAMES = [{}, {"a": "text"}, {"b": "text"}, {"a": "text", "b": "text"}]
MARKS = [*NAMES, {"a": WHITEOUT}, {"a": WHITEOUT, "b": "text"}]
DEEP = [{}, {"d": DIR}, {"d/a": "text"}, {"d/a": WHITEOUT}, {"d": WHITEOUT}]


@check(2)
def each_name_once(student):
    """The topmost layer that has a name gives it, and it is listed once."""
    compare(student, cases(NAMES, 3))


@check(3)
def whiteouts_take_names_away(student):
    """A whiteout hides what is below it, and nothing above it."""
    compare(student, cases(MARKS, 3))


@check(2)
def directories_in_directories(student):
    """The same one level down, where a whole directory may be deleted."""
    compare(student, cases(DEEP, 3))


@check(2)
def a_directory_is_empty_when_it_shows_nothing(student):
    """rmdir(2) succeeds on a directory whose names are all deleted, and on no other."""
    for stack in cases(DEEP, 3):
        stack = [{"x": "text"}, *stack]
        results = []
        for union in (student.TrueUnion, student.Union):
            with union_of(union, stack, writable=True) as made:
                try:
                    made.rmdir("d")
                    results.append("is removed")
                except OSError as error:
                    results.append(errno.errorcode[error.errno])
        right, mine = results
        if right != mine:
            raise Wrong(f"rmdir d: {mine}, should be: {right}, over\n{draw(stack)}")


@check(1)
def no_more_is_read_than_needed(student):
    """is_empty stops at the first name that is shown."""
    read = []

    class Counting:
        def read(self, directory):
            read.append(directory)
            return ({b"name": 8}, set()) if directory == 0 else ({}, set())

    if student.module.is_empty(Counting(), [0, 1, 2]):
        raise Wrong("a directory with a name in it was said to be empty")
    if read != [0]:
        raise Wrong(f"the first of three directories has a name, and {len(read)} were read")
