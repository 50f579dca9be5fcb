"""`unionfs mount` and `unionfs umount`: real mounts, both engines, and every way to get one wrong."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import syslog
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.running import COMMAND, ROOT, Stage, needs_mount, run, stage, unionfs
from unionfs import events
from unionfs.cli import mount as mount_module
from unionfs.cli.doctor import FUSEPY
from unionfs.fuse.options import SYSLOG, escape
from unionfs.linux import mounts

__all__ = ["stage"]

pytestmark = needs_mount


def daemon_of(stage: Stage) -> int:
    return int(os.getxattr(stage.merged, b"user.unionfs.pid"))


def wait_for_end(process: int) -> None:
    """Until a process that is not our child has ended."""
    try:
        descriptor = os.pidfd_open(process)
    except ProcessLookupError:
        return
    assert select.select([descriptor], [], [], 60)[0], f"process {process} goes on"
    os.close(descriptor)


def need_engine(engine: str) -> None:
    if engine == "fusepy" and FUSEPY:
        pytest.skip(f"needs fusepy: {FUSEPY}")


# --- it works


@pytest.mark.parametrize("engine", ["native", "fusepy", "auto"])
def test_mount_write_umount(stage: Stage, engine: str) -> None:
    need_engine(engine)
    assert stage.mount("", "--engine", engine) == (0, "", "")
    assert (stage.merged / "file").read_text() == "lower\n"
    (stage.merged / "file").write_text("changed\n")
    assert stage.umount() == (0, "", "")
    assert stage.entry() is None
    assert (stage.path / "lower" / "file").read_text() == "lower\n"
    assert (stage.path / "upper" / "file").read_text() == "changed\n"


def test_it_answers_when_the_command_returns(stage: Stage) -> None:
    for _ in range(5):
        assert stage.mount().status == 0
        assert os.listdir(stage.merged) == ["file"]
        assert stage.umount().status == 0


def test_the_upper_is_free_when_umount_returns(stage: Stage) -> None:
    stage.mount()
    daemon = os.pidfd_open(daemon_of(stage))
    stage.umount()
    assert select.select([daemon], [], [], 0)[0], "its daemon goes on"
    os.close(daemon)
    assert stage.mount() == (0, "", "")


def test_the_daemon_leaves_nothing_of_its_starter(stage: Stage) -> None:
    """That `run` came back at all shows that its pipes are closed: it reads them to their end."""
    stage.mount()
    process = Path(f"/proc/{daemon_of(stage)}")
    assert {os.readlink(process / "fd" / str(stream)) for stream in range(3)} == {"/dev/null"}
    assert os.readlink(process / "cwd") == "/"
    assert os.getsid(daemon_of(stage)) == daemon_of(stage)


def test_without_an_upper_it_is_read_only(stage: Stage) -> None:
    stage.layers = "lowerdir=lower:upper"
    assert stage.mount() == (0, "", "")
    with pytest.raises(OSError, match="Read-only file system"):
        (stage.merged / "new").touch()


def test_options_reach_the_mount(stage: Stage) -> None:
    assert stage.mount("nosuid,noexec,noatime,volatile,userxattr,dialect=overlay").status == 0
    entry = stage.entry()
    assert entry is not None
    assert (entry.fstype, entry.source) == (b"fuse.unionfs", b"unionfs")
    assert {b"nosuid", b"noexec", b"noatime", b"rw", b"allow_other", b"default_permissions"} <= set(entry.options)
    (stage.merged / "file").unlink()
    assert (stage.path / "upper" / "file").is_char_device()


@pytest.mark.parametrize(("words", "option"), [(["a name"], ""), ([], "fsname=a name"), (["other"], "fsname=a name")])
def test_the_source(stage: Stage, words: list[str], option: str) -> None:
    result = unionfs("mount", *words, "merged", "-o", f"{stage.layers},{option}", cwd=stage.path)
    entry = stage.entry()
    assert result == (0, "", "") and entry is not None and entry.source == b"a name"


def test_options_in_several_words(stage: Stage) -> None:
    first, *others = stage.layers.split(",")
    result = unionfs(
        "mount", "-o", first, "merged", *(part for other in others for part in ("-o", other)), cwd=stage.path
    )
    assert result == (0, "", "")
    assert os.listdir(stage.merged) == ["file"]


def test_symbolic_links_as_layers_and_mount_point(stage: Stage) -> None:
    for name in ("lower", "upper", "work", "merged"):
        (stage.path / f"{name} link").symlink_to(name)
    options = "lowerdir=lower link,upperdir=upper link,workdir=work link"
    assert unionfs("mount", "merged link", "-o", options, cwd=stage.path) == (0, "", "")
    assert os.listdir(stage.merged) == ["file"]
    assert unionfs("umount", stage.path / "merged link") == (0, "", "")
    assert stage.entry() is None


@pytest.mark.parametrize(
    "name", [b"a,b", b"a:b", b"a\\b", b"\\", b"a\\,:b", b" a b ", b"\xff\xfe", b"a\nb", "ä".encode()]
)
def test_any_name_can_be_a_layer(stage: Stage, name: bytes) -> None:
    place = os.fsencode(stage.path)
    directories = [place + b"/" + kind + name for kind in (b"l", b"u", b"w", b"m")]
    for directory in directories:
        os.mkdir(directory)
    lower, upper, work, merged = directories
    shutil.copy(stage.path / "lower" / "file", os.path.join(lower, b"file"))
    options = b"lowerdir=" + escape(lower) + b",upperdir=" + escape(upper) + b",workdir=" + escape(work)
    assert unionfs("mount", merged, b"-o", options) == (0, "", "")
    assert os.listdir(merged) == [b"file"]
    os.mkdir(merged + b"/new")
    assert unionfs("umount", merged) == (0, "", "")
    assert os.listdir(upper) == [b"new"]


def test_five_hundred_layers_and_a_long_option_string(stage: Stage) -> None:
    layers = [f"layers/a rather long name of the layer with the number {number}" for number in range(500)]
    for number, layer in enumerate(layers):
        (stage.path / layer).mkdir(parents=True)
        (stage.path / layer / str(number)).touch()
        (stage.path / layer / "all").write_text(layer)
    stage.layers = f"lowerdir={':'.join(layers)},upperdir=upper,workdir=work"
    assert len(stage.layers) > 4096
    assert stage.mount() == (0, "", "")
    assert set(os.listdir(stage.merged)) == {*map(str, range(500)), "all"}
    assert (stage.merged / "all").read_text() == layers[0]


def test_in_a_user_namespace(stage: Stage) -> None:
    script = """
        unionfs mount merged -o lowerdir=lower,upperdir=upper,workdir=work,userxattr || exit
        echo more >> merged/file
        cat merged/file
        unionfs umount merged
    """
    if run(["unshare", "-Urm", "true"]).status:
        pytest.skip("needs user namespaces")
    command = " ".join(COMMAND)
    result = run(["unshare", "-Urm", "sh", "-c", f'unionfs() {{ {command} "$@"; }}\n{script}'], stage.path)
    assert result == (0, "lower\nmore\n", "")
    assert (stage.path / "lower" / "file").read_text() == "lower\n"


# --- the log


def test_the_log(stage: Stage) -> None:
    assert stage.mount("log=messages") == (0, "", "")
    stage.umount()
    lines = (stage.path / "messages").read_text().splitlines()
    assert any(f"unionfs: mounted on {stage.merged.resolve()} by mount(2); " in line for line in lines)
    assert all(line[:4].isdigit() and line[4] == "-" for line in lines)


def test_debug_goes_to_the_log(stage: Stage) -> None:
    assert stage.mount("log=messages", "-d") == (0, "", "")
    os.listdir(stage.merged)
    stage.umount()
    assert (
        "LOOKUP" in (stage.path / "messages").read_text().upper() or "READDIR" in (stage.path / "messages").read_text()
    )


def test_syslog(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[tuple[int, str]] = []
    monkeypatch.setattr(syslog, "syslog", lambda priority, message: said.append((priority, message)))
    monkeypatch.setattr(events, "_sink", events._sink)
    faults: list[object] = []
    mount_module._log_to(SYSLOG, faults)  # type: ignore[arg-type]
    events.info("one")
    events.error("two")
    assert (said, faults) == ([(syslog.LOG_INFO, "one"), (syslog.LOG_ERR, "two")], [])


def test_while_it_starts_the_unusual_is_told_on_the_terminal_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(events, "_sink", events._sink)
    mount_module._log_to(os.fsencode(tmp_path / "log"), [], starting=True)
    events.info("one")
    events.warning("two")
    assert [line.partition("unionfs: ")[2] for line in (tmp_path / "log").read_text().splitlines()] == [
        "one",
        "warning: two",
    ]
    assert capfd.readouterr() == ("", "unionfs: warning: two\n")


# --- in the foreground


class Foreground:
    """`unionfs mount -f`, once it is mounted."""

    def __init__(self, stage: Stage, *words: str) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            [*COMMAND, "mount", "merged", "-o", stage.layers, *words],
            cwd=stage.path, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert self.process.stderr is not None
        self.first = b""
        while b"mounted on" not in self.first:
            line = self.process.stderr.readline()
            assert line, self.first
            self.first += line

    def end(self) -> tuple[int, bytes, bytes]:
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err


@pytest.fixture(params=["native", "fusepy"])
def foreground(stage: Stage, request: pytest.FixtureRequest) -> Iterator[Foreground]:
    need_engine(request.param)
    process = Foreground(stage, "-f", "--engine", request.param)
    yield process
    process.process.kill()
    process.end()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it(stage: Stage, foreground: Foreground, number: int) -> None:
    assert foreground.first.startswith(f"unionfs: mounted on {stage.merged.resolve()} by ".encode())
    assert os.listdir(stage.merged) == ["file"]
    foreground.process.send_signal(number)
    assert foreground.end() == (0, b"", b"")
    assert stage.entry() is None


def test_umount_ends_it(stage: Stage, foreground: Foreground) -> None:
    assert stage.umount() == (0, "", "")
    assert foreground.end() == (0, b"", b"")


def test_debug_shows_the_requests(stage: Stage) -> None:
    process = Foreground(stage, "-d")
    (stage.merged / "file").read_text()
    stage.umount()
    status, _, told = process.end()
    assert status == 0 and b"file" in told and b" OPEN " in told


@pytest.mark.parametrize("engine", ["native", "fusepy"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_daemon(stage: Stage, number: int, engine: str) -> None:
    need_engine(engine)
    stage.mount("", "--engine", engine)
    (stage.merged / "new").write_text("new")
    daemon = daemon_of(stage)
    os.kill(daemon, number)
    wait_for_end(daemon)
    assert stage.entry() is None
    assert (stage.path / "upper" / "new").read_text() == "new"


# --- unmounting


@pytest.mark.parametrize("words", [["umount"], ["fusermount3", "-u"]])
def test_others_unmount_too(stage: Stage, words: list[str]) -> None:
    if shutil.which(words[0]) is None:
        pytest.skip(f"needs {words[0]}")
    stage.mount()
    daemon = daemon_of(stage)
    assert run([*words, stage.merged]).status == 0
    wait_for_end(daemon)
    assert stage.entry() is None
    assert stage.mount() == (0, "", "")


def test_one_in_use_stays_and_can_be_detached(stage: Stage) -> None:
    stage.mount()
    daemon = daemon_of(stage)
    with open(stage.merged / "file"):
        result = stage.umount()
        assert (result.status, result.out) == (1, "")
        assert result.err.startswith(
            "unionfs: merged cannot be unmounted: it is in use\n  who uses it: fuser -vm merged"
        )
        assert stage.entry() is not None
        assert unionfs("umount", "-l", "merged", cwd=stage.path) == (0, "", "")
        assert stage.entry() is None
    wait_for_end(daemon)


def test_several_at_once_and_each_fault(stage: Stage) -> None:
    (stage.path / "other").mkdir()
    stage.mount()
    unionfs("mount", "other", "-o", "lowerdir=lower", cwd=stage.path)
    result = unionfs("umount", "nowhere", "merged", "/proc", "other", cwd=stage.path)
    assert result.status == 1
    assert result.err == (
        "unionfs: nowhere: nothing is mounted there\n  the mounts of this machine: findmnt -t fuse.unionfs\n"
        "unionfs: /proc: what is mounted there is proc, not a union of ours\n  use: umount /proc\n"
    )
    assert stage.entry() is None


def test_a_mount_whose_daemon_was_killed(stage: Stage) -> None:
    stage.mount()
    daemon = daemon_of(stage)
    os.kill(daemon, signal.SIGKILL)
    wait_for_end(daemon)
    result = stage.mount()
    assert (result.status, result.out) == (1, "")
    assert result.err == (
        f"unionfs: mount point {stage.merged}: its mount is dead, the daemon is gone\n  unionfs umount {stage.merged}\n"
    )
    assert stage.umount() == (0, "", "")
    assert stage.mount() == (0, "", "")


# --- what is wrong is told


def told(stage: Stage, options: str, *words: str, target: str = "merged") -> list[str]:
    """What a mount that must fail says: each fault with its hint."""
    result = unionfs("mount", target, "-o", options, *words, cwd=stage.path)
    assert (result.status, result.out, stage.entry()) == (1, "", None)
    text = result.err.replace(str(stage.path.resolve()), "").replace(str(stage.path), "")
    return [fault.rstrip("\n") for fault in text.split("unionfs: ")[1:]]


@pytest.mark.parametrize(
    ("options", "faults"),
    [
        ("", ["lowerdir: a union needs at least one lower layer\n  lowerdir=DIR[:DIR...]"]),
        ("lowerdir=nowhere", ["lowerdir /nowhere: no such file or directory\n  name a directory that you may read"]),
        ("lowerdir=lower/file",
         ["lowerdir /lower/file: not a directory\n  name a directory that you may read"]),
        ("lowerdir=lower,upperdir=upper",
         ["workdir: upperdir is given without it\n  workdir= names a directory on the same filesystem"]),
        ("lowerdir=lower,workdir=work",
         ["upperdir: workdir is given without it\n  upperdir= names a directory on the same filesystem"]),
        ("lowerdir=lower,upperdir=nowhere,workdir=nowhere/work",
         ["upperdir /nowhere: no such file or directory\n  mkdir -p /nowhere",
          "workdir /nowhere/work: no such file or directory\n  mkdir -p /nowhere/work"]),
        ("lowerdir=lower:lower", ["lowerdir /lower: is the same directory as lowerdir /lower\n"
                                  "  layers must not overlap: give each its own directory"]),
        ("lowerdir=lower,upperdir=work,workdir=upper", []),
        ("lowerdir=lower,uperdir=upper,workdir=work",
         ['option "uperdir": there is no such option\n  did you mean "upperdir"?']),
        ("lowerdir=lower,upperdir=upper,workdir=work,log=/nowhere/log",
         ["log /nowhere/log: no such file or directory\n  name a file that you may write, or log=syslog"]),
    ],
)  # fmt: skip
def test_one_fault(stage: Stage, options: str, faults: list[str]) -> None:
    if not faults:
        (stage.path / "upper" / "strange").touch()
        faults = [
            'workdir /upper: is not an empty directory nor a work directory: it holds "strange"\n'
            "  give an empty directory: what lies in work/ is deleted at every mount"
        ]
    assert told(stage, options) == faults


def test_a_work_directory_elsewhere(stage: Stage) -> None:
    mounts.mount(b"none", os.fsencode(stage.path / "work"), b"tmpfs")
    fault = "workdir /work: is not on the same mount as upperdir\n  make it beside /upper"
    assert told(stage, stage.layers) == [fault]


def test_every_fault_at_once(stage: Stage) -> None:
    options = "lowerdir=nowhere:lower/file,upperdir=gone,workdir=work,log=/nowhere/log,kazoo,engine=rust,ro=1"
    faults = told(stage, options, target="missing")
    assert [fault.split(":")[0] for fault in faults] == [
        'option "kazoo"', "engine=rust", 'option "ro"', "mount point /missing", "log /nowhere/log",
        "upperdir /gone", "lowerdir /nowhere", "lowerdir /lower/file",
    ]  # fmt: skip


def test_layers_with_a_fault_are_left_as_they_are(stage: Stage) -> None:
    told(stage, "lowerdir=lower:nowhere,upperdir=upper,workdir=work,volatile")
    assert os.listdir(stage.path / "work") == os.listdir(stage.path / "upper") == []


def test_a_word_misspelt_is_not_missed_as_well(stage: Stage) -> None:
    assert len(told(stage, "lowerdirs=lower,upperdir=upper,workdir=work")) == 1


def test_an_upper_that_is_in_use(stage: Stage) -> None:
    (stage.path / "second").mkdir()
    stage.mount()
    result = unionfs("mount", "second", "-o", stage.layers, cwd=stage.path)
    assert result.status == 1
    place = stage.path.resolve()
    hint = "  unmount that one first (findmnt -t fuse.unionfs lists them)\n"
    assert result.err == (
        f"unionfs: upperdir {place}/upper: another mount uses it\n{hint}"
        f"unionfs: workdir {place}/work: another mount uses it\n{hint}"
    )


@pytest.mark.parametrize(
    ("target", "fault"),
    [
        ("lower/file", "mount point /lower/file: not a directory\n  mount on a directory"),
        ("nowhere", "mount point /nowhere: no such directory\n  mkdir -p /nowhere"),
        (
            "lower/file/deeper",
            "mount point /lower/file/deeper: not a directory\n  choose a directory that you may enter",
        ),
    ],
)
def test_a_mount_point_that_is_none(stage: Stage, target: str, fault: str) -> None:
    assert told(stage, stage.layers, target=target) == [fault]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["merged"], "mount: no layers are given\n  -o lowerdir=A[:B...][,upperdir=U,workdir=W]"),
        ([], "mount: the following arguments are required: DIR\n  unionfs mount --help"),
        (["a", "b", "c", "-o", "ro"], "mount: unexpected argument c\n  unionfs mount [SOURCE] DIR -o OPTIONS"),
        (["merged", "-o"], "mount: argument -o: expected one argument\n  unionfs mount --help"),
        (["merged", "-o", "ro", "--enginee=x"], 'mount: unexpected option --enginee\n  did you mean "--engine"?'),
    ],
)
def test_a_command_line_that_is_wrong(stage: Stage, words: list[str], text: str) -> None:
    assert unionfs("mount", *words, cwd=stage.path) == (2, "", f"unionfs: {text}\n")


def test_a_current_directory_that_was_deleted(stage: Stage) -> None:
    script = f"mkdir gone && cd gone && rmdir ../gone && exec {' '.join(COMMAND)} mount merged -o lowerdir=/etc"
    result = run(["sh", "-c", script], stage.path)
    assert result == (1, "", "unionfs: the current directory: was deleted\n  cd to one that exists\n")


def test_in_the_foreground_faults_are_told_as_well(stage: Stage) -> None:
    result = unionfs("mount", "-f", "merged", "-o", "lowerdir=nowhere,kazoo", cwd=stage.path)
    assert result.status == 1 and result.err.count("unionfs: ") == 2


def test_without_dev_fuse(stage: Stage) -> None:
    script = f"mount -t tmpfs none /dev && {' '.join(COMMAND)} mount merged -o lowerdir=lower"
    result = run(["unshare", "-m", "sh", "-c", script], stage.path)
    assert result.status == 1 and "cannot be mounted" in result.err and "modprobe fuse" in result.err


def test_mounts_of_ours_are_gone(stage: Stage) -> None:
    """The stage's own promise: a test leaves no mount behind."""
    stage.mount()
    stage.close()
    assert not any(entry.point.startswith(os.fsencode(stage.path)) for entry in mounts.table())
