"""The commands about containers: exec, ps, logs, stop and their like, cp, commit, export."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

from tests.container.launcher import Launcher

pytestmark = pytest.mark.stress


@pytest.fixture
def box(launcher: Launcher) -> Launcher:
    """With a container `box` that runs."""
    launcher.ok("run", "-d", "--name", "box", "-e", "A=1", "-w", "/srv", "host", "sh", "-c", "echo up; sleep 1000")
    return launcher


# --- exec


def test_exec_has_what_the_container_has(box: Launcher) -> None:
    script = 'echo $A $B $PWD $(id -u) $(hostname); ls /proc | grep -c "^1$"'
    out = box.ok("exec", "-e", "B=2", "box", "sh", "-c", script)
    identity = box.inspect("box")["Id"][:12]
    assert out.splitlines() == [f"1 2 /srv 0 {identity}", "1"]
    assert box.ok("exec", "-w", "/etc", "-u", "nobody", "box", "sh", "-c", "pwd; id -u").split() == ["/etc", "65534"]


def test_exec_is_held_as_the_container_is(box: Launcher) -> None:
    names = "Cap(Eff|Bnd|Prm)|Seccomp:|NoNewPrivs"
    script = f"grep -E '{names}' /proc/self/status; cat /proc/self/cgroup"
    ours = box.ok("exec", "box", "sh", "-c", script)
    first = box.ok("exec", "box", "sh", "-c", script.replace("self", "1"))
    assert ours == first


def test_exec_streams_and_status(box: Launcher) -> None:
    result = box("exec", "box", "sh", "-c", "echo out; echo err >&2; exit 6")
    assert result == (6, "out\n", "err\n")
    assert box.piped(["exec", "-i", "box", "cat"], b"x" * 300_000) == b"x" * 300_000
    assert box("exec", "box", "cat").out == ""
    assert box("exec", "box", "nosuch").status == 127
    assert box("exec", "box", "/etc/passwd").status == 126
    assert box("exec", "box", "sh", "-c", "kill -9 $$").status == 137
    assert box("exec", "box").status == 2


def test_exec_detached(box: Launcher) -> None:
    assert box.ok("exec", "-d", "box", "sh", "-c", "sleep 0.2; touch /done") == ""
    deadline = time.monotonic() + 20
    while box("exec", "box", "test", "-e", "/done").status:
        assert time.monotonic() < deadline


def test_exec_needs_a_running_container(launcher: Launcher) -> None:
    launcher.ok("create", "--name", "box", "host")
    result = launcher("exec", "box", "true")
    assert result.status == 1 and "is not running\n  unionfs start box" in result.err


def test_signals_reach_what_is_executed(box: Launcher) -> None:
    script = "trap 'echo got; exit 3' TERM; echo ready; while :; do sleep 0.05; done"
    process = box.start("exec", "box", "sh", "-c", script)
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=30)[0] == b"got\n"
    assert process.returncode == 3


# --- run, attached


def test_standard_input_goes_in_and_ends(launcher: Launcher) -> None:
    data = os.urandom(1 << 20)
    assert launcher.piped(["run", "-i", "--rm", "host", "cat"], data) == data
    assert launcher.piped(["run", "--rm", "host", "cat"], b"not given") == b""


def test_a_slow_reader_holds_the_writer_up(launcher: Launcher) -> None:
    process = launcher.start("run", "--rm", "host", "sh", "-c", "head -c 20000000 /dev/zero; echo end >&2")
    assert process.stdout is not None and process.stderr is not None
    time.sleep(1)
    monitors = launcher.ok("ps", "-q").split()
    assert len(monitors) == 1
    assert len(process.stdout.read()) == 20_000_000
    assert process.stderr.read() == b"end\n"
    process.wait()


def test_signals_are_passed_on(launcher: Launcher) -> None:
    script = "trap 'echo got; exit 3' TERM; echo ready; while :; do sleep 0.05; done"
    process = launcher.start("run", "--rm", "host", "sh", "-c", script)
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=30)[0] == b"got\n"
    assert process.returncode == 3


def test_attach_without_a_terminal(launcher: Launcher) -> None:
    launcher.ok("run", "-d", "-i", "--name", "box", "host", "sh", "-c", "while read x; do echo got $x; done; exit 4")
    process = launcher.start("attach", "box")
    assert process.communicate(b"one\ntwo\n", timeout=30)[0] == b"got one\ngot two\n"
    assert process.returncode == 4


# --- ps, logs, inspect


def test_ps(box: Launcher) -> None:
    assert box("run", "--name", "done", "-l", "k=v", "host", "sh", "-c", "exit 3").status == 3
    box.ok("create", "--name", "new", "host")
    assert box.ok("ps", "--format", "{{.Names}}") == "box"
    rows = [json.loads(line) for line in box.ok("ps", "-a", "--format", "json").splitlines()]
    states = [(row["Names"], row["State"]) for row in rows]
    assert states == [("new", "created"), ("done", "exited"), ("box", "running")]
    assert rows[1]["Status"].startswith("Exited (3) ") and rows[2]["Status"].startswith("Up ")
    assert rows[2]["Command"] == '"sh -c echo up; slee…"'
    for words, expected in [
        (["status=exited"], "done"), (["name=bo"], "box"), (["label=k"], "done"), (["label=k=w"], ""),
        (["exited=3"], "done"), (["status=created", "status=exited"], "new done"),
        (["ancestor=host", "name=box"], "box"),
    ]:  # fmt: skip
        filters = [part for word in words for part in ("-f", word)]
        assert box.ok("ps", "-a", *filters, "--format", "{{.Names}}").split() == expected.split()
    assert box.ok("ps", "-n", "2", "-q").split() == [row["ID"] for row in rows[:2]]
    assert box.ok("ps", "-l", "--format", "{{.Names}}") == "new"
    head = box.ok("ps").splitlines()[0].split("  ")
    expected = ["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"]
    assert [word.strip() for word in head if word] == expected
    assert 'did you mean "status"?' in box("ps", "-f", "statsu=x").err
    assert 'did you mean "Names"?' in box("ps", "--format", "{{.Nmaes}}").err


def test_logs(launcher: Launcher) -> None:
    script = "echo one; echo two >&2; printf 'no end'; printf '\\377\\n'; seq 3"
    launcher.ok("run", "--name", "box", "host", "sh", "-c", script)
    result = launcher("logs", "box")
    assert result.out == "one\nno end\ufffd\n1\n2\n3\n" and result.err == "two\n"
    assert launcher.ok("logs", "--tail", "2", "box") == "2\n3"
    assert launcher.ok("logs", "--tail", "0", "box") == ""
    stamped = launcher.ok("logs", "-t", "--tail", "1", "box")
    moment, text = stamped.split(" ")
    assert text == "3" and moment.endswith("Z") and len(moment) == 30
    assert launcher.ok("logs", "--since", moment, "box").split()[-1:] == ["3"]
    assert launcher.ok("logs", "--since", "0s", "box") == ""
    assert launcher.ok("logs", "--until", "1h", "box") == ""
    assert launcher("logs", "--tail", "x", "box").status == 2


def test_logs_follow_to_the_end(launcher: Launcher) -> None:
    launcher.ok("run", "-d", "--name", "box", "host", "sh", "-c", "for i in 1 2 3; do echo $i; sleep 0.2; done")
    assert launcher.ok("logs", "-f", "box") == "1\n2\n3"


def test_inspect_by_template_and_of_nothing(box: Launcher) -> None:
    template = "{{.State.Status}} {{.Name}} {{json .Config.Cmd}}"
    assert box.ok("inspect", "-f", template, "box").startswith("running /box [")
    result = box("inspect", "box", "nosuch")
    assert result.status == 1 and len(json.loads(result.out)) == 1 and "no such object: nosuch" in result.err
    short = box.inspect("box")["Id"][:6]
    assert box.inspect(short)["Name"] == "/box"


def test_top_and_stats(box: Launcher) -> None:
    lines = box.ok("top", "box").splitlines()
    assert lines[0].split() == ["UID", "PID", "INSIDE", "PPID", "MEMORY", "COMMAND"]
    assert any("sleep 1000" in line for line in lines) and any(line.split()[2] == "1" for line in lines[1:])
    row = json.loads(box.ok("stats", "--format", "json", "box"))
    assert row["Name"] == "box" and row["PIDs"] == 2 and row["CPUPerc"].endswith("%")


# --- start, stop, and their like


def test_stop_and_start_again(launcher: Launcher) -> None:
    script = "echo begun; trap 'echo stopped; exit 5' TERM; while :; do sleep 0.05; done"
    launcher.ok("run", "-d", "--name", "box", "host", "sh", "-c", script)
    while launcher.ok("logs", "box") != "begun":
        pass
    assert launcher.ok("stop", "box") == "box"
    assert launcher.inspect("box")["State"]["ExitCode"] == 5
    launcher.ok("restart", "box")
    assert launcher.inspect("box")["State"]["Running"]
    launcher.ok("stop", "-s", "KILL", "box")
    assert launcher.ok("logs", "box").split() == ["begun", "stopped", "begun"]
    assert launcher.ok("stop", "box") == "box"  # one that does not run is fine


def test_stop_signal_of_its_own(launcher: Launcher) -> None:
    script = "trap 'exit 8' USR1; echo r; while :; do sleep 0.05; done"
    launcher.ok("run", "-d", "--name", "box", "--stop-signal", "SIGUSR1", "host", "sh", "-c", script)
    while launcher.ok("logs", "box") != "r":
        pass
    launcher.ok("stop", "box")
    assert launcher.ok("wait", "box") == "8"


def test_pause(box: Launcher) -> None:
    box.ok("pause", "box")
    assert box.inspect("box")["State"]["Status"] == "paused"
    assert "(Paused)" in box.ok("ps", "--format", "{{.Status}}")
    pid = box.inspect("box")["State"]["Pid"]
    assert Path(f"/proc/{pid}/wchan").exists()
    assert box("exec", "box", "true").err == "unionfs: container box: is paused\n  unionfs unpause box\n"
    assert box("pause", "box").status == 1
    box.ok("unpause", "box")
    assert box.ok("exec", "box", "echo", "again") == "again"
    assert box("unpause", "box").status == 1


def test_rm_and_rename(box: Launcher) -> None:
    refused = box("rm", "box")
    assert refused.status == 1 and "it is running" in refused.err and "unionfs stop box" in refused.err
    box.ok("rename", "box", "other")
    assert box.names() == ["other"]
    assert box("create", "--name", "other", "host").err.startswith('unionfs: the name "other" is in use by container ')
    result = box("rm", "-f", "other", "nosuch")
    assert (result.status, result.out) == (1, "other\n") and "no such container: nosuch" in result.err
    assert box.names() == []


def test_prune(box: Launcher) -> None:
    box.ok("run", "--name", "done", "host", "touch", "/x")
    identity = box.inspect("done")["Id"]
    assert identity in box.ok("container", "prune", "-f")
    assert box.names() == ["box"]
    assert box("container", "prune").status == 2


def test_wait_for_one_that_ends_meanwhile(launcher: Launcher) -> None:
    launcher.ok("run", "-d", "--name", "box", "host", "sh", "-c", "sleep 0.5; exit 3")
    assert launcher.ok("wait", "box") == "3"
    assert launcher.ok("wait", "box") == "3"


# --- cp


@pytest.fixture(params=["running", "created"])
def target(request: pytest.FixtureRequest, launcher: Launcher) -> Launcher:
    words = ["--name", "box", "-v", "vol:/vol", "host"]
    if request.param == "running":
        launcher.ok("run", "-d", *words, "sleep", "1000")
    else:
        launcher.ok("create", *words, "sleep", "1000")
    return launcher


def content(launcher: Launcher, path: str) -> dict[str, str]:
    """Names below a path of the container, with what is in the files, by way of `cp - `."""
    data = subprocess_cp(launcher, path)
    found = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isfile() else None
            found[member.name] = file.read().decode() if file else ""
    return found


def subprocess_cp(launcher: Launcher, path: str) -> bytes:
    return launcher.piped(["cp", f"box:{path}", "-"], b"")


def test_cp_in_by_dockers_table(target: Launcher, tmp_path: Path) -> None:
    (tmp_path / "d" / "sub").mkdir(parents=True)
    (tmp_path / "d" / "f").write_text("df")
    (tmp_path / "f").write_text("f")
    f, d = f"{tmp_path}/f", f"{tmp_path}/d"
    target.ok("cp", f, "box:/new")  # a file that is not there: it becomes that
    assert content(target, "/new") == {"new": "f"}
    target.ok("cp", f, "box:/srv")  # into a directory
    assert content(target, "/srv") == {"srv": "", "srv/f": "f"}
    assert "the destination directory must exist" in target("cp", f, "box:/nosuch/").err
    assert "there is no such directory" in target("cp", f, "box:/nosuch/deep").err
    target.ok("cp", d, "box:/made")  # a directory that is not there: it becomes that
    assert content(target, "/made") == {"made": "", "made/f": "df", "made/sub": ""}
    target.ok("cp", d, "box:/srv")  # into a directory
    assert content(target, "/srv/d") == {"d": "", "d/f": "df", "d/sub": ""}
    target.ok("cp", f"{d}/.", "box:/mnt")  # what is in it
    assert content(target, "/mnt") == {"mnt": "", "mnt/f": "df", "mnt/sub": ""}
    assert "cannot copy a directory to a file" in target("cp", d, "box:/new").err
    target.ok("cp", f"{d}/f", "box:/new")  # a file that is there is replaced
    assert content(target, "/new") == {"new": "df"}
    target.ok("cp", f, "box:/vol/in-volume")
    assert (target.root / "volumes" / "vol" / "_data" / "in-volume").read_text() == "f"


def test_cp_out(target: Launcher, tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "f").write_text("x")
    target.ok("cp", f"{tmp_path}/src", "box:/data")
    target.ok("cp", "box:/data", tmp_path / "out")
    assert (tmp_path / "out" / "f").read_text() == "x"
    target.ok("cp", "box:/data/f", tmp_path / "out" / "two")
    assert (tmp_path / "out" / "two").read_text() == "x"
    target.ok("cp", "box:/data/.", tmp_path)
    assert (tmp_path / "f").read_text() == "x"
    missing = target("cp", "box:/nosuch", tmp_path)
    assert missing.status == 1 and "/nosuch: no such file or directory" in missing.err
    assert target("cp", "box:/data", "box:/other").status == 2
    assert target("cp", "a", "b").status == 2


def test_cp_of_tars_and_owners(target: Launcher, tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        entry = tarfile.TarInfo("owned")
        entry.uid, entry.gid, entry.mode = 12, 34, 0o640
        archive.addfile(entry)
    target.piped(["cp", "-", "box:/srv"], out.getvalue())
    target.piped(["cp", "-a", "-", "box:/mnt"], out.getvalue())
    owners = {}
    for place in ("srv", "mnt"):
        with tarfile.open(fileobj=io.BytesIO(subprocess_cp(target, f"/{place}/owned"))) as archive:
            member = archive.getmember("owned")
            owners[place] = (member.uid, member.gid, member.mode)
    assert owners == {"srv": (0, 0, 0o640), "mnt": (12, 34, 0o640)}
    assert target("cp", "-", "box:/nosuch").status == 1


def test_cp_does_not_leave_the_container(target: Launcher, tmp_path: Path) -> None:
    """A symbolic link in the container, absolute or climbing, leads to the container's own files."""
    secret = tmp_path / "secret"
    secret.write_text("secret")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "absolute").symlink_to(tmp_path)
    (tmp_path / "links" / "climbing").symlink_to("../../../../../../../../.." + str(tmp_path))
    target.ok("cp", f"{tmp_path}/links", "box:/links")
    (tmp_path / "f").write_text("f")
    for link in ("absolute", "climbing"):
        assert target("cp", "-L", f"box:/links/{link}/secret", tmp_path / "stolen").status == 1
        assert target("cp", f"{tmp_path}/f", f"box:/links/{link}/planted").status == 1
    assert not (tmp_path / "stolen").exists() and not (tmp_path / "planted").exists()


