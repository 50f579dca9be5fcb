"""The store: images with names, layers shared, several processes at once."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.running import ROOT, need
from tests.image.archives import digest, docker_archive, entry, files_below, tar
from unionfs.errors import UnionfsError
from unionfs.image import layout, manifest
from unionfs.image.database import Database
from unionfs.image.store import Store


def add(store: Store, content: str, name: str = "") -> str:
    layer = store.add_layer(io.BytesIO(tar([entry("file", content.encode())])))
    config = manifest.new_config(None, [layer], {}, content)
    return store.add_image(manifest.encode(config), [layer], [name] if name else []).id


def _zstd(content: bytes) -> bytes:
    return subprocess.run([need("zstd", "zstd"), "-q"], input=content, capture_output=True, check=True).stdout


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress, _zstd])
def test_each_compression(store: Store, pack: Callable[[bytes], bytes]) -> None:
    """Of the archive and of the layer in it; a gzip file may have several members."""
    layer = tar([entry("file", b"content" * 1000)])
    halves = [gzip.compress(layer[:700]), gzip.compress(layer[700:])]
    packed = b"".join(halves) if pack is gzip.compress else pack(layer)
    diff_id = store.add_layer(io.BytesIO(packed), digest=digest(packed), diff_id=digest(layer))
    assert diff_id == digest(layer)
    image = layout.load(store, io.BytesIO(pack(docker_archive([layer]))))[0].image
    assert (Path(store.layer_directories(image)[0]) / "file").read_bytes() == b"content" * 1000


def test_names(store: Store) -> None:
    one, two = add(store, "one", "app:1"), add(store, "two", "app")
    assert store.resolve("app:1").id == store.resolve("docker.io/library/app:1").id == one
    assert store.resolve("app").id == store.resolve("app:latest").id == two
    assert store.resolve(one).id == store.resolve(one.removeprefix("sha256:")[:9]).id == one
    assert store.resolve(f"app@{store.resolve('app').manifest}").id == two
    store.tag(store.resolve("app:1"), "app")
    assert store.resolve("app").id == one and store.resolve(two).tags == ()
    with pytest.raises(UnionfsError, match="did you mean"):
        store.resolve("ap:1")
    with pytest.raises(UnionfsError, match="lowercase"):
        store.resolve("App")


def test_removal_by_name_and_by_id(store: Store) -> None:
    image = add(store, "one", "a:1")
    store.tag(store.resolve(image), "b:1")
    with pytest.raises(UnionfsError, match="several names"):
        store.remove(image)
    assert store.remove("a:1") == ["Untagged: a:1"]
    assert store.remove("b:1") == ["Untagged: b:1", f"Deleted: {image}"]
    assert store.images() == []
    assert {name.partition("/")[0] for name in files_below(Path(store.database.root))} == {
        "blobs", "containers", "layers", "state.db", "state.db-shm", "state.db-wal", "tmp", "volumes",
    }  # fmt: skip
    assert os.listdir(store.database.path("layers")) == os.listdir(store.database.path("blobs", "sha256")) == []


def test_a_shared_layer_stays_with_the_other_image(store: Store) -> None:
    layer = store.add_layer(io.BytesIO(tar([entry("file", b"x")])))
    for name in ("a", "b"):
        store.add_image(manifest.encode(manifest.new_config(None, [layer], {}, name)), [layer], [name])
    store.remove("a")
    assert (Path(store.layer_directories(store.resolve("b"))[0]) / "file").read_bytes() == b"x"


def test_an_image_that_has_a_layer_twice(store: Store) -> None:
    """Some builders repeat one; it counts where it is on top."""
    one, other = (store.add_layer(io.BytesIO(tar([entry("file", text)]))) for text in (b"one", b"other"))
    layers = [one, other, one]
    image = store.add_image(manifest.encode(manifest.new_config(None, layers, {}, "")), layers, ["twice"])
    directories = store.layer_directories(image)
    assert len(directories) == 2 and (Path(directories[0]) / "file").read_bytes() == b"one"


def test_prune(store: Store) -> None:
    nameless = add(store, "one")
    named = add(store, "two", "kept")
    assert store.prune(False)[0] == [nameless]
    assert store.prune(True)[0] == [named]


def test_save_and_load_give_the_same_image(store: Store, tmp_path: Path) -> None:
    image = store.resolve(add(store, "one", "app:1"))
    out = io.BytesIO()
    layout.save(store, [(image, ["app:1"])], out)
    with Database(str(tmp_path / "other")) as database:
        other = Store(database)
        loaded = layout.load(other, io.BytesIO(out.getvalue()))[0].image
        assert (loaded.id, loaded.tags, loaded.manifest) == (image.id, ("app:1",), image.manifest)
        assert other.raw_config(loaded) == store.raw_config(image)


_ADD = """
import io, sys
from tests.image.archives import entry, tar
from tests.image.test_store import add
from unionfs.image.database import Database
from unionfs.image.store import Store
with Database(sys.argv[1]) as database:
    print(add(Store(database), sys.argv[2] * 200_000, "app:" + sys.argv[3]))
"""


def adding(root: Path, content: str, tag: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", _ADD, str(root), content, tag]
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE)


def test_the_same_image_by_many_at_once(store: Store) -> None:
    root = Path(store.database.root)
    started = [adding(root, "same", str(number % 3)) for number in range(10)]
    assert {process.wait() for process in started} == {0}
    for process in started:
        process.communicate()
    assert len(store.images()) >= 1
    assert len(os.listdir(root / "layers")) == 1
    assert os.listdir(root / "tmp") == []


@pytest.mark.stress
def test_killed_while_it_adds(store: Store) -> None:
    """At any moment: what is in the database is whole; what is not is cleaned; the next try succeeds."""
    root = Path(store.database.root)
    for number in range(12):
        process = adding(root, f"content{number % 4}", "x")
        time.sleep(0.05 + 0.02 * number)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        for row in store.database.rows("SELECT diff_id, blob FROM layers"):
            assert (root / "layers" / row[0].removeprefix("sha256:") / "file").exists()
            assert digest(store.blobs.read(row[1])) == row[1]
    process = adding(root, "content0", "x")
    process.communicate()
    assert process.returncode == 0
    assert store.resolve("app:x").layers
