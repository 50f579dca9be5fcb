"""Import: an image of one layer, from an archive of a root filesystem, from a directory, or from this machine.

Called by the command `import`. The last is for a machine without a network: a shell and tools of the machine's own,
with the libraries that they need, are enough to try everything out.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Iterable, Sequence
from typing import IO, Any

from unionfs.errors import UnionfsError
from unionfs.image import manifest
from unionfs.image.blobs import Progress, silent
from unionfs.image.images import Image
from unionfs.image.packing import pack
from unionfs.image.store import Aside, Store

PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
TOOLS = (
    "sh", "bash", "ls", "cat", "cp", "mv", "rm", "ln", "mkdir", "rmdir", "touch", "chmod", "chown", "stat", "df", "du",
    "dd", "head", "tail", "wc", "sort", "uniq", "cut", "tr", "tee", "seq", "echo", "printf", "test", "env", "id",
    "whoami", "uname", "date", "sleep", "true", "false", "basename", "dirname", "readlink", "realpath", "mktemp",
    "sha256sum", "md5sum", "sync", "truncate", "mknod", "mkfifo", "nproc", "tty", "stty", "timeout", "xargs", "find",
    "grep", "sed", "awk", "tar", "gzip", "ps", "kill", "top", "free", "mount", "umount", "hostname", "ip", "ping",
    "chroot", "unshare", "getent", "setpriv", "less", "clear", "diff", "base64", "od",
)  # fmt: skip
"""Programs that an image of this machine has, as far as the machine has them."""
_DATA = ("/etc/nsswitch.conf", "/etc/protocols", "/etc/services", "/etc/os-release", "/usr/lib/os-release")
_TERMINALS = ("xterm", "xterm-256color", "linux", "screen", "tmux-256color", "vt100", "dumb")
_TERMINFO = ("/lib/terminfo", "/usr/share/terminfo", "/etc/terminfo")
_LINKS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_DIRECTORIES = {
    "tmp": 0o1777, "var/tmp": 0o1777, "root": 0o700, "etc": 0o755, "proc": 0o755, "sys": 0o755, "dev": 0o755,
    "run": 0o755, "home": 0o755, "srv": 0o755, "mnt": 0o755, "usr/local/bin": 0o755,
}  # fmt: skip
_PASSWD = "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
_GROUP = "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n"


def import_archive(
    store: Store, source: IO[bytes], name: str, changes: dict[str, Any], message: str, progress: Progress = silent
) -> Image:
    """An image of a tar's content, compressed or not. `changes` are fields of the config's `config`."""
    diff_id = store.add_layer(source, progress=progress)
    return _enter(store, diff_id, name, changes, message or "Imported from -")


def import_directory(
    store: Store, directory: str, name: str, changes: dict[str, Any], message: str, progress: Progress = silent
) -> Image:
    """An image of all that is below a directory."""
    with store.blobs.aside() as path:
        with open(path, "xb") as out:
            pack(directory, out)
        with open(path, "rb") as packed:
            diff_id = store.add_layer(packed, progress=progress)
    return _enter(store, diff_id, name, changes, message or "Imported from a directory")


def _enter(store: Store, diff_id: str, name: str, changes: dict[str, Any], message: str) -> Image:
    config = manifest.new_config(None, [diff_id], changes, "", message)
    return store.add_image(manifest.encode(config), [diff_id], [name] if name else [])


def import_host(store: Store, name: str, programs: Sequence[str] = (), changes: dict[str, Any] | None = None) -> Image:
    """An image of this machine's own shell and tools; `programs` more of them. Raises UnionfsError."""
    with Aside(store.database) as folder:
        tree = _Tree(folder)
        tree.skeleton()
        for program in TOOLS:
            path = shutil.which(program)
            if path is not None:
                tree.program(path)
        for program in programs:
            path = shutil.which(program)
            if path is None:
                hint = "install it, or leave it out"
                raise UnionfsError(f"--with {program}", "this machine has no such program", hint)
            tree.program(path)
        tree.data()
        tree.finish()
        config = {"Env": [PATH], "Cmd": ["/bin/bash" if shutil.which("bash") else "/bin/sh"], **(changes or {})}
        return import_directory(store, folder, name, config, "This machine's own shell and tools")


class _Tree:
    """A root filesystem that is made of files of this machine, each under the path that it has here."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._programs: list[str] = []

    def skeleton(self) -> None:
        for name, mode in _DIRECTORIES.items():
            os.makedirs(f"{self.root}/{name}", exist_ok=True)
            os.chmod(f"{self.root}/{name}", mode)
        for name in _LINKS:
            if os.path.islink(f"/{name}"):
                os.symlink(os.readlink(f"/{name}"), f"{self.root}/{name}")
        for name, content in (("passwd", _PASSWD), ("group", _GROUP)):
            with open(f"{self.root}/etc/{name}", "w", encoding="utf-8") as file:
                file.write(content)

    def program(self, path: str) -> None:
        self.file(path)
        self._programs.append(os.path.realpath(path))

    def data(self) -> None:
        for path in _DATA:
            if os.path.lexists(path):
                self.file(path)
        for folder in _TERMINFO:
            for terminal in _TERMINALS:
                path = f"{folder}/{terminal[0]}/{terminal}"
                if os.path.exists(path):
                    self.file(path)
        for folder in ("/lib", "/lib64", "/usr/lib"):
            self._name_services(folder)

    def _name_services(self, folder: str) -> None:
        """What the C library loads by itself to look users and hosts up."""
        for machine in ("", f"{os.uname().machine}-linux-gnu"):
            for name in ("libnss_files.so.2", "libnss_dns.so.2", "libresolv.so.2", "libgcc_s.so.1"):
                path = os.path.join(folder, machine, name)
                if os.path.exists(path):
                    self.file(path)

    def finish(self) -> None:
        """The libraries of all programs."""
        for library in libraries(self._programs):
            self.file(library)

    def file(self, path: str) -> None:
        """A file with its path; a symbolic link with what it leads to; directories on the way that are links stay
        links. No setuid bit is taken along."""
        folder, name = os.path.split(path)
        place = self._directory(folder)
        if os.path.lexists(f"{place}/{name}"):
            return
        if os.path.islink(path):
            os.symlink(os.readlink(path), f"{place}/{name}")
            self.file(os.path.join(os.path.realpath(folder), os.readlink(path)))
            return
        shutil.copyfile(path, f"{place}/{name}")
        os.chmod(f"{place}/{name}", stat.S_IMODE(os.stat(path).st_mode) & 0o755)

    def _directory(self, path: str) -> str:
        """Where a directory of the machine's is in the tree."""
        real = os.path.realpath(path)
        os.makedirs(f"{self.root}{real}", exist_ok=True)
        return f"{self.root}{real}"


def libraries(programs: Iterable[str]) -> list[str]:
    """The shared libraries of dynamically linked programs, and their loader, by ldd(1). Raises UnionfsError."""
    try:
        done = subprocess.run(["ldd", *programs], capture_output=True, text=True, errors="surrogateescape")
    except FileNotFoundError:
        raise UnionfsError("ldd", "is missing on this machine", "install it (Debian, Ubuntu: libc-bin)") from None
    found = set()
    for line in done.stdout.splitlines():
        if not line.startswith("\t"):
            continue
        words = line.split()
        path = words[2] if "=>" in words and len(words) > 2 else words[0]
        if path.startswith("/"):
            found.add(path)
    return sorted(found)
