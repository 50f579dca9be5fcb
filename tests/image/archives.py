"""Archives made by hand, as no honest tool makes them."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

Entry = tuple[str, dict[str, Any], bytes]


def entry(name: str, content: bytes = b"", **fields: Any) -> Entry:
    return name, fields, content


def tar(entries: Iterable[Entry], form: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for name, fields, content in entries:
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), 0o644
            for key, value in fields.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(content) if info.isreg() else None)
    return out.getvalue()


def digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def docker_archive(
    layers: list[bytes], name: str = "bad:1", change: Callable[[dict[str, Any]], None] | None = None
) -> bytes:
    """As `docker save` of old wrote it. `change` alters the config before it is written."""
    config: dict[str, Any] = {
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]},
    }  # fmt: skip
    if change is not None:
        change(config)
    content = json.dumps(config).encode()
    names = [f"{number}/layer.tar" for number in range(len(layers))]
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": names}]
    files = [entry("manifest.json", json.dumps(manifest).encode()), entry("config.json", content)]
    return tar([*files, *(entry(path, layer) for path, layer in zip(names, layers, strict=True))])


def files_below(path: Path) -> set[str]:
    return {found.relative_to(path).as_posix() for found in path.rglob("*")}