# --- commit, export


def test_commit_of_a_renamed_directory_and_of_a_part_of_a_file(launcher: Launcher, tmp_path: Path) -> None:
    """What is our own bookkeeping in the layer is written out: other tools read it."""
    base = tmp_path / "base"
    (base / "dir" / "sub").mkdir(parents=True)
    (base / "dir" / "sub" / "f").write_text("deep")
    (base / "big").write_bytes(b"x" * (4 << 20))
    launcher.ok("import", base, "base")
    launcher.ok("run", "--name", "make", "host", "true")
    script = "mv /d/dir /d/moved; echo y | dd of=/d/big conv=notrunc 2>/dev/null; mkdir /d/dir; touch /d/dir/new"
    words = ["--storage-opt", "copyup=block", "--storage-opt", "copyup_complete=never"]
    host_layer = json.loads(launcher.ok("image", "inspect", "host"))[0]["GraphDriver"]["Data"]["Layers"][0]
    subprocess.run(["cp", "-a", host_layer, tmp_path / "root"], check=True)
    subprocess.run(["cp", "-a", base, tmp_path / "root" / "d"], check=True)
    launcher.ok("import", tmp_path / "root", "both")
    launcher.ok("run", "--name", "box", *words, "both", "sh", "-c", script)
    launcher.ok("commit", "box", "after")
    for driver in ("unionfs", "overlay"):
        look = "ls /d /d/dir; cat /d/moved/sub/f; head -c 2 /d/big; stat -c %s /d/big"
        out = launcher.ok("run", "--rm", "--storage", driver, "after", "sh", "-c", look)
        assert out.split() == ["/d:", "big", "dir", "moved", "/d/dir:", "new", "deepy", str(4 << 20)]


