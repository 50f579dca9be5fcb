"""The native engine mounted for real, by its daemon; the file system behind it is the small one in memory."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import signal
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import unprivileged
from tests.fuse.fake_operations import FakeOperations
from unionfs import events
from unionfs.errors import UnionfsError
from unionfs.fuse import mount
from unionfs.fuse.calls import PID_XATTR
from unionfs.fuse.daemon import DaemonError, daemonize
from unionfs.linux import fusedev, mounts

ROOT = Path(__file__).resolve().parents[2]
libc = ctypes.CDLL(None, use_errno=True)

pytestmark = [
    pytest.mark.skipif(not os.access(fusedev.DEVICE, os.R_OK | os.W_OK), reason="needs access to /dev/fuse"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount by mount(2)"),
]


class Mounted:
    """A mount and its daemon."""

    def __init__(self, path: Path, fake: Any = None, **options: Any) -> None:
        self.path = path
        self.point = os.fsencode(path)
        fake = fake or FakeOperations()
        self.daemon = daemonize(lambda ready: mount.serve(fake, self.point, engine="native", ready=ready, **options))
        self.status: int | None = None

    def end(self) -> int:
        """The daemon's exit status, once it has ended."""
        if self.status is None:
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.daemon, 0)[1])
        return self.status

    def close(self) -> None:
        while mounts.is_mountpoint(self.point):
            mounts.unmount(self.point, mounts.MNT_DETACH)
        self.end()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Mounted]]:
    started: list[Mounted] = []

    def begin(**options: Any) -> Mounted:
        path = tmp_path / f"mount {len(started)}"
        path.mkdir()
        started.append(Mounted(path, **options))
        return started[-1]

    yield begin
    for mounted in started:
        mounted.close()


@pytest.fixture
def mounted(start: Callable[..., Mounted]) -> Mounted:
    return start()


@pytest.fixture
def path(mounted: Mounted) -> Path:
    return mounted.path


def read(path: Path) -> bytes:
    return path.read_bytes()


# --- mounting and unmounting


def test_it_is_mounted_when_the_starter_goes_on(mounted: Mounted) -> None:
    entry = mounts.find(mounted.point)
    assert (entry.point, entry.fstype, entry.source) == (mounted.point, b"fuse.unionfs", b"unionfs")
    assert {b"default_permissions", b"allow_other", b"rw"} <= set(entry.options)
    assert os.listdir(mounted.path) == []


def test_options_reach_the_mount(start: Callable[..., Mounted]) -> None:
    mounted = start(flags=("nosuid", "noexec", "noatime", "ro"), source=b"a source", allow_other=False)
    entry = mounts.find(mounted.point)
    assert entry.source == b"a source"
    assert {b"nosuid", b"noexec", b"noatime", b"ro"} <= set(entry.options)
    assert b"allow_other" not in entry.options
    with pytest.raises(OSError) as raised:
        (mounted.path / "file").touch()
    assert raised.value.errno == errno.EROFS


def test_the_daemon_is_detached(mounted: Mounted) -> None:
    process = Path(f"/proc/{mounted.daemon}")
    assert os.readlink(process / "cwd") == "/"
    assert {os.readlink(process / "fd" / str(stream)) for stream in range(3)} == {"/dev/null"}
    assert os.getsid(mounted.daemon) == mounted.daemon
    assert "Umask:\t0000" in (process / "status").read_text()


def test_unmount_waits_for_the_daemon(mounted: Mounted) -> None:
    assert os.getxattr(mounted.path, PID_XATTR) == str(mounted.daemon).encode()
    mount.unmount(mounted.point)
    assert os.waitpid(mounted.daemon, os.WNOHANG)[0] == mounted.daemon
    mounted.status = 0
    assert not mounts.is_mountpoint(mounted.point)


def test_unmounting_what_is_in_use(mounted: Mounted) -> None:
    with open(mounted.path / "file", "wb"):
        with pytest.raises(UnionfsError, match="it is in use") as raised:
            mount.unmount(mounted.point)
        assert f"fuser -vm {mounted.path}" in raised.value.hint
        mount.unmount(mounted.point, lazy=True)
    assert mounted.end() == 0


