"""The resolver of a running container, over its sockets: thousand names, bytes that make no sense, the machine's own
resolvers behind it. In lab.py's machine."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.container.lab import WORLD, Lab, lab

pytestmark = pytest.mark.stress

ASK = """
import socket, struct, sys
from dnslib import DNSRecord
def ask(name, kind="A", tcp=False, wait=5):
    query = DNSRecord.question(name, kind).pack()
    if tcp:
        with socket.create_connection(("127.0.0.11", 53), wait) as one:
            one.sendall(struct.pack("!H", len(query)) + query)
            reader = one.makefile("rb")
            return DNSRecord.parse(reader.read(struct.unpack("!H", reader.read(2))[0]))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.settimeout(wait)
        one.sendto(query, ("127.0.0.11", 53))
        return DNSRecord.parse(one.recv(65535))
def words(reply):
    return sorted(str(record.rdata) for record in reply.rr)
"""

UPSTREAM = f"""
import socketserver, time
from dnslib.server import DNSServer, BaseResolver
from dnslib import RR, TXT, A, QTYPE
class Known(BaseResolver):
    def resolve(self, request, handler):
        reply = request.reply()
        name = str(request.q.qname)
        if name == "big.example.":
            for n in range(40): reply.add_answer(RR(name, QTYPE.TXT, rdata=TXT("x" * 200 + str(n))))
        elif name == "known.example.":
            reply.add_answer(RR(name, QTYPE.A, rdata=A("192.0.2.99")))
        else:
            reply.header.rcode = 3
        return reply
for tcp in (False, True):
    DNSServer(Known(), address="{WORLD}", port=53, tcp=tcp).start_thread()
print("ready", flush=True); time.sleep(1000)
"""


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One container with a thousand names, one that asks, one that is on an internal network only; and in the world
    somebody who answers for example."""
    with lab(tmp_path_factory.mktemp("street")) as made:
        upstream = made.start_here(sys.executable, "-c", UPSTREAM, world=True)
        assert upstream.stdout is not None and upstream.stdout.readline() == "ready\n"
        made.ok("network", "create", "red")
        made.ok("network", "create", "inner", "--internal")
        aliases = [word for number in range(1000) for word in ("--network-alias", f"name{number}")]
        made.serve("many", "--network", "red", *aliases)
        made.serve("asks", "--network", "red")
        made.serve("inside", "--network", "inner")
        yield made
        upstream.kill()
        upstream.wait()


def asked(street: Lab, who: str, script: str) -> str:
    """What a script prints that runs on the container's network, with the tests' own Python."""
    pid = street.inspect(who)["State"]["Pid"]
    words = ["nsenter", f"--net=/proc/{pid}/ns/net", sys.executable, "-c", ASK + script]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_thousand_names(street: Lab) -> None:
    address = street.address("many", "red")
    script = f"print(sum(words(ask('name%d' % n)) == ['{address}'] for n in range(1000)))"
    assert asked(street, "asks", script) == "1000"


def test_by_tcp_too(street: Lab) -> None:
    address = street.address("many", "red")
    assert asked(street, "asks", "print(words(ask('many', tcp=True)))") == f"['{address}']"


def test_what_the_machines_resolvers_know(street: Lab) -> None:
    """Names of the world, with their errors; long answers come whole by TCP."""
    assert asked(street, "asks", "print(words(ask('known.example')))") == "['192.0.2.99']"
    assert asked(street, "asks", "print(ask('nobody.example').header.rcode)") == "3"
    assert asked(street, "asks", "print(len(ask('big.example', 'TXT', tcp=True).rr))") == "40"


def test_an_internal_network_asks_nobody_outside(street: Lab) -> None:
    assert asked(street, "inside", "print(ask('known.example').header.rcode)") == "2"
    own = street.address("inside", "inner")
    assert asked(street, "inside", "print(words(ask('inside')))") == f"['{own}']"


def test_bytes_that_make_no_sense(street: Lab) -> None:
    """By UDP and TCP, connections left half open among them: it goes on, and holds no more descriptors than before."""
    helper = street.helper("asks")
    before = len(os.listdir(f"/proc/{helper}/fd"))
    script = f"""
import random
chance = random.Random({random.Random(7).random()})
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
    for _ in range(3000):
        data = bytearray(DNSRecord.question("many").pack())
        for _ in range(chance.randrange(6)): data[chance.randrange(len(data))] = chance.randrange(256)
        cut = bytes(data[:chance.randrange(len(data) + 1)])
        one.sendto(cut + chance.randbytes(chance.randrange(40)), ("127.0.0.11", 53))
for number in range(100):
    with socket.create_connection(("127.0.0.11", 53), 5) as one:
        one.sendall(chance.randbytes(chance.randrange(30)))
print(len(words(ask("many", wait=20))), len(words(ask("many", tcp=True, wait=20))))
"""
    assert asked(street, "asks", script) == "1 1"
    for _ in range(300):
        if len(os.listdir(f"/proc/{helper}/fd")) <= before:
            break
        asked(street, "asks", "ask('many')")
    assert len(os.listdir(f"/proc/{helper}/fd")) <= before
