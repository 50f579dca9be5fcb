"""Completion, by the shells that are installed: bash and zsh are typed at, fish is asked."""

from __future__ import annotations

import os
import pty
import select
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.running import need, run, unionfs
from unionfs.cli.main import PLACES

SHELLS = ("bash", "zsh", "fish")
COMMANDS = [name for name, place in PLACES.items() if place.summary and " " not in name]


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("completion")
    for shell in SHELLS:
        result = unionfs("completion", shell)
        assert (result.status, result.err) == (0, "")
        (place / shell).write_text(result.out)
    return {shell: place / shell for shell in SHELLS}


SETTINGS = {
    "bash": (["--norc", "--noprofile", "-i"], "bind 'set enable-bracketed-paste off'; stty -echo; PS1= PS2="),
    "zsh": (["-f", "-i"], "unset zle_bracketed_paste; PS1= RPS1=; autoload -U compinit; compinit -D -u"),
}
"""How a shell is started without the user's settings, and what it is told first."""


class Shell:
    """A shell at a terminal. Its `unionfs` is a function that says what it was given."""

    def __init__(self, name: str, script: Path, place: Path) -> None:
        ours, theirs = pty.openpty()
        words, first = SETTINGS[name]
        environment = {"PATH": os.environ["PATH"], "TERM": "dumb", "INPUTRC": "/dev/null", "HOME": str(place)}
        self.process = subprocess.Popen(
            [name, *words], cwd=place, env=environment, stdin=theirs, stdout=theirs, stderr=theirs,
            start_new_session=True,
        )  # fmt: skip
        os.close(theirs)
        self.terminal = ours
        self.type(first)
        self.type(f"source {script}; unionfs() {{ printf '<<%s>>' \"$@\"; echo END; }}; echo RE''ADY")
        self.read_to("READY\r\n")

    def type(self, line: str) -> None:
        os.write(self.terminal, line.encode() + b"\n")

    def read_to(self, end: str) -> str:
        told = ""
        while end not in told:
            assert select.select([self.terminal], [], [], 30)[0], f"the shell said nothing more after {told!r}"
            told += os.read(self.terminal, 4096).decode()
        return told

    def complete(self, typed: str) -> list[str]:
        """The words after `unionfs` once the keys of `typed` (a tab among them) and Enter were hit."""
        self.type(f"unionfs {typed}")
        told = self.read_to(">>END\r\n")
        return told[told.index("<<") + 2 : told.rindex(">>END")].split(">><<")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.terminal)


@pytest.fixture(scope="module", params=sorted(SETTINGS))
def complete(
    request: pytest.FixtureRequest, scripts: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], list[str]]]:
    need(request.param, request.param)
    place = tmp_path_factory.mktemp("place")
    (place / "a directory" / "inside").mkdir(parents=True)
    (place / "notes").touch()
    shell = Shell(request.param, scripts[request.param], place)
    yield shell.complete
    shell.close()


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("mou\t", ["mount"]),
        ("comp\tz\t", ["completion", "zsh"]),
        ("--v\t", ["--version"]),
        ("doctor --ins\t", ["doctor", "--install-helper"]),
        ("umount --l\tn\t", ["umount", "--lazy", "notes"]),
        ("mount --engine fu\t", ["mount", "--engine", "fusepy"]),
        ("mount --engine=fu\t", ["mount", "--engine=fusepy"]),
        ("mount n\t", ["mount", "notes"]),
        ("mount a\t", ["mount", "a directory"]),
        ("mount m -o low\t", ["mount", "m", "-o", "lowerdir="]),
        ("mount m -o lowerdir=n\t", ["mount", "m", "-o", "lowerdir=notes"]),
        ("mount m -o lowerdir=/x,upp\t", ["mount", "m", "-o", "lowerdir=/x,upperdir="]),
        ("mount m -o lowerdir=/x:/et\t", ["mount", "m", "-o", "lowerdir=/x:/etc"]),
        ("mount m -o ro,dialect=ov\t", ["mount", "m", "-o", "ro,dialect=overlay"]),
        ("mount m -o ro,nosu\t", ["mount", "m", "-o", "ro,nosuid"]),
        ("mount -o vol\t,userx\t", ["mount", "-o", "volatile,userxattr"]),
    ],
)
def test_keys(complete: Callable[[str], list[str]], typed: str, words: list[str]) -> None:
    assert [word.rstrip("/") for word in complete(typed)] == words


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command(complete: Callable[[str], list[str]], command: str) -> None:
    assert complete(f"{command}\t --hel\t") == [command, "--help"]


def test_the_script_defines_but_does_not_run_anything(scripts: dict[str, Path]) -> None:
    result = run([need("bash", "bash"), "-c", f"set -eu; source {scripts['bash']}"])
    assert result == (0, "", "")


@pytest.mark.parametrize(("shell", "check"), [("bash", "-n"), ("zsh", "-n"), ("fish", "--no-execute")])
def test_the_shell_reads_its_script(scripts: dict[str, Path], shell: str, check: str) -> None:
    assert run([need(shell, shell), check, scripts[shell]]) == (0, "", "")


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("unionfs mou", ["mount"]),
        ("unionfs completion z", ["zsh"]),
        ("unionfs mount --engine fu", ["fusepy"]),
        ("unionfs doctor --unin", ["--uninstall-helper"]),
        ("unionfs mount -o vola", ["volatile"]),
    ],
)
def test_fish_completes(scripts: dict[str, Path], typed: str, words: list[str]) -> None:
    script = f"source {scripts['fish']}; complete -C '{typed}'"
    result = run([need("fish", "fish"), "--no-config", "-c", script], environment={"HOME": str(scripts["fish"].parent)})
    assert [line.split("\t")[0] for line in result.out.splitlines()] == words


@pytest.mark.parametrize("shell", SHELLS)
def test_every_option_is_in_every_script(scripts: dict[str, Path], shell: str) -> None:
    text = scripts[shell].read_text()
    assert all(command in text for command in COMMANDS)
    assert all(word in text for word in ("lowerdir", "upperdir", "userxattr", "nosuid", "engine", "install-helper"))


def test_another_shell() -> None:
    result = unionfs("completion", "tcsh")
    assert (result.status, result.out) == (2, "")
    assert "bash" in result.err
