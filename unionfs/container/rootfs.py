"""The root that a container sees: its layers' merged tree, with /proc, /dev, /sys, volumes, and the rest of the machine
out of reach.

Called by `process.py`, in the first process of the container, in its new namespaces, before anything of the image runs.
It promises: a target is opened inside the root (openat2(2), RESOLVE_IN_ROOT) and what is mounted on is that descriptor,
so that no symbolic link of an image leads to the machine; afterwards the old root is unmounted, not hidden, and cannot
be reached by the escape that works against chroot(2).

The order is that of this file's `build`: what the kernel gives, devices, volumes by depth, what is hidden, pivot_root.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from unionfs.container.explain import Explainer
from unionfs.container.spec import TMPFS, Mount, normal
from unionfs.errors import UnionfsError
from unionfs.linux import mountfd, mounts, namespaces
from unionfs.linux.mountfd import ATTR_NODEV, ATTR_NOEXEC, ATTR_NOSUID, ATTR_RDONLY

MASKED = (
    "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
    "/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/firmware",
    "/sys/devices/virtual/powercap",
)  # fmt: skip
"""What tells of the machine, or reaches into it: hidden."""
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
"""What would change the machine: to be read only."""
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_LINKS = (
    ("ptmx", "pts/ptmx"), ("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"), ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
)  # fmt: skip
_TTY_GROUP = 5
_MOST_LINKS = 40
_PTS_OPTIONS = [b"ptmxmode=0666", b"mode=0620"]
_SAFE = ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC
_SHM_OPTIONS = [b"mode=1777", b"size=64m"]
_PROPAGATIONS = {
    "private": mountfd.MS_PRIVATE, "rprivate": mountfd.MS_PRIVATE, "slave": mountfd.MS_SLAVE,
    "rslave": mountfd.MS_SLAVE, "shared": mountfd.MS_SHARED, "rshared": mountfd.MS_SHARED,
}  # fmt: skip
_ATTRIBUTE_WORDS = {"ro": ATTR_RDONLY, "nosuid": ATTR_NOSUID, "nodev": ATTR_NODEV, "noexec": ATTR_NOEXEC}
_CLEARING_WORDS = {"rw": ATTR_RDONLY, "suid": ATTR_NOSUID, "dev": ATTR_NODEV, "exec": ATTR_NOEXEC}


class Source(NamedTuple):
    """A mount of the container's, with the detached tree that is to be put in place; -1 for a tmpfs, made inside."""

    mount: Mount
    tree: int
    is_directory: bool


def open_source(mount: Mount, path: str) -> Source:
    """The detached copy of `path`, made where the machine's own mounts are seen. Raises UnionfsError, naming it."""
    if mount.kind == TMPFS:
        return Source(mount, -1, True)
    try:
        recursive = mount.propagation.startswith("r")
        tree = mountfd.clone_tree(os.fsencode(path), recursive=recursive)
        if mount.read_only:
            mountfd.set_attributes(tree, ATTR_RDONLY)
        mountfd.set_attributes(tree, propagation=_PROPAGATIONS[mount.propagation], recursive=recursive)
    except OSError as error:
        raise UnionfsError(f"{path} cannot be mounted on {mount.target}", error.strerror or str(error)) from error
    return Source(mount, tree, stat.S_ISDIR(os.fstat(tree).st_mode))


def build(root: str, sources: Sequence[Source], files: Sequence[Source], read_only: bool, explain: Explainer) -> int:
    """Make the mounts inside `root`, which is a mount point itself. A descriptor of it, for `enter`. Raises OSError and
    UnionfsError. `files` are those that the launcher itself puts into /etc; `sources` are in the order of a Spec, by
    the depth of their targets."""
    fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    explain.step('mount_setattr("/", MS_SLAVE, recursive)', "no mount made here is seen outside", "mount_namespaces(7)")
    mountfd.set_propagation(b"/", mountfd.MS_SLAVE)
    tree = _Tree(fd, explain)
    tree.kernel("/proc", "proc", _SAFE, "the processes of this pid namespace", "proc(5)")
    tree.devices()
    tree.sys()
    for source in (*files, *sources):
        tree.volume(source)
    tree.hide()
    tree.root_attributes(read_only)
    return fd


