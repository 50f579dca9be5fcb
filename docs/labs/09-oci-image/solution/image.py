"""Lab 9, a solution."""

import gzip
import hashlib
import io
import json
import os
import platform
import tarfile

BASE = {"greeting": b"hello\n", "secret": b"do not show\n", "data/old": b"old\n"}
UPPER = {"motd": b"welcome\n", ".wh.secret": b"", "data/.wh..wh..opq": b"", "data/new": b"new\n"}
OCI = "application/vnd.oci.image"
MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


def make_image(place):
    blobs = os.path.join(place, "blobs", "sha256")
    os.makedirs(blobs)

    def blob(content, media_type):
        name = hashlib.sha256(content).hexdigest()
        with open(os.path.join(blobs, name), "wb") as file:
            file.write(content)
        return {"mediaType": media_type, "digest": f"sha256:{name}", "size": len(content)}

    tars = [layer(BASE), layer(UPPER)]
    layers = [blob(gzip.compress(tar, mtime=0), f"{OCI}.layer.v1.tar+gzip") for tar in tars]
    config = {
        "architecture": MACHINES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "config": {"Cmd": ["/bin/cat", "/motd"], "Env": ["COLOUR=green"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(tar).hexdigest()}" for tar in tars]},
        "history": [{"created_by": "lab 9: the base"}, {"created_by": "lab 9: a change of each kind"}],
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{OCI}.manifest.v1+json",
        "config": blob(json.dumps(config).encode(), f"{OCI}.config.v1+json"),
        "layers": layers,
    }
    descriptor = blob(json.dumps(manifest).encode(), f"{OCI}.manifest.v1+json")
    descriptor["annotations"] = {"org.opencontainers.image.ref.name": "lab:1"}
    write(place, "index.json", {"schemaVersion": 2, "manifests": [descriptor]})
    write(place, "oci-layout", {"imageLayoutVersion": "1.0.0"})


def write(place, name, value):
    with open(os.path.join(place, name), "w") as file:
        json.dump(value, file)


def layer(files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for folder in sorted({os.path.dirname(path) for path in files} - {""}):
            info = tarfile.TarInfo(folder)
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(info)
        for path, content in files.items():
            info = tarfile.TarInfo(path)
            info.size, info.mode = len(content), 0o644
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()
