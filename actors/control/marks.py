"""What of a spool has left for the control plane, and what has arrived there.

A Coder deployment cannot recognise a usage record that it has, so what may have been sent is
marked before it is sent, and what was stored before anything else is done about it.  The marks
are in a file of fixed size beside the spool, mapped into memory: a mark costs no system call, a
killed process leaves it behind, and a full disk has room for it.

A record has no mark until it is sent; then it is in the air.  It *arrives*, is *refused*
(it is certain that it was not stored), or is *lost*: it may have been stored.  What was in the
air when the process was killed is lost too.

Safe to use from several threads: a control plane that was replaced still tells what became of
what it had sent.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
from collections.abc import Callable, Iterable
from enum import Enum
from pathlib import Path
from typing import Final

from aigateway.actors.actor.base import new_lock

__all__ = ["PARCEL_BITS", "Fate", "Marks"]

PARCEL_BITS: Final = 8
"""A record's number without its low bits is that of its parcel: what lies in one place."""

SIZE: Final = 32 * 1024
"""Bytes of the file: for 4095 records, or that many parcels of which all is stored."""
_MAGIC: Final = int.from_bytes(b"aigwmrk1", "little")
_ENTRY: Final = struct.Struct("<Q")
_SENT, _STORED, _WHOLE = 1, 2, 3
"""The low bits of an entry; above them is a record's number, with ``_WHOLE`` a parcel's."""


class Fate(Enum):
    """What is known of a record."""

    HERE = "not sent, or certainly not stored"
    FLYING = "sent, and its sender will say what became of it"
    DOUBTFUL = "sent, and perhaps stored"
    STORED = "stored"


# PERF: an enumeration looks its members up by a call.
_IS_FLYING, _IS_STORED, _IS_HERE = Fate.FLYING, Fate.STORED, Fate.HERE