def mount_volumes(fd: int, sources: Sequence[Source]) -> None:
    """The user's mounts alone, into the root that a descriptor names: to look into a container that does not run."""
    tree = _Tree(fd, Explainer())
    for source in sources:
        tree.volume(source)


def enter(fd: int, explain: Explainer) -> None:
    """Make the tree of this descriptor the root, and let go of the old one."""
    explain.step('pivot_root(".", ".")', "the merged tree becomes /", "pivot_root(2)")
    os.fchdir(fd)
    namespaces.pivot_root_here()
    explain.step('umount2(".", MNT_DETACH)', "the machine's root goes: nothing is left to climb to", "umount2(2)")
    mounts.unmount(b".", mounts.MNT_DETACH)
    os.chdir("/")
    os.close(fd)


class _Tree:
    def __init__(self, root: int, explain: Explainer) -> None:
        self.root = root
        self.explain = explain

    # What the kernel gives

    def kernel(
        self, target: str, fstype: str, attributes: int, what: str, page: str, options: Sequence[bytes] = ()
    ) -> None:
        self._say(fstype, target, attributes, what, page)
        tree = mountfd.new_filesystem(fstype.encode(), list(options), attributes, fstype.encode())
        self._attach(tree, self._plain(target))

    def sys(self) -> None:
        """A user namespace that does not own its network cannot have a sysfs of its own: the machine's then."""
        try:
            self.kernel("/sys", "sysfs", _SAFE | ATTR_RDONLY, "the kernel's objects, read-only", "sysfs(5)")
        except PermissionError:
            tree = mountfd.clone_tree(b"/sys")
            mountfd.set_attributes(tree, ATTR_RDONLY)
            self._attach(tree, self._plain("/sys"))

    def devices(self) -> None:
        what = "devices: a few, by bind, none of the machine's disks"
        self.kernel("/dev", "tmpfs", ATTR_NOSUID | ATTR_NOEXEC, what, "tmpfs(5)", [b"mode=755", b"size=64k"])
        self._terminals()
        os.close(self._make("/dev/shm", True))
        self.kernel("/dev/shm", "tmpfs", _SAFE, "shared memory", "shm_overview(7)", _SHM_OPTIONS)
        os.close(self._make("/dev/mqueue", True))
        self.kernel("/dev/mqueue", "mqueue", _SAFE, "message queues", "mq_overview(7)")
        self.explain.step("open_tree, move_mount on /dev/{null,...}", ", ".join(DEVICES), "null(4)")
        dev = mountfd.open_in_root(self.root, b"/dev", os.O_RDONLY | os.O_DIRECTORY)
        for name in DEVICES:
            os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=dev))
            tree = mountfd.clone_tree(b"/dev/" + name.encode(), recursive=False)
            self._attach(tree, os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dev))
        for name, to in _LINKS:
            os.symlink(to, name, dir_fd=dev)
        os.close(dev)

    def _terminals(self) -> None:
        """Terminals belong to the group tty, where that exists: not in each user namespace."""
        os.close(self._make("/dev/pts", True))
        arguments = ("/dev/pts", "devpts", ATTR_NOSUID | ATTR_NOEXEC, "terminals of its own", "pts(4)")
        try:
            self.kernel(*arguments, [*_PTS_OPTIONS, b"gid=%d" % _TTY_GROUP])
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self.kernel(*arguments, _PTS_OPTIONS)

    # What the user asked for

    def volume(self, source: Source) -> None:
        mount = source.mount
        if mount.kind == TMPFS:
            attributes, options = _tmpfs(mount)
            self._say("tmpfs", mount.target, attributes, "memory, gone with the container", "tmpfs(5)")
            tree = mountfd.new_filesystem(b"tmpfs", options, attributes, b"tmpfs")
        else:
            kind, rights = mount.kind, "read-only" if mount.read_only else "read-write"
            self.explain.step(f"move_mount on {mount.target}", f"{kind} {mount.source}, {rights}", "move_mount(2)")
            tree = source.tree
        try:
            target = self._make(mount.target, source.is_directory)
        except OSError as error:
            raise UnionfsError(f"mount point {mount.target}", error.strerror or str(error)) from error
        if stat.S_ISDIR(os.fstat(target).st_mode) != source.is_directory:
            has, is_there = ("directory", "file") if source.is_directory else ("file", "directory")
            what = f"{mount.source} cannot be mounted on {mount.target}"
            raise UnionfsError(what, f"the one is a {has}, the other a {is_there}", "mount a directory on a directory")
        self._attach(tree, target)

    # What is not to be reached

    def hide(self) -> None:
        self.explain.step("move_mount on /proc/kcore, ...", "what tells of the machine is hidden", "proc(5)")
        for path in MASKED:
            with suppress(FileNotFoundError, NotADirectoryError):
                self._mask(path)
        self.explain.step("mount_setattr(/proc/sys, ..., RDONLY)", "what would change it is read-only", "proc(5)")
        for path in READ_ONLY:
            with suppress(FileNotFoundError, NotADirectoryError):
                target = self._open(path)
                tree = mountfd.clone_tree(b"", target)
                mountfd.set_attributes(tree, ATTR_RDONLY)
                self._attach(tree, target)

    def _mask(self, path: str) -> None:
        target = self._open(path)
        if stat.S_ISDIR(os.fstat(target).st_mode):
            options = [b"size=0", b"nr_inodes=2", b"mode=555"]
            tree = mountfd.new_filesystem(b"tmpfs", options, _SAFE | ATTR_RDONLY, b"tmpfs")
        else:
            tree = mountfd.clone_tree(b"/dev/null", recursive=False)
        self._attach(tree, target)

    def root_attributes(self, read_only: bool) -> None:
        attributes = ATTR_NODEV | (ATTR_RDONLY if read_only else 0)
        self._say("", "/", attributes, "a device node in the layers is inert", "mount_setattr(2)")
        mountfd.set_attributes(self.root, attributes, recursive=False)

    # Targets

    def _say(self, fstype: str, target: str, attributes: int, what: str, page: str) -> None:
        words = ",".join(word for word, bit in _ATTRIBUTE_WORDS.items() if attributes & bit)
        self.explain.step(f"mount {fstype + ' ' if fstype else ''}on {target} ({words})", what, page)

    def _attach(self, tree: int, target: int) -> None:
        mountfd.attach(tree, target)
        os.close(tree)
        os.close(target)

    def _open(self, path: str, resolve: int = mountfd.RESOLVE_IN_ROOT) -> int:
        return mountfd.open_in_root(self.root, os.fsencode(path), os.O_PATH, resolve=resolve)

    def _plain(self, path: str) -> int:
        """One of the launcher's own targets: no symbolic link may lead it elsewhere, not even inside the root."""
        try:
            return self._open(path, mountfd.RESOLVE_IN_ROOT | mountfd.RESOLVE_NO_SYMLINKS)
        except FileNotFoundError:
            return self._make(path, True)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            hint = f"the image must have a directory at {path}, or nothing"
            raise UnionfsError(f"{path} in the image", "is a symbolic link", hint) from error

    def _make(self, path: str, is_directory: bool, links: int = _MOST_LINKS) -> int:
        """A descriptor of a target inside the root, with the directories above it; made where it is missing, and where
        a symbolic link of the image leads to nothing."""
        with suppress(FileNotFoundError):
            return self._open(path)
        parent, _, name = path.rstrip("/").rpartition("/")
        above = self._make(parent, True, links) if parent else os.dup(self.root)
        directory = mountfd.open_in_root(above, b".", os.O_RDONLY | os.O_DIRECTORY)
        os.close(above)
        try:
            if is_directory:
                os.mkdir(name, 0o755, dir_fd=directory)
            else:
                os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=directory))
        except FileExistsError:
            to = os.path.join(parent, os.readlink(name, dir_fd=directory))
            if links == 0:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path) from None
            return self._make(normal(to), is_directory, links - 1)
        finally:
            os.close(directory)
        return self._open(path)


def _tmpfs(mount: Mount) -> tuple[int, list[bytes]]:
    """The attributes and the filesystem's own words of a tmpfs; docker's defaults."""
    attributes, options = _SAFE | (ATTR_RDONLY if mount.read_only else 0), []
    for word in mount.options:
        if word in _ATTRIBUTE_WORDS:
            attributes |= _ATTRIBUTE_WORDS[word]
        elif word in _CLEARING_WORDS:
            attributes &= ~_CLEARING_WORDS[word]
        else:
            options.append(word.encode())
    if not any(option.startswith(b"mode=") for option in options):
        options.append(b"mode=1777")
    return attributes, options
