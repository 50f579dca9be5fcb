"""Bad archives: each gets an error that names what is wrong, leaves the store as it was, and reaches nothing else."""

from __future__ import annotations

import gzip
import io
import os
import stat
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.image.archives import Entry, digest, docker_archive, entry, files_below, tar
from unionfs.errors import UnionfsError
from unionfs.image.archive import Limits, unpack
from unionfs.image.layout import load
from unionfs.image.overlay import OPAQUE, RESERVED, WHITEOUT
from unionfs.image.store import Store
from unionfs.layer.whiteout import Aufs

SYM, LNK, CHR, DIR = tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE


def state(store: Store) -> set[str]:
    """All files of the store but the database's own."""
    return {name for name in files_below(Path(store.database.root)) if not name.startswith("state.db")}


def refused(store: Store, archive: bytes) -> str:
    before = state(store)
    with pytest.raises(UnionfsError) as caught:
        load(store, io.BytesIO(archive))
    assert state(store) == before
    assert store.images() == [] and store.database.rows("SELECT * FROM layers") == []
    return str(caught.value)


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ([entry("../../outside", b"x")], "its name has \"..\" in it"),
        ([entry("a/../../outside", b"x")], "its name has \"..\" in it"),
        ([entry("link", type=LNK, linkname="/etc/passwd")], "hard link to /etc/passwd, which is not in the archive"),
        ([entry("link", type=LNK, linkname="../../etc/passwd")], "its name has \"..\" in it"),
        ([entry("link", type=LNK, linkname="later"), entry("later", b"x")], "which is not in the archive"),
        ([entry(".wh.")], "is a whiteout of no name"),
        ([entry("d/.wh..")], "is a whiteout of no name"),
        ([entry("d/.wh...")], "is a whiteout of no name"),
        ([entry("dev", type=CHR, devmajor=0, devminor=0)], "is the kernel overlayfs's whiteout"),
        ([entry("n" * 300, b"x")], "file name too long"),
        ([entry("a", type=SYM, linkname="a"), entry("a/b", b"x")], "too many levels of symbolic links"),
        ([entry("file", b"x"), entry("file/below", b"x")], "not a directory"),
        ([entry("a", type=SYM, linkname="/nowhere"), entry("a/b", b"x")], "lies behind a symbolic link to nothing"),
    ],
)  # fmt: skip
def test_names_that_lead_out_or_nowhere(store: Store, entries: list[Entry], told: str) -> None:
    assert told in refused(store, docker_archive([tar(entries)]))


def test_a_file_through_a_link_stays_inside(store: Store, tmp_path: Path) -> None:
    """A link to a directory of the machine's is followed as in the image: inside."""
    outside = tmp_path / "outside"
    outside.mkdir()
    layer = tar([
        entry(str(outside).lstrip("/"), type=DIR, mode=0o755),
        entry("evil", type=SYM, linkname=str(outside)),
        entry("evil/file", b"x"),
        entry("up", type=SYM, linkname="../../../../../.."),
        entry("up/etc/file", b"y"),
        entry("/absolute", b"z"),
    ])  # fmt: skip
    image = load(store, io.BytesIO(docker_archive([layer])))[0].image
    root = Path(store.layer_directories(image)[0])
    assert not list(outside.iterdir())
    assert (root / str(outside).lstrip("/") / "file").read_bytes() == b"x"
    assert (root / "etc" / "file").read_bytes() == b"y"
    assert (root / "absolute").read_bytes() == b"z"


def test_a_file_does_not_go_through_a_links_own_name(store: Store, tmp_path: Path) -> None:
    """The last name is replaced, never followed."""
    victim = tmp_path / "victim"
    victim.write_text("kept")
    layer = tar([entry("f", type=SYM, linkname=str(victim)), entry("f", b"new")])
    image = load(store, io.BytesIO(docker_archive([layer])))[0].image
    assert victim.read_text() == "kept"
    assert (Path(store.layer_directories(image)[0]) / "f").read_bytes() == b"new"


def test_truncated_anywhere(store: Store) -> None:
    whole = docker_archive([tar([entry("big", b"x" * 100_000), entry("other", b"y")])])
    for length in (0, 100, 511, 1024, 5000, 60_000, 100_000):
        assert refused(store, whole[:length])


@pytest.mark.parametrize("cut", [10, 200, 2000])
def test_truncated_compression(store: Store, cut: int) -> None:
    packed = gzip.compress(docker_archive([tar([entry("big", os.urandom(50_000))])]))
    told = refused(store, packed[:-cut])
    assert "ends too early" in told or "is damaged (gzip)" in told  # as the archive's own end is before the cut or not


def test_layers_that_are_not_what_the_config_says(store: Store) -> None:
    def other(config: dict[str, Any]) -> None:
        config["rootfs"]["diff_ids"] = [digest(b"other")]

    assert "has the digest" in refused(store, docker_archive([tar([entry("f", b"x")])], change=other))


def test_fewer_layers_than_the_config_says(store: Store) -> None:
    def more(config: dict[str, Any]) -> None:
        config["rootfs"]["diff_ids"].append(digest(b"more"))

    assert "has 1 layers, and its config names 2" in refused(store, docker_archive([tar([])], change=more))


