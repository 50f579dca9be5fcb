"""Fifos, sockets and device nodes do through a mount what they do elsewhere: the kernel serves them, not the union."""

from __future__ import annotations

import os
import socket
import stat
import threading

from tests.contract.layers import Special
from tests.contract.subject import subjects


@subjects("mounted")
def test_a_fifo_carries_data(union):
    """One of a lower layer, before and after it is copied up, and a new one."""
    u = union([{"p": Special(stat.S_IFIFO | 0o600)}])
    u.mknod("q", stat.S_IFIFO | 0o600)

    def write(name, data):
        with open(u.at(name), "wb", buffering=0) as fifo:
            fifo.write(data)

    for name, data in (("p", b"lower"), ("p", b"copied up"), ("q", b"new")):
        writer = threading.Thread(target=write, args=(name, data))
        writer.start()
        with open(u.at(name), "rb", buffering=0) as fifo:
            assert fifo.readall() == data
        writer.join()
        u.chmod(name, 0o640)
    assert {(u.stat(name).size, stat.filemode(u.stat(name).mode)) for name in "pq"} == {(0, "prw-r-----")}


@subjects("mounted")
def test_a_socket_answers(union):
    u = union([{"d/x": b""}])
    with u.open_directory("d") as fd:
        here = f"/proc/self/fd/{fd}"  # sun_path holds 108 bytes
        with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
            server.bind(f"{here}/s")
            server.listen()
            client.connect(f"{here}/s")
            with server.accept()[0] as answering:
                client.sendall(b"question")
                assert answering.recv(100) == b"question"
    assert stat.S_ISSOCK(u.stat("d/s").mode)
    u.unlink("d/s")


@subjects("mounted")
def test_a_device_node_is_the_device(union):
    null, zero = os.makedev(1, 3), os.makedev(1, 5)
    u = union([{"null": Special(stat.S_IFCHR | 0o666, null)}])
    u.mknod("zero", stat.S_IFCHR | 0o666, zero)
    for _ in range(2):
        with u.open("zero", os.O_RDONLY) as file:
            assert os.read(file.fd, 10) == bytes(10)
        with u.open("null", os.O_RDWR) as file:
            assert os.write(file.fd, b"gone") == 4
            assert os.read(file.fd, 10) == b""
        u.chmod("null", 0o600)
    if u.kind != "kernel":
        assert u.marks() == {("zero", "chr"), ("null", "chr")}