def test_unmounting_what_is_not_ours(tmp_path: Path) -> None:
    with pytest.raises(UnionfsError, match="nothing is mounted there"):
        mount.unmount(os.fsencode(tmp_path))
    with pytest.raises(UnionfsError, match="is proc, not a union"):
        mount.unmount(b"/proc")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_unmounts(mounted: Mounted, number: int) -> None:
    os.kill(mounted.daemon, number)
    assert mounted.end() == 0
    assert not mounts.is_mountpoint(mounted.point)


def test_a_signal_with_dirty_pages_and_an_open_file(mounted: Mounted) -> None:
    """What is open goes on working until it is closed; then the daemon leaves."""
    with open(mounted.path / "file", "w+b") as file:
        file.truncate(8192)
        mapped = mmap.mmap(file.fileno(), 8192)
        mapped[:4] = b"data"
        os.kill(mounted.daemon, signal.SIGTERM)
        while mounts.is_mountpoint(mounted.point):
            time.sleep(0.01)
        assert os.pread(file.fileno(), 4, 0) == b"data"
        assert os.pwrite(file.fileno(), b"more", 4096) == 4
        mapped.close()
        assert os.waitpid(mounted.daemon, os.WNOHANG) == (0, 0)
    assert mounted.end() == 0


def test_a_second_signal_leaves_at_once(mounted: Mounted) -> None:
    with open(mounted.path / "file", "wb", buffering=0) as file:
        os.kill(mounted.daemon, signal.SIGTERM)
        while mounts.is_mountpoint(mounted.point):
            time.sleep(0.01)
        os.kill(mounted.daemon, signal.SIGTERM)
        assert mounted.end() == 128 + signal.SIGTERM
        with pytest.raises(OSError) as raised:
            file.write(b"x")
        assert raised.value.errno == errno.ENOTCONN


def test_a_killed_daemon_leaves_a_dead_mount_that_can_be_unmounted(mounted: Mounted) -> None:
    os.kill(mounted.daemon, signal.SIGKILL)
    mounted.end()
    with pytest.raises(OSError) as raised:
        os.listdir(mounted.path)
    assert raised.value.errno == errno.ENOTCONN
    mount.unmount(mounted.point)
    assert not mounts.is_mountpoint(mounted.point)


def test_an_aborted_connection_ends_the_daemon(mounted: Mounted) -> None:
    control = Path(f"/sys/fs/fuse/connections/{os.minor(mounts.find(mounted.point).device)}/abort")
    if not control.exists():
        mounts.mount(b"none", b"/sys/fs/fuse/connections", b"fusectl")
    control.write_text("1")
    assert mounted.end() == 0
    assert not mounts.is_mountpoint(mounted.point)


def test_what_cannot_be_mounted_is_told_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name, words in (("missing", "there is no such directory"), ("file", "it is not a directory")):
        with pytest.raises(DaemonError, match=words) as raised:
            Mounted(tmp_path / name)
        assert raised.value.exit_status == 1


def test_an_unknown_failure_of_the_daemon_is_told_too() -> None:
    def fail(ready: Callable[[], None]) -> None:
        raise ZeroDivisionError("in the daemon")

    with pytest.raises(DaemonError, match="in the daemon"):
        daemonize(fail)


def test_every_way_to_mount_is_named_when_none_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted", str(tmp_path))

    monkeypatch.setattr(fusedev, "mount_direct", refuse)
    monkeypatch.setattr(fusedev, "find_helper", lambda: None)
    with pytest.raises(UnionfsError) as raised:
        mount.serve(FakeOperations(), os.fsencode(tmp_path))  # type: ignore[arg-type]
    assert "mount(2): " in raised.value.why and "Operation not permitted" in raised.value.why
    assert "fusermount3: not installed (package fuse3)" in raised.value.why
    assert "unionfs doctor" in raised.value.hint


