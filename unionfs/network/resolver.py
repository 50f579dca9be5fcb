"""The resolver that a container on a network of one's own asks at 127.0.0.11: names of containers, else the machine's.

Called by the container's helper process (container/helper.py), which opens its sockets inside the container's network
namespace and serves them from outside, so nothing is translated and nothing of ours runs in the container. What a name
means is looked up anew for each query, so that who comes and goes on a network is known at once.

    a name of a container, an alias, an id of 12 digits    its addresses on the networks that are shared, TTL 600
    the same, of a type that it has no answer for           no error, no answer
    an address on such a network, backwards (PTR)           the container's name
    anything else                                           as the machine's resolvers say; SERVFAIL where there are
                                                            none, or the container is on internal networks only

Sources: RFC 1035, RFC 2308 (a name without a record of the type), docker's networking documentation.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from dnslib import AAAA, PTR, QTYPE, RCODE, RR, A, DNSHeader, DNSRecord

TTL = 600

Lookup = Callable[[str], Sequence[str] | None]
"""The addresses of a name on the networks that are shared, None where nobody has it."""
Reverse = Callable[[str], str | None]
"""The name of who has an address."""


def answer(query: bytes, lookup: Lookup, reverse: Reverse) -> bytes | None:
    """The answer to a query; None for one that others have to answer; b"" for what is no query at all, which gets no
    answer."""
    try:
        asked = DNSRecord.parse(query)
    except Exception:  # dnslib raises what it likes for bytes that make no sense
        return _refused(query, RCODE.FORMERR)
    if asked.header.qr or asked.header.opcode != 0 or len(asked.questions) != 1:
        return _refused(query, RCODE.NOTIMP) if not asked.header.qr else b""
    question = asked.questions[0]
    name = str(question.qname).rstrip(".")
    reply = asked.reply(ra=1, aa=0)
    if question.qtype == QTYPE.PTR:
        found = reverse(_address_of(name)) if name.endswith(".arpa") else None
        if found is None:
            return None
        reply.add_answer(RR(question.qname, QTYPE.PTR, ttl=TTL, rdata=PTR(found)))
        return bytes(reply.pack())
    addresses = lookup(name.lower())
    if addresses is None:
        return None
    wanted = {QTYPE.A: ".", QTYPE.AAAA: ":"}.get(question.qtype)
    matching = [address for address in addresses if wanted is not None and wanted in address]
    random.shuffle(matching)
    for address in matching:
        rdata = A(address) if question.qtype == QTYPE.A else AAAA(address)
        reply.add_answer(RR(question.qname, question.qtype, ttl=TTL, rdata=rdata))
    return bytes(reply.pack())


def failure(query: bytes) -> bytes:
    """SERVFAIL."""
    return _refused(query, RCODE.SERVFAIL)


def _refused(query: bytes, code: int) -> bytes:
    """The header alone, or with the question where that can be read."""
    if len(query) < 12 or query[2] & 0x80:
        return b""
    try:
        reply = DNSRecord.parse(query).reply(ra=1, aa=0)
        reply.header.rcode = code
        return bytes(reply.pack())
    except Exception:
        header = DNSHeader(id=int.from_bytes(query[:2], "big"), qr=1, ra=1, rcode=code)
        return bytes(DNSRecord(header).pack())


def _address_of(name: str) -> str:
    """4.3.2.1.in-addr.arpa as 1.2.3.4; the same for ip6.arpa, in full."""
    if name.endswith(".in-addr.arpa"):
        return ".".join(reversed(name.removesuffix(".in-addr.arpa").split(".")))
    digits = "".join(reversed(name.removesuffix(".ip6.arpa").split(".")))
    return ":".join(digits[start : start + 4] for start in range(0, len(digits), 4))
