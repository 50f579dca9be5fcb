"""The labs: each starter fails; and the grader, its limits and its formats.

That each solution has all points is shown by the commands of its page: tests/test_readme.py.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.cli.running import can_mount, unionfs
from tests.unprivileged import user
from unionfs.lab import grade, kernel, ladder
from unionfs.lab.ladder import Lab
from unionfs.lab.stacks import DIR, OPAQUE, WHITEOUT, Stack, cases, draw
from unionfs.linux import mounts

LABS = ladder.labs()
NAMES = [lab.path.name for lab in LABS]


def started(lab: Lab, place: Path, solved: bool) -> Path:
    directory = place / "lab"
    ladder.start(lab.number, str(directory))
    if solved:
        shutil.copytree(lab.path / "solution", directory, dirs_exist_ok=True)
    return directory


def need(lab: Lab) -> None:
    if lab.needs and not can_mount:
        pytest.skip("needs root and /dev/fuse")


@pytest.mark.parametrize("lab", LABS, ids=NAMES)
def test_a_starter_fails(lab: Lab, tmp_path: Path) -> None:
    need(lab)
    directory = started(lab, tmp_path, solved=False)
    for number, check in enumerate(grade.checks_of(lab)):
        result = grade.run(lab, directory, number, check)
        assert result.score == 0 and result.output, check.name


@pytest.mark.parametrize("number", [1, 2, 3, 5, 6])
def test_the_projects_own_code_has_the_points_too(number: int, tmp_path: Path) -> None:
    """What a lab asks for is what the project does: the student's file defines nothing of it."""
    lab = ladder.find(number)
    directory = started(lab, tmp_path, solved=False)
    solution = (lab.path / "solution" / lab.file).read_text() if number == 6 else ""
    move = solution[solution.find("def move") :] if solution else ""
    (directory / lab.file).write_text(f"import errno\n{move}")
    for index, check in enumerate(grade.checks_of(lab)):
        result = grade.run(lab, directory, index, check)
        assert result.passed, f"{check.name}: {result.output}"


def test_the_first_labs_need_no_privileges() -> None:
    """As an ordinary user, who gets no namespace and no /dev/fuse for it either."""
    program = "import sys; from unionfs.cli.main import main; sys.exit(main(sys.argv[1:]))"
    with user("plain") as run:
        for lab in LABS[:7]:
            place = str(run.folder / lab.path.name)
            done = run(program, "lab", "start", str(lab.number), place)
            assert done.returncode == 0, done.stderr
            shutil.copytree(lab.path / "solution", place, dirs_exist_ok=True)
            done = run(program, "lab", "check", place)
            assert done.returncode == 0 and "10 of 10 points" in done.stdout, done.stdout + done.stderr


def test_every_lab_is_complete() -> None:
    assert [lab.number for lab in LABS] == list(range(12))
    for lab in LABS:
        assert sum(check.points for check in grade.checks_of(lab)) == 10 and len(lab.hints) >= 3
        assert (lab.path / "starter" / lab.file).is_file() and (lab.path / "solution" / lab.file).is_file()
        assert all(check.words.endswith(".") for check in grade.checks_of(lab))


# --- what a student reads


def checked(lab: int, text: str, place: Path, *words: str) -> str:
    directory = started(ladder.find(lab), place, solved=False)
    (directory / ladder.find(lab).file).write_text(text)
    done = unionfs("lab", "check", *words, directory)
    assert done.status == 1 and done.err == ""
    return done.out


def test_the_smallest_case_and_what_the_kernel_does(tmp_path: Path) -> None:
    """A lookup that goes on below a whiteout."""
    text = (ladder.find(1).path / "solution" / "lookup.py").read_text()
    assert "return top\n" in text
    said = checked(1, text.replace("            return top\n", "            continue\n", 1), tmp_path)
    assert "ok   2/2  the topmost file" in said
    assert (
        "         the smallest case that goes wrong, topmost layer first:\n"
        "           layer 0   .wh.f\n"
        "           layer 1   f='layer 1'\n"
        "         yours shows    f (is found, and not listed)\n"
        "         should show    nothing\n"
    ) in said
    if kernel.show([{"f": "x"}]) is not None:
        assert "         the kernel's overlayfs shows    nothing\n" in said


