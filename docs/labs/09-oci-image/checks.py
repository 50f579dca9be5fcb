"""Lab 9: the layout by itself, its digests, and what unionfs makes of it in a state of its own."""

import gzip
import hashlib
import json
import os
import subprocess
import sys
import tarfile
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from unionfs.lab.checks import Wrong, check, expect


@contextmanager
def made(student):
    with TemporaryDirectory(prefix="unionfs-lab-") as name:
        place = Path(name) / "layout"
        place.mkdir()
        student.module.make_image(str(place))
        yield place


def unionfs(place, *words):
    environment = {**os.environ, "UNIONFS_ROOT": str(place.parent / "state"), "UNIONFS_NETWORK": "none"}
    command = [sys.executable, "-P", "-m", "unionfs", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def loaded(place):
    archive = place.parent / "image.tar"
    with tarfile.open(archive, "w") as tar:
        for name in sorted(os.listdir(place)):
            tar.add(place / name, name)
    done = unionfs(place, "load", "-i", str(archive))
    if done.returncode:
        raise Wrong(f"unionfs load refuses it: {done.stderr.strip()}")


def document(place, *path):
    try:
        return json.loads(place.joinpath(*path).read_text())
    except (OSError, ValueError) as error:
        raise Wrong(f"{'/'.join(path)}: {error}") from error


def blob(place, descriptor):
    """A blob's content, whose digest and size must be those of its descriptor."""
    name = descriptor["digest"].removeprefix("sha256:")
    path = place / "blobs" / "sha256" / name
    if not path.is_file():
        raise Wrong(f"there is no blob {name[:12]}..., which a descriptor names")
    content = path.read_bytes()
    expect(f"the size of blob {name[:12]}...", descriptor["size"], len(content))
    expect("its digest", name, hashlib.sha256(content).hexdigest())
    return content


@check(3)
def the_layout(student):
    """oci-layout, index.json, a manifest and a config, each named by its digest."""
    with made(student) as place:
        expect("oci-layout", document(place, "oci-layout"), {"imageLayoutVersion": "1.0.0"})
        (descriptor,) = document(place, "index.json")["manifests"]
        expect("the name", descriptor.get("annotations", {}).get("org.opencontainers.image.ref.name"), "lab:1")
        manifest = json.loads(blob(place, descriptor))
        config = json.loads(blob(place, manifest["config"]))
        expect("layers", len(manifest["layers"]), 2)
        expect("Cmd", config["config"].get("Cmd"), ["/bin/cat", "/motd"])
        expect("Env", config["config"].get("Env"), ["COLOUR=green"])


@check(2)
def the_diff_ids(student):
    """rootfs.diff_ids are the digests of the uncompressed tars, the lowest layer first."""
    with made(student) as place:
        manifest = json.loads(blob(place, document(place, "index.json")["manifests"][0]))
        config = json.loads(blob(place, manifest["config"]))
        right = []
        for descriptor in manifest["layers"]:
            content = blob(place, descriptor)
            content = gzip.decompress(content) if descriptor["mediaType"].endswith("+gzip") else content
            right.append(f"sha256:{hashlib.sha256(content).hexdigest()}")
        expect("diff_ids", config["rootfs"]["diff_ids"], right)


@check(2)
def it_loads(student):
    """`unionfs load` takes it, and verifies every digest."""
    with made(student) as place:
        loaded(place)
        done = unionfs(place, "images", "--format", "{{.Repository}}:{{.Tag}}")
        expect("unionfs images", done.stdout.strip(), "lab:1")


@check(3)
def what_a_container_of_it_sees(student):
    """The merged tree: a deletion, an opaque directory, what is added and what is kept."""
    with made(student) as place:
        loaded(place)
        done = unionfs(place, "create", "--name", "one", "lab:1")
        if done.returncode:
            raise Wrong(f"unionfs create: {done.stderr.strip()}")
        archive = place.parent / "root.tar"
        done = unionfs(place, "export", "-o", str(archive), "one")
        if done.returncode:
            raise Wrong(f"unionfs export: {done.stderr.strip()}")
        with tarfile.open(archive) as tar:
            files = {
                os.path.normpath(member.name): tar.extractfile(member).read()
                for member in tar
                if member.isreg() and not member.name.startswith("etc/")
            }
        expect("the files", files, {"greeting": b"hello\n", "motd": b"welcome\n", "data/new": b"new\n"})
