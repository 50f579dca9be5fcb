"""run, create, start: what a container is given, and what is said of it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.container.launcher import Launcher

DRIVERS = ("unionfs", "overlay")


def test_the_output_and_the_status_are_the_commands(shared: Launcher) -> None:
    result = shared("run", "--rm", "host", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (result.status, result.out, result.err) == (7, "out\n", "err\n")


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (["host", "nosuch"], 127, 'exec: "nosuch": executable file not found in $PATH'),
        (["host", "/nosuch"], 127, 'exec: "/nosuch": no such file or directory'),
        (["host", "/etc/passwd"], 126, 'exec: "/etc/passwd": permission denied'),
        (["host", "/etc"], 126, 'exec: "/etc": is a directory'),
        (["hsot"], 125, 'no such image: hsot\n  did you mean "host"?'),
        (["--rm", "--nmae", "x", "host"], 125, 'unexpected option --nmae\n  did you mean "--name"?'),
        (["-v", "/foo:rw", "host"], 125, "invalid volume specification: '/foo:rw'"),
        (["-v", "a:/b:wr", "host"], 125, "invalid mode: wr"),
        (["-v", "/tmp:/b", "-v", "/srv:/b", "host"], 125, "Duplicate mount point: /b"),
        (["--mount", "type=bind,source=/nosuch,target=/b", "host"], 125, "bind source path does not exist: /nosuch"),
        (["--mount", "type=bin,source=/nosuch,target=/b", "host"], 125, 'did you mean "bind"?'),
        (["-u", "nosuch", "host", "true"], 125, "unable to find user nosuch: no matching entries in passwd file"),
        (["--cap-add", "NET_ADMN", "host"], 125, 'did you mean "NET_ADMIN"?'),
        (["--memory", "1m", "host"], 125, "minimum memory limit allowed is 6MB"),
        (["--memory", "much", "host"], 125, "invalid size: 'much'"),
        (["--network", "hsot", "host"], 125, 'network hsot: not found\n  did you mean "host"?'),
        (["--storage", "overlya", "host"], 125, 'did you mean "overlay"?'),
        (["--storage-opt", "copyup=blcok", "host"], 125, "copyup"),
        (["--security-opt", "selinux=on", "host"], 125, "is not known"),
        (["--ulimit", "nofiles=3", "host"], 125, 'did you mean "nofile"?'),
        (["--name", "-x", "host"], 125, "name"),
        (["-it", "host", "true"], 125, "the input device is not a TTY"),
        (["--rootfs", "/nosuch", "true"], 125, "--rootfs /nosuch: there is no such directory"),
        (["-w", "relative", "host", "true"], 125, "is not an absolute path"),
    ],
)
def test_what_cannot_be_run(shared: Launcher, words: list[str], status: int, told: str) -> None:
    """The launcher's own failures are 125, so that they can be told from the command's; nothing is left of them."""
    before = shared.names()
    result = shared("run", "--rm", *words) if "--rm" not in words else shared("run", *words)
    assert result.status == status, result
    assert told in result.err
    assert result.out == ""
    assert shared.names() == before


def test_a_container_that_cannot_be_started_stays(launcher: Launcher) -> None:
    assert launcher("run", "--name", "broken", "host", "nosuch").status == 127
    state = launcher.inspect("broken")["State"]
    assert (state["Status"], state["ExitCode"]) == ("created", 127)
    assert "nosuch" in state["Error"]


def test_environment_directory_user_and_names(shared: Launcher) -> None:
    script = 'echo "$A $B $HOSTNAME $HOME $PATH"; pwd; id -u; id -g; id -G; hostname; cat /etc/hostname'
    words = ["-e", "A=1", "-e", "B=two words", "-w", "/made/here", "-u", "nobody", "-h", "box"]
    out = shared.ok("run", "--rm", *words, "host", "sh", "-c", script)
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    assert out.splitlines() == [
        f"1 two words box /nonexistent {path}", "/made/here", "65534", "65534", "65534", "box", "box",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("user", "ids"), [("nobody", "65534 65534"), ("12:34", "12 34"), ("root:tty", "0 5"), ("7", "7 0"), ("", "0 0")]
)
def test_users_are_the_containers_own(shared: Launcher, user: str, ids: str) -> None:
    assert shared.ok("run", "--rm", "-u", user, "host", "sh", "-c", "echo $(id -u) $(id -g)") == ids


def test_env_alone_copies_ours(shared: Launcher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(shared.environment, "FROM_HERE", "yes")
    script = "echo ${FROM_HERE-none} ${NOT_HERE-none}"
    assert shared.ok("run", "--rm", "-e", "FROM_HERE", "-e", "NOT_HERE", "host", "sh", "-c", script) == "yes none"


def test_entrypoint_and_arguments(launcher: Launcher) -> None:
    launcher.ok("run", "--name", "base", "host", "true")
    launcher.ok("commit", "-c", 'ENTRYPOINT ["echo", "entry"]', "-c", 'CMD ["default"]', "base", "with-entry")
    assert launcher.ok("run", "--rm", "with-entry") == "entry default"
    assert launcher.ok("run", "--rm", "with-entry", "given") == "entry given"
    assert launcher.ok("run", "--rm", "--entrypoint", "printf", "with-entry", "%s", "x") == "x"
    assert launcher("run", "--rm", "--entrypoint", "", "with-entry").status == 125  # the image's arguments are dropped


def test_changes_stay_in_the_containers_layer(launcher: Launcher) -> None:
    script = "[ -e /etc/protocols ] && echo first || echo again; echo mine > /etc/motd; rm -f /etc/protocols"
    assert launcher.ok("run", "--name", "one", "host", "sh", "-c", script) == "first"
    assert launcher.ok("diff", "one").splitlines() == ["C /etc", "A /etc/motd", "D /etc/protocols"]
    other = launcher.ok("run", "--rm", "host", "ls", "/etc").split()
    assert "protocols" in other and "motd" not in other
    assert launcher.ok("start", "-a", "one") == "again"


def test_a_read_only_root(shared: Launcher) -> None:
    script = "touch /x 2>&1; touch /run/y && touch /dev/shm/z && echo written"
    out = shared.ok("run", "--rm", "--read-only", "--tmpfs", "/run", "host", "sh", "-c", script)
    assert "Read-only file system" in out and out.endswith("written")


def test_tmpfs_has_its_options(shared: Launcher) -> None:
    words = ["--tmpfs", "/t:size=64k,mode=700", "--mount", "type=tmpfs,target=/u,tmpfs-size=1m"]
    out = shared.ok("run", "--rm", *words, "host", "sh", "-c", "grep -E ' /(t|u) ' /proc/mounts; stat -c %a /t /u")
    first, second, *modes = out.splitlines()
    assert "nosuid,nodev,noexec" in first and "size=64k" in first and "size=1024k" in second
    assert modes == ["700", "1777"]


def test_storage_drivers_show_the_same(shared: Launcher) -> None:
    script = "echo x > /etc/new; rm /etc/services; mv /etc/nsswitch.conf /moved; ls /etc; cat /etc/new"
    run = ["run", "--rm", "--storage"]
    outputs = {shared.ok(*run, driver, "host", "sh", "-c", script) for driver in DRIVERS}
    assert len(outputs) == 1
    roots = [shared.ok(*run, driver, "host", "grep", " / ", "/proc/mounts").split()[2] for driver in DRIVERS]
    assert roots == ["fuse.unionfs", "overlay"]


def test_copy_up_options_reach_the_mount(launcher: Launcher) -> None:
    big = launcher.root.parent / "big"
    (big / "bin").mkdir(parents=True)
    (big / "file").write_bytes(b"x" * (4 << 20))
    words = ["--storage-opt", "copyup=block", "--storage-opt", "copyup_complete=never"]
    lowers = f"{big}:{_rootfs(launcher)}"
    launcher.ok("run", "--name", "blocks", *words, "--rootfs", lowers, "sh", "-c", "echo y | dd of=/file conv=notrunc")
    upper = launcher.root / "containers" / launcher.inspect("blocks")["Id"] / "upper" / "file"
    assert upper.stat().st_size == 4 << 20
    assert upper.stat().st_blocks * 512 < 1 << 20


def _rootfs(launcher: Launcher) -> str:
    layer: str = json.loads(launcher.ok("image", "inspect", "host"))[0]["GraphDriver"]["Data"]["Layers"][0]
    return layer


def test_rootfs_is_never_written(launcher: Launcher) -> None:
    """Copy-on-write over a directory: show the diff, keep it or discard it."""
    place = launcher.root.parent / "place"
    place.mkdir()
    (place / "kept").write_text("old\n")
    lowers = f"{place}:{_rootfs(launcher)}"
    script = "echo new > /kept; echo x > /added"
    launcher.ok("run", "--name", "try", "--rootfs", lowers, "sh", "-c", script)
    assert (place / "kept").read_text() == "old\n" and not (place / "added").exists()
    assert launcher.ok("diff", "try").splitlines() == ["A /added", "C /kept"]
    launcher.ok("discard", "-y", "try")
    assert launcher.ok("diff", "try") == ""
    launcher.ok("start", "-a", "try")
    launcher.ok("apply", "try")
    assert (place / "kept").read_text() == "new\n" and (place / "added").read_text() == "x\n"


def test_an_images_layers_are_not_applied_to(launcher: Launcher) -> None:
    launcher.ok("run", "--name", "one", "host", "touch", "/new")
    result = launcher("apply", "one")
    assert result.status == 1 and "unionfs commit one NAME" in result.err


def test_over_ones_own_machine(launcher: Launcher) -> None:
    """--rootfs /: all of this machine is there, nothing of it changes, and the launcher's own state is out of reach."""
    marker = launcher.root.parent / "marker"
    script = f"echo changed > {marker}; ls {launcher.root} 2>&1 | wc -l; id -u"
    assert launcher.ok("run", "--name", "machine", "--rootfs", "/", "sh", "-c", script).splitlines() == ["0", "0"]
    assert not marker.exists()
    assert f"A {marker}" in launcher.ok("diff", "machine").splitlines()