@pytest.mark.parametrize(
    "text, words",
    [
        ("def find(", "lookup.py, line 1: SyntaxError"),
        ("def find(stack, parents, name):\n    return parents[99]\n", "lookup.py, line 2, in find: IndexError"),
        ("import os\nos._exit(3)\n", "the process ended with status 3 before it was done"),
        ("print('here I am')\ndef find(*words):\n    return 1\n", "it printed:\n         here I am"),
        ("def find(*words):\n    raise SystemExit('enough')\n", "SystemExit: enough"),
    ],
)
def test_what_goes_wrong_in_their_file(text: str, words: str, tmp_path: Path) -> None:
    said = checked(1, text, tmp_path)
    assert words in said and "0 of 10 points" in said


def test_a_loop_without_an_end(tmp_path: Path) -> None:
    said = checked(1, "def find(*words):\n    while True:\n        pass\n", tmp_path, "--limit", "0.5")
    assert said.count("it took longer than 0.5 seconds") == 4


def test_gradescope(tmp_path: Path) -> None:
    """https://gradescope-autograders.readthedocs.io/en/latest/specs/"""
    told = json.loads(checked(0, (ladder.find(0).path / "starter" / "answers.py").read_text(), tmp_path, "--json"))
    assert told["score"] == 0 and told["execution_time"] > 0 and len(told["tests"]) == 6
    first = told["tests"][0]
    assert first.keys() == {"name", "score", "max_score", "status", "output"}
    assert first["status"] == "failed" and first["max_score"] == 2 and "has no answer yet" in first["output"]


def test_start_hint_and_solution(tmp_path: Path) -> None:
    done = unionfs("lab", "start", "1", "mine", cwd=tmp_path)
    assert done.status == 0 and "write mine/lookup.py" in done.out
    assert {path.name for path in (tmp_path / "mine").iterdir()} == {
        "README.md", "README.ru.md", "lookup.py", ".lab.json",
    }  # fmt: skip
    hints = [unionfs("lab", "hint", cwd=tmp_path / "mine").out for _ in range(4)]
    assert [hint.split(":")[0] for hint in hints] == ["hint 1 of 3", "hint 2 of 3", "hint 3 of 3", "hint 3 of 3"]
    assert "def find(stack, parents, name)" in unionfs("lab", "solution", "mine", cwd=tmp_path).out
    assert unionfs("lab", "start", "1", "mine", cwd=tmp_path).status == 1
    listed = unionfs("lab", "list").out
    assert len(listed.splitlines()) == 13 and "Six opcodes over /dev/fuse" in listed


@pytest.mark.parametrize(
    "words, why",
    [
        (("start", "12", "x"), "lab 12: there are labs 0 to 11\n  unionfs lab list"),
        (("start", "x", "y"), "invalid int value: 'x'"),
        (("check", "nowhere"), "is no lab that was started"),
        (("hint", "."), "is no lab that was started"),
        (("chek", "."), 'did you mean "check"?'),
    ],
)
def test_what_cannot_be_done(words: tuple[str, ...], why: str, tmp_path: Path) -> None:
    done = unionfs("lab", *words, cwd=tmp_path)
    assert done.status in (1, 2) and why in done.err and not (tmp_path / "x").exists()


# --- small stacks


def test_stacks_come_smallest_first() -> None:
    found = list(cases([{}, {"f": "x"}, {"d": DIR, "d/a": "x"}], 2))
    sizes = [sum(map(len, stack)) for stack in found]
    assert len(found) == 3 + 9 and sizes == sorted(sizes) and found[0] == ({},)


def test_a_drawing() -> None:
    stack: Stack = [{"f": WHITEOUT, "d/x": WHITEOUT}, {"d": OPAQUE, "f": "x"}, {}]
    assert draw(stack).splitlines() == [
        "  layer 0   .wh.f   d/.wh.x", "  layer 1   d/ (opaque)   f='x'", "  layer 2   (empty)",
    ]  # fmt: skip


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for the kernel's overlayfs")
def test_the_kernel_is_asked() -> None:
    before = [entry.point for entry in mounts.table()]
    assert kernel.show([{"f": WHITEOUT, "d": OPAQUE}, {"f": "x", "d/a": "x", "g": "y"}]) == {
        "d": "directory",
        "g": "'y'",
    }
    assert [entry.point for entry in mounts.table()] == before
