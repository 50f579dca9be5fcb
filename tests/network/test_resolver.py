"""The resolver's answers: for what containers mean, for what nobody knows, and for bytes that are no query."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from dnslib import QTYPE, RCODE, DNSRecord
from hypothesis import given
from hypothesis import strategies as st

from unionfs.network import resolver

NAMES = {"db": ["10.1.0.2", "10.1.0.3", "fd00::2"], "web": ["10.1.0.4"]}


def lookup(name: str) -> Sequence[str] | None:
    return NAMES.get(name)


def reverse(address: str) -> str | None:
    return {"10.1.0.4": "web.custom", "fd00:0000:0000:0000:0000:0000:0000:0002": "db.custom"}.get(address)


def ask(name: str, kind: str = "A") -> DNSRecord | None:
    answered = resolver.answer(DNSRecord.question(name, kind).pack(), lookup, reverse)
    return None if answered is None else DNSRecord.parse(answered)


def test_a_name_has_all_its_addresses_of_the_type() -> None:
    for name in ("db", "DB", "Db."):
        reply = ask(name)
        assert reply is not None and reply.header.rcode == RCODE.NOERROR
        assert sorted(str(record.rdata) for record in reply.rr) == ["10.1.0.2", "10.1.0.3"]
        assert {record.ttl for record in reply.rr} == {600}
    reply = ask("db", "AAAA")
    assert reply is not None and [str(record.rdata) for record in reply.rr] == ["fd00::2"]


def test_a_name_without_an_address_of_the_type_is_no_error() -> None:
    for kind in ("AAAA", "MX", "TXT", "ANY"):
        reply = ask("web", kind)
        assert reply is not None and reply.header.rcode == RCODE.NOERROR and not reply.rr, kind


def test_addresses_come_in_no_fixed_order() -> None:
    replies = [ask("db") for _ in range(50)]
    assert len({str(reply.rr[0].rdata) for reply in replies if reply is not None}) == 2


def test_backwards() -> None:
    for name in ("4.0.1.10.in-addr.arpa", "2." + "0." * 27 + "0.0.d.f.ip6.arpa"):
        reply = ask(name, "PTR")
        assert reply is not None and str(reply.rr[0].rdata).endswith(".custom."), name
    assert ask("9.9.9.9.in-addr.arpa", "PTR") is None
    assert ask("nonsense.arpa", "PTR") is None


def test_others_answer_for_the_rest() -> None:
    assert ask("debian.org") is None and ask("x.db") is None


@pytest.mark.parametrize("opcode", [1, 2, 4, 5])
def test_what_is_not_a_query_is_refused(opcode: int) -> None:
    query = DNSRecord.question("db")
    query.header.opcode = opcode
    reply = DNSRecord.parse(resolver.answer(query.pack(), lookup, reverse) or b"")
    assert reply.header.rcode == RCODE.NOTIMP and reply.header.id == query.header.id


def test_an_answer_is_not_answered() -> None:
    """Two resolvers that talk to each other would never stop."""
    assert resolver.answer(DNSRecord.question("db").reply().pack(), lookup, reverse) == b""
    assert resolver.failure(DNSRecord.question("db").reply().pack()) == b""


def test_failure_has_the_question() -> None:
    query = DNSRecord.question("debian.org", "AAAA")
    reply = DNSRecord.parse(resolver.failure(query.pack()))
    assert (reply.header.id, reply.header.rcode) == (query.header.id, RCODE.SERVFAIL)
    assert str(reply.q.qname) == "debian.org." and reply.q.qtype == QTYPE.AAAA


QUERIES = [bytes(DNSRecord.question(name).pack()) for name in ("db", "web.custom", "x" * 60)]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A query with a few bytes changed, and perhaps its end missing."""
    query = bytearray(draw(st.sampled_from(QUERIES)))
    for _ in range(draw(st.integers(0, 4))):
        query[draw(st.integers(0, len(query) - 1))] = draw(st.integers(0, 255))
    return bytes(query[: draw(st.integers(0, len(query)))])


@given(st.one_of(st.binary(max_size=600), mutated()))
def test_any_bytes(data: bytes) -> None:
    """Nothing raises; what is answered is an answer to that query and no longer than it has to be."""
    for answered in (resolver.answer(data, lookup, reverse), resolver.failure(data)):
        if answered:
            assert answered[:2] == data[:2] and answered[2] & 0x80
            DNSRecord.parse(answered)


@given(st.text(max_size=80))
def test_a_name_backwards_that_is_none(text: str) -> None:
    for end in (".in-addr.arpa", ".ip6.arpa"):
        assert isinstance(resolver._address_of(text + end), str)
