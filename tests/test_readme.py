"""The README and the pages for users: their blocks run, their links lead somewhere, their messages are ours."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.image.podman import Podman
from unionfs.lab import ladder
from unionfs.lab.ladder import Lab
from unionfs.linux import fusedev, mounts

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
MOUNTING = ROOT / "docs" / "mounting.md"
CONTAINERS = ROOT / "docs" / "containers.md"
NETWORKS = ROOT / "docs" / "networks.md"
DOCS = ROOT / "docs"
PAGES = (README, ROOT / "benchmarks" / "README.md", *sorted(DOCS.rglob("*.md")))

needs_mount = pytest.mark.skipif(
    os.geteuid() != 0 or not os.access(fusedev.DEVICE, os.R_OK | os.W_OK), reason="needs root and access to /dev/fuse"
)


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of each block that is marked with one."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def bash(script: str, place: Path) -> str:
    """What a script says, in a bash whose command `unionfs` is this checkout's. It must not fail."""
    (place / "bin").mkdir(exist_ok=True)
    command = place / "bin" / "unionfs"
    command.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -P -m unionfs "$@"\n')
    command.chmod(0o755)
    environment = {**os.environ, "PATH": f"{place}/bin:{os.environ['PATH']}", "UNIONFS_ROOT": f"{place}/state"}
    command = ["unshare", "--net", "bash", "-euo", "pipefail", "-c", f"ip link set lo up\n{script}"]
    done = subprocess.run(
        command, cwd=place, env=environment, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


def python(script: str, place: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "UNIONFS_ROOT": str(place / "state")}
    command = ["unshare", "--net", sys.executable, "-c", script]
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


@needs_mount
def test_the_page_of_containers_runs(tmp_path: Path) -> None:
    (_, images), (_, directories), (_, library) = blocks(CONTAINERS)
    said = bash(images, tmp_path)
    assert "C /etc\nA /etc/motd\nD /etc/services\n" in said and "\nmine\n" in said and "\nkept\n" in said
    assert bash(directories, tmp_path).endswith("new\ntry\n")
    assert python(library, tmp_path) == "3\n['hello\\n']\n"


@needs_mount
def test_the_page_of_networks_runs(tmp_path: Path) -> None:
    ((_, script),) = blocks(NETWORKS)
    said = bash(script, tmp_path)
    assert said.count("1 received") == 2 and "ann.custom" in said and "80/tcp -> 0.0.0.0:8080\n" in said
    assert "├─ ann  172." in said


@needs_mount
def test_the_readme_runs(tmp_path: Path) -> None:
    """One block after the other in one directory, as a reader would type them."""
    (_, by_hand), (_, by_block), (_, watched), (_, contained), (_, in_process), (_, mounted) = blocks(README)
    said = bash(by_hand, tmp_path)
    assert (tmp_path / "upper" / "greeting").read_text() == "hello\nworld\n"
    assert (tmp_path / "lower" / "greeting").read_text() == "hello\n"
    assert (tmp_path / "upper" / ".wh.passwd").exists()
    assert "C /greeting" in said and "D /passwd" in said
    (tmp_path / "upper" / ".wh.passwd").unlink()
    said = bash(by_block, tmp_path)
    assert "merged/disk: 10 GiB, copied up in part: 2.0 MiB in the upper layer" in said
    assert (tmp_path / "upper" / "disk").stat().st_size == 10 << 30
    for layer in ("upper", "lower"):
        (tmp_path / layer / "disk").unlink()
    said = bash(watched, tmp_path)
    assert "of what the layers take is shown" in said and "0 of 10 points" in said and "Question 1" in said
    said = bash(contained, tmp_path)
    assert "hello from " in said and "A /etc/motd\nD /etc/services\n" in said
    said = python(in_process, tmp_path)
    assert "'greeting'" in said and "b'hello\\nworld\\n'" in said and said.endswith("12\n")
    assert (tmp_path / "upper" / ".wh.greeting").exists()
    assert python(mounted, tmp_path) == "[]\n"


@needs_mount
@pytest.mark.parametrize("number", range(len([block for block in blocks(MOUNTING) if block[0] == "shell"])))
def test_the_page_about_mounting_runs(tmp_path: Path, number: int) -> None:
    script = [text for language, text in blocks(MOUNTING) if language == "shell"][number]
    if "unshare" in script and subprocess.run(["unshare", "-Urm", "true"], capture_output=True).returncode:
        pytest.skip("needs user namespaces")
    bash(script, tmp_path)


@needs_mount
def test_the_tutorial_runs(tmp_path: Path) -> None:
    said = "".join(bash(text, tmp_path) for language, text in blocks(DOCS / "tutorial.md"))
    assert "C /etc\nA /etc/new\nD /etc/os\nC /etc/server\n" in said
    assert "copied up in part: 128 KiB in the upper layer" in said
    assert sorted((tmp_path / "result" / "etc").iterdir()) == [
        tmp_path / "result" / "etc" / name for name in ("new", "owner", "server")
    ]
    assert list((tmp_path / "changes").iterdir()) == []


@needs_mount
@pytest.mark.parametrize("name", ["sandbox", "benchmark"])
def test_the_how_tos_run(name: str, tmp_path: Path) -> None:
    progress = "exec 2>&1\n" if name == "benchmark" else ""
    said = "".join(bash(progress + text, tmp_path) for language, text in blocks(DOCS / "howto" / f"{name}.md"))
    if name == "sandbox":
        assert (tmp_path / "project" / "list").read_text() == "one\ntwo\nthree\n" and "D /notes" in said
    else:
        assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")


@needs_mount
@pytest.mark.stress
def test_the_how_to_about_podman_runs(tmp_path: Path) -> None:
    """With a storage of its own, and with limits that this machine can raise."""
    with TemporaryDirectory(prefix="pod-") as storage:  # podman wants a short path
        podman = Podman(Path(storage))
        limits = "--ulimit nofile=1000:1000 --ulimit nproc=1000:1000"
        (_, images), (_, rooted) = blocks(DOCS / "howto" / "podman.md")
        function = f"""exec 2>&1
podman() {{
    local word=$1; shift
    [ "$word" != run ] || set -- {limits} "$@"
    {" ".join(podman.words)} "$word" "$@"
}}
"""
        bash(function + images, tmp_path)
        assert "tools" in podman.ok("images")
        assert "A /etc/motd\n" in bash(function + rooted, tmp_path)


@needs_mount
def test_the_page_of_the_labs_runs(tmp_path: Path) -> None:
    said = "".join(bash(text, tmp_path) for language, text in blocks(DOCS / "labs" / "README.md"))
    assert "Six opcodes over /dev/fuse" in said and "0 of 10 points" in said and "hint 1 of 3" in said


@needs_mount
@pytest.mark.stress
@pytest.mark.parametrize("lab", ladder.labs(), ids=lambda lab: lab.path.name)
def test_the_pages_of_the_labs_run(lab: Lab, tmp_path: Path) -> None:
    """In the directory of a student who has solved it; both languages have the same blocks."""
    ladder.start(lab.number, str(tmp_path / "lab"))
    shutil.copytree(lab.path / "solution", tmp_path / "lab", dirs_exist_ok=True)
    python3 = f'python3() {{ PYTHONPATH={ROOT} {sys.executable} "$@"; }}; sudo() {{ "$@"; }}\n'
    shells = [text for language, text in blocks(lab.page) if language == "shell"]
    before = [entry.point for entry in mounts.table()]
    said = [bash(python3 + text, tmp_path / "lab") for text in shells]
    assert any("10 of 10 points" in one for one in said)
    assert [entry.point for entry in mounts.table()] == before


@needs_mount
def test_what_gradescope_runs(tmp_path: Path) -> None:
    for name in ("submission", "results"):
        (tmp_path / name).mkdir()
    shutil.copy(ladder.find(1).path / "solution" / "lookup.py", tmp_path / "submission")
    (script,) = [text for language, text in blocks(DOCS / "instructor.md") if language == "shell"]
    bash(script.replace("/autograder", str(tmp_path)), tmp_path)
    assert json.loads((tmp_path / "results" / "results.json").read_text())["score"] == 10


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("script", ["demos/quickstart", "tests/run"])
def test_the_two_commands_are_there(script: str) -> None:
    assert f"./{script}" in README.read_text(encoding="utf-8")
    assert os.access(ROOT / script, os.X_OK)


def test_the_messages_are_ours() -> None:
    """Each message of docs/errors.md stands in the source."""
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "unionfs").rglob("*.py"))
    page = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    tables = re.findall(r"^\| message .*?\n\n", page, re.DOTALL | re.MULTILINE)
    messages = [cell for table in tables for cell in re.findall(r"^\| ([^|]+?) \|", table, re.MULTILINE)[2:]]
    assert len(messages) > 20
    missing = [part for message in messages for part in message.split("; ") if part not in sources]
    assert missing == []
