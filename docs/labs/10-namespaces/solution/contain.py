"""Lab 10, a solution."""

import os

from unionfs.linux import mounts, namespaces

MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18


def contain(root, command):
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 125
    try:
        namespaces.unshare(namespaces.CLONE_NEWNS | namespaces.CLONE_NEWUTS | namespaces.CLONE_NEWPID)
        first = os.fork()
        if first:
            status = os.waitstatus_to_exitcode(os.waitpid(first, 0)[1])
        else:
            become(os.fsencode(root), command)
    finally:
        os._exit(status)


def become(root, command):
    mounts.mount(b"none", b"/", b"", MS_REC | MS_PRIVATE)
    mounts.mount(root, root, b"", MS_BIND | MS_REC)
    os.chdir(root)
    namespaces.pivot_root_here()
    mounts.unmount(b".", mounts.MNT_DETACH)
    os.chdir("/")
    namespaces.set_hostname(b"lab")
    mounts.mount(b"proc", b"/proc", b"proc", mounts.MS_NOSUID | mounts.MS_NODEV | mounts.MS_NOEXEC)
    os.execvp(command[0], command)
