"""References: the names of images, as docker reads and shows them.

Called by the store, by layouts and transfers. In full a reference is `registry/path:tag` or `registry/path@digest`:
docker.io/library/debian:12. People write and read less: debian:12. Pure functions.
"""

from __future__ import annotations

from typing import NamedTuple

from unionfs.errors import UnionfsError

_REGISTRY, _LIBRARY, _TAG = "docker.io", "library/", "latest"
_LOWER = "abcdefghijklmnopqrstuvwxyz0123456789"
_WORD = _LOWER + "ABCDEFGHIJKLMNOPQRSTUVWXYZ_"
_LONGEST_TAG, _LONGEST_NAME = 128, 255
HEX = "0123456789abcdef"
DIGEST_LENGTH = 64


class Reference(NamedTuple):
    """`registry` (docker.io), `path` (library/debian), and a tag or a digest, "" for neither."""

    registry: str
    path: str
    tag: str = ""
    digest: str = ""

    def __str__(self) -> str:
        """In full, as it is kept."""
        return f"{self.registry}/{self.path}{self._end}"

    @property
    def _end(self) -> str:
        return f"@{self.digest}" if self.digest else f":{self.tag}" if self.tag else ""

    @property
    def name(self) -> str:
        """Registry and path, without what docker leaves out."""
        if self.registry != _REGISTRY:
            return f"{self.registry}/{self.path}"
        return self.path.removeprefix(_LIBRARY)

    @property
    def familiar(self) -> str:
        """As people write it: debian:12."""
        return self.name + self._end


def parse(word: str, default_tag: str = _TAG) -> Reference:
    """What a user wrote. Raises UnionfsError."""
    name, at, digest = word.partition("@")
    if at and not is_digest(digest):
        raise _invalid(word, f'"{digest}" is no digest, which is sha256: and 64 hexadecimal digits')
    head, slash, rest = name.partition("/")
    registry, path = (head, rest) if slash and _is_registry(head) else (_REGISTRY, name)
    path, colon, tag = path.partition(":")
    if colon and not _is_tag(tag):
        raise _invalid(word, f'"{tag}" is no tag')
    if path != path.lower():
        raise UnionfsError(f"invalid reference format: {word}", "repository name must be lowercase", word.lower())
    if not path or len(path) > _LONGEST_NAME or not all(map(_is_component, path.split("/"))):
        raise _invalid(word, "a name is of lower-case letters, digits, and . _ - between them")
    if registry == _REGISTRY and "/" not in path:
        path = _LIBRARY + path
    return Reference(registry, path, "" if digest else tag or default_tag, digest)


def familiar(full: str) -> str:
    """As people write it, of a reference in full."""
    return parse(full).familiar


def is_digest(word: str) -> bool:
    algorithm, _, digits = word.partition(":")
    return algorithm == "sha256" and len(digits) == DIGEST_LENGTH and not digits.strip(HEX)


def _is_registry(head: str) -> bool:
    host, _, port = head.partition(":")
    return ("." in head or ":" in head or head == "localhost") and bool(host) and (not port or port.isdecimal())


def _is_component(word: str) -> bool:
    return bool(word) and word[0] in _LOWER and word[-1] in _LOWER and not word.strip(_LOWER + "._-")


def _is_tag(word: str) -> bool:
    return 0 < len(word) <= _LONGEST_TAG and word[0] in _WORD and not word.strip(_WORD + ".-")


def _invalid(word: str, why: str) -> UnionfsError:
    return UnionfsError(f"invalid reference format: {word}", why, "NAME[:TAG], as in debian:12")
