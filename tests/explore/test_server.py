"""The explorer's web server: loopback, a token, no other host's name, GET alone, live requests of a real mount."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.cli.running import Stage, needs_mount, stage, unionfs
from tests.explore.subjects import subject
from unionfs.cli.explore import subject_of
from unionfs.explore.server import Server

__all__ = ["stage"]
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for trusted attributes")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    yield from serving(Server(subject(tmp_path)))


def serving(server: Server) -> Iterator[Server]:
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def get(server: Server, path: str, method: str = "GET", host: str | None = None) -> tuple[int, str, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    headers = {} if host is None else {"Host": host}
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    try:
        return answer.status, answer.read().decode(), dict(answer.getheaders())
    finally:
        connection.close()


def test_the_page_and_its_facts(server: Server) -> None:
    status, text, headers = get(server, f"/{server.token}/")
    assert status == 200 and "<title>unionfs explore</title>" in text
    assert "default-src 'self'" in headers["Content-Security-Policy"] and headers["Referrer-Policy"] == "no-referrer"
    status, text, headers = get(server, f"/{server.token}/api/union")
    assert status == 200 and headers["Content-Type"].startswith("application/json")
    assert [layer["role"] for layer in json.loads(text)["layers"]] == ["upper", "lower", "lower"]
    status, text, _ = get(server, f"/{server.token}/api/list?path=etc")
    assert status == 200 and json.loads(text)["total"] == 4


def test_without_the_token_nothing_is_told(server: Server) -> None:
    for path in ("/", "/api/union", "/wrong/api/union", f"/{server.token[:-1]}/api/union", "//", "/%2e%2e/"):
        status, text, _ = get(server, path)
        assert status == 403 and "token" in text and "layers" not in text


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1", "[::1]:1"])
def test_another_name_for_this_address_is_refused(server: Server, host: str) -> None:
    """A page of another site whose name resolves to loopback."""
    assert get(server, f"/{server.token}/api/union", host=host)[0] == 403
    assert get(server, f"/{server.token}/api/union", host=f"localhost:{server.server_port}")[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_nothing_can_be_changed(server: Server, method: str) -> None:
    assert get(server, f"/{server.token}/api/union", method)[0] == 501


@pytest.mark.parametrize(
    "path, status, why",
    [
        ("api/list?path=../..", 404, "no such file or directory"),
        ("api/list?path=etc/motd", 404, "not a directory"),
        ("api/list?start=x", 404, "invalid literal"),
        ("page.py", 404, "there is no such page"),
        ("../server.py", 404, "there is no such page"),
        ("api/live", 404, "there is no such page"),
    ],
)
def test_what_is_not_there(server: Server, path: str, status: int, why: str) -> None:
    found, text, _ = get(server, f"/{server.token}/{path}")
    assert found == status and why in text


def test_it_listens_on_loopback_alone(server: Server) -> None:
    address = urlsplit(server.url)
    assert address.hostname == "127.0.0.1"
    with open("/proc/net/tcp") as file:
        listening = [line.split()[1] for line in file if line.split()[3] == "0A"]
    assert f"0100007F:{server.server_port:04X}" in listening
    assert f"00000000:{server.server_port:04X}" not in listening


@needs_mount
def test_live_requests(stage: Stage) -> None:
    assert stage.mount().status == 0
    for server in serving(Server(subject_of(str(stage.merged)))):
        with urllib.request.urlopen(f"{server.url}api/live", timeout=30) as answer:
            assert answer.headers["Content-Type"].startswith("text/event-stream")
            subprocess.Popen(["sh", "-c", "sleep 0.2; echo new > file"], cwd=stage.merged)
            seen = []
            while not any(one["op"] == "OPEN" for one in seen):
                line = answer.readline()
                assert line
                if line.startswith(b"data: "):
                    seen.append(json.loads(line.removeprefix(b"data: ")))
        opened = next(one for one in seen if one["op"] == "OPEN")
        assert opened["path"] == "file" and opened["copied"][0]["how"] == "whole"
        assert stage.umount().status == 0


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        done = unionfs("explore", "nothing-here", "--port", port)
        assert done.status == 1 and "there is no such path, and no container of that name" in done.err


@needs_mount
def test_the_port_of_another_program(stage: Stage) -> None:
    assert stage.mount().status == 0
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        done = unionfs("explore", "merged", "--port", port, cwd=stage.path)
    assert done.status == 1 and done.err.startswith(f"unionfs: port {port}: is taken\n")
