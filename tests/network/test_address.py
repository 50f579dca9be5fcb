"""Subnets and addresses: what is chosen, and what is refused."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unionfs.errors import UnionfsError
from unionfs.network import address


def test_the_pools_are_those_of_docker() -> None:
    pools = list(address.pools())
    assert str(pools[0]) == "172.17.0.0/16" and str(pools[15]) == "192.168.0.0/20" and len(pools) == 31
    assert not any(one.overlaps(other) for one in pools for other in pools if one is not other)


@given(st.sets(st.sampled_from(list(address.pools()))))
def test_a_free_subnet_is_the_first_that_overlaps_with_nothing(taken: set[address.IPv4Network]) -> None:
    left = [pool for pool in address.pools() if pool not in taken]
    if left:
        assert address.free_subnet(taken) == left[0]
    else:
        with pytest.raises(UnionfsError, match="are in use"):
            address.free_subnet(taken)


def test_a_route_within_a_pool_takes_all_of_it() -> None:
    assert str(address.free_subnet([ip_network("172.17.3.0/30"), ip_network("fd00::/8")])) == "172.18.0.0/16"


@given(st.integers(24, 30), st.data())
def test_each_address_is_given_once_until_none_is_left(prefix: int, data: st.DataObject) -> None:
    subnet = ip_network(f"10.1.2.0/{prefix}")
    within = data.draw(st.sampled_from([None, *subnet.subnets(1)]))
    taken = {subnet[1]}
    try:
        while True:
            taken.add(address.next_address(subnet, within, taken))
    except UnionfsError:
        pass
    area = within or subnet
    ends = {subnet.network_address, subnet.broadcast_address}
    assert taken == {subnet[1], *(one for one in area if one not in ends)}


def test_a_static_address() -> None:
    subnet = ip_network("10.1.2.0/24")
    address.check_static(ip_address("10.1.2.9"), subnet, set())
    for word, taken in (("10.1.3.9", set()), ("10.1.2.9", {ip_address("10.1.2.9")}), ("10.1.2.0", set())):
        with pytest.raises(UnionfsError, match=f"address {word}"):
            address.check_static(ip_address(word), subnet, taken)


def test_a_local_subnet_is_unique_and_local() -> None:
    one, other = address.local_subnet(), address.local_subnet()
    assert one != other and one.prefixlen == 64 and one.is_private and str(one).startswith("fd")


def test_a_hardware_address_is_local_and_of_one_interface() -> None:
    word = address.hardware_address(ip_address("172.17.0.2"))
    assert word == "02:42:ac:11:00:02" and int(word[:2], 16) & 3 == 2


def test_the_routes_of_the_machine() -> None:
    text = "default via 192.0.2.1 dev eth0\n192.0.2.0/24 dev eth0\nlocal 10.0.0.1 dev lo\n10.9.0.7 dev tun0\n"
    assert [str(route) for route in address.routes(text)] == ["192.0.2.0/24", "10.9.0.7/32"]
