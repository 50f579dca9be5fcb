"""Volumes: binds, named and anonymous ones, rights, what is copied into them, and who shares them."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.container.launcher import Launcher
from unionfs.container.mountspecs import combine, parse_mount, parse_tmpfs, parse_volume, parse_volumes_from
from unionfs.container.spec import BIND, TMPFS, VOLUME, Mount
from unionfs.errors import UnionfsError


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("/data", Mount(VOLUME, "", "/data")),
        ("name:/data", Mount(VOLUME, "name", "/data")),
        ("name:/data:ro,nocopy", Mount(VOLUME, "name", "/data", read_only=True, copies=False)),
        ("/a:/b", Mount(BIND, "/a", "/b", creates=True)),
        ("/a/:/b/../c//", Mount(BIND, "/a", "/c", creates=True)),
        ("./x:/b:rw,Z", Mount(BIND, "/cwd/x", "/b", creates=True)),
        ("../x:/b:ro,rslave", Mount(BIND, "/x", "/b", read_only=True, propagation="rslave", creates=True)),
        (".:/b:cached", Mount(BIND, "/cwd", "/b", creates=True)),
    ],
)
def test_v(word: str, expected: Mount) -> None:
    assert parse_volume(word, "/cwd") == expected


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("", "invalid volume specification"), ("/foo:rw", "invalid volume specification: '/foo:rw'"),
        ("a:b:c:d", "invalid volume specification"), ("a::ro", "invalid volume specification"),
        ("/a:/", "destination can't be '/'"), ("/a:/b/..", "destination can't be '/'"),
        ("a:relative:ro", "mount path must be absolute"), ("relative", "mount path must be absolute"),
        ("/a:/b:ro,rw", "invalid mode: ro,rw"), ("/a:/b:nocopy", "invalid mode: nocopy"),
        ("a:/b:shared", "invalid mode: shared"), ("/a:/b:z,Z", "invalid mode: z,Z"), ("/a:/b:", "invalid volume"),
    ],
)  # fmt: skip
def test_v_that_is_wrong(word: str, told: str) -> None:
    with pytest.raises(UnionfsError) as caught:
        parse_volume(word, "/cwd")
    assert told in str(caught.value)


def test_mount_words() -> None:
    bind = parse_mount("type=bind,src=x,dst=/b,readonly,bind-propagation=shared", "/cwd")
    assert bind == Mount(BIND, "/cwd/x", "/b", read_only=True, propagation="shared")
    assert parse_mount("source=v,target=/b,ro=false,volume-nocopy", "/") == Mount(VOLUME, "v", "/b", copies=False)
    tmpfs = parse_mount("type=tmpfs,destination=/t,tmpfs-size=1m,tmpfs-mode=700", "/")
    assert tmpfs == Mount(TMPFS, "", "/t", options=("size=1048576", "mode=700"))


@given(st.text(alphabet=":/,abro.-_= \0é", max_size=30))
def test_no_word_is_a_traceback(word: str) -> None:
    for parse in (lambda text: parse_volume(text, "/cwd"), lambda text: parse_mount(text, "/cwd"), parse_tmpfs):
        try:
            mount = parse(word)
        except UnionfsError:
            continue
        assert mount.target == os.path.normpath(mount.target) and mount.target.startswith("/") and mount.target != "/"
    try:
        parse_volumes_from(word)
    except UnionfsError:
        pass


def test_order_and_overrides() -> None:
    others = [Mount(VOLUME, "a", "/x"), Mount(VOLUME, "b", "/y", read_only=True)]
    own = [Mount(BIND, "/h", "/x"), Mount(TMPFS, "", "/z/deep")]
    mounts = combine([(others, True)], own, ["/image", "/x"])
    assert [(mount.target, mount.source, mount.read_only) for mount in mounts] == [
        ("/image", "", False), ("/x", "/h", False), ("/y", "b", True), ("/z/deep", "", False),
    ]  # fmt: skip


# --- in containers


def test_a_missing_source_is_made(shared: Launcher, tmp_path: Path) -> None:
    place = tmp_path / "made" / "here"
    shared.ok("run", "--rm", "-v", f"{place}:/v", "host", "touch", "/v/file")
    assert (place / "file").exists() and stat.S_IMODE(place.stat().st_mode) == 0o755


def test_a_file_on_a_file_and_on_a_directory(shared: Launcher, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine\n")
    volume = f"{tmp_path}/file:/etc/protocols:ro"
    assert shared.ok("run", "--rm", "-v", volume, "host", "cat", "/etc/protocols") == "mine"
    for source, target in (("file", "/etc"), (".", "/etc/protocols")):
        result = shared("run", "--rm", "-v", f"{tmp_path}/{source}:{target}", "host", "true")
        assert result.status == 125 and "cannot be mounted on" in result.err


def test_rights(shared: Launcher, tmp_path: Path) -> None:
    script = "touch /v/x 2>&1; echo $?"
    assert shared.ok("run", "--rm", "-v", f"{tmp_path}:/v:rw", "host", "sh", "-c", script) == "0"
    assert "Read-only" in shared.ok("run", "--rm", "-v", f"{tmp_path}:/v:ro", "host", "sh", "-c", script)


def test_read_only_is_so_for_mounts_inside(shared: Launcher, tmp_path: Path) -> None:
    """A remount of a bind leaves what is mounted in it writable; mount_setattr(2), recursive, does not."""
    (tmp_path / "inner").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", tmp_path / "inner"], check=True)
    try:
        out = shared.ok("run", "--rm", "-v", f"{tmp_path}:/v:ro", "host", "sh", "-c", "touch /v/inner/x 2>&1; echo $?")
        assert "Read-only" in out
    finally:
        subprocess.run(["umount", tmp_path / "inner"], check=True)


def test_a_named_volume_begins_with_what_the_image_has(launcher: Launcher) -> None:
    script = "mkdir -p /data/sub; cd /data; echo x > file; ln file two; ln -s file link; chown 7:8 .; chmod 2750 ."
    launcher.ok("run", "--name", "one", "host", "sh", "-c", f"{script}; ln -s data /to-data")
    launcher.ok("commit", "one", "with-data")
    look = "stat -c '%a %u %g' /d; cd /d; ls; cat link; stat -c %h file"
    expected = ["2750 7 8", "file", "link", "sub", "two", "x", "2"]
    there = look.replace("/d", "/data")
    assert launcher.ok("run", "--rm", "-v", "named:/data", "with-data", "sh", "-c", there).split("\n") == expected
    assert launcher.ok("run", "--rm", "-v", "named:/d", "host", "sh", "-c", look).split("\n") == expected
    assert launcher.ok("run", "--rm", "-v", "other:/data:nocopy", "with-data", "ls", "/data") == ""
    assert launcher.ok("run", "--rm", "-v", "linked:/to-data", "with-data", "cat", "/to-data/file") == "x"
    assert sorted(launcher.ok("volume", "ls", "-q").split()) == ["linked", "named", "other"]


def test_a_volume_that_is_not_empty_is_left_alone(launcher: Launcher) -> None:
    launcher.ok("run", "--rm", "-v", "vol:/v", "host", "touch", "/v/mine")
    names = launcher.ok("run", "--rm", "-v", "vol:/etc", "host", "ls", "/etc").split()
    assert names == ["mine"]  # nor are our own files put into it


def test_it_is_copied_at_create(launcher: Launcher) -> None:
    """Not at start: what is removed in between stays removed."""
    launcher.ok("create", "--name", "one", "-v", "vol:/etc", "host", "ls", "/etc")
    path = Path(launcher.ok("volume", "inspect", "-f", "{{.Mountpoint}}", "vol"))
    assert (path / "protocols").exists()
    (path / "protocols").unlink()
    assert "protocols" not in launcher.ok("start", "-a", "one").split()


def test_volumes_of_the_image(launcher: Launcher) -> None:
    launcher.ok("run", "--name", "one", "host", "true")
    launcher.ok("commit", "-c", "VOLUME /data /srv", "one", "volumes")
    launcher.ok("run", "--name", "two", "-v", "named:/srv", "volumes", "touch", "/data/x", "/srv/y")
    mounts = {mount["Destination"]: mount for mount in launcher.inspect("two")["Mounts"]}
    assert mounts["/srv"]["Name"] == "named" and len(mounts["/data"]["Name"]) == 64
    assert launcher.ok("diff", "two") == ""
    launcher.ok("rm", "two")
    assert len(launcher.ok("volume", "ls", "-q").split()) == 2  # rm without -v keeps both
    launcher.ok("volume", "prune", "-f")
    assert launcher.ok("volume", "ls", "-q") == "named"


def test_volumes_from(launcher: Launcher, tmp_path: Path) -> None:
    """All mounts of a container that may never have run, at the same places; rights only less."""
    launcher.ok("create", "--name", "aa", "-v", "/anon", "-v", f"{tmp_path}:/bind:ro", "host")
    launcher.ok("create", "--name", "bb", "-v", "named:/named", "host")
    out = launcher.ok(
        "run", "--rm", "--volumes-from", "aa:rw", "--volumes-from", "bb:ro", "host", "sh", "-c",
        "for d in anon bind named; do touch /$d/x 2>/dev/null && echo $d; done; true",
    )  # fmt: skip
    assert out == "anon"
    inspected = launcher.inspect("aa")["Mounts"]
    launcher.ok("run", "--name", "cc", "--volumes-from", "aa", "-v", "other:/anon", "host", "true")
    its = launcher.inspect("cc")["Mounts"]
    assert [mount["Destination"] for mount in its] == [mount["Destination"] for mount in inspected]
    assert its[0]["Name"] == "other"
    assert launcher("run", "--rm", "--volumes-from", "nosuch", "host", "true").status == 125


def test_anonymous_volumes_live_as_long_as_their_last_user(launcher: Launcher) -> None:
    launcher.ok("create", "--name", "aa", "-v", "/data", "host")
    launcher.ok("create", "--name", "bb", "--volumes-from", "aa", "host")
    launcher.ok("rm", "-v", "aa")
    assert len(launcher.ok("volume", "ls", "-q").split()) == 1
    launcher.ok("rm", "-v", "bb")
    assert launcher.ok("volume", "ls", "-q") == ""


def test_the_commands_of_volumes(launcher: Launcher) -> None:
    assert launcher.ok("volume", "create", "--label", "k=v", "data") == "data"
    assert launcher.ok("volume", "create", "data") == "data"
    assert launcher.ok("volume", "ls").splitlines() == ["DRIVER  VOLUME NAME", "local   data"]
    assert launcher.ok("volume", "ls", "-q", "--filter", "label=k=v") == "data"
    assert launcher.ok("volume", "ls", "-q", "--filter", "dangling=false") == ""
    assert json.loads(launcher.ok("volume", "ls", "--format", "json"))["Name"] == "data"
    document = json.loads(launcher.ok("volume", "inspect", "data"))[0]
    assert document["Labels"] == {"k": "v"} and document["Mountpoint"].endswith("/volumes/data/_data")
    launcher.ok("create", "--name", "user", "-v", "data:/d", "host")
    used = launcher("volume", "rm", "data")
    identity = launcher.inspect("user")["Id"][:12]
    assert used.status == 1 and f"volume is in use - [{identity}]" in used.err and "unionfs rm user" in used.err
    missing = launcher("volume", "rm", "dta")
    assert missing.status == 1 and 'did you mean "data"?' in missing.err
    assert launcher("volume", "create", "a/b").status == 1
    launcher.ok("rm", "user")
    assert launcher.ok("volume", "rm", "data") == "data"
    assert launcher("volume", "prune").status == 2


def test_killed_while_a_volume_is_filled(launcher: Launcher) -> None:
    """It is empty or whole, and the next create fills it."""
    script = "mkdir /big; cd /big; for i in $(seq 2000); do echo $i > $i; done"
    launcher.ok("run", "--name", "one", "host", "sh", "-c", script)
    launcher.ok("commit", "one", "big")
    for number in range(6):
        process = launcher.start("create", "-v", f"v{number}:/big", "big")
        time.sleep(0.15 + 0.03 * number)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        place = launcher.root / "volumes" / f"v{number}" / "_data"
        assert not place.exists() or len(os.listdir(place)) in (0, 2000)
        assert launcher.ok("run", "--rm", "-v", f"v{number}:/big", "big", "sh", "-c", "ls /big | wc -l") == "2000"


def test_tmpfs_and_volumes_by_depth(shared: Launcher, tmp_path: Path) -> None:
    """Whatever the order of the words, what is deeper is mounted later."""
    (tmp_path / "outer").mkdir()
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "f").write_text("inner")
    words = ["-v", f"{tmp_path}/inner:/v/deep", "--tmpfs", "/v/deep/mem", "-v", f"{tmp_path}/outer:/v"]
    script = "cat /v/deep/f; grep -c '/v/deep/mem tmpfs' /proc/mounts"
    assert shared.ok("run", "--rm", *words, "host", "sh", "-c", script) == "inner1"