def test_labels_files_and_ids(launcher: Launcher, tmp_path: Path) -> None:
    (tmp_path / "env").write_text("# a remark\nA=1\n\nB=2\n")
    (tmp_path / "labels").write_text("from=file\n")
    words = ["--env-file", "env", "--label-file", "labels", "-l", "own=yes", "--cidfile", "cid", "--name", "one"]
    identity = launcher.ok("create", *words, "host", "true", cwd=tmp_path)
    assert (tmp_path / "cid").read_text() == identity and len(identity) == 64
    config = launcher.inspect("one")["Config"]
    assert config["Labels"] == {"from": "file", "own": "yes"}
    assert {"A=1", "B=2"} <= set(config["Env"])
    again = launcher("create", "--cidfile", "cid", "host", cwd=tmp_path)
    assert again.status == 1 and "is there already" in again.err


def test_explain_tells_each_step(shared: Launcher) -> None:
    result = shared("run", "--rm", "--explain", "host", "true")
    assert result.status == 0
    steps = ("CLONE_NEWPID", "CLONE_NEWNS|CLONE_NEWUTS", "pivot_root", "capset", "SECCOMP", "execve(/usr/bin/true)")
    for word in steps:
        assert word.lower() in result.err.lower(), result.err
    pages = [word for word in result.err.split() if word.startswith("[") and word.endswith(")]")]
    assert len(pages) > 15


