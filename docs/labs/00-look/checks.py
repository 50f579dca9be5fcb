"""Lab 0: the answers are compared with what the union of the project shows of the same layers."""

import errno
import stat

from unionfs.lab.checks import Wrong, check, expect


def union(student):
    return student.TrueUnion(lower=[student.directory / "layers" / str(index) for index in range(3)])


def answered(student, name):
    value = getattr(student.module, name)
    if value is None:
        raise Wrong(f"{name} has no answer yet")
    return value


@check(2)
def the_layer_of_hosts(student):
    """LAYER_OF_HOSTS: the topmost layer that has the name gives it."""
    with union(student) as shown:
        layer = int(shown.getxattr("etc/hosts", b"user.unionfs.layer").split()[0])
    expect("LAYER_OF_HOSTS", answered(student, "LAYER_OF_HOSTS"), layer)


@check(2)
def names_in_etc(student):
    """NAMES_IN_ETC: directories are merged, a whiteout takes a name away."""
    with union(student) as shown:
        expect("NAMES_IN_ETC", sorted(answered(student, "NAMES_IN_ETC")), sorted(shown.listdir("etc")))


@check(2)
def names_in_home(student):
    """NAMES_IN_HOME: an opaque directory shows nothing of the layers below."""
    with union(student) as shown:
        expect("NAMES_IN_HOME", sorted(answered(student, "NAMES_IN_HOME")), sorted(shown.listdir("home")))


@check(2)
def kind_of_share(student):
    """KIND_OF_SHARE: what is on top decides what a name is."""
    with union(student) as shown:
        kind = "directory" if stat.S_ISDIR(shown.stat("usr/share").mode) else "file"
    expect("KIND_OF_SHARE", answered(student, "KIND_OF_SHARE"), kind)


@check(1)
def who_hides_motd(student):
    """LAYER_THAT_HIDES_MOTD: the layer with the whiteout."""
    expect("LAYER_THAT_HIDES_MOTD", answered(student, "LAYER_THAT_HIDES_MOTD"), 0)


@check(1)
def what_is_below_a_file(student):
    """MANUAL: nothing is searched below a name that is no directory."""
    with union(student) as shown:
        try:
            right = shown.read_bytes("usr/share/manual").decode()
        except OSError as error:
            right = errno.errorcode[error.errno]
    expect("MANUAL", answered(student, "MANUAL"), right)
