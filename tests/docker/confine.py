#!/usr/bin/env python3
"""Runs a program of an unpacked image the way an orchestrator would, where no container runtime works: mounts and
process numbers of its own, the image's root read-only (what is bound into it as well), no capability in any set, no way
to gain one, an arbitrary user. It shares the network and is under no memory limit. Standard library only; needs root.
    confine.py ROOT UID:GID [--bind FROM:TO]... PROGRAM [ARGUMENT...]

Its environment is the program's; exit code likewise, 128+N after signal N."""
import ctypes
import os
import signal
import sys

libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNS, CLONE_NEWPID = 0x00020000, 0x20000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_SET_PDEATHSIG = 24, 38, 1


def must(result, what):
    if result:
        raise OSError(ctypes.get_errno(), "%s: %s" % (what, os.strerror(ctypes.get_errno())))


def bind(source, target):
    must(libc.mount(source.encode(), target.encode(), None, MS_BIND | MS_REC, None), "bind " + target)
    must(libc.mount(None, target.encode(), None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV, None),
         "make %s read-only" % target)


def main(root, user, *rest):
    uid, gid = (int(x) for x in user.split(":"))
    binds, rest = [], list(rest)
    while rest[0] == "--bind":
        binds.append(rest[1].split(":"))
        rest = rest[2:]
    must(libc.unshare(CLONE_NEWNS | CLONE_NEWPID), "unshare")
    must(libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None), "private mounts")
    bind(root, root)
    for source, target in binds:
        bind(source, root + target)
    child = os.fork()
    if not child:  # process 1 of its namespace
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        os.chroot(root)
        os.chdir("/")
        cap = 0
        while libc.prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) == 0:
            cap += 1
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)  # the other sets empty with this
        must(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no new privileges")
        os.execve(rest[0], rest, os.environ)
    for s in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(s, lambda number, frame: os.kill(child, number))
    status = os.waitpid(child, 0)[1]
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