@pytest.mark.skipif(fusedev.find_helper() is None, reason="needs fusermount3 (package fuse3)")
def test_where_mount_2_is_not_allowed_the_helper_mounts(
    start: Callable[..., Mounted], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(fusedev, "mount_direct", refuse)
    mounted = start(flags=("noexec", "ro"), source=b"a,b")
    entry = mounts.find(mounted.point)
    assert (entry.fstype, entry.source) == (b"fuse.unionfs", b"a,b")
    assert {b"noexec", b"ro"} <= set(entry.options)
    assert os.listdir(mounted.path) == []
    monkeypatch.undo()
    mount.unmount(mounted.point)
    assert mounted.end() == 0


def test_auto_is_native_from_linux_5_4(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {
        "6.18.44-x": "native",
        "5.4.0": "native",
        "5.4-rc1": "native",
        "5.3-rc9": "fusepy",
        "5.3.18-x": "fusepy",
        "4.19": "fusepy",
    }
    for release, engine in known.items():
        monkeypatch.setattr(os, "uname", lambda release=release: type("Uname", (), {"release": release}))
        assert mount.choose("auto") == engine
    assert mount.choose("native") == "native"


# --- operations, through the kernel


def test_read_write_append_truncate(path: Path) -> None:
    file = path / "file"
    file.write_bytes(b"one")
    with open(file, "ab") as appended:
        appended.write(b" two")
    assert read(file) == b"one two"
    os.truncate(file, 3)
    assert read(file) == b"one"
    os.truncate(file, 5)
    assert read(file) == b"one\0\0"
    with open(file, "wb"):
        assert file.stat().st_size == 0
    assert read(file) == b""


def test_much_data(path: Path) -> None:
    content = os.urandom(5 << 20)
    (path / "file").write_bytes(content)
    assert read(path / "file") == content
    with open(path / "file", "rb") as file:
        for position in (0, 4095, 1 << 20, (5 << 20) - 1):
            assert os.pread(file.fileno(), 10, position) == content[position : position + 10]
        assert os.pread(file.fileno(), 10, 5 << 20) == b""


def test_names_links_and_renames(path: Path) -> None:
    (path / "a").write_text("a")
    os.link(path / "a", path / "b")
    assert (path / "a").stat().st_nlink == 2
    assert (path / "a").stat().st_ino == (path / "b").stat().st_ino
    (path / "a").unlink()
    assert (path / "b").stat().st_nlink == 1
    os.symlink("b", path / "link")
    assert (os.readlink(path / "link"), (path / "link").read_text()) == ("b", "a")
    (path / "dir").mkdir(mode=0o700)
    os.rename(path / "b", path / "dir" / "c")
    assert sorted(os.listdir(path)) == ["dir", "link"]
    with pytest.raises(OSError) as raised:
        os.rmdir(path / "dir")
    assert raised.value.errno == errno.ENOTEMPTY
    os.mkfifo(path / "fifo")
    assert stat.S_ISFIFO((path / "fifo").lstat().st_mode)
    os.mknod(path / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    assert (path / "null").stat().st_rdev == os.makedev(1, 3)
    (path / "null").write_bytes(b"gone")


def test_renames_with_flags(path: Path) -> None:
    for name in ("a", "b"):
        (path / name).write_text(name)

    def renameat2(flags: int) -> int:
        result = libc.renameat2(-100, os.fsencode(path / "a"), -100, os.fsencode(path / "b"), flags)
        return ctypes.get_errno() if result else 0

    assert renameat2(1) == errno.EEXIST
    assert renameat2(2) == 0
    assert ((path / "a").read_text(), (path / "b").read_text()) == ("b", "a")


def test_attributes_are_never_stale(path: Path) -> None:
    """The kernel may keep them for a day; what changes through one name or handle is seen through every other."""
    file, link = path / "file", path / "link"
    with open(file, "w+b", buffering=0) as opened:
        os.link(file, link)
        for change, seen in (
            (lambda: opened.write(b"12345"), lambda s: s.st_size == 5),
            (lambda: os.chmod(link, 0o600), lambda s: stat.S_IMODE(s.st_mode) == 0o600),
            (lambda: os.truncate(link, 2), lambda s: s.st_size == 2),
            (lambda: os.chown(file, 5, 6), lambda s: (s.st_uid, s.st_gid) == (5, 6)),
            (lambda: os.utime(link, ns=(-1_500_000_000, 7)), lambda s: s.st_atime_ns == -1_500_000_000),
            (lambda: os.utime(file, ns=(5, 8)), lambda s: (s.st_atime_ns, s.st_mtime_ns) == (5, 8)),
            (lambda: os.posix_fallocate(opened.fileno(), 0, 9000), lambda s: s.st_size == 9000),
            (lambda: os.unlink(file), lambda s: s.st_nlink == 1),
        ):  # fmt: skip
            for path_or_fd in (link, opened.fileno()):
                os.stat(path_or_fd)
            change()
            assert seen(os.stat(link)) and seen(os.fstat(opened.fileno()))
        link.unlink()
        assert os.fstat(opened.fileno()).st_nlink == 0
        opened.write(b"still")
        assert os.pread(opened.fileno(), 5, 5) == b"still"


def test_data_seen_through_two_handles_and_a_mapping(path: Path) -> None:
    with open(path / "file", "w+b", buffering=0) as one, open(path / "file", "r+b", buffering=0) as two:
        one.write(b"x" * 8192)
        mapped = mmap.mmap(two.fileno(), 8192)
        assert mapped[:1] == b"x"
        mapped[0:1] = b"m"
        assert os.pread(one.fileno(), 1, 0) == b"m"
        os.pwrite(two.fileno(), b"w", 1)
        assert mapped[:3] == b"mwx"
        mapped.flush()
        one.truncate(1)
        one.truncate(4)
        assert os.pread(two.fileno(), 4, 0) == b"m\0\0\0"
        mapped.close()
    assert read(path / "file") == b"m\0\0\0"


def test_a_big_directory_is_listed_once_each(path: Path) -> None:
    names = {f"{number:05d}{'x' * (number % 100)}" for number in range(3000)}
    for name in names:
        os.mknod(path / name)
    assert sorted(os.listdir(path)) == sorted(names)
    assert {entry.name: entry.inode() for entry in os.scandir(path)} == {
        name: os.stat(path / name).st_ino for name in names
    }
    for name in names:
        os.unlink(path / name)
    assert os.listdir(path) == []


def test_a_listing_shows_what_changed_since(path: Path) -> None:
    for step in range(3):
        (path / f"file{step}").touch()
        assert len(os.listdir(path)) == step + 1
    directory = os.open(path, os.O_RDONLY)
    try:
        assert len(os.listdir(directory)) == 3
        (path / "file0").unlink()
        assert len(os.listdir(directory)) == 2
    finally:
        os.close(directory)


def test_names_that_are_not_there_and_then_are(path: Path) -> None:
    for _ in range(2):
        assert not (path / "file").exists()
        (path / "file").touch()
        assert (path / "file").exists()
        (path / "file").unlink()


def test_extended_attributes(path: Path) -> None:
    file = path / "file"
    file.touch()
    with pytest.raises(OSError) as raised:
        os.getxattr(file, "user.x")
    assert raised.value.errno == errno.ENODATA
    os.setxattr(file, "user.x", b"1", os.XATTR_CREATE)
    with pytest.raises(FileExistsError):
        os.setxattr(file, "user.x", b"1", os.XATTR_CREATE)
    os.setxattr(file, "user.x", b"v" * 40_000, os.XATTR_REPLACE)
    assert os.getxattr(file, "user.x") == b"v" * 40_000
    assert os.listxattr(file) == ["user.x"]
    os.removexattr(file, "user.x")
    assert os.listxattr(file) == []


def test_a_file_without_a_name_gets_one(path: Path) -> None:
    descriptor = os.open(path, os.O_TMPFILE | os.O_RDWR, 0o600)
    try:
        os.write(descriptor, b"content")
        assert os.fstat(descriptor).st_nlink == 0
        at_symlink_follow = 0x400
        source, target = os.fsencode(f"/proc/self/fd/{descriptor}"), os.fsencode(path / "named")
        assert libc.linkat(-100, source, -100, target, at_symlink_follow) == 0
    finally:
        os.close(descriptor)
    assert read(path / "named") == b"content"


def test_holes_and_copies(path: Path) -> None:
    (path / "a").write_bytes(b"0123456789")
    with open(path / "a", "rb") as source, open(path / "b", "w+b") as target:
        assert os.lseek(source.fileno(), 0, os.SEEK_HOLE) == 10
        assert os.lseek(source.fileno(), 3, os.SEEK_DATA) == 3
        assert os.copy_file_range(source.fileno(), target.fileno(), 5, 2, 1) == 5
        assert os.pread(target.fileno(), 10, 0) == b"\x0023456"


def test_the_time_of_birth(path: Path) -> None:
    (path / "file").touch()
    shown = subprocess.run(["stat", "-c", "%W", path / "file"], capture_output=True, text=True, check=True)
    assert shown.stdout == "5\n"


def test_permissions_are_the_kernels(mounted: Mounted) -> None:
    """Another user may look into the mount, and is refused what its owner keeps to himself."""
    (mounted.path / "secret").write_text("x")
    os.chmod(mounted.path / "secret", 0o600)
    (mounted.path / "open").write_text("y")
    result = as_nobody(
        """
        os.fchdir(int(sys.argv[1]))
        print(open("open").read())
        try:
            open("secret")
        except PermissionError:
            print("refused")
        """,
        directory=mounted.path,
    )
    assert result.stdout.split() == ["y", "refused"], result.stderr


def as_nobody(script: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run a program as user 65534, who gets `directory` open: it need not be able to walk there."""
    drop = "import os, sys; os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        command = [sys.executable, "-c", drop + textwrap.dedent(script), str(descriptor)]
        return subprocess.run(command, capture_output=True, text=True, pass_fds=[descriptor])
    finally:
        os.close(descriptor)


def test_locks_stay_in_the_kernel(path: Path) -> None:
    script = "import fcntl, sys; f = open(sys.argv[1], 'r+'); fcntl.{}(f, fcntl.LOCK_EX | fcntl.LOCK_NB)"
    (path / "file").touch()
    for kind in ("flock", "lockf"):
        with open(path / "file", "r+") as file:
            getattr(fcntl, kind)(file, fcntl.LOCK_EX)
            command = [sys.executable, "-c", script.format(kind), str(path / "file")]
            assert b"BlockingIOError" in subprocess.run(command, capture_output=True).stderr


def test_the_statistics_of_the_file_system(path: Path) -> None:
    told, real = os.statvfs(path), os.statvfs("/")
    assert (told.f_bsize, told.f_blocks, told.f_namemax) == (real.f_bsize, real.f_blocks, real.f_namemax)


def test_many_at_once(path: Path) -> None:
    script = (
        "import os, sys\nos.chdir(sys.argv[1])\n"
        "for i in range(200):\n"
        " n = f'{sys.argv[2]}-{i}'; open(n, 'w').write(n); os.rename(n, n + 'r'); assert open(n + 'r').read() == n\n"
        " os.unlink(n + 'r') if i % 2 else None\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", script, path, str(number)]) for number in range(4)]
    assert [process.wait() for process in running] == [0] * 4
    assert sorted(os.listdir(path)) == sorted(f"{n}-{i}r" for n in range(4) for i in range(0, 200, 2))


def test_the_kernel_reads_ahead_of_what_is_asked(mounted: Mounted) -> None:
    number = mounts.find(mounted.point).device
    setting = Path(f"/sys/class/bdi/{os.major(number)}:{os.minor(number)}/read_ahead_kb")
    if not os.access(setting, os.W_OK):
        pytest.skip("needs root of the machine, to set the read-ahead")
    assert setting.read_text() == "1024\n"


# --- what takes long, and who watches


class Gate:
    """A gate between processes: open while a file exists."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def wait(self, seconds: float) -> bool:
        if not self.path.exists():
            time.sleep(seconds)
        return self.path.exists()


@pytest.fixture
def slow(start: Callable[..., Mounted], tmp_path: Path) -> Iterator[Path]:
    """A mount on which fsync waits until the file `gate` beside it exists."""
    fake = FakeOperations()
    fake.gate = Gate(tmp_path / "gate")  # type: ignore[assignment]
    yield start(fake=fake).path
    (tmp_path / "gate").touch()


FSYNC_NUMBERS = ("74", "82")
"""fsync(2) in /proc/PID/syscall: on x86_64, and on aarch64 and other newer machines."""
FSYNC = "import os, sys; f = open(sys.argv[1], 'w'); print('now', flush=True); os.fsync(f.fileno())"


def fsync_of(path: Path) -> subprocess.Popen[bytes]:
    """A process that has called fsync and waits."""
    process = subprocess.Popen([sys.executable, "-c", FSYNC, path], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None and process.stdout.readline() == b"now\n"
    while Path(f"/proc/{process.pid}/syscall").read_text().split()[0] not in FSYNC_NUMBERS and process.poll() is None:
        time.sleep(0.005)
    return process


def test_a_slow_request_holds_up_no_other(slow: Path) -> None:
    waiting = [fsync_of(slow / f"file{number}") for number in range(10)]
    (slow / "other").write_text("content")
    assert (slow / "other").read_text() == "content"
    assert [process.poll() for process in waiting] == [None] * 10
    (slow.parent / "gate").touch()
    assert [process.wait() for process in waiting] == [0] * 10


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_process_that_waits_can_be_ended(slow: Path, number: int) -> None:
    """The ninth and tenth wait in the queue, since there are eight helpers."""
    waiting = [fsync_of(slow / f"file{position}") for position in range(10)]
    for process in reversed(waiting):
        process.send_signal(number)
        assert process.wait(20) in (-number, 1)
    assert len(os.listdir(slow)) == 10


def test_unmounting_ends_what_is_slow(slow: Path) -> None:
    process = fsync_of(slow / "file")
    mount.unmount(os.fsencode(slow), lazy=True)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) in (-signal.SIGINT, 1)


def test_every_request_is_logged_for_those_who_debug(start: Callable[..., Mounted], tmp_path: Path) -> None:
    log = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    events.log_to(log)
    try:
        path = start(debug=True).path
    finally:
        events.log_to(2)
        os.close(log)
    before = os.umask(0o22)
    (path / "file").write_bytes(b"content")
    os.umask(before)
    told = (tmp_path / "log").read_text()
    assert " CREATE node 1 flags=O_WRONLY|O_CREAT|O_TRUNC" in told
    assert "mode=0o100666 umask=0o22" in told
    assert " WRITE node 2 fh=1 offset=0 write_flags=0 data=7 bytes: ok, " in told
    assert f"process {os.getpid()}" in told
    assert " LOOKUP node 1 name=b'file': ok, " in told


# --- without privileges

SERVE = """
import os, sys
from tests.fuse.fake_operations import FakeOperations
from unionfs.fuse import mount
from unionfs.fuse.daemon import daemonize
from unionfs.linux import mounts
point = os.fsencode(sys.argv[1])
daemonize(lambda ready: mount.serve(FakeOperations(), point, ready=ready))
print(mounts.find(point).fstype)
open(sys.argv[1] + "/file", "w").write("content")
print(open(sys.argv[1] + "/file").read(), os.listdir(sys.argv[1]))
mount.unmount(point)
print(mounts.is_mountpoint(point))
"""


@pytest.mark.parametrize("way", unprivileged.WAYS)
def test_an_ordinary_user_mounts(way: str) -> None:
    with unprivileged.user(way) as run:
        (point := run.folder / "point").mkdir()
        os.chown(point, unprivileged.UID, unprivileged.UID)
        result = run(SERVE, str(point))
    assert result.stdout == "b'fuse.unionfs'\ncontent ['file']\nFalse\n", result.stderr
    assert ("by mount(2)" if way == "user namespace" else "by fusermount3") in result.stderr
