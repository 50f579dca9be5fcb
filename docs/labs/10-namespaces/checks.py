"""Lab 10: programs that look around in the student's container, and one that tries to get out."""

import os
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from unionfs.lab.checks import Wrong, check, expect
from unionfs.linux import mounts, namespaces

MS_REC, MS_PRIVATE = 16384, 1 << 18
ESCAPE = """
mkdir "/jail"; opendir(my $outside, "/") or die; chroot "/jail" or die "chroot: $!";
chdir ".." for 1 .. 64; chroot "."; print -e $ARGV[0] ? "outside" : "inside";
"""


@contextmanager
def root():
    """A root: this machine's, copy-on-write by the kernel's overlayfs, in a mount namespace of this check's own.

    Beside it lies the file `secret`, which is outside."""
    namespaces.unshare(namespaces.CLONE_NEWNS)
    mounts.mount(b"none", b"/", b"", MS_REC | MS_PRIVATE)
    with TemporaryDirectory(prefix="unionfs-lab-") as name:
        place = Path(name)
        mounts.mount(b"tmpfs", os.fsencode(place), b"tmpfs")
        for part in ("upper", "work", "root"):
            (place / part).mkdir()
        (place / "secret").write_text("secret")
        options = f"lowerdir=/,upperdir={place}/upper,workdir={place}/work"
        mounts.mount(b"overlay", os.fsencode(place / "root"), b"overlay", 0, options.encode())
        (place / "root" / "inside").write_text("inside")
        try:
            yield place / "root"
        finally:
            mounts.unmount(os.fsencode(place / "root"), mounts.MNT_DETACH)
            mounts.unmount(os.fsencode(place), mounts.MNT_DETACH)


def said(student, root, script, *words):
    """What a shell script says in the student's container."""
    status = student.module.contain(str(root), ["/bin/sh", "-c", f"({script}) > /said 2>&1", *words])
    output = root / "said"
    text = output.read_text() if output.exists() else ""
    if status:
        raise Wrong(f"{script!r} ended with status {status}: {text.strip()}")
    return text.strip()


@check(2)
def it_runs_on_its_root(student):
    """The command sees the root that it was given, and its exit status comes back."""
    with root() as place:
        expect("cat /inside", said(student, place, "cat /inside"), "inside")
        expect("the exit status of exit 7", student.module.contain(str(place), ["/bin/sh", "-c", "exit 7"]), 7)


@check(2)
def it_is_process_1(student):
    """A pid namespace of its own, and a /proc that shows it and nothing else."""
    with root() as place:
        expect("echo $$", said(student, place, "echo $$"), "1")
        names = said(student, place, "cd /proc; echo [0-9]*").split()
        if len(names) > 3:
            raise Wrong(f"/proc shows {len(names)} processes: is it that of the outer namespace?")


@check(1)
def it_has_a_host_name(student):
    """The host name is lab inside, and outside what it was."""
    with root() as place:
        before = os.uname().nodename
        expect("the host name inside", said(student, place, "cat /proc/sys/kernel/hostname"), "lab")
        expect("the host name outside", os.uname().nodename, before)


@check(2)
def nothing_is_seen_outside(student):
    """Its mounts stay its own."""
    with root() as place:
        before = [entry.point for entry in mounts.table()]
        said(student, place, "true")
        expect("mounts outside", [entry.point for entry in mounts.table()], before)


@check(3)
def there_is_no_way_out(student):
    """The old root is gone from the list of mounts, and the climb out of a chroot ends at the new root."""
    with root() as place:
        points = said(student, place, "cut -d' ' -f5 /proc/self/mountinfo").split()
        if str(place.parent) in points or points.count("/") > 1:
            raise Wrong(f"the old root is still mounted: {', '.join(points)}")
        (place / "escape.pl").write_text(ESCAPE)
        secret = str(place.parent / "secret")
        expect("after the climb", said(student, place, f"perl /escape.pl {secret}"), "inside")
