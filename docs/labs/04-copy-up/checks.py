"""Lab 4: objects of each kind, a crash before each system call, and the amounts that were predicted."""

import json
import os
import stat
import sys
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from unionfs.lab.checks import Wrong, check, expect


@contextmanager
def directories():
    with TemporaryDirectory(prefix="unionfs-lab-", dir="/var/tmp") as name:
        place = Path(name)
        for part in ("lower", "work", "upper"):
            (place / part).mkdir()
        yield place


def copied(student, place, name="file"):
    fds = [os.open(place / part, os.O_PATH | os.O_DIRECTORY) for part in ("lower", "work", "upper")]
    try:
        student.module.copy_up(fds[0], name, fds[1], fds[2])
    finally:
        for fd in fds:
            os.close(fd)
    if not os.path.lexists(place / "upper" / name):
        raise Wrong(f"copy_up is done, and there is no {name} in the upper directory")
    left = os.listdir(place / "work")
    if left:
        raise Wrong(f"something is left in the work directory: {', '.join(left)}")
    return place / "upper" / name


@check(1)
def the_content(student):
    """A short file, an empty one, and one of some MiB."""
    for size in (5, 0, 3_000_001):
        with directories() as place:
            content = os.urandom(size)
            (place / "lower/file").write_bytes(content)
            if copied(student, place).read_bytes() != content:
                raise Wrong(f"a file of {size} bytes has another content after it was copied up")
            if (place / "lower/file").read_bytes() != content:
                raise Wrong("the lower file was changed: that must never happen")


@check(2)
def mode_and_times(student):
    """Permission bits, setuid and the modification time to the nanosecond stay."""
    with directories() as place:
        file = place / "lower/file"
        file.write_text("x")
        file.chmod(0o4711)
        os.utime(file, ns=(1_111_111_111_222_222_222, 1_234_567_890_123_456_789))
        st = copied(student, place).stat()
        expect("the mode", oct(stat.S_IMODE(st.st_mode)), oct(0o4711))
        expect("the modification time in ns", st.st_mtime_ns, 1_234_567_890_123_456_789)


@check(1)
def extended_attributes(student):
    """Extended attributes stay."""
    with directories() as place:
        (place / "lower/file").write_text("x")
        os.setxattr(place / "lower/file", "user.colour", b"green")
        copy = copied(student, place)
        expect("user.colour", os.getxattr(copy, "user.colour") if os.listxattr(copy) else None, b"green")


@check(1)
def symbolic_links(student):
    """A link is copied, not what it leads to."""
    with directories() as place:
        os.symlink("/nowhere/at all", place / "lower/file")
        copy = copied(student, place)
        if not copy.is_symlink():
            raise Wrong("a symbolic link is none any more")
        expect("its target", os.readlink(copy), "/nowhere/at all")


@check(2)
def holes(student):
    """A file of 1 GiB with 4 KiB in its middle takes no more room than that."""
    with directories() as place:
        with open(place / "lower/file", "wb") as file:
            file.seek(1 << 29)
            file.write(b"x" * 4096)
            file.truncate(1 << 30)
        st = copied(student, place).stat()
        expect("the size", st.st_size, 1 << 30)
        if st.st_blocks * 512 > 1 << 20:
            raise Wrong(f"the copy takes {st.st_blocks * 512} bytes, the original 4096")


CRASHED, FAILED = 1, 2


@check(2)
def a_crash_at_any_moment(student):
    """Whatever system call is the last one: the upper has nothing of that name, or all of it."""
    for number in range(1, 200):
        with directories() as place:
            file = place / "lower/file"
            file.write_bytes(b"x" * 100_000)
            file.chmod(0o640)
            os.utime(file, ns=(1, 1_234_567_890_123_456_789))
            child = os.fork()
            if not child:
                os._exit(_crash(student, place, number))
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            if status == FAILED:
                copied(student, place)
            done = status == 0
            copy = place / "upper/file"
            if copy.exists():
                st = copy.stat()
                whole = (st.st_size, stat.S_IMODE(st.st_mode), st.st_mtime_ns)
                if whole != (100_000, 0o640, 1_234_567_890_123_456_789):
                    raise Wrong(f"a crash before system call {number} leaves a part: size, mode and mtime are {whole}")
            elif done:
                raise Wrong("copy_up is done, and there is no file in the upper directory")
            if done:
                return


def _crash(student, place, number):
    """Run copy_up, and end the process without a word before the system call of that number."""
    count = 0

    def watch(event, arguments):
        nonlocal count
        if event.startswith("os.") or event == "open":
            count += 1
            if count == number + 3:  # those of `copied`
                os._exit(CRASHED)

    sys.addaudithook(watch)
    try:
        copied(student, place)
    except BaseException:
        return FAILED
    return 0


@check(1)
def the_prediction(student):
    """PREDICTION: what a write of one byte copies, whole and by block; measured now."""
    for how in ("whole", "block"):
        with directories() as place:
            (place / "lower/file").write_bytes(os.urandom(1 << 20))
            union = student.TrueUnion(lower=[place / "lower"], upper=place / "upper", work=place / "work", copyup=how)
            with union as made:
                with made.open("file", os.O_WRONLY) as file:
                    file.pwrite(b"y", 500_000)
                blocks = json.loads(made.getxattr("file", b"user.unionfs.blocks"))
            copied_bytes = blocks["copied"] if blocks["partial"] else blocks["size"]
        if student.module.PREDICTION.get(how) is None:
            raise Wrong(f"PREDICTION has nothing for {how} yet")
        if student.module.PREDICTION[how] != copied_bytes:
            predicted = student.module.PREDICTION[how]
            raise Wrong(f"{how}: you predicted {predicted}, and {copied_bytes} bytes were copied")
