"""The whole union for an ordinary user: the aufs dialect, bookkeeping in user xattrs, both ways to mount."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests import unprivileged

PROGRAM = """
import json, os, sys
import unionfs
place = sys.argv[1]
os.chdir(place)
for name in ("lower/dir", "upper", "work", "merged"):
    os.makedirs(name)
for name in ("lower/file", "lower/gone", "lower/dir/inner"):
    open(name, "w").write("lower " + name)
os.link("lower/file", "lower/twin")
facts = {}

def mount():
    return unionfs.mount("merged", lower=["lower"], upper="upper", work="work", userxattr=True, open=sys.argv[2])

with mount():
    os.chdir("merged")
    number = os.stat("file").st_ino
    with open("file", "a") as file:
        file.write(", and more")
    os.unlink("gone")
    os.rename("dir", "moved")
    os.mkdir("dir")
    os.setxattr("dir", "user.mine", b"1")
    facts["numbers"] = os.stat("file").st_ino == number == os.stat("twin").st_ino
    os.chdir(place)
with mount():
    facts["again"] = os.stat("merged/file").st_ino == number == os.stat("merged/twin").st_ino
    facts["content"] = open("merged/twin").read()
    found = json.loads(os.getxattr("merged", "user.unionfs.stats"))
    facts["data"] = [found["data_path"], bool(found["why"])]
    facts["names"] = sorted(os.listdir("merged")) + sorted(os.listdir("merged/dir")) + os.listdir("merged/moved")
    facts["inner"] = open("merged/moved/inner").read()
    facts["mine"] = os.getxattr("merged/dir", "user.mine").decode()
    facts["listed"] = os.listxattr("merged/file")
    facts["layer"] = os.getxattr("merged/file", "user.unionfs.layer").decode().split()[0]
facts["upper"] = sorted(os.listdir("upper"))
facts["kept"] = sorted(os.listxattr("upper/file"))
facts["mounted"] = os.path.ismount("merged")
print(json.dumps(facts))
"""


@pytest.mark.parametrize("opening, data", [("passthrough", "daemon"), ("cached", "cached")])
@pytest.mark.parametrize("way", unprivileged.WAYS)
def test_an_ordinary_users_union(way: str, opening: str, data: str) -> None:
    with unprivileged.user(way) as run:
        place = Path(run.folder) / "place"
        place.mkdir()
        os.chown(place, unprivileged.UID, unprivileged.UID)
        result = run(PROGRAM, str(place), opening)
        assert result.returncode == 0, result.stderr
        lower = {path.name: path.read_text() for path in (place / "lower").rglob("*") if path.is_file()}
    assert json.loads(result.stdout) == {
        "numbers": True,
        "again": True,
        "data": [data, True],
        "content": "lower lower/file, and more",
        "names": ["dir", "file", "moved", "twin", "inner"],
        "inner": "lower lower/dir/inner",
        "mine": "1",
        "listed": [],
        "layer": "0",
        "upper": [".wh.gone", "dir", "file", "moved"],
        "kept": ["user.unionfs.nlink", "user.unionfs.origin"],
        "mounted": False,
    }
    assert lower["file"] == "lower lower/file" and lower["gone"] == "lower lower/gone" and len(lower) == 4


BY_BLOCK = """
import json, os, sys
import unionfs
place = sys.argv[1]
os.chdir(place)
for name in ("lower", "upper", "work", "merged"):
    os.makedirs(name)
content = b"".join(b"%08d" % number for number in range(20000))
for name in ("file", "locked", "completed"):
    open("lower/" + name, "wb").write(content)
os.chmod("lower/locked", 0o444)
facts = {}

def mount(**options):
    layers = {"lower": ["lower"], "upper": "upper", "work": "work"}
    return unionfs.mount("merged", **layers, userxattr=True, copyup="block", **options)

def partial(name):
    return json.loads(os.getxattr("merged/" + name, "user.unionfs.blocks"))["partial"]

with mount(copyup_complete="never"):
    with open("merged/file", "r+b", 0) as file:
        file.write(b"new")
        os.chmod("merged/file", 0o444)
        os.pwrite(file.fileno(), b"more", 50000)
    os.chmod("merged/locked", 0o400)
    facts["partial"] = [partial("file"), partial("locked")]
with mount(copyup_complete="close"):
    expected = b"new" + content[3:50000] + b"more" + content[50004:]
    facts["kept"] = open("merged/file", "rb").read() == expected
    facts["locked"] = open("merged/locked", "rb").read() == content
    with open("merged/completed", "r+b", 0) as file:
        file.write(b"x")
    for _ in range(500):
        if not partial("completed"):
            break
        os.sched_yield()
        __import__("time").sleep(0.01)
    facts["completed"] = open("upper/completed", "rb").read() == b"x" + content[1:]
facts["modes"] = [oct(os.stat("upper/" + name).st_mode & 0o7777) for name in ("file", "locked")]
print(json.dumps(facts))
"""


@pytest.mark.parametrize("way", unprivileged.WAYS)
def test_an_ordinary_users_files_by_block(way: str) -> None:
    """Also those whose mode forbids their owner to write: the map is one of their attributes."""
    with unprivileged.user(way) as run:
        place = Path(run.folder) / "place"
        place.mkdir()
        os.chown(place, unprivileged.UID, unprivileged.UID)
        result = run(BY_BLOCK, str(place))
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == {
        "partial": [True, True],
        "kept": True,
        "locked": True,
        "completed": True,
        "modes": ["0o444", "0o400"],
    }
