"""The same things under podman, the live stand-in for docker: what happens is the same, or the difference has a reason.

Differences that are meant, each with its reason:

- `rm` of a running container fails with status 1, podman's with 2: docker's is 1.
- A bind source that is missing is made by -v, as docker does; podman refuses it.
- `-v` options and messages are docker's words, podman has its own.
- TERM is set with -t only, and a working directory that is missing is made: docker's ways, not podman's.
- /etc/hostname ends with a newline, as docker's does.
- /etc/hosts has no line for host.containers.internal: there is no such host.
"""

from __future__ import annotations

import io
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.container.launcher import Launcher
from tests.image.podman import Podman

LIMITS = ("--network", "none", "--ulimit", "nofile=1000:1000", "--ulimit", "nproc=1000:1000")

pytestmark = pytest.mark.stress


@pytest.fixture(scope="module")
def podman(shared: Launcher) -> Iterator[Podman]:
    """With the image `host`."""
    path = Path(tempfile.mkdtemp(prefix="pod-"))
    podman = Podman(path)
    archive = path / "host.tar"
    shared.ok("save", "-o", archive, "host")
    podman.ok("load", "-i", str(archive))
    yield podman
    podman("system", "reset", "-f")
    shutil.rmtree(path, ignore_errors=True)


@pytest.mark.parametrize(
    "words",
    [
        ["true"], ["false"], ["sh", "-c", "exit 42"], ["sh", "-c", "kill -9 $$"], ["nosuch"], ["/etc/passwd"], ["/etc"],
        ["sh", "-c", "kill -TERM $$; sleep 0.2; exit 3"],
    ],
)  # fmt: skip
def test_exit_statuses(shared: Launcher, podman: Podman, words: list[str]) -> None:
    ours, theirs = shared("run", "--rm", "host", *words), podman("run", "--rm", *LIMITS, "host", *words)
    assert ours.status == theirs.returncode, (ours, theirs)


@pytest.mark.parametrize(
    ("options", "script"),
    [
        ([], 'echo "$PATH|$HOME"; pwd; id; umask'),
        (["-u", "nobody"], 'echo "$HOME"; id -u; id -g'),
        (["-u", "5:7", "-w", "/srv", "-e", "A=b c"], 'pwd; id -u; id -g; echo "$A"'),
        (["--hostname", "box"], "hostname; echo $(cat /etc/hostname); echo $HOSTNAME"),
        ([], "ls -l /dev/fd /dev/stdin /dev/stdout /dev/stderr | sed 's/.* \\//\\//'"),
        ([], "cd /dev; stat -c '%n %F %t %T %a' full null random tty urandom zero"),
        ([], "grep -E ' /(proc|dev|dev/pts|dev/shm|dev/mqueue) ' /proc/mounts | cut -d' ' -f2,3 | sort"),
        ([], "for p in /proc/kcore /proc/timer_list /proc/keys; do [ -s $p ] && echo $p; done; echo done"),
        ([], "touch /proc/sys/x /sys/x 2>/dev/null; echo x > /proc/sysrq-trigger; echo $?"),
        (["--read-only"], "touch /x 2>/dev/null; echo $?; touch /dev/shm/x; echo $?"),
        (["--tmpfs", "/t"], "stat -c '%a %u' /t; grep ' /t ' /proc/mounts | grep -o 'nosuid,nodev'"),
        (["--cap-drop", "ALL"], "chown nobody /etc/passwd 2>/dev/null; echo $?; grep CapEff /proc/self/status"),
    ],
)
def test_what_a_container_is_given(shared: Launcher, podman: Podman, options: list[str], script: str) -> None:
    ours = shared("run", "--rm", *options, "host", "sh", "-c", script)
    theirs = podman("run", "--rm", *LIMITS, *options, "host", "sh", "-c", script)
    assert theirs.returncode == 0, theirs.stderr
    assert ours.out == theirs.stdout


