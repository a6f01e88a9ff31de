"""One writer a file: a lock that the operating system releases when its process ends.

Knows nothing of what is in the file. Where the file system has no locks, `take` locks nothing.
"""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress

from ...lang.errors import OptionError

_LOCKED_BYTE = 1 << 62  # Windows locks bytes, and no process may read a locked one: this one does not exist


def take(fd: int, path: str) -> None:
    """Lock an open file until it is closed. Raises `OptionError` if the file is locked already, by any process."""
    try:
        _lock(fd)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            raise OptionError(
                f"resume: {path!r} is the journal of a batch that runs now{_holder(fd)}; wait for its end, or give "
                "this batch a path of its own"
            ) from None


def release(fd: int) -> None:
    """Release the lock before the file is closed: a process forked meanwhile has the file open too."""
    with suppress(OSError):
        _unlock(fd)


if sys.platform == "win32":

    def _unlock(fd: int) -> None:
        pass  # no process is forked there; closing releases

    def _lock(fd: int) -> None:
        import msvcrt

        os.lseek(fd, _LOCKED_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        finally:
            os.lseek(fd, 0, os.SEEK_SET)

else:

    def _unlock(fd: int) -> None:
        import fcntl

        fcntl.flock(fd, fcntl.LOCK_UN)

    def _lock(fd: int) -> None:
        import fcntl

        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _holder(fd: int) -> str:
    """The process that has the lock, for a message, where the system tells (Linux)."""
    try:
        inode = str(os.fstat(fd).st_ino)
        with open("/proc/locks") as file:
            for line in file:
                words = line.split()
                if "FLOCK" in words and len(words) > 5 and words[5].split(":")[-1] == inode and int(words[4]) > 0:
                    mine = int(words[4]) == os.getpid()
                    return " in this process" if mine else f" in process {words[4]}"
    except (OSError, ValueError):
        pass
    return ""
