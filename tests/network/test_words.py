"""The words of -p, and the text of rules."""

from __future__ import annotations

import shutil
import subprocess
from ipaddress import ip_address, ip_network

import pytest

from unionfs.errors import UnionfsError
from unionfs.network import rules
from unionfs.network.links import Bridge
from unionfs.network.ports import Port, parse


@pytest.mark.parametrize(
    ("word", "ports"),
    [
        ("80", [Port(80)]),
        ("8080:80", [Port(80, "tcp", "", 8080, 8080)]),
        ("8080:80/udp", [Port(80, "udp", "", 8080, 8080)]),
        ("127.0.0.1:8080:80", [Port(80, "tcp", "127.0.0.1", 8080, 8080)]),
        ("127.0.0.1::80", [Port(80, "tcp", "127.0.0.1")]),
        ("[::1]:8080:80", [Port(80, "tcp", "::1", 8080, 8080)]),
        ("8080-8082:80", [Port(80, "tcp", "", 8080, 8082)]),
        ("80-81", [Port(80), Port(81)]),
        ("8080-8081:80-81/TCP", [Port(80, "tcp", "", 8080, 8080), Port(81, "tcp", "", 8081, 8081)]),
    ],
)
def test_a_port(word: str, ports: list[Port]) -> None:
    assert parse(word) == ports


@pytest.mark.parametrize(
    "word",
    ["", "x", "0", "65536", "80/", "80/icmp", "1:2:3:4", "a.b:1:2", "9-8", "1-3:1-2", ":", "8080:", "-1", "\u0663"],
)
def test_no_port(word: str) -> None:
    with pytest.raises(UnionfsError, match="invalid port -p"):
        parse(word)


BRIDGES = [
    Bridge(
        "uf-one", (ip_network("10.1.0.0/24"), ip_network("fd00:1::/64")),
        (ip_address("10.1.0.1"), ip_address("fd00:1::1")),
    ),
    Bridge("uf-two", (ip_network("10.2.0.0/24"),), (ip_address("10.2.0.1"),), True),
]  # fmt: skip


@pytest.mark.skipif(shutil.which("nft") is None, reason="needs nft (package nftables)")
@pytest.mark.parametrize("bridges", [[], BRIDGES[:1], BRIDGES])
@pytest.mark.parametrize("is_router", [False, True])
def test_the_kernel_takes_the_rules_and_takes_them_again(bridges: list[Bridge], is_router: bool) -> None:
    """In a network namespace of its own; twice, since the second time the table is there already."""
    published = [
        rules.Published("tcp", "", 80, "10.1.0.2", 8080), rules.Published("udp", "192.0.2.7", 53, "10.1.0.3", 53),
    ]  # fmt: skip
    text = rules.table("unionfs_test", bridges, published, is_router)
    script = "nft -f - <<.\n" + text + ".\n"
    words = ["unshare", "--net", "sh", "-ec", f"{script}{script}nft list tables"]
    listed = subprocess.run(words, capture_output=True, text=True)
    assert (listed.returncode, listed.stderr) == (0, "")
    assert listed.stdout == ("table inet unionfs_test\n" if bridges else "")
