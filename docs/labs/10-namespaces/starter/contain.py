"""Lab 10: a process in namespaces of its own, on a root of its own.

Of the project you may use the bare system calls:

    namespaces.unshare(flags), namespaces.set_hostname(b"..."), namespaces.pivot_root_here()
    mounts.mount(source, target, fstype, flags), mounts.unmount(target, flags)
"""

from unionfs.linux import mounts, namespaces  # noqa: F401

MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18


def contain(root, command):
    """Run `command` (a list of words) and return its exit status.

    It is process 1 of a pid namespace of its own, on the host "lab", with the directory `root` as its root, /proc
    mounted there, and no way to what lies outside. Nothing of this may be seen outside.
    """
    raise NotImplementedError("write contain")
