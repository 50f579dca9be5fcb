"""Pull and push: images from and to a registry, by the program skopeo, which speaks to all of them.

Called by the commands. What comes is checked as what any archive brings is; a registry on this machine is spoken to
without TLS, as docker does.
"""

from __future__ import annotations

import os
import subprocess
import sys

from unionfs.errors import UnionfsError
from unionfs.image import layout
from unionfs.image.images import Image
from unionfs.image.reference import Reference
from unionfs.image.store import Aside, Store

_HERE = ("localhost", "127.", "[::1]")
_NAME = "image"


def pull(store: Store, wanted: Reference, tls_verify: str | None = None, quiet: bool = False) -> Image:
    """Get an image and give it its name. Raises UnionfsError."""
    with Aside(store.database) as folder:
        _skopeo(f"docker://{wanted}", f"oci:{folder}:{_NAME}", "src", _verifies(wanted, tls_verify), quiet)
        image = layout.load_directory(store, folder)[0].image
    if wanted.tag:
        store.tag(image, str(wanted))
    return store.resolve(image.id)


def push(store: Store, image: Image, wanted: Reference, tls_verify: str | None = None, quiet: bool = False) -> None:
    """Put an image into a registry under a name. Raises UnionfsError."""
    with Aside(store.database) as folder:
        packed = os.path.join(folder, "image.tar")
        with open(packed, "xb") as out:
            layout.save(store, [(image, [])], out)
        _skopeo(f"oci-archive:{packed}", f"docker://{wanted}", "dest", _verifies(wanted, tls_verify), quiet)


def _verifies(wanted: Reference, tls_verify: str | None) -> str:
    return tls_verify or ("false" if wanted.registry.startswith(_HERE) else "true")


def _skopeo(source: str, target: str, side: str, verifies: str, quiet: bool) -> None:
    command = ["skopeo", "copy", *(["-q"] if quiet else []), f"--{side}-tls-verify={verifies}", source, target]
    try:
        done = subprocess.run(command, stdout=sys.stderr, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        hint = "install it (Debian, Ubuntu: apt-get install skopeo), or use unionfs load"
        raise UnionfsError("registries are reached by the program skopeo", "it is not installed", hint) from None
    if done.returncode:
        name = (source if side == "src" else target).removeprefix("docker://")
        raise UnionfsError(name, _reason(done.stderr.decode("utf-8", "replace")))


def _reason(text: str) -> str:
    """The end of skopeo's last message, which says what it was about."""
    lines = [line for line in text.splitlines() if line.strip()]
    message = lines[-1] if lines else "skopeo failed and said nothing"
    return message.partition('msg="')[2].rstrip('"').replace('\\"', '"') or message