def test_init_reaps_and_passes_signals_on(launcher: Launcher) -> None:
    script = "trap 'exit 9' TERM; (sleep 0.1 & ); sleep 0.3; ps -o stat= -e | grep -c Z; while :; do sleep 0.05; done"
    launcher.ok("run", "-d", "--init", "--name", "with-init", "host", "sh", "-c", script)
    _until_logged(launcher, "with-init")
    assert launcher.ok("logs", "with-init") == "0"
    launcher.ok("stop", "with-init")
    assert launcher.inspect("with-init")["State"]["ExitCode"] == 9


def test_process_one_is_not_ended_by_default_actions(launcher: Launcher) -> None:
    """pid_namespaces(7): only signals that it has a handler for, and KILL from outside."""
    launcher.ok("run", "-d", "--name", "one", "host", "sleep", "100")
    launcher.ok("kill", "-s", "TERM", "one")
    assert launcher.inspect("one")["State"]["Running"]
    launcher.ok("kill", "one")
    assert launcher.inspect("one")["State"]["ExitCode"] == 137


def _until_logged(launcher: Launcher, name: str) -> None:
    for _ in range(100):
        if launcher.ok("logs", name):
            return
        os.sched_yield()
    raise AssertionError("nothing was logged")


def test_files_of_etc_are_the_launchers(shared: Launcher) -> None:
    out = shared.ok("run", "--rm", "-h", "box", "host", "sh", "-c", "cat /etc/hosts; cat /etc/hostname")
    assert "127.0.0.1\tlocalhost" in out and "\tbox" in out and out.endswith("box")
    assert shared.ok("run", "--rm", "host", "sh", "-c", "echo x >> /etc/hosts && tail -n 1 /etc/hosts") == "x"


def test_networks(shared: Launcher) -> None:
    assert shared.ok("run", "--rm", "host", "ls", "/sys/class/net") == "lo"
    ours = sorted(os.listdir("/sys/class/net"))
    assert sorted(shared.ok("run", "--rm", "--network", "host", "host", "ls", "/sys/class/net").split()) == ours


def test_ulimits_reach_the_command(shared: Launcher) -> None:
    words = ["--ulimit", "nofile=64:128", "--ulimit", "core=0"]
    out = shared.ok("run", "--rm", *words, "host", "sh", "-c", "ulimit -Sn; ulimit -Hn; ulimit -c")
    assert out.split() == ["64", "128", "0"]