@pytest.mark.parametrize("config", [b"", b"{", b"[]", b'{"rootfs": {"diff_ids": 3}}', b"[" * 100_000, b'"text"'])
def test_documents_that_are_none(store: Store, config: bytes) -> None:
    manifest = b'[{"Config": "c", "RepoTags": null, "Layers": []}]'
    assert refused(store, tar([entry("manifest.json", manifest), entry("c", config)]))
    assert refused(store, tar([entry("manifest.json", config)]))
    assert refused(store, tar([entry("index.json", config), entry("oci-layout", b"{}")]))


def test_an_archive_of_something_else(store: Store) -> None:
    told = refused(store, tar([entry("etc/passwd", b"root")]))
    assert "neither manifest.json nor index.json" in told and "unionfs import" in told


def test_a_manifest_that_names_a_link_to_the_machine(store: Store) -> None:
    manifest = b'[{"Config": "config.json", "RepoTags": [], "Layers": []}]'
    archive = tar([entry("manifest.json", manifest), entry("config.json", type=SYM, linkname="/etc/passwd")])
    assert "names config.json, which is not in it" in refused(store, archive)


def test_a_header_of_ten_thousand_entries(store: Store) -> None:
    """Many are fine; more than fit into a megabyte are refused before they are read."""
    few = tar([entry("f", b"x", pax_headers={f"user.key{number}": "v" for number in range(10_000)})])
    assert load(store, io.BytesIO(docker_archive([few])))[0].image.layers == (digest(few),)
    many = tar([entry("f", b"x", pax_headers={"comment": "v" * (2 << 20)})])
    with pytest.raises(UnionfsError, match="header of"):
        load(store, io.BytesIO(docker_archive([many])))


@pytest.mark.parametrize("limits", [Limits(size=10_000), Limits(entries=5)])
def test_bombs(store: Store, limits: Limits, tmp_path: Path) -> None:
    """Of size, a gigabyte in a megabyte, and of count."""
    bomb = tar([entry(f"f{number}", b"\0" * 5000) for number in range(10)])
    before = state(store)
    with pytest.raises(UnionfsError, match="holds more than"):
        store.add_layer(io.BytesIO(gzip.compress(bomb)), limits=limits)
    assert state(store) == before


def test_no_room_is_an_error_of_its_own(store: Store, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", small], check=True)
    try:
        with pytest.raises(UnionfsError, match="there is no room"):
            unpack(io.BytesIO(tar([entry("big", b"x" * 200_000)])), str(small))
    finally:
        subprocess.run(["umount", small], check=True)


def test_devices_are_kept_and_inert(store: Store) -> None:
    disk = entry("disk", type=tarfile.BLKTYPE, devmajor=7, devminor=0, mode=0o666)
    layer = tar([disk, entry("pipe", type=tarfile.FIFOTYPE)])
    image = load(store, io.BytesIO(docker_archive([layer])))[0].image
    root = Path(store.layer_directories(image)[0])
    assert stat.S_ISBLK((root / "disk").lstat().st_mode) and stat.S_ISFIFO((root / "pipe").lstat().st_mode)


def test_our_own_bookkeeping_is_not_taken_from_an_archive(store: Store) -> None:
    """An attribute of ours in an archive would make a file show another one's content."""
    names = ("trusted.overlay.redirect", "trusted.unionfs.blocks", "user.kept")
    headers = {f"SCHILY.xattr.{name}": "x" for name in names}
    layer = tar([entry("f", b"x", pax_headers=headers), entry(".wh..wh..redirect", type=SYM, linkname="/etc")])
    image = load(store, io.BytesIO(docker_archive([layer])))[0].image
    root = Path(store.layer_directories(image)[0])
    assert os.listxattr(root / "f") == ["user.kept"]
    assert sorted(os.listdir(root)) == ["f"]


def test_the_marks_are_those_of_the_dialect() -> None:
    assert (WHITEOUT.encode(), OPAQUE.encode()) == (Aufs.MARK, Aufs.OPAQUE)
    assert Aufs.REDIRECT.startswith(RESERVED.encode())


def test_directory_over_directory_and_other_clashes(store: Store) -> None:
    layer = tar([
        entry("d", type=DIR, mode=0o700), entry("d/f", b"x"), entry("d", type=DIR, mode=0o755),
        entry("x", b"file"), entry("x", type=DIR, mode=0o711), entry("y/inner", b"x"), entry("y", b"file"),
    ])  # fmt: skip
    image = load(store, io.BytesIO(docker_archive([layer])))[0].image
    root = Path(store.layer_directories(image)[0])
    assert (root / "d" / "f").exists() and stat.S_IMODE((root / "d").stat().st_mode) == 0o755
    assert (root / "x").is_dir() and (root / "y").read_bytes() == b"file"


def test_a_whiteout_beside_its_own_name_hides_what_is_below(store: Store) -> None:
    """OCI: a whiteout is about the layers below, wherever it stands in the archive."""
    layer = tar([entry("d/new", b"x"), entry(".wh.d"), entry("f", b"x"), entry(".wh.f"), entry(".wh.gone")])
    image = load(store, io.BytesIO(docker_archive([layer])))[0].image
    root = Path(store.layer_directories(image)[0])
    assert files_below(root) == {"d", "d/new", f"d/{OPAQUE}", "f", ".wh.gone"}
