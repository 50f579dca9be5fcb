"""Load and save: archives of images, as docker and other tools exchange them.

Called by the commands `load` and `save`, and by `transfer.py`. Read are docker's archives (manifest.json says what is
in them) and OCI's layouts (index.json does), as a directory or as a tar in any compression; written is what docker
writes today: an OCI layout that has a manifest.json too. It promises: nothing outside the archive is read through a
name in it; what was not whole is not loaded; an image whose digests are wrong is refused.
"""

from __future__ import annotations

import io
import json
import os
import stat
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO, Any, NamedTuple

from unionfs.errors import UnionfsError
from unionfs.image import manifest, reference
from unionfs.image.archive import unpack
from unionfs.image.blobs import Progress, decompressed, digest_of, silent
from unionfs.image.images import Image
from unionfs.image.packing import open_for_writing
from unionfs.image.store import Aside, Store
from unionfs.linux import mountfd

_NAMES = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
_LARGEST_DOCUMENT = 4 << 20
_DEEPEST_INDEX = 4
_CHUNK = 1 << 20


class Loaded(NamedTuple):
    """An image, and the names that the archive gives it."""

    image: Image
    names: Sequence[str]


def load(store: Store, source: IO[bytes], progress: Progress = silent) -> list[Loaded]:
    """All images of an archive. Raises UnionfsError."""
    with store.blobs.aside() as path, Aside(store.database) as folder:
        store.blobs.copy(source, path, progress)
        with decompressed(path) as stream:
            unpack(stream, folder, is_layer=False)
            while stream.read(_CHUNK):
                pass  # a compressed file's own checksum is at its end
        os.unlink(path)
        return load_directory(store, folder)


def load_directory(store: Store, folder: str) -> list[Loaded]:
    """The images of a directory that an archive was unpacked to."""
    layout = _Layout(store, folder)
    try:
        if layout.has("manifest.json"):
            return layout.docker()
        if layout.has("index.json"):
            return layout.oci()
    finally:
        layout.close()
    hint = "unionfs import takes an archive of a root filesystem"
    raise UnionfsError("the archive", "has neither manifest.json nor index.json: it is no archive of images", hint)


