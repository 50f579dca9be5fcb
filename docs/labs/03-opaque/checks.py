"""Lab 3: stacks with opaque directories, and a directory that is deleted and made again."""

from unionfs.lab.checks import Wrong, check, compare, union_of
from unionfs.lab.stacks import DIR, OPAQUE, WHITEOUT, cases, draw, shown_by, told

SHEETS = [{}, {"d": DIR}, {"d/a": "text"}, {"d": OPAQUE}, {"d": OPAQUE, "d/b": "text"}]
DEEP = [{}, {"d/e/a": "text"}, {"d/e": OPAQUE}, {"d": OPAQUE, "d/e/b": "text"}, {"d": WHITEOUT}]


@check(4)
def an_opaque_directory_hides_those_below(student):
    """Its own names are shown, and none of the directories of its name in the layers below."""
    compare(student, cases(SHEETS, 3))


@check(3)
def in_the_middle_of_a_path(student):
    """Opaque directories in merged ones, and the other way round."""
    compare(student, cases(DEEP, 3))


@check(3)
def a_directory_that_is_made_again_is_new(student):
    """rm -r, then mkdir of the same name: nothing of the old one comes back, in the union's next life either."""
    stack = [{}, {"d/a": "old", "d/b": "old"}]
    results = []
    for union in (student.TrueUnion, student.Union):
        with union_of(union, stack, writable=True) as made:
            for name in ("a", "b"):
                made.unlink(f"d/{name}")
            made.rmdir("d")
            made.mkdir("d")
            made.write_bytes("d/c", b"new")
            place, before = made.place, shown_by(made)
            made.close()
            layers = [place / "0", place / "1"]
            with union(lower=layers) as again:
                results.append((before, shown_by(again)))
    for when, right, mine in zip(("", " when it is mounted again"), *results, strict=True):
        if mine != right:
            after = f"after rm -r d; mkdir d; echo new > d/c{when}"
            raise Wrong(f"over\n{draw(stack)}\n{after}\nyours shows    {told(mine)}\nshould show    {told(right)}")
