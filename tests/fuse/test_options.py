"""The option string: what is taken, what is refused and in which words, escapes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unionfs.errors import Faults
from unionfs.fuse.options import (
    OTHERS_PREFIXES,
    OTHERS_WORDS,
    SWITCHES,
    SYSLOG,
    VALUES,
    MountRequest,
    escape,
    known,
    parse,
    split,
    unescape,
)
from unionfs.linux.mounts import FLAG_WORDS

HERE = b"/here"

names = st.binary(min_size=1).filter(lambda name: b"\0" not in name)
tricky = st.lists(st.sampled_from([b"\\", b",", b":", b"a", b"=", b"/", b'"']), min_size=1).map(b"".join)


def read(text: bytes) -> MountRequest:
    return parse(text, HERE)


def faults(text: bytes) -> list[str]:
    with pytest.raises(Faults) as raised:
        read(text)
    return [str(fault) for fault in raised.value.faults]


# --- what is taken


def test_everything_at_once() -> None:
    request = read(
        b"lowerdir=/a:b,upperdir=u,workdir=/w,dialect=overlay,userxattr,volatile,allow_other,default_permissions,"
        b"nosuid,noatime,fsname=a name,log=messages,engine=native"
    )
    assert request == MountRequest(
        lower=(b"/a", b"/here/b"),
        upper=b"/here/u",
        work=b"/w",
        dialect="overlay",
        userxattr=True,
        volatile=True,
        allow_other=True,
        words=("nosuid", "noatime"),
        source=b"a name",
        log=b"/here/messages",
        engine="native",
    )


def test_without_options() -> None:
    assert read(b"") == read(b",,") == MountRequest()


def test_without_an_upper_it_is_read_only() -> None:
    assert read(b"lowerdir=/a,rw,nosuid").flags == ("rw", "nosuid", "ro")
    assert read(b"lowerdir=/a,upperdir=/u,workdir=/w,rw,nosuid").flags == ("rw", "nosuid")


@pytest.mark.parametrize("word", [*SWITCHES, *FLAG_WORDS, *OTHERS_WORDS])
def test_every_switch(word: str) -> None:
    request = read(b"lowerdir=/a," + word.encode())
    assert request.words == ((word,) if word in FLAG_WORDS else ())


@pytest.mark.parametrize("prefix", OTHERS_PREFIXES)
def test_words_for_mount_and_systemd_are_swallowed(prefix: str) -> None:
    assert read(b"lowerdir=/a," + prefix.encode() + b"anything=at all") == read(b"lowerdir=/a")


def test_what_systemd_and_fstab_give() -> None:
    text = b"rw,noexec,nosuid,nodev,noauto,nofail,_netdev,user,x-systemd.automount,x-gvfs-show,comment=mine,lowerdir=/a"
    assert read(text).words == ("rw", "noexec", "nosuid", "nodev")


def test_the_log() -> None:
    assert read(b"log=syslog").log == SYSLOG
    assert read(b"log=/var/log/a").log == b"/var/log/a"


def test_words_that_are_no_text() -> None:
    assert read(b"lowerdir=/\xff\xfe,fsname=\xff") == MountRequest(lower=(b"/\xff\xfe",), source=b"\xff")


def test_five_hundred_layers() -> None:
    layers = [b"/some/rather/long/path/to/a/layer/%d" % number for number in range(500)]
    assert read(b"lowerdir=" + b":".join(layers)).lower == tuple(layers)


# --- escapes


@given(st.one_of(names, tricky))
def test_escapes_are_undone(name: bytes) -> None:
    assert unescape(escape(name)) == name


@given(st.lists(st.one_of(names, tricky), min_size=1, max_size=5), st.sampled_from([b",", b":"]))
def test_escaped_parts_stay_parts(parts: list[bytes], separator: bytes) -> None:
    assert [unescape(part) for part in split(separator.join(map(escape, parts)), separator)] == parts


@given(st.lists(st.one_of(names, tricky), min_size=1, max_size=5), st.one_of(names, tricky), st.one_of(names, tricky))
def test_any_path_can_be_said(lower: list[bytes], upper: bytes, source: bytes) -> None:
    words = [b"lowerdir=" + b":".join(map(escape, lower)), b"upperdir=" + escape(upper), b"fsname=" + escape(source)]
    request = parse(b",".join(words), b"/")
    assert request.lower == tuple(name if name.startswith(b"/") else b"/" + name for name in lower)
    assert request.upper == (upper if upper.startswith(b"/") else b"/" + upper)
    assert request.source == source


@given(st.one_of(names, st.lists(st.sampled_from([*(word.encode() for word in known()), b"=", b",", b":", b"\\", b"x"]))
                 .map(b"".join)))  # fmt: skip
def test_any_text_is_taken_or_refused_in_words(text: bytes) -> None:
    try:
        request = parse(text, b"/")
    except Faults as refused:
        assert all(fault.what and fault.why and fault.hint for fault in refused.faults)
    else:
        assert all(path.startswith(b"/") for path in request.lower)


@pytest.mark.parametrize(
    ("text", "value"),
    [(b"a", b"a"), (rb"a\,b", b"a,b"), (rb"a\:b", b"a:b"), (rb"a\\b", rb"a\b"), (rb"a\\\,b", rb"a\,b"),
     (rb"a\b", rb"a\b"), (b"a\\", b"a\\"), (rb"\\\\", rb"\\")],
)  # fmt: skip
def test_unescape(text: bytes, value: bytes) -> None:
    assert unescape(text) == value


# --- what is refused


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("uperdir=/u", 'option "uperdir": there is no such option\n  did you mean "upperdir"?'),
        ("lowerdirs=/l", 'option "lowerdirs": there is no such option\n  did you mean "lowerdir"?'),
        ("noexce", 'option "noexce": there is no such option\n  did you mean "noexec"?'),
        ("kazoo", r'option "kazoo": there is no such option' "\n"
         r"  unionfs mount --help lists them; a comma in a name is written \,"),
        ("remount", 'option "remount": a mounted union cannot be changed\n  unmount it and mount it anew'),
        ("xino=on", 'option "xino": is the kernel overlayfs\'s, and has no meaning here\n  leave it out'),
        ("dirs=/a:/b", 'option "dirs": is another union filesystem\'s\n  write lowerdir=A:B,upperdir=U,workdir=W'),
        ("lowerdir", 'option "lowerdir": has no value\n  write lowerdir=DIR[:DIR...]'),
        ("upperdir=", 'option "upperdir": has no value\n  write upperdir=DIR'),
        ("ro=yes", 'option "ro": takes no value, and "yes" is given\n  write ro alone'),
        ("volatile=1", 'option "volatile": takes no value, and "1" is given\n  write volatile alone'),
        ("lowerdir=/a,lowerdir=/b", 'option "lowerdir": is given twice\n  write lowerdir= once'),
        ("engine=nativ", 'engine=nativ: there is no such engine\n  did you mean "native"?'),
        ("engine=rust", "engine=rust: there is no such engine\n  write engine=auto|native|fusepy"),
        ("dialect=aufz", 'dialect=aufz: there is no such dialect\n  did you mean "aufs"?'),
        ("lowerdir=:/a", 'lowerdir: begins with a ":", so one layer has no name\n  take the colon away'),
        ("lowerdir=/a:", 'lowerdir: ends with a ":", so one layer has no name\n  take the colon away'),
        ("lowerdir=/a::/b", 'lowerdir: "::" begins data-only layers in overlayfs, and they are not supported here\n'
         r"  write one : between two layers, and \: for a colon in a name"),
    ],
)  # fmt: skip
def test_a_fault_in_words(text: str, told: str) -> None:
    assert faults(text.encode()) == [told]


def test_all_faults_at_once() -> None:
    found = faults(b"lowerdir=,uperdir=/u,engine=rust,ro=1,kazoo")
    assert [fault.split(":")[0] for fault in found] == [
        'option "lowerdir"', 'option "uperdir"', "engine=rust", 'option "ro"', 'option "kazoo"',
    ]  # fmt: skip


def test_faults_may_be_collected() -> None:
    collected: list[object] = []
    request = parse(b"lowerdir=/a,kazoo,engine=rust", HERE, collected)  # type: ignore[arg-type]
    assert request.lower == (b"/a",) and request.engine == "auto"
    assert len(collected) == 2


def test_every_word_is_listed() -> None:
    assert set(VALUES) | set(SWITCHES) | set(FLAG_WORDS) | set(OTHERS_WORDS) == set(known())
