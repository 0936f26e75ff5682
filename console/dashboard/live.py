"""Keeps the page fresh: reads the store, judges, remembers, tells everybody who watches.

Reading and telling are two tasks, so that a store that hangs makes the page stale, never silent.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from console.dashboard.health import PopRow, Status, pop_rows, status
from console.dashboard.history import History, Past
from console.published import Reader, View
from popsteer import clock
from popsteer.config import Config
from popsteer.errors import PopsteerError
from popsteer.telemetry import OncePerKey, logger


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is shown at one time."""

    view: View
    status: Status
    pops: tuple[PopRow, ...]


class Live:
    """Owns the newest snapshot and the past; `run` keeps both going."""

    def __init__(
        self, config: Config, reader: Reader, now_ms: Callable[[], int] = clock.now_ms
    ) -> None:
        self._config = config
        self._reader = reader
        self._now_ms = now_ms
        self._trouble = "the store was not read yet"
        self._logged = OncePerKey()
        self._changed = asyncio.Condition()
        self._history = History(config.pop_ids())
        self.sequence = 0
        """Rises with every snapshot."""
        self.snapshot = self._look()

    async def run(self, period_s: float) -> None:
        """Read and tell every `period_s`, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_reading(period_s))
            group.create_task(self._keep_telling(period_s))

    async def after(self, sequence: int) -> Snapshot:
        """The first snapshot that is newer than a sequence number."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.sequence > sequence)
        return self.snapshot

    def past(self, pop: str) -> Past:
        """See `History.past`."""
        return self._history.past(pop)

    async def _keep_reading(self, period_s: float) -> None:
        while True:
            try:
                await asyncio.to_thread(self._reader.refresh)
                self._trouble = ""
            except PopsteerError as error:
                self._trouble = f"this page shows what it read last: {error}"
                if self._logged.first(type(error).__name__):
                    logger().warning("the published state cannot be read", error=str(error))
            await asyncio.sleep(period_s)

    async def _keep_telling(self, period_s: float) -> None:
        while True:
            self.snapshot = self._look()
            async with self._changed:
                self.sequence += 1
                self._changed.notify_all()
            await asyncio.sleep(period_s)

    def _look(self) -> Snapshot:
        view, now_ms = self._reader.view, self._now_ms()
        rows = pop_rows(view, self._config, now_ms)
        line = status(view, rows, self._config, self._trouble, now_ms)
        if view.overview is not None and not line.stale:
            self._history.add(rows, line.table_generation, now_ms)
        return Snapshot(view, line, rows)


def event(snapshot: Snapshot) -> bytes:
    """One server-sent event (WHATWG HTML, section 9.2) with everything that the page shows."""
    body = msgspec.json.encode({"status": snapshot.status, "pops": snapshot.pops})
    return b"event: health\ndata: " + body + b"\n\n"
