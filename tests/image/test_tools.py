"""What we save, other tools load and run, and the reverse: podman, skopeo, a registry."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.running import need
from tests.container.launcher import Launcher
from tests.image.podman import Podman

pytestmark = pytest.mark.stress


@pytest.fixture(scope="module")
def podman() -> Iterator[Podman]:
    """In a directory with a short name: it wants its own below 50 characters."""
    path = Path(tempfile.mkdtemp(prefix="pod-"))
    podman = Podman(path)
    yield podman
    podman("system", "reset", "-f")
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[Launcher]:
    launcher = Launcher(tmp_path / "state")
    launcher.ok("import", "host", "host:1")
    yield launcher
    launcher.close()


@pytest.fixture
def changed(launcher: Launcher) -> Launcher:
    """With a second image on top: a file changed, one deleted, a directory replaced."""
    replaced = "rm -r /home; mkdir /home; cd /home; echo x > new; ln new two"
    script = f"echo changed > /etc/protocols; rm /etc/services; {replaced}"
    launcher.ok("run", "--name", "one", "host:1", "sh", "-c", script)
    command = 'CMD ["sh", "-c", "cat /etc/protocols; ls /home; echo $A"]'
    launcher.ok("commit", "-c", 'ENV A="two words"', "-c", command, "one", "app:2")
    return launcher


EXPECTED = "changed\nnew\ntwo\ntwo words"


def test_podman_runs_what_we_save(changed: Launcher, podman: Podman, tmp_path: Path) -> None:
    changed.ok("save", "-o", tmp_path / "app.tar", "app:2")
    assert "app:2" in podman.ok("load", "-i", str(tmp_path / "app.tar"))
    assert podman.run("app:2").stdout == EXPECTED + "\n"
    gone = podman.run("app:2", "ls", "/etc/services")
    assert gone.returncode != 0 and "No such file" in gone.stderr
    identity = json.loads(changed.ok("image", "inspect", "app:2"))[0]["Id"]
    assert podman.ok("image", "inspect", "-f", "{{.Id}}", "app:2") == identity.removeprefix("sha256:")


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive", "oci-dir"])
def test_we_run_what_podman_saves(changed: Launcher, podman: Podman, tmp_path: Path, form: str) -> None:
    changed.ok("save", "-o", tmp_path / "app.tar", "app:2")
    podman.ok("load", "-i", str(tmp_path / "app.tar"))
    saved = tmp_path / "saved"
    podman.ok("save", "--format", form, "-o", str(saved), "app:2")
    if form == "oci-dir":
        subprocess.run(["tar", "cf", tmp_path / "saved.tar", "-C", saved, "."], check=True)
        saved = tmp_path / "saved.tar"
    other = Launcher(tmp_path / "other")
    told = other.ok("load", "-i", saved)
    name = told.rpartition(" ")[2]
    assert other.ok("run", "--rm", name) == EXPECTED
    assert other("run", "--rm", name, "ls", "/etc/services").status == 2
    assert other.ok("run", "--rm", "--storage", "overlay", name) == EXPECTED


def test_skopeo_reads_and_writes_the_same(changed: Launcher, tmp_path: Path) -> None:
    skopeo = need("skopeo", "skopeo")
    changed.ok("save", "-o", tmp_path / "app.tar", "app:2")
    for target in (f"oci:{tmp_path}/layout:app", f"docker-archive:{tmp_path}/docker.tar:app:3"):
        words = [skopeo, "copy", f"docker-archive:{tmp_path}/app.tar", target]
        done = subprocess.run(words, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    told = changed.ok("load", "-i", tmp_path / "docker.tar")
    assert "Loaded image: app:3" in told.splitlines()
    assert changed.ok("run", "--rm", "app:3") == EXPECTED


def test_podman_imports_what_we_export(launcher: Launcher, podman: Podman, tmp_path: Path) -> None:
    launcher.ok("run", "--name", "one", "host:1", "sh", "-c", "echo x > /new; rm /etc/services")
    launcher.ok("export", "-o", tmp_path / "flat.tar", "one")
    podman.ok("import", str(tmp_path / "flat.tar"), "flat")
    assert podman.run("flat", "sh", "-c", "cat /new; ls /etc/services 2>/dev/null | wc -l").stdout == "x\n0\n"
    launcher.ok("import", tmp_path / "flat.tar", "flat:1")
    assert launcher.ok("run", "--rm", "flat:1", "cat", "/new") == "x"


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """Debian's docker-registry on a free port of loopback."""
    program = need("docker-registry", "docker-registry")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    config = tmp_path / "registry.yml"
    config.write_text(
        f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {tmp_path}/registry}}}}\n"
        f"http: {{addr: {address}}}\n"
    )
    process = subprocess.Popen([program, "serve", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection((address.partition(":")[0], int(address.partition(":")[2])), 1).close()
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield address
    finally:
        process.terminate()
        process.wait()


def test_push_and_pull(changed: Launcher, registry: str, tmp_path: Path) -> None:
    need("skopeo", "skopeo")
    name = f"{registry}/team/app:2"
    changed.ok("tag", "app:2", name)
    assert changed.ok("push", name).splitlines()[-1] == name
    other = Launcher(tmp_path / "other")
    assert name in other.ok("pull", name)
    assert other.ok("run", "--rm", name) == EXPECTED
    identity = [launcher.ok("images", "-q", "--no-trunc", name) for launcher in (changed, other)]
    assert identity[0] == identity[1]
    missing = other("pull", f"{registry}/team/nosuch")
    assert missing.status == 1 and "nosuch" in missing.err and "Traceback" not in missing.err


def test_without_skopeo_the_package_is_named(launcher: Launcher, tmp_path: Path) -> None:
    launcher.environment["PATH"] = str(tmp_path)
    result = launcher("pull", "debian")
    assert result.status == 1 and "apt-get install skopeo" in result.err


def test_a_registry_that_is_not_there(launcher: Launcher) -> None:
    need("skopeo", "skopeo")
    result = launcher("pull", "127.0.0.1:1/nosuch")
    assert result.status == 1 and "connection refused" in result.err and result.err.count("\n") == 1
    assert os.listdir(launcher.root / "tmp") == []