@pytest.mark.parametrize(
    "script",
    [
        "echo x > /etc/new; rm /etc/protocols",
        "mkdir -p /a/b; touch /a/b/c; chmod 700 /srv",
        "rm -r /home; mkdir /home; touch /home/x",
        "ln -s x /link; mv /etc/nsswitch.conf /etc/moved",
    ],
)
def test_diff(shared: Launcher, podman: Podman, script: str) -> None:
    shared.ok("run", "--name", "differs", "host", "sh", "-c", script)
    podman.ok("run", "--name", "differs", *LIMITS, "host", "sh", "-c", script)
    try:
        theirs = set(podman.ok("diff", "differs").splitlines())
        ours = set(shared.ok("diff", "differs").splitlines())
        # podman lists the files that it mounts itself, and the directories above them
        own = (" /etc", " /etc/hosts", " /etc/resolv.conf", " /run")
        assert ours - {"C /etc"} == {line for line in theirs if not line.endswith(own)}
    finally:
        shared.ok("rm", "differs")
        podman.ok("rm", "differs")


def test_a_volume_begins_with_what_the_image_has(shared: Launcher, podman: Podman) -> None:
    script = "cd /v; stat -c '%n %a %u %g' . * | sort"
    ours = shared.ok("run", "--rm", "-v", "filled:/v", "host", "sh", "-c", script)
    assert shared.ok("run", "--rm", "-v", "filled2:/etc", "host", "sh", "-c", script.replace("/v", "/etc")) != ours
    theirs = podman.ok("run", "--rm", *LIMITS, "-v", "filled:/home", "host", "sh", "-c", script.replace("/v", "/home"))
    again = shared.ok("run", "--rm", "-v", "filled3:/home", "host", "sh", "-c", script.replace("/v", "/home"))
    assert again == theirs


def test_volumes_from(shared: Launcher, podman: Podman) -> None:
    script = "for d in data named; do touch /$d/x 2>/dev/null && echo $d; done; true"
    outputs = []
    for run in (shared.ok, podman.ok):
        limits = LIMITS if run == podman.ok else ()
        run("create", "--name", "store", *limits, "-v", "/data", "-v", "shared:/named", "host")
        outputs.append([
            run("run", "--rm", *limits, "--volumes-from", word, "host", "sh", "-c", script)
            for word in ("store", "store:ro", "store:rw")
        ])  # fmt: skip
        run("rm", "-v", "store")
    assert outputs[0] == outputs[1] == [["data\nnamed", "", "data\nnamed"]][0]


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("file", "/new"), ("file", "/srv"), ("file", "/srv/"), ("file", "/nosuch/"), ("file", "/nosuch/x"),
        ("file", "/etc/passwd"), ("dir", "/new"), ("dir", "/srv"), ("dir", "/etc/passwd"), ("dir/.", "/srv"),
        ("dir/.", "/new"), ("dir/", "/srv"), ("nosuch", "/srv"),
    ],
)  # fmt: skip
def test_cp(shared: Launcher, podman: Podman, tmp_path: Path, source: str, target: str) -> None:
    """Docker's table, as podman has it."""
    (tmp_path / "dir" / "sub").mkdir(parents=True)
    (tmp_path / "dir" / "in").write_text("in")
    (tmp_path / "file").write_text("file")
    results = []
    for run, limits in ((shared, ()), (podman, LIMITS)):
        assert_ok = shared.ok if run is shared else podman.ok
        assert_ok("create", "--name", "copied", *limits, "host", "true")
        done = run("cp", f"{tmp_path}/{source}", f"copied:{target}")
        failed = (done.status if run is shared else done.returncode) != 0
        exported = tmp_path / "exported.tar"
        assert_ok("export", "-o", str(exported), "copied")
        with tarfile.open(fileobj=io.BytesIO(exported.read_bytes())) as archive:
            names = {name.removeprefix("./") for name in archive.getnames()}
        results.append((failed, {name for name in names if name.startswith(("srv", "new", "nosuch", "etc/passwd"))}))
        exported.unlink()
        assert_ok("rm", "copied")
    assert results[0] == results[1]
