"""Lab 1: stacks of up to three layers, the smallest first, compared with the project's own union."""

from unionfs.lab.checks import check, compare
from unionfs.lab.stacks import DIR, WHITEOUT, cases

FILE = [{}, {"f": "text"}]
FILES = [*FILE, {"f": WHITEOUT}]
DIRECTORIES = [{}, {"d": DIR}, {"d/a": "text"}, {"d/b": "text"}]
ALL = [*FILES, {"f": DIR}, {"f/a": "text"}, {"f/a": WHITEOUT}, {"f/b": "text"}]


def numbered(stacks):
    """Each file says which layer it is of."""
    for stack in stacks:
        yield [
            {path: f"layer {index}" if what == "text" else what for path, what in sheet.items()}
            for index, sheet in enumerate(stack)
        ]


@check(2)
def the_topmost_file(student):
    """A file is given by the topmost layer that has it."""
    compare(student, numbered(cases(FILE, 3)))


@check(2)
def whiteouts(student):
    """A whiteout ends the search: what is below it is not shown."""
    compare(student, numbered(cases(FILES, 3)))


@check(3)
def merged_directories(student):
    """A directory collects the directories of its name from the layers below."""
    compare(student, numbered(cases(DIRECTORIES, 3)))


@check(3)
def everything_at_once(student):
    """Files, directories and whiteouts of one name, in three layers."""
    compare(student, numbered(cases(ALL, 3)))
