"""One writer at a time: locks that say who holds them, outlive no process, and work on shared disks.

A lock is a file that exists while it is held. Its holder renews it in the background; a waiter takes it over when the
holder's process is gone from this host, or, on another host or in another container, when the holder has not renewed it
for `LEASE_S` of the waiter's own clock. `filelock.SoftFileLease` does that and needs nothing of the file system but
that a file is created once, as NFS grants. Beside it lies a file that says whose the lock is, for messages.
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
"""Name of the folder in which locks lie."""

LEASE_S = 60.0
"""How long a lock of another host is believed without being renewed; it is renewed three times as often."""

POLL_S = 0.1

Say = Callable[[str], None]
"""Told what a person should know while a lock is waited for, one line at a time."""


class LockError(ValueError):
    """Another process holds a lock, or has taken over ours; the message says which."""


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
        """This process, from now on."""
        return cls(socket.gethostname(), os.getpid(), " ".join(sys.orig_argv)[:200], time.time())

    @classmethod
    def from_json(cls, values: object) -> "Owner | None":
        """Read what `asdict` gives; None for anything else."""
        try:
            return parse(cls, values, "owner")
        except ParamsError:
            return None

    def __str__(self) -> str:
        command, age_s = " ".join(self.command.split()), max(time.time() - self.since, 0.0)
        return f"process {self.pid} on {self.host} (`{command}`), which took it {age_s:.0f} s ago"


class Lease(ABC):
    """One attempt after another to hold a lock, in one place; what `Lock` needs of it."""

    left_by: Owner | None = None
    """The process from which the lock was taken over; None where it was free."""

    @property
    @abstractmethod
    def owner(self) -> Owner | None:
        """The process that holds the lock; None where that cannot be told."""

    @property
    @abstractmethod
    def lost(self) -> bool:
        """Whether another process has taken the lock over."""

    @abstractmethod
    def try_acquire(self) -> bool:
        """Take the lock if it is free or left behind; never waits."""

    @abstractmethod
    def release(self) -> None:
        """Let go."""


class FileLease(Lease):
    """A `Lease` of a local file."""

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
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._lease.acquire(timeout=0)
        except Timeout:
            return False
        except FileNotFoundError:  # the folder went with the last lock in it
            return False
        self.left_by = self.owner
        self._about.write_text(json.dumps(asdict(Owner.here())), encoding="utf-8")
        return True

    def release(self) -> None:
        """See `Lease`; the folder of locks goes with the last one."""
        if not self.lost:
            self._about.unlink(missing_ok=True)
        self._lease.release()
        with suppress(OSError):
            self._path.parent.rmdir()


class Lock:
    """The lock of one thing; threads of one process share it, and it is free when the last of them has let go.

    Args:
        key: The same text for the same thing in all of this process.
        what: What is guarded, for messages.
        lease: Makes what holds it.
    """

    def __init__(self, key: str, what: str, lease: Callable[[], Lease]) -> None:
        self._key, self._what, self._lease = key, what, lease

    def acquire(self, *, wait_s: float = 0.0, say: Say = lambda line: None) -> "Lock":
        """Take the lock.

        Args:
            wait_s: How long to wait for another process; infinity for as long as that works.
            say: Told which process this waits for, and from which one that ended a lock was taken over.

        Raises:
            LockError: another process holds it.
        """
        lease, deadline, said = self._lease(), time.monotonic() + wait_s, False
        while not self._try(lease):
            owner = lease.owner or "another process"
            if time.monotonic() >= deadline:
                raise LockError(f"{self._what} is being written by {owner}; wait until it is done, or stop it")
            if not said:
                say(f"{self._what} is being written by {owner}; waiting for it")
                said = True
            time.sleep(POLL_S)
        if lease.left_by is not None:
            say(f"{self._what}: recovered the lock of {lease.left_by}, and which ended without letting go")
        return self

    def release(self) -> None:
        """Let go once; nothing happens where the lock is not held."""
        with _registry_lock:
            held = _registry.get(self._key)
            if held is None:
                return
            held.count -= 1
            if not held.count:
                del _registry[self._key]
                held.lease.release()

    def check(self) -> None:
        """Make sure that the lock is still ours.

        Raises:
            LockError: it is not held, or another process has taken it over.
        """
        held = _registry.get(self._key)
        if held is None or held.lease.lost:
            owner = None if held is None else held.lease.owner
            raise LockError(f"{self._what} was taken over by {owner or 'another process'}; run this again after it")

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
    """A lock that this process holds, and how often."""

    lease: Lease
    count: int = 1


_registry: dict[str, _Held] = {}
_registry_lock = threading.RLock()


def _forget_parents() -> None:
    """Start anew in a forked child: the locks are its parent's."""
    global _registry_lock
    _registry.clear()
    _registry_lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parents)


def lock_of(path: Path) -> Lock:
    """The lock of a local file or folder, which need not exist yet; it lies beside it."""
    key = Path(os.path.realpath(path))
    return Lock(str(key), str(path), lambda: FileLease(key.parent / LOCKS / f"{key.name}.lock"))