def test_commit_keeps_the_rules(box: Launcher) -> None:
    identity = box.ok("commit", "-m", "why", "-a", "me", "-c", "EXPOSE 80", "-c", "USER nobody", "box", "new:1")
    image = json.loads(box.ok("image", "inspect", "new:1"))[0]
    assert image["Id"] == identity and image["Author"] == "me"
    assert image["Config"]["ExposedPorts"] == {"80/tcp": {}} and image["Config"]["User"] == "nobody"
    assert "A=1" in image["Config"]["Env"] and image["Config"]["WorkingDir"] == "/srv"
    history = box.ok("history", "--format", "{{.Comment}}", "new:1").splitlines()
    assert history[0] == "why" and len(history) == 2
    assert 'did you mean "USER"?' in box("commit", "-c", "USR nobody", "box", "x").err
    assert box.inspect("box")["State"]["Status"] == "running"


def test_an_archive_goes_into_a_pipe_and_behind_a_link_and_replaces_neither(shared: Launcher, tmp_path: Path) -> None:
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to("file")
    with (tmp_path / "read").open("wb") as read, subprocess.Popen(["cat", pipe], stdout=read):
        shared.ok("save", "-o", pipe, "host")
    assert pipe.is_fifo() and tarfile.is_tarfile(tmp_path / "read")
    shared.ok("save", "-o", link, "host")
    assert link.is_symlink() and tarfile.is_tarfile(tmp_path / "file")


def test_export_is_the_whole_tree(launcher: Launcher, tmp_path: Path) -> None:
    script = "echo x > /vol/in; echo y > /new; rm /etc/services"
    launcher.ok("run", "--name", "box", "-v", "vol:/vol", "host", "sh", "-c", script)
    data = launcher.piped(["export", "box"], b"")
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        names = set(archive.getnames())
    assert {"new", "etc/protocols", "bin"} <= names
    assert not {"etc/services", "vol/in"} & names
