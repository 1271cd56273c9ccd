"""Lock groups so that one process at a time writes each, on a disk or behind a URL.

Behind a URL, a lock is an object that is created with a conditional put (S3's `If-None-Match`). Its owner rewrites it
regularly. A lock that does not change for `locks.LEASE_S` seconds of a waiting process's clock is abandoned; the
waiting process that creates a claim on its token takes it over. A file system without conditional put has no locks:
there the last writer of a unit wins, and the checksums in the header reveal units from another run.
"""

import json
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

from difftrack import locks
from difftrack.documents import parse_json
from difftrack.locks import LOCKS, FileLease, Lease, Lock, LockError, Owner, Say
from difftrack.store._errors import StoreError
from difftrack.store._filesystem import Files, LocalFiles

__all__ = ["group_lock", "held_group"]


def group_lock(files: Files, group: str) -> Lock:
    """Return the lock of a group, which need not exist yet."""
    key, path = f"{LOCKS}/{group.replace('/', '+')}.lock", files.path(group)

    def lease() -> Lease:
        return FileLease(files.local(key)) if isinstance(files, LocalFiles) else RemoteLease(files, key)

    return Lock(f"{files.identity('')} {key}", path, lease)


@contextmanager
def held_group(files: Files, group: str, *, wait_s: float = 0.0, say: Say = lambda line: None) -> Iterator[Lock]:
    """Hold a group's lock in this context.

    Raises:
        StoreError: another process still holds the lock after `wait_s`.
    """
    try:
        lock = group_lock(files, group).acquire(wait_s=wait_s, say=say)
    except LockError as error:
        raise StoreError(str(error)) from error
    with lock:
        yield lock


class RemoteLease(Lease):
    """A `Lease` based on an object behind a URL."""

    def __init__(self, files: Files, key: str) -> None:
        self._files, self._key, self._token = files, key, uuid.uuid4().hex
        self._seen: tuple[bytes, float] = (b"", 0.0)
        self._content, self._released, self._lost = b"", threading.Event(), False

    @property
    def owner(self) -> Owner | None:
        """See `Lease`."""
        return _owner(self._read())

    @property
    def lost(self) -> bool:
        """See `Lease`."""
        return self._lost

    def try_acquire(self) -> bool:
        """See `Lease`."""
        self._content = self._renewed(0, asdict(Owner.here()))
        if not self._files.create(self._key, self._content) and not self._take_over(self._read()):
            return False
        self._keeper = threading.Thread(target=self._keep, daemon=True, name=f"lease {self._key}")
        self._keeper.start()
        return True

    def release(self) -> None:
        """See `Lease`."""
        self._released.set()
        self._keeper.join()  # a running renewal would write the lock again after its removal
        if not self._lost and _token(self._read()) == self._token:
            self._files.remove_file(self._key)

    def _take_over(self, there: bytes) -> bool:
        """Replace an abandoned lock; only one waiting process can claim its token."""
        if there != self._seen[0]:
            self._seen = (there, time.monotonic())
        if not there or time.monotonic() - self._seen[1] < locks.LEASE_S:
            return False
        claim = f"{self._key}.{_token(there)}"
        if not self._files.create(claim, self._content):
            if time.monotonic() - self._seen[1] > 2 * locks.LEASE_S:  # a waiting process ended during its takeover
                self._files.remove_file(claim)
            return False
        try:
            if self._read() != there:
                return False
            self._files.write(self._key, self._content)
            self.left_by = _owner(there)
        finally:
            self._files.remove_file(claim)
        return True

    def _keep(self) -> None:
        owner, count, renewed = parse_json(self._content)["owner"], 0, time.monotonic()
        while not self._released.wait(locks.LEASE_S / 3):
            try:
                if _token(self._read()) != self._token:
                    break
                count += 1
                self._files.write(self._key, self._renewed(count, owner))
                renewed = time.monotonic()
            except (StoreError, OSError):
                if time.monotonic() - renewed > locks.LEASE_S:
                    break
        else:
            return
        self._lost = True

    def _renewed(self, count: int, owner: object) -> bytes:
        return json.dumps({"token": self._token, "renewed": count, "owner": owner}).encode()

    def _read(self) -> bytes:
        return self._files.read([self._key]).get(self._key, b"")


def _token(content: bytes) -> str:
    try:
        found = parse_json(content)
    except ValueError:
        return "unreadable"
    token = found.get("token") if isinstance(found, dict) else None
    return token if isinstance(token, str) and token.isalnum() else "unreadable"


def _owner(content: bytes) -> Owner | None:
    try:
        found = parse_json(content)
    except ValueError:
        return None
    return Owner.from_json(found.get("owner")) if isinstance(found, dict) else None
