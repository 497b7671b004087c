"""The program of a small process that waits until another one ends, and then runs a command.

It is run as a file, and imports little. It waits for a robust mutex in shared memory. The kernel hands this over as
soon as the thread that holds it ends, whatever the reason. The end of a pipe would come later, after the kernel has
freed the memory of a killed process. For 1 GB that took up to 2 seconds on a busy machine.
"""

import _signal  # type: ignore[import-not-found]  # `signal` takes 1 MB more
import ctypes
import errno
import mmap
import os
import sys
import time

SHARED_BYTES = mmap.PAGESIZE
_ACT = SHARED_BYTES - 1
_PROCESS_SHARED, _ROBUST = 1, 1
# systemd sends SIGABRT to all processes of a service whose watchdog has run out, and `systemctl kill` sends SIGUSR1.
SIGNALS = (
    _signal.SIGINT,
    _signal.SIGTERM,
    _signal.SIGHUP,
    _signal.SIGQUIT,
    _signal.SIGABRT,
    _signal.SIGUSR1,
    _signal.SIGUSR2,
)
TRIES, TRY_SECONDS = 3, 0.2
READY = b"ready\n"


class SharedLock:
    """A lock in the shared memory of a file descriptor of `SHARED_BYTES`.

    A thread that ends while it holds the lock passes it on. Raises OSError where the system has no such locks.
    """

    def __init__(self, descriptor: int) -> None:
        self._memory = mmap.mmap(descriptor, SHARED_BYTES)
        self._mutex = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(self._memory)))
        self._libc = ctypes.CDLL(None)

    def create(self) -> None:
        """Make a new lock in the memory, which this thread holds."""
        if not hasattr(self._libc, "pthread_mutexattr_setrobust"):
            raise OSError(errno.ENOSYS, "the system has no robust mutexes; use Linux")
        attributes = ctypes.create_string_buffer(64)
        self._check(self._libc.pthread_mutexattr_init(attributes))
        self._check(self._libc.pthread_mutexattr_setpshared(attributes, _PROCESS_SHARED))
        self._check(self._libc.pthread_mutexattr_setrobust(attributes, _ROBUST))
        self._check(self._libc.pthread_mutex_init(self._mutex, attributes))
        self._check(self._libc.pthread_mutex_lock(self._mutex))

    def release(self, *, in_order: bool) -> None:
        """Release the lock, by the thread that holds it. `in_order` says whether the command need not run."""
        self._memory[_ACT] = not in_order
        self._check(self._libc.pthread_mutex_unlock(self._mutex))

    def wait(self) -> bool:
        """Wait until the lock is released, or the thread that held it has ended. Return whether it was in order."""
        result = self._libc.pthread_mutex_lock(self._mutex)
        if result == errno.EOWNERDEAD:
            return False
        self._check(result)
        return not self._memory[_ACT]

    @staticmethod
    def _check(result: int) -> None:
        if result:
            raise OSError(result, os.strerror(result))


def main(descriptor: str, *command: str) -> None:
    """Wait, and run the command if the other process did not end in order. A command that fails is tried again.

    Print READY before it waits. What the command prints goes to stderr.
    """
    for number in SIGNALS:
        _signal.signal(number, _signal.SIG_IGN)
    lock = SharedLock(int(descriptor))
    os.write(1, READY)
    os.dup2(2, 1)
    if lock.wait():
        return
    for _ in range(TRIES):
        if os.spawnvp(os.P_WAIT, command[0], command) == 0:
            return
        time.sleep(TRY_SECONDS)


if __name__ == "__main__":
    main(*sys.argv[1:])
