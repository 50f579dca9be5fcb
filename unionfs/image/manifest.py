"""Manifests and configs: OCI's documents about an image, read and made.

Called by the store, layouts and builds. Unknown fields never fail. Sources: the OCI image specification (config.md,
manifest.md, image-index.md), docker's image manifest version 2 schema 2.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from unionfs.errors import UnionfsError
from unionfs.image.blobs import compression_of, digest_of

if TYPE_CHECKING:
    from unionfs.image.images import Layer

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
_INDEXES = (INDEX, "application/vnd.docker.distribution.manifest.list.v2+json")
_SUFFIXES = {"": "", "gzip": "+gzip", "zstd": "+zstd", "bzip2": "", "xz": ""}
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "ppc64le": "ppc64le", "s390x": "s390x"}


def architecture() -> str:
    """This machine's, in OCI's (Go's) words."""
    machine = os.uname().machine
    return _MACHINES.get(machine, machine)


def layer_type(blob: str) -> str:
    """The media type of a layer's blob. OCI has no word for bzip2 and xz, which docker's archives alone have."""
    return LAYER + _SUFFIXES[compression_of(blob)]


def encode(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def decode(content: bytes, what: str) -> dict[str, Any]:
    """A JSON document that is an object. Raises UnionfsError."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UnionfsError(what, f"is no JSON: {error}", "it was damaged: get it again") from error
    if not isinstance(document, dict):
        raise UnionfsError(what, "is no JSON object", "it was damaged: get it again")
    return document


def make(config: bytes, layers: Iterable[Layer]) -> bytes:
    """The manifest of an image."""
    described = [{"mediaType": layer.media_type, "digest": layer.blob, "size": layer.blob_size} for layer in layers]
    about = {"mediaType": CONFIG, "digest": digest_of(config), "size": len(config)}
    return encode({"schemaVersion": 2, "mediaType": MANIFEST, "config": about, "layers": described})


def diff_ids_of(config: dict[str, Any]) -> list[str]:
    """The layers that a config names, the lowest first. Raises UnionfsError."""
    names = (config.get("rootfs") or {}).get("diff_ids") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UnionfsError("the image's config", "its rootfs names no layers", "it was damaged: get it again")
    return names


def is_index(document: dict[str, Any]) -> bool:
    return document.get("mediaType") in _INDEXES or ("manifests" in document and "layers" not in document)


def choose(index: dict[str, Any], what: str) -> dict[str, Any]:
    """The manifest's descriptor that is for this machine. Raises UnionfsError."""
    found = [entry for entry in index.get("manifests") or () if isinstance(entry, dict) and "digest" in entry]
    platforms = [(entry.get("platform") or {}) for entry in found]
    for entry, platform in zip(found, platforms, strict=True):
        if platform.get("architecture", architecture()) == architecture() and platform.get("os", "linux") == "linux":
            return entry
    known = ", ".join(sorted({str(platform.get("architecture")) for platform in platforms})) or "none"
    raise UnionfsError(what, f"has no image for {architecture()}; it has {known}")


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def new_config(
    base: dict[str, Any] | None, diff_ids: Sequence[str], config: dict[str, Any], created_by: str, comment: str = "",
    empty: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """The config of an image made here: of `base` with its layers and history, one step more; `empty`: without a layer
    of its own."""
    before = base or {}
    step: dict[str, Any] = {"created": now(), "created_by": created_by}
    step.update({"comment": comment} if comment else {}, **({"empty_layer": True} if empty else {}))
    return {
        "created": step["created"],
        "architecture": before.get("architecture", architecture()),
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": list(diff_ids)},
        "history": [*(before.get("history") or ()), step],
    }
