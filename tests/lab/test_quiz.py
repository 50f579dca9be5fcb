"""The quiz: its answers, carried out once more by a shell on the kernel's overlayfs and on a mount of ours."""

from __future__ import annotations

import os
import subprocess
from itertools import islice
from pathlib import Path

import pytest

from tests.cli.running import needs_mount, needs_root, unionfs
from unionfs.lab.quiz import Question, questions
from unionfs.lab.stacks import make, shown_at
from unionfs.linux import mounts

MANY = 40


def carried_out(question: Question, merged: Path) -> list[list[str]]:
    """What `find` shows after each command."""
    shown = []
    for step in question.steps:
        subprocess.run(["bash", "-ec", step.command], cwd=merged, check=True)
        shown.append([f"{path}/" if what == "directory" else path for path, what in shown_at(merged).items()])
    return shown


@needs_root
def test_a_shell_on_overlayfs_gives_the_same_answers(tmp_path: Path) -> None:
    for number, question in enumerate(islice(questions(7), MANY)):
        place = tmp_path / str(number)
        layers = make([{}, *question.lowers], place, "overlay")
        for name in ("work", "merged"):
            (place / name).mkdir()
        options = f"lowerdir={layers[1]}:{layers[2]},upperdir={layers[0]},workdir={place}/work,redirect_dir=on"
        mounts.mount(b"overlay", os.fsencode(place / "merged"), b"overlay", 0, options.encode())
        try:
            assert carried_out(question, place / "merged") == [step.shown for step in question.steps], question
        finally:
            mounts.unmount(os.fsencode(place / "merged"))


@needs_mount
@pytest.mark.stress
def test_a_shell_on_a_mount_leaves_the_same_upper(tmp_path: Path) -> None:
    for number, question in enumerate(islice(questions(8), 5)):
        place = tmp_path / str(number)
        layers = make([{}, *question.lowers], place)
        for name in ("work", "merged"):
            (place / name).mkdir()
        options = f"lowerdir={layers[1]}:{layers[2]},upperdir={layers[0]},workdir={place}/work"
        assert unionfs("mount", place / "merged", "-o", options).status == 0
        try:
            assert carried_out(question, place / "merged") == [step.shown for step in question.steps]
        finally:
            assert unionfs("umount", place / "merged").status == 0
        found = [
            os.path.relpath(os.path.join(where, name), layers[0]) + ("/" if name in directories else "")
            for where, directories, files in os.walk(layers[0])
            for name in (*directories, *files)
        ]
        assert sorted(found) == question.steps[-1].upper, question


def test_a_seed_gives_the_same_questions() -> None:
    first, again, other = (unionfs("quiz", "-s", seed, "-n", "3").out for seed in ("1", "1", "2"))
    assert first == again != other and first.count("Question") == 3
    assert first.endswith("The answers: unionfs quiz -s 1 -n 3 -c\n")
    answers = unionfs("quiz", "-s", "1", "-n", "3", "-c").out
    assert "?\n  ?" in first and "?\n  ?" not in answers
    for line in first.splitlines()[:8]:
        assert line in answers


def test_reversed() -> None:
    asked, answered = (unionfs("quiz", "-s", "3", "-r", *more).out for more in ((), ("-c",)))
    assert asked.count("  $ ?\n") == 3 and "  $ ?" not in answered
    assert [line for line in asked.splitlines() if line.startswith("      ")] == [
        line for line in answered.splitlines() if line.startswith("      ")
    ]


def test_it_has_no_end() -> None:
    kinds = {step.command.split()[0] for question in islice(questions(0), 200) for step in question.steps}
    assert kinds == {"echo", "rm", "mv", "mkdir", "chmod"}


def test_what_is_no_number() -> None:
    done = unionfs("quiz", "-n", "0")
    assert done.status == 2 and "must be 1 at least" in done.err
