"""What the explorer's page is told: names, what hides them, the steps of a lookup, the blocks of a file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.explore.subjects import subject
from unionfs.explore import view
from unionfs.explore.view import Subject
from unionfs.layer.stack import Stack
from unionfs.union.union import Union

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for trusted attributes")


@pytest.fixture
def made(tmp_path: Path) -> Subject:
    return subject(tmp_path)


def entries(made: Subject, ref: str) -> dict[str, Any]:
    return {entry["name"]: entry for entry in view.listing(made, ref)["entries"]}


def test_the_stack(made: Subject, tmp_path: Path) -> None:
    told = view.union(made)
    assert [(layer["index"], layer["role"]) for layer in told["layers"]] == [(0, "upper"), (1, "lower"), (2, "lower")]
    assert told["layers"][1]["path"] == str(tmp_path / "middle") and not told["mounted"]


def test_a_directory_names_what_is_there_and_what_is_not(made: Subject) -> None:
    found = entries(made, "etc")
    assert {name: entry["layer"] for name, entry in found.items()} == {
        "hosts": 0, "motd": 1, "passwd": None, "services": 1,
    }  # fmt: skip
    assert (found["passwd"]["by"], found["passwd"]["why"], found["passwd"]["layers"]) == (0, "whiteout", [2])
    assert found["services"]["layers"] == [1, 2] and found["services"]["size"] == 6000


def test_the_root(made: Subject) -> None:
    found = entries(made, "")
    assert list(found) == ["etc", "home", "usr", "link", "nothing"]
    assert found["etc"]["layers"] == [0, 1, 2] and not found["etc"]["opaque"]
    assert found["home"]["layers"] == [0] and found["home"]["opaque"]
    assert found["link"]["kind"] == "link"
    assert (found["nothing"]["layers"], found["nothing"]["why"]) == ([], "whiteout")


def test_what_an_opaque_directory_hides(made: Subject) -> None:
    (user,) = view.listing(made, "home")["entries"]
    assert (user["name"], user["layer"], user["by"], user["why"], user["layers"]) == ("user", None, 0, "opaque", [2])
    (file,) = view.listing(made, "home/user")["entries"]
    assert (file["name"], file["layer"], file["by"]) == ("file", None, 0)


def test_long_directories_come_in_pages(tmp_path: Path) -> None:
    for number in range(1203):
        (tmp_path / f"name{number:04}").touch()
    one = Subject("long", lambda: Stack.open([os.fsencode(tmp_path)]), ("lower",))
    pages = [view.listing(one, "", start) for start in (0, 500, 1000)]
    assert [len(page["entries"]) for page in pages] == [500, 500, 203]
    assert [page["total"] for page in pages] == [1203] * 3
    assert [entry["name"] for page in pages for entry in page["entries"]] == [f"name{i:04}" for i in range(1203)]


def test_the_steps_of_a_lookup(made: Subject) -> None:
    told = view.lookup(made, "etc/passwd")
    assert told["layer"] is None
    assert [(step["layer"], step["says"]) for step in told["steps"]] == [(0, "whiteout"), (2, "hidden")]
    assert told["steps"][1]["by"] == {"layer": 0, "says": "whiteout"}
    told = view.lookup(made, "/etc/services")
    assert told["layer"] == 1 and told["attributes"]["size"] == 6000
    assert [(step["layer"], step["says"]) for step in told["steps"]] == [(0, "nothing"), (1, "gives"), (2, "hidden")]
    assert view.lookup(made, "link")["target"] == "etc/motd"


def test_a_name_that_is_no_text(made: Subject, tmp_path: Path) -> None:
    (tmp_path / "upper" / os.fsdecode(b"\xff<b>")).write_text("odd")
    entry = next(entry for entry in view.listing(made, "")["entries"] if "<b>" in entry["name"])
    assert entry["ref"] == "%FF%3Cb%3E" and view.lookup(made, entry["ref"])["attributes"]["size"] == 3


@pytest.mark.parametrize("ref", ["..", "etc/../..", "%2e%2e/base", "etc/%2e%2e/%2e%2e", "a%00b", "etc/none"])
def test_nothing_outside_is_listed(made: Subject, ref: str) -> None:
    with pytest.raises(FileNotFoundError):
        view.listing(made, ref)


def test_a_symbolic_link_leads_nowhere(made: Subject, tmp_path: Path) -> None:
    os.symlink("/etc", tmp_path / "upper" / "out")
    with pytest.raises(NotADirectoryError):
        view.listing(made, "out")
    with pytest.raises(FileNotFoundError):
        view.listing(made, "out/ssl")
    assert view.lookup(made, "out/passwd")["layer"] is None


def test_the_blocks_of_a_partial_file(tmp_path: Path) -> None:
    for name in ("upper", "lower", "work"):
        (tmp_path / name).mkdir()
    (tmp_path / "lower" / "big").write_bytes(os.urandom(400_000))
    with Union(lower=[tmp_path / "lower"], upper=tmp_path / "upper", work=tmp_path / "work", copyup="block") as union:
        with union.open("big", os.O_WRONLY) as file:
            file.pwrite(b"y", 100_000)
    paths = [os.fsencode(tmp_path / name) for name in ("upper", "lower")]
    one = Subject("partial", lambda: Stack.open(paths), ("upper", "lower"))
    blocks = view.lookup(one, "big")["blocks"]
    assert blocks["partial"] and [98_304, 102_400, 0] in blocks["runs"]
    assert next(iter(view.listing(one, "")["entries"]))["partial"]


def test_a_search_finds_what_is_shown(made: Subject) -> None:
    assert [one["path"] for one in view.search(made, "S")["found"]] == ["/usr", "/etc/hosts", "/etc/services"]
    assert view.search(made, "passwd") == {"more": False, "found": []}
    assert view.search(made, "") == {"more": False, "found": []}


def test_sizes_and_waste(made: Subject) -> None:
    told = view.facts(made)
    assert [layer["marks"] for layer in told["layers"]] == [2, 1, 0]
    assert {one["path"] for one in told["wasted"]} == {"/etc/passwd", "/etc/services", "/usr/manual", "/home/user/file"}
    assert 0 < told["efficiency"] < 1