class _Layout:
    def __init__(self, store: Store, folder: str) -> None:
        self.store = store
        self.root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        os.close(self.root)

    def has(self, name: str) -> bool:
        with suppress(OSError):
            os.close(mountfd.open_in_root(self.root, name.encode(), os.O_PATH))
            return True
        return False

    @contextmanager
    def _open(self, name: str) -> Iterator[IO[bytes]]:
        """A file of the archive's; a link in it leads to nothing but the archive."""
        try:
            fd = mountfd.open_in_root(self.root, os.fsencode(name), os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            raise UnionfsError("the archive", f"names {name}, which is not in it", "get it again") from error
        with open(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise UnionfsError("the archive", f"{name} is no file", "get it again")
            yield file

    def _read(self, name: str) -> bytes:
        with self._open(name) as file:
            content = file.read(_LARGEST_DOCUMENT + 1)
        if len(content) > _LARGEST_DOCUMENT:
            raise UnionfsError("the archive", f"{name} has more than {_LARGEST_DOCUMENT} bytes")
        return content

    def _blob(self, descriptor: dict[str, Any]) -> bytes:
        digest = _digest(descriptor)
        content = self._read(_blob_path(digest))
        if digest_of(content) != digest:
            raise UnionfsError(f"blob {digest}", f"has the digest {digest_of(content)}", "it was damaged: get it again")
        return content

    # Docker's archive

    def docker(self) -> list[Loaded]:
        try:
            entries = json.loads(self._read("manifest.json"))
            wanted = [(entry["Config"], entry.get("RepoTags") or [], entry.get("Layers") or []) for entry in entries]
            if not wanted:
                raise ValueError("it names no image")
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise UnionfsError("the archive's manifest.json", f"is damaged: {error}", "get it again") from error
        return [self._docker_image(*entry) for entry in wanted]

    def _docker_image(self, config_name: str, tags: list[str], layers: list[str]) -> Loaded:
        config = self._read(config_name)
        diff_ids = manifest.diff_ids_of(manifest.decode(config, config_name))
        if len(diff_ids) != len(layers):
            why = f"has {len(layers)} layers, and its config names {len(diff_ids)}"
            raise UnionfsError(f"image {', '.join(tags) or config_name}", why, "get it again")
        for name, diff_id in zip(layers, diff_ids, strict=True):
            with self._open(name) as file:
                self.store.add_layer(file, diff_id=diff_id)
        return Loaded(self.store.add_image(config, diff_ids, tags), tags)

    # OCI's layout

    def oci(self) -> list[Loaded]:
        index = manifest.decode(self._read("index.json"), "the archive's index.json")
        images = []
        for descriptor in index.get("manifests") or ():
            content = self._manifest(descriptor, 0)
            images.append(self._oci_image(content, _name_of(descriptor)))
        if not images:
            raise UnionfsError("the archive", "has no image in it")
        return images

    def _manifest(self, descriptor: dict[str, Any], depth: int) -> bytes:
        """The manifest of an image; of an index of several, the one for this machine."""
        content = self._blob(descriptor)
        document = manifest.decode(content, f"blob {descriptor.get('digest')}")
        if not manifest.is_index(document):
            return content
        if depth > _DEEPEST_INDEX:
            raise UnionfsError("the archive", "has an index in an index in an index...")
        return self._manifest(manifest.choose(document, "the archive"), depth + 1)

    def _oci_image(self, content: bytes, name: str) -> Loaded:
        document = manifest.decode(content, "the archive's manifest")
        config = self._blob(document.get("config") or {})
        diff_ids = manifest.diff_ids_of(manifest.decode(config, "the image's config"))
        described = document.get("layers") or []
        if len(diff_ids) != len(described):
            why = f"its manifest has {len(described)} layers, its config {len(diff_ids)}"
            raise UnionfsError(f"image {name}", why, "get it again")
        for descriptor, diff_id in zip(described, diff_ids, strict=True):
            digest = _digest(descriptor)
            with self._open(_blob_path(digest)) as file:
                self.store.add_layer(file, digest=digest, diff_id=diff_id)
        names = [name] if name else []
        return Loaded(self.store.add_image(config, diff_ids, names, content), names)


def _digest(descriptor: Any) -> str:
    digest = descriptor.get("digest") if isinstance(descriptor, dict) else None
    if not isinstance(digest, str) or not reference.is_digest(digest):
        raise UnionfsError("the archive", f"has the digest {digest!r}, and a digest is sha256: and 64 digits")
    return digest


def _blob_path(digest: str) -> str:
    return f"blobs/sha256/{digest.removeprefix('sha256:')}"


def _name_of(descriptor: dict[str, Any]) -> str:
    """The image's name, if the index has one that is one: some write the tag alone, which names nothing."""
    annotations = descriptor.get("annotations") or {}
    for key in _NAMES:
        name = annotations.get(key)
        if isinstance(name, str) and (":" in name or "/" in name):
            with suppress(UnionfsError):
                return str(reference.parse(name))
    return ""


# --- save


def save(
    store: Store, images: Sequence[tuple[Image, Sequence[str]]], out: IO[bytes], progress: Progress = silent
) -> None:
    """Write images, each with the names it is to have in the archive, in full or as people write them."""
    with open_for_writing(out) as tar:
        _add(tar, "oci-layout", json.dumps({"imageLayoutVersion": "1.0.0"}).encode())
        done: set[str] = set()
        described, entries = [], []
        for image, names in images:
            content = store.blobs.read(image.manifest)
            document = manifest.decode(content, "a manifest")
            digests = [_digest(layer) for layer in document["layers"]]
            for digest in (image.manifest, image.id, *digests):
                if digest not in done:
                    _add_blob(tar, store, digest, progress)
                    done.add(digest)
            described += _descriptors(image, len(content), names)
            entries.append(
                {
                    "Config": _blob_path(image.id),
                    "RepoTags": [reference.parse(name).familiar for name in names] or None,
                    "Layers": [_blob_path(digest) for digest in digests],
                }
            )
        index = {"schemaVersion": 2, "mediaType": manifest.INDEX, "manifests": described}
        _add(tar, "index.json", manifest.encode(index))
        _add(tar, "manifest.json", json.dumps(entries).encode())


def _descriptors(image: Image, size: int, names: Sequence[str]) -> list[dict[str, Any]]:
    """One for each name, or one without."""
    about = {"mediaType": manifest.MANIFEST, "digest": image.manifest, "size": size}
    named = []
    for name in names:
        parsed = reference.parse(name)
        named.append({**about, "annotations": {_NAMES[0]: str(parsed), _NAMES[1]: parsed.tag}})
    return named or [about]


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o644
    tar.addfile(entry, io.BytesIO(content))


def _add_blob(tar: tarfile.TarFile, store: Store, digest: str, progress: Progress) -> None:
    entry = tarfile.TarInfo(_blob_path(digest))
    with open(store.blobs.path(digest), "rb") as file:
        entry.size, entry.mode = os.fstat(file.fileno()).st_size, 0o644
        tar.addfile(entry, file)
    progress(entry.size)
