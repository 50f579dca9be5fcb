"""The command `unionfs` itself: the overview, wrong words, failures, start-up."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import unionfs as package
from tests.cli.running import COMMAND, ROOT, run, unionfs
from unionfs.cli import main as main_module
from unionfs.cli.command import Command, UsageError, shown, told
from unionfs.cli.main import GROUPS, PLACES, commands_of, main
from unionfs.errors import Faults, UnionfsError

COMMANDS = [name for name, place in PLACES.items() if place.summary]


def test_the_version() -> None:
    result = unionfs("--version")
    assert result == (0, f"unionfs {package.__version__}\n", "")


def test_help_names_every_command() -> None:
    result = unionfs("--help")
    assert (result.status, result.err) == (0, "")
    assert all(f"\n  {name}" in result.out for name in COMMANDS if " " not in name)
    assert all(f"\n  {group}" in result.out for group in GROUPS)
    assert "mount.fuse" not in result.out


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_names_its_commands(group: str) -> None:
    result = unionfs(group, "--help")
    assert (result.status, result.err) == (0, "")
    assert all(name in result.out for name in commands_of(group))
    assert unionfs(group).status == 2
    name = next(name for name in commands_of(group) if len(name) > 4)
    wrong = unionfs(group, f"{name}x")
    assert wrong.status == 2 and f'did you mean "{name}"?' in wrong.err


def test_without_a_command_the_help_is_an_error() -> None:
    result = unionfs()
    assert (result.status, result.out) == (2, "")
    assert result.err == unionfs("--help").out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str) -> None:
    result = unionfs(name, "--help")
    assert (result.status, result.err) == (0, "")
    assert result.out.startswith(f"usage: unionfs {name}")
    assert " ".join(main_module.load(name).description.split()) in " ".join(result.out.split())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["moutn"], 'unionfs: moutn: there is no such command\n  did you mean "mount"?\n'),
        (["kazoo"], "unionfs: kazoo: there is no such command\n  unionfs --help lists them\n"),
        (
            ["mount.fuse.unionfz"],
            "unionfs: mount.fuse.unionfz: there is no such command\n  unionfs --help lists them\n",
        ),
        (["--versoin"], 'unionfs: unexpected option --versoin\n  did you mean "--version"?\n'),
        (["-x"], "unionfs: unexpected option -x\n  unionfs --help\n"),
        (["umount"], "unionfs: umount: the following arguments are required: DIR\n  unionfs umount --help\n"),
        (["umount", "/", "--lasy"], 'unionfs: umount: unexpected option --lasy\n  did you mean "--lazy"?\n'),
        (["doctor", "now"], "unionfs: doctor: unexpected argument now\n  unionfs doctor --help\n"),
        (["doctor", "--jso"], 'unionfs: doctor: unexpected option --jso\n  did you mean "--json"?\n'),
    ],
)
def test_wrong_words(words: list[str], told: str) -> None:
    assert unionfs(*words) == (2, "", told)


def test_a_failure_is_told_with_its_hint(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_arguments: object) -> int:
        raise Faults([UnionfsError("one", "why", "do this"), UnionfsError("two")])

    monkeypatch.setattr(main_module, "load", lambda name: Command("", lambda parser: None, fail))
    assert main(["doctor"]) == 1
    assert capsys.readouterr() == ("", "unionfs: one: why\n  do this\nunionfs: two\n")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (FileNotFoundError(2, "No such file or directory", "/a"), "/a: no such file or directory"),
        (FileNotFoundError(2, "No such file or directory", b"/\xff"), "/\udcff: no such file or directory"),
        (PermissionError(1, "Operation not permitted"), "operation not permitted"),
        (OSError("odd"), "odd"),
        (UsageError("a", "b"), "a: b"),
    ],
)
def test_failures_of_system_calls(error: OSError | UnionfsError, text: str) -> None:
    assert str(told(error)) == text


@pytest.mark.parametrize("failure", [KeyboardInterrupt, EOFError])
def test_an_interrupted_command(monkeypatch: pytest.MonkeyPatch, failure: type[BaseException]) -> None:
    def interrupt(_name: str) -> Command:
        raise failure

    monkeypatch.setattr(main_module, "load", interrupt)
    assert main(["doctor"]) == 130


def test_a_reader_that_goes_away() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*COMMAND, "completion", "bash"], env=environment, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


def test_names_do_not_move_the_cursor() -> None:
    assert shown(b"a\x1b[2Jb\nc\t\xff\xc3\xa9") == "a\\x1b[2Jb\\nc\\t\udcff\u00e9"
    result = unionfs("umount", b"/no\x1b[31msuch\xff")
    assert result.status == 1
    assert "/no\\x1b[31msuch\\udcff: nothing is mounted there" in result.err


def test_in_the_c_locale_and_without_any_environment() -> None:
    result = run([sys.executable, "-m", "unionfs", "--help"], ROOT, {"LC_ALL": "C"})
    assert result.status == 0 and "mount" in result.out


def test_a_directory_full_of_traps_is_not_imported_by_the_command(tmp_path: Path) -> None:
    """The installed command has the directory of the script on its path, not the current one."""
    (tmp_path / "argparse.py").write_text("raise SystemExit('imported from the current directory')\n")
    script = "import sys; from unionfs.cli.main import main; sys.exit(main())"
    assert run([sys.executable, "-P", "-c", script, "--version"], tmp_path).status == 0


def test_start_up_is_light() -> None:
    """A mount is there in the blink of an eye: what takes long to import is not imported on the way."""
    script = (
        "import sys; sys.argv[1:] = ['--version']; import atexit, runpy; atexit.register(lambda: print(*sys.modules)); "
    )
    script += "runpy.run_module('unionfs', run_name='__main__')"
    loaded = set(
        run([sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {os.fspath(ROOT)!r}); {script}"]).out.split()
    )
    assert "argparse" in loaded
    assert not loaded & {
        "asyncio",
        "logging",
        "dataclasses",
        "inspect",
        "subprocess",
        "socket",
        "rich",
        "fuse",
        "xattr",
    }
    assert not any(
        name.startswith(("unionfs.fuse", "unionfs.union", "unionfs.layer", "unionfs.linux")) for name in loaded
    )


def test_import_unionfs_is_light() -> None:
    script = f"import sys; sys.path.insert(0, {os.fspath(ROOT)!r}); import unionfs; print(*sys.modules)"
    loaded = set(run([sys.executable, "-I", "-c", script]).out.split())
    assert [name for name in loaded if name.startswith("unionfs")] == ["unionfs"]


def test_no_such_public_name() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Onion'"):
        package.Onion  # noqa: B018


def test_public_names_stay_what_they_are() -> None:
    """A subpackage of the same name would take a function's place as soon as anything imports it."""
    for _ in range(2):
        for name in package.__all__:
            assert callable(getattr(package, name)), name