class Marks:
    """The marks of one spool; without ``path`` they last as long as this object.

    A file that cannot be made or read is replaced by memory: :attr:`lasting` is False then.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._lock = new_lock()
        self._bytes: mmap.mmap | bytearray = bytearray(SIZE)
        self._free: list[int] = []
        self._records: dict[int, dict[int, int]] = {}
        """The entries of each parcel: their places by record number."""
        self._whole: dict[int, int] = {}
        self._fates: dict[int, Fate] = {}
        self._doubtful: set[int] = set()
        """Records that some attempt may have stored, whatever became of later ones."""
        self._listeners: dict[int, list[Callable[[], None]]] = {}
        if path is not None:
            with contextlib.suppress(OSError):
                self._bytes = _open(path)
        self._read()

    @property
    def lasting(self) -> bool:
        """Whether the marks outlive this process."""
        return isinstance(self._bytes, mmap.mmap)

    def _read(self) -> None:
        for at in range(SIZE - _ENTRY.size, 0, -_ENTRY.size):
            (entry,) = _ENTRY.unpack_from(self._bytes, at)
            number, kind = entry >> 2, entry & 3
            if not kind:
                self._free.append(at)
            elif kind == _WHOLE:
                self._whole[number] = at
            else:
                self._records.setdefault(number >> PARCEL_BITS, {})[number] = at
                self._fates[number] = Fate.STORED if kind == _STORED else Fate.DOUBTFUL
                if kind == _SENT:
                    self._doubtful.add(number)

    # -- for the sender

    def depart(self, seq: int) -> bool:
        """It will be sent now; False when there is no room for one more mark: do not send it."""
        parcel = seq >> PARCEL_BITS
        with self._lock:
            places = self._records.get(parcel)
            if places is None:
                places = self._records[parcel] = {}
            at = places.get(seq)
            if at is None:
                if not self._free:
                    return False
                at = places[seq] = self._free.pop()
            self._put(at, seq, _SENT)
            self._fates[seq] = _IS_FLYING
            return True

    def arrive(self, seq: int) -> None:
        """It was stored."""
        self._land(seq, _IS_STORED)

    def refused(self, seq: int) -> None:
        """This attempt did not store it."""
        self._land(seq, Fate.DOUBTFUL if seq in self._doubtful else Fate.HERE)

    def lost(self, seq: int) -> None:
        """Nobody will ever say what became of it."""
        self._land(seq, Fate.DOUBTFUL)

    def _land(self, seq: int, fate: Fate) -> None:
        with self._lock:
            places = self._records.get(seq >> PARCEL_BITS)
            at = None if places is None else places.get(seq)
            if at is not None:
                if fate is _IS_STORED:
                    self._put(at, seq, _STORED)
                    self._fates[seq] = fate
                elif fate is _IS_HERE:
                    self._drop(seq)
                else:
                    self._put(at, seq, _SENT)
                    self._fates[seq] = fate
                    self._doubtful.add(seq)
            listeners = self._listeners.pop(seq, ()) if self._listeners else ()
        for listener in listeners:
            listener()

    def on_landing(self, seq: int, listener: Callable[[], None]) -> bool:
        """Call ``listener``, in any thread, when it is no longer in the air; False: it is not."""
        with self._lock:
            if self._fates.get(seq) is not Fate.FLYING:
                return False
            self._listeners.setdefault(seq, []).append(listener)
            return True

    # -- for those who want to know

    def fate(self, seq: int) -> Fate:
        if seq >> PARCEL_BITS in self._whole:
            return _IS_STORED
        return self._fates.get(seq, _IS_HERE)

    def doubtful(self, seq: int) -> bool:
        """Whether some attempt may have stored it."""
        return seq in self._doubtful

    def knows(self, parcel: int) -> bool:
        """Whether there is a mark of a record of this parcel."""
        return parcel in self._records or parcel in self._whole

    def parcels(self) -> list[int]:
        """Those of which there are marks."""
        with self._lock:
            return [*self._records, *self._whole]

    def flying(self) -> bool:
        """Whether anything is in the air."""
        with self._lock:
            return Fate.FLYING in self._fates.values()

    # -- for the keeper of the spool

    def forget(self, parcels: Iterable[int]) -> None:
        """These are no longer in the spool."""
        with self._lock:
            for parcel in parcels:
                for seq in list(self._records.get(parcel, ())):
                    self._drop(seq)
                if (at := self._whole.pop(parcel, None)) is not None:
                    self._clear(at)

    def forget_stored(self, parcel: int) -> None:
        """What was stored of it is no longer in the spool."""
        with self._lock:
            for seq in list(self._records.get(parcel, ())):
                if self._fates[seq] is Fate.STORED:
                    self._drop(seq)

    def fold(self, parcel: int) -> None:
        """All of it is stored, and it cannot be deleted yet: one mark will do."""
        with self._lock:
            places = self._records.get(parcel)
            if not places or parcel in self._whole:
                return
            at = next(iter(places.values()))
            self._put(at, parcel, _WHOLE)
            self._whole[parcel] = at
            for seq in list(places):
                self._drop(seq, keep=at)

    def close(self, *, remove: bool = False) -> None:
        """Let go of the file; with ``remove`` it is deleted.  Marks go on working in memory."""
        with self._lock:
            if isinstance(self._bytes, mmap.mmap):
                mapped, self._bytes = self._bytes, bytearray(self._bytes[:])
                mapped.close()
            if remove and self._path is not None:
                with contextlib.suppress(OSError):
                    self._path.unlink(missing_ok=True)

    def _put(self, at: int, number: int, kind: int) -> None:
        # Eight bytes at once: a kill leaves the old ones or the new ones.
        _ENTRY.pack_into(self._bytes, at, number << 2 | kind)

    def _clear(self, at: int) -> None:
        _ENTRY.pack_into(self._bytes, at, 0)
        self._free.append(at)

    def _drop(self, seq: int, *, keep: int = 0) -> None:
        places = self._records[seq >> PARCEL_BITS]
        at = places.pop(seq)
        if not places:
            del self._records[seq >> PARCEL_BITS]
        if at != keep:
            self._clear(at)
        self._fates.pop(seq, None)
        self._doubtful.discard(seq)


def _open(path: Path) -> mmap.mmap:
    """The file, made whole before it is mapped: a page without a block would kill the process."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(file, 0, SIZE)
        mapped = mmap.mmap(file, SIZE)
    except OSError:
        if os.fstat(file).st_size < SIZE:
            # Nothing was ever marked in it.
            with contextlib.suppress(OSError):
                path.unlink()
        raise
    finally:
        os.close(file)
    (magic,) = _ENTRY.unpack_from(mapped, 0)
    if magic != _MAGIC:
        mapped[:] = bytes(SIZE)
        _ENTRY.pack_into(mapped, 0, _MAGIC)
    return mapped
