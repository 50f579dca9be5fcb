"""/dev/fuse: open it, mount through it, and the ioctls of the connection.

Called by the FUSE floor. Two ways lead to a mount: mount(2) with the descriptor, for root and inside a user namespace,
and the setuid program fusermount3, which mounts for an ordinary user and sends the descriptor back over a socket.
Which one to try, and what to tell people, is decided above. Every function raises OSError.
Sources: the kernel's Documentation/filesystems/fuse, include/uapi/linux/fuse.h, fusermount3(1).
"""

from __future__ import annotations

import _socket
import errno
import fcntl
import os
import stat
import struct
import sys
from collections.abc import Sequence

from unionfs.linux import mounts

DEVICE = "/dev/fuse"
HELPERS = ("fusermount3", "fusermount")
_HELPER_FOLDERS = ("/usr/bin", "/bin", "/usr/local/bin")

_IOC_CLONE = 0x8004E500
_IOC_BACKING_OPEN, _IOC_BACKING_CLOSE = 0x4010E501, 0x4004E502


def open_device() -> int:
    """A new descriptor of /dev/fuse: one connection, once it is mounted. Closed on exec; reads block."""
    return os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)


def mount_direct(
    device: int, target: bytes, subtype: bytes, source: bytes, flags: int, options: Sequence[bytes]
) -> None:
    """Mount the connection of `device` on `target` by mount(2), with type `fuse.SUBTYPE` and FUSE's own `options`.

    Returns at once; the kernel has then queued INIT, and whoever looks into the mount waits for its answer.
    Raises OSError: EPERM without CAP_SYS_ADMIN in the mount namespace's user namespace.
    """
    kind = stat.S_IFMT(os.stat(target).st_mode)
    data = b"fd=%d,rootmode=%o,user_id=%d,group_id=%d" % (device, kind, os.getuid(), os.getgid())
    mounts.mount(source, target, b"fuse." + subtype, flags, b",".join([data, *options]))


def mount_by_helper(helper: str, target: bytes, options: Sequence[bytes]) -> int:
    """Mount on `target` by the program `helper` and return the connection's descriptor.

    `options` are the words of its -o, escaped by `escape`. Raises OSError with the helper's own words.
    """
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM, 0)
    arguments = [os.fsencode(helper), b"-o", b",".join(options), b"--", target]
    try:
        child = _Child(arguments, {**os.environb, b"_FUSE_COMMFD": b"%d" % theirs.fileno()}, keep=theirs.fileno())
        theirs.close()
        device = _receive_descriptor(ours)
    finally:
        theirs.close()
        ours.close()
    status, words = child.wait()
    if device is None or status != 0:
        raise OSError(errno.EPERM, words or f"{helper} ended with status {status}", os.fsdecode(target))
    return device


def unmount_by_helper(helper: str, target: bytes, lazy: bool = False) -> None:
    """Unmount what this user mounted by `helper`. Raises OSError (EBUSY, EPERM) with the helper's own words."""
    arguments = [os.fsencode(helper), b"-u", *([b"-z"] if lazy else []), b"--", target]
    status, words = _Child(arguments, dict(os.environb)).wait()
    if status != 0:
        number = errno.EBUSY if os.strerror(errno.EBUSY) in words else errno.EPERM
        raise OSError(number, words or f"{helper} ended with status {status}", os.fsdecode(target))


def find_helper() -> str | None:
    """The path of fusermount3, else of fusermount; PATH may be unset, as it is under mount(8)."""
    folders = [folder for folder in os.environ.get("PATH", "").split(":") if folder.startswith("/")]
    for name in HELPERS:
        for folder in (*folders, *_HELPER_FOLDERS):
            if os.access(path := f"{folder}/{name}", os.X_OK):
                return path
    return None


def escape(value: bytes) -> bytes:
    r"""A value for the helper's -o: `\` and `,` escaped."""
    return value.replace(b"\\", b"\\\\").replace(b",", b"\\,")


def clone(device: int, connection: int) -> None:
    """FUSE_DEV_IOC_CLONE: make the fresh descriptor `device` a second channel of `connection`."""
    fcntl.ioctl(device, _IOC_CLONE, struct.pack("I", connection))


def backing_open(connection: int, file: int) -> int:
    """FUSE_DEV_IOC_BACKING_OPEN: register an open `file` as backing file; its id.

    Raises OSError: EPERM without CAP_SYS_ADMIN in the first user namespace or without FUSE_PASSTHROUGH in INIT,
    ELOOP when the file lies on a stacked file system already.
    """
    return int(fcntl.ioctl(connection, _IOC_BACKING_OPEN, bytearray(struct.pack("iIQ", file, 0, 0))))


def backing_close(connection: int, backing_id: int) -> None:
    """FUSE_DEV_IOC_BACKING_CLOSE: give the id of a backing file back."""
    fcntl.ioctl(connection, _IOC_BACKING_CLOSE, bytearray(struct.pack("I", backing_id)))


def set_read_ahead(device_number: int, kibibytes: int) -> None:
    """Read-ahead of the mount whose st_dev is `device_number`, in KiB. Root of the first user namespace only."""
    path = f"/sys/class/bdi/{os.major(device_number)}:{os.minor(device_number)}/read_ahead_kb"
    with open(path, "w") as file:
        file.write(f"{kibibytes}\n")


class _Child:
    """A running program whose standard error is collected."""

    def __init__(self, arguments: list[bytes], environment: dict[bytes, bytes], keep: int | None = None) -> None:
        self._errors, errors = os.pipe()
        actions = [(os.POSIX_SPAWN_DUP2, errors, 2)]
        if keep is not None:
            actions.append((os.POSIX_SPAWN_DUP2, keep, keep))  # onto itself: clears close-on-exec in the child
        try:
            self._pid = os.posix_spawn(arguments[0], arguments, environment, file_actions=actions)
        except OSError:
            os.close(self._errors)
            raise
        finally:
            os.close(errors)

    def wait(self) -> tuple[int, str]:
        """Its exit status (negative: the signal that ended it) and what it said."""
        with open(self._errors, encoding="utf-8", errors="replace") as file:
            words = file.read().strip()
        return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1]), words


def _receive_descriptor(socket: _socket.socket) -> int | None:
    _, messages, _, _ = socket.recvmsg(1, _socket.CMSG_SPACE(4), _socket.MSG_CMSG_CLOEXEC)
    for level, kind, payload in messages:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS and len(payload) >= 4:
            return int.from_bytes(payload[:4], sys.byteorder)
    return None
