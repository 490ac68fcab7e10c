"""What can go wrong with a coderd, on command."""

from __future__ import annotations

import threading

from attrs import define, field

__all__ = ["Faults"]


@define(eq=False)
class _Fault:
    rpc: str
    kind: str
    value: object
    skip: int
    times: int | None


@define(eq=False)
class Faults:
    """The faults that calls meet.  A fault names its RPC without the service.

    ``skip`` lets calls pass first, so ``skip=2, times=1`` hits the third one only.
    """

    _faults: list[_Fault] = field(factory=list)
    _lock: threading.Lock = field(factory=threading.Lock)

    def fail(
        self, rpc: str, text: str, *, code: int = 0, skip: int = 0, times: int | None = None
    ) -> None:
        """Answer with an error."""
        self._add(rpc, "fail", (text, code), skip, times)

    def hang(self, rpc: str, *, skip: int = 0, times: int | None = None) -> None:
        """Never answer."""
        self._add(rpc, "hang", None, skip, times)

    def delay(
        self, rpc: str, gate: threading.Event, *, skip: int = 0, times: int | None = None
    ) -> None:
        """Act on the call and answer it once ``gate`` is set."""
        self._add(rpc, "delay", gate, skip, times)

    def hang_up(
        self, rpc: str, *, act: bool = False, skip: int = 0, times: int | None = None
    ) -> None:
        """Close the call's stream without an answer, perhaps after it was acted on."""
        self._add(rpc, "hang up", act, skip, times)

    def drop(self, rpc: str, *, skip: int = 0, times: int | None = None) -> None:
        """Act on the call, then cut the connection instead of answering."""
        self._add(rpc, "drop", None, skip, times)

    def garble(self, rpc: str, data: bytes, *, skip: int = 0, times: int | None = None) -> None:
        """Answer with these bytes, which need not be a message."""
        self._add(rpc, "garble", data, skip, times)

    def clear(self) -> None:
        with self._lock:
            self._faults.clear()

    def _add(self, rpc: str, kind: str, value: object, skip: int, times: int | None) -> None:
        with self._lock:
            self._faults.append(_Fault(rpc, kind, value, skip, times))

    def meet(self, rpc: str) -> tuple[str, object]:
        """The fault that this call of ``rpc`` meets; an empty text for none."""
        with self._lock:
            for fault in self._faults:
                if fault.rpc != rpc or fault.times == 0:
                    continue
                if fault.skip:
                    fault.skip -= 1
                    continue
                if fault.times is not None:
                    fault.times -= 1
                return fault.kind, fault.value
        return "", None
