"""Isolation is attacked, not assumed: each test tries to get out, as root in the container, with common tools."""

from __future__ import annotations

import os
import shutil
import subprocess
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.running import need
from tests.container.launcher import Launcher

pytestmark = pytest.mark.stress


@pytest.fixture(scope="module")
def python(shared: Launcher) -> list[str]:
    """Words that run a script of Python in a container over this machine's root, where there is a whole Python."""
    return ["run", "--rm", "--rootfs", "/", os.path.realpath("/usr/bin/python3"), "-I", "-S", "-c"]


def attack(shared: Launcher, python: list[str], script: str) -> str:
    return shared.ok(*python, textwrap.dedent(script))


@pytest.fixture(autouse=True, scope="module")
def system_python() -> None:
    if not os.path.exists("/usr/bin/python3"):
        pytest.skip("needs /usr/bin/python3, to attack with")


def test_the_classic_escape_from_chroot(shared: Launcher, python: list[str], tmp_path: Path) -> None:
    """mkdir, chroot into it, climb: leads out of a chroot(2), and here to the container's own root."""
    script = """
        import os
        os.makedirs("/tmp/jail", exist_ok=True)
        fd = os.open("/", os.O_RDONLY)
        os.chroot("/tmp/jail")
        os.fchdir(fd)
        for _ in range(64):
            os.chdir("..")
        os.chroot(".")
        print(os.path.exists(PATH), os.getpid())
    """
    marker = tmp_path / "marker"
    marker.touch()
    under = subprocess.run(
        ["unshare", "-m", "chroot", "/", "/usr/bin/python3", "-I", "-S", "-c",
         textwrap.dedent(script).replace("PATH", repr("/etc/passwd"))],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert under.stdout.startswith("True")
    image = ["run", "--rm", "-v", f"{tmp_path}:/shared:ro", "host", "sh", "-c"]
    assert shared.ok(*image, f"ls {marker} 2>&1 | grep -c 'No such'") == "1"
    assert attack(shared, python, script.replace("PATH", repr(str(shared.root / "state.db")))) == "False 1"


def test_a_disk_cannot_be_reached_by_a_node(shared: Launcher) -> None:
    """mknod(2) is refused, and would be of no use: the root is mounted nodev, and so is /dev's."""
    disk = next((f"{entry.st_rdev >> 8 & 0xFFF} {entry.st_rdev & 0xFF}" for entry in _block_devices()), "7 0")
    for words in ([], ["--cap-add", "MKNOD"]):
        script = f"mknod /disk b {disk} 2>/dev/null; head -c 1 /disk >/dev/null 2>&1 && echo read || echo refused"
        assert shared.ok("run", "--rm", *words, "host", "sh", "-c", script) == "refused"
    script = f"mknod /disk b {disk} && head -c1 /disk 2>&1 || :"
    made = shared.ok("run", "--rm", "--cap-add", "MKNOD", "host", "sh", "-c", script)
    assert "Permission denied" in made


def _block_devices() -> Iterator[os.stat_result]:
    for name in os.listdir("/dev"):
        st = os.lstat(f"/dev/{name}")
        if st.st_mode & 0o170000 == 0o060000:
            yield st


@pytest.mark.parametrize(
    "path", ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/interrupts", "/proc/acpi", "/sys/firmware"]
)
def test_what_tells_of_the_machine_is_hidden(shared: Launcher, path: str) -> None:
    script = f"[ -d {path} ] && ls -A {path} | wc -l || cat {path} 2>/dev/null | wc -c"
    assert shared.ok("run", "--rm", "host", "sh", "-c", script) == "0"


@pytest.mark.parametrize(
    "command",
    [
        "echo 1 > /proc/sys/kernel/hostname",
        "echo h > /proc/sysrq-trigger",
        "echo 1 > /proc/sys/vm/drop_caches",
        "echo 0 > /proc/irq/default_smp_affinity",
        "echo x > /sys/kernel/uevent_helper",
        "mkdir /sys/fs/cgroup/mine",
        "mount -o remount,rw /proc/sys",
        "umount /proc/sys",
        "umount /sys/firmware",
        "mount -t tmpfs none /mnt",
        "mount -t proc none /mnt",
        "mount --bind / /mnt",
        "unshare -m true",
        "unshare -U true",
        "hostname mine",
        "sysctl -w kernel.panic=1",
        "ip link add dummy0 type dummy",
        "chroot /proc/1/cwd/.. test -e /nosuch",
        "date -s 2001-01-01",
        "dmesg",
    ],
)
def test_the_machine_cannot_be_changed(shared: Launcher, command: str) -> None:
    script = f"({command}) >/dev/null 2>&1 && echo done || echo refused"
    assert shared.ok("run", "--rm", "host", "sh", "-c", script) == "refused"


def test_other_processes_are_out_of_sight_and_of_reach(shared: Launcher, python: list[str]) -> None:
    victim = subprocess.Popen(["sleep", "60"])
    try:
        script = f"""
            import ctypes, os, signal
            seen = [name for name in os.listdir("/proc") if name.isdecimal()]
            failed = 0
            for pid in ({victim.pid}, {os.getpid()}, -1):
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    failed += 1
            traced = ctypes.CDLL(None).ptrace(16, {victim.pid}, 0, 0)
            print(len(seen), failed, traced)
        """
        assert attack(shared, python, script) == "1 3 -1"
        assert victim.poll() is None
    finally:
        victim.kill()
        victim.wait()


def test_setuid_programs_give_nothing(shared: Launcher, tmp_path: Path) -> None:
    """no_new_privs: a setuid root program that a user of the container finds runs as that user."""
    program = tmp_path / "id"
    shutil.copy(os.path.realpath(need("id", "coreutils")), program)
    program.chmod(0o4755)
    tmp_path.chmod(0o755)
    words = ["run", "--rm", "-u", "nobody", "-v", f"{tmp_path}:/t"]
    assert shared.ok(*words, "host", "/t/id", "-u") == "65534"
    assert shared.ok(*words, "--security-opt", "no-new-privileges=false", "host", "/t/id", "-u") == "0"


def test_a_volumes_parent_is_out_of_reach(shared: Launcher, tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "secret").write_text("secret")
    script = "cd /v && cat ../secret 2>&1; ln -s ../../secret l; cat l 2>&1; ls /v/.. | wc -l"
    out = shared.ok("run", "--rm", "-v", f"{tmp_path}/shared:/v", "host", "sh", "-c", script)
    assert "No such file" in out and "secret" not in out.replace("../secret", "").replace("l:", "")


def test_mount_targets_that_are_links_stay_inside(launcher: Launcher, tmp_path: Path) -> None:
    """An image's symbolic link at a volume's target leads to the image's own root, not to the machine's."""
    outside = tmp_path / "outside"
    outside.mkdir()
    launcher.ok("run", "--name", "trap", "host", "sh", "-c", f"ln -s {outside} /data; ln -s ../../../../etc /up")
    launcher.ok("commit", "trap", "trap")
    (tmp_path / "mine").mkdir()
    script = f"echo x > /data/file; ls {outside}; echo y > /up/file"
    volumes = ["-v", f"{tmp_path}/mine:/data", "-v", f"{tmp_path}/mine:/up/sub"]
    out = launcher.ok("run", "--rm", *volumes, "trap", "sh", "-c", script)
    assert out == "file"
    assert not list(outside.iterdir())
    assert (tmp_path / "mine" / "file").read_text() == "x\n"
    assert not os.path.lexists("/etc/sub")


@pytest.mark.parametrize("name", ["proc", "sys", "dev"])
def test_the_launchers_own_targets_must_be_directories(launcher: Launcher, tmp_path: Path, name: str) -> None:
    """An image with /proc -> /etc would have the kernel's files mounted over its own, and the masks elsewhere."""
    root = tmp_path / "root"
    (root / "bin").mkdir(parents=True)
    os.symlink("/bin", root / name)
    result = launcher("run", "--rm", "--rootfs", root, "true")
    assert result.status == 125
    assert f"/{name} in the image: is a symbolic link" in result.err


def test_a_fork_bomb_under_pids_limit(shared: Launcher) -> None:
    script = "i=0; while [ $i -lt 50 ]; do sleep 5 & i=$((i+1)); done 2>/dev/null; echo survived"
    before = time.monotonic()
    result = shared("run", "--rm", "--pids-limit", "16", "host", "bash", "-c", script)
    assert "survived" not in result.out or "fork" in result.err
    assert time.monotonic() - before < 60


def test_memory_past_the_limit(launcher: Launcher, python: list[str]) -> None:
    words = ["run", "--name", "greedy", "--memory", "32m", *python[2:]]
    result = launcher(*words, "b = bytearray(256 << 20); print('got it')")
    assert (result.status, result.out) == (137, "")
    state = launcher.inspect("greedy")["State"]
    assert state["OOMKilled"] and "out of memory" in state["Error"]


def test_cpus_are_a_quota(launcher: Launcher) -> None:
    launcher.ok("run", "-d", "--name", "slow", "--cpus", "0.5", "host", "sleep", "60")
    identity = launcher.inspect("slow")["Id"]
    names = (f"cpu/unionfs/{identity}/cpu.cfs_quota_us", f"unionfs/{identity}/cpu.max")
    quotas = [Path("/sys/fs/cgroup", name) for name in names]
    values = [path.read_text().split()[0] for path in quotas if path.exists()]
    assert values == ["50000"]


def test_system_calls_that_lead_out(shared: Launcher, python: list[str]) -> None:
    """Known and refused is EPERM; unknown is ENOSYS, so that a newer C library falls back."""
    calls = {"bpf": 321, "keyctl": 250, "init_module": 175, "open_by_handle_at": 304, "setns": 308, "unshare": 272,
             "perf_event_open": 298, "mount": 165, "pivot_root": 155, "reboot": 169, "io_uring_setup": 425}  # fmt: skip
    if os.uname().machine != "x86_64":
        pytest.skip("needs x86_64: the numbers are its")
    script = f"""
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)
        for number in {[*calls.values(), 435, 600, 0x40000000]}:
            libc.syscall(number, 0, 0, 0, 0, 0)
            print(ctypes.get_errno(), end=" ")
    """
    assert attack(shared, python, script).split() == ["1"] * len(calls) + ["38"] * 3


def test_without_seccomp_they_are_the_kernels_business(shared: Launcher, python: list[str]) -> None:
    words = [*python[:2], "--security-opt", "seccomp=unconfined", *python[2:]]
    out = shared.ok(*words, "print(open('/proc/self/status').read().partition('Seccomp:')[2].split()[0])")
    assert out == "0"


def test_capabilities_are_the_chosen_ones(shared: Launcher) -> None:
    script = "grep -E 'Cap(Eff|Bnd|Prm|Inh|Amb)' /proc/self/status | cut -f2"
    default = shared.ok("run", "--rm", "host", "sh", "-c", script).split()
    assert default == ["0" * 16, "00000000800425fb", default[1], default[1], "0" * 16]
    assert shared.ok("run", "--rm", "--cap-drop", "ALL", "host", "sh", "-c", script).split() == ["0" * 16] * 5
    one = shared.ok("run", "--rm", "--cap-drop", "ALL", "--cap-add", "chown", "host", "sh", "-c", script).split()
    assert one[1:4] == ["0" * 15 + "1"] * 3
    user = shared.ok("run", "--rm", "-u", "nobody", "host", "sh", "-c", script).split()
    assert user == ["0" * 16, "0" * 16, "0" * 16, default[3], "0" * 16]


def test_nothing_of_the_launcher_is_left_open_inside(shared: Launcher) -> None:
    out = shared.ok("run", "--rm", "host", "ls", "/proc/self/fd").split()
    assert set(out) <= {"0", "1", "2", "3"}  # the last is the listing's own


def test_every_file_system_inside_is_its_own(shared: Launcher) -> None:
    """No mount of the machine is left in the table but those that were asked for."""
    out = shared.ok("run", "--rm", "host", "cat", "/proc/self/mountinfo")
    points = {line.split()[4]: line.split(" - ")[1].split()[0] for line in out.splitlines()}
    kernel = {"proc", "sysfs", "tmpfs", "devpts", "mqueue", "devtmpfs", "fuse.unionfs", "cgroup2"}
    outside = {point for point, kind in points.items() if kind not in kernel}
    devices = {f"/dev/{name}" for name in os.listdir("/dev")}
    assert outside <= devices | {"/etc/hostname", "/etc/hosts", "/etc/resolv.conf"}
