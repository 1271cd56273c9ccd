"""Locks for one writer at a time, which name their owner, do not outlive its process, and work on shared disks.

A lock is a file that exists while the lock is held. Its owner renews it in the background. A waiting process takes the
lock over when the owner's process no longer exists on this host, or, if the owner is on another host or in another
container, when the lock has not been renewed for `LEASE_S` seconds of the waiting process's clock.
`filelock.SoftFileLease` implements this; it only requires that the file system creates a file atomically, as NFS does.
A second file beside the lock records the owner, for messages.
"""

import json
import os
import socket
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import SoftFileLease, Timeout

from difftrack.documents import read_json
from difftrack.params import ParamsError, parse

__all__ = ["LOCKS", "FileLease", "Lease", "Lock", "LockError", "Owner", "Say", "lock_of"]

LOCKS = ".locks"
"""Name of the folder that contains the lock files."""

LEASE_S = 60.0
"""Seconds after which an unrenewed lock of another host expires; a lock is renewed three times in this period."""

POLL_S = 0.1

_MOST_RACES = 20
"""Times in a row that other processes may remove the empty folder of locks between its making and its use."""

Say = Callable[[str], None]
"""Called with one-line messages for the user while a lock is awaited."""


class LockError(ValueError):
    """Another process holds the lock or has taken it over; the message names the process."""


@dataclass(frozen=True, slots=True)
class Owner:
    """A process that holds a lock."""

    host: str
    pid: int
    command: str
    since: float
    """Seconds since the epoch."""

    @classmethod
    def here(cls) -> "Owner":
        """Describe this process as the owner from now on."""
        return cls(socket.gethostname(), os.getpid(), " ".join(sys.orig_argv)[:200], time.time())

    @classmethod
    def from_json(cls, values: object) -> "Owner | None":
        """Read the output of `asdict`; None for any other value."""
        try:
            return parse(cls, values, "owner")
        except ParamsError:
            return None

    def __str__(self) -> str:
        command, age_s = " ".join(self.command.split()), max(time.time() - self.since, 0.0)
        return f"process {self.pid} on {self.host} (`{command}`), which acquired the lock {age_s:.0f} s ago"


class Lease(ABC):
    """The mechanism behind a `Lock`: acquires, renews and releases the lock at one location."""

    left_by: Owner | None = None
    """The process from which the lock was taken over; None if it was free."""

    @property
    @abstractmethod
    def owner(self) -> Owner | None:
        """The process that holds the lock; None if unknown."""

    @property
    @abstractmethod
    def lost(self) -> bool:
        """Whether another process has taken the lock over."""

    @abstractmethod
    def try_acquire(self) -> bool:
        """Acquire the lock if it is free or abandoned; never waits."""

    @abstractmethod
    def release(self) -> None:
        """Release the lock."""


class FileLease(Lease):
    """A `Lease` based on a local file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._about = path.with_suffix(".json")
        self._lease = SoftFileLease(path, lease_duration=LEASE_S, thread_local=False)

    @property
    def owner(self) -> Owner | None:
        """See `Lease`."""
        try:
            return Owner.from_json(read_json(self._about))
        except (OSError, ValueError):
            return None

    @property
    def lost(self) -> bool:
        """See `Lease`."""
        return self._lease.compromise is not None

    def try_acquire(self) -> bool:
        """See `Lease`."""
        for _ in range(_MOST_RACES):
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._lease.acquire(timeout=0)
                break
            except Timeout:
                return False
            except (FileNotFoundError, FileExistsError):  # another process removed the empty folder of locks meanwhile
                if self._path.parent.exists() and not self._path.parent.is_dir():
                    raise
        else:
            return False
        self.left_by = self.owner
        self._about.write_text(json.dumps(asdict(Owner.here())), encoding="utf-8")
        return True

    def release(self) -> None:
        """See `Lease`; the folder is removed with the last lock in it."""
        if not self.lost:
            self._about.unlink(missing_ok=True)
        self._lease.release()
        with suppress(OSError):
            self._path.parent.rmdir()


class Lock:
    """The lock of one resource. Threads of a process share it; it is released when the last thread has released it.

    Args:
        key: Identifies the resource within this process.
        what: Name of the resource, for messages.
        lease: Creates the lease of the lock.
    """

    def __init__(self, key: str, what: str, lease: Callable[[], Lease]) -> None:
        self._key, self._what, self._lease = key, what, lease

    def acquire(self, *, wait_s: float = 0.0, say: Say = lambda line: None) -> "Lock":
        """Acquire the lock.

        Args:
            wait_s: Maximum time to wait for another process, in seconds; may be infinity.
            say: Called with the process that is awaited, and with the ended process whose lock was taken over.

        Raises:
            LockError: another process holds it.
        """
        lease, deadline, reported = self._lease(), time.monotonic() + wait_s, False
        while not self._try(lease):
            owner = lease.owner or "another process"
            if time.monotonic() >= deadline:
                raise LockError(f"{self._what} is being written by {owner}; wait until it has finished, or stop it")
            if not reported:
                say(f"{self._what} is being written by {owner}; waiting for it to finish")
                reported = True
            time.sleep(POLL_S)
        if lease.left_by is not None:
            say(f"{self._what}: recovered the lock of {lease.left_by}; that process ended without releasing it")
        return self

    def release(self) -> None:
        """Release the lock once; does nothing if the lock is not held."""
        with _registry_lock:
            held = _registry.get(self._key)
            if held is None:
                return
            held.count -= 1
            if not held.count:
                del _registry[self._key]
                held.lease.release()

    def check(self) -> None:
        """Check that this process still holds the lock.

        Raises:
            LockError: the lock is not held, or another process has taken it over.
        """
        held = _registry.get(self._key)
        if held is None or held.lease.lost:
            owner = None if held is None else held.lease.owner
            raise LockError(
                f"{self._what} was taken over by {owner or 'another process'}; run again after it has finished"
            )

    def _try(self, lease: Lease) -> bool:
        with _registry_lock:
            if (held := _registry.get(self._key)) is not None:
                held.count += 1
                return True
            if not lease.try_acquire():
                return False
            _registry[self._key] = _Held(lease)
            return True

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


@dataclass(slots=True)
class _Held:
    """A lock held by this process, with the number of acquisitions."""

    lease: Lease
    count: int = 1


_registry: dict[str, _Held] = {}
_registry_lock = threading.RLock()


def _clear_registry_after_fork() -> None:
    """Clear the registry in a forked child, because the locks belong to its parent."""
    global _registry_lock
    _registry.clear()
    _registry_lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_clear_registry_after_fork)


def lock_of(path: Path) -> Lock:
    """Return the lock of a local file or folder, which need not exist; the lock file lies beside it."""
    key = Path(os.path.realpath(path))
    return Lock(str(key), str(path), lambda: FileLease(key.parent / LOCKS / f"{key.name}.lock"))
