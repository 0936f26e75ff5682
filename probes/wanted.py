"""Follows the measurement plan: which targets of this agent the planner wants more often.

Reads `plan/measurements.json` now and then. A store that is away, an agent that may not read it
and a plan that cannot be read cost nothing but the plan: all targets are measured alike then.
"""

import asyncio
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from popsteer import wanted as wanted_format
from popsteer.clock import now_ms
from popsteer.errors import ConfigError, StoreError
from popsteer.names import Prefix
from popsteer.store import ObjectStore
from popsteer.targets import Targets
from popsteer.telemetry import OncePerKey, logger
from popsteer.wanted import KEY, Wanted

POLL_S = 15.0

Indices = NDArray[np.int64]


class Follower:
    """Owns the plan last read. Gives the indices of wanted targets whenever they change."""

    def __init__(
        self,
        store: ObjectStore,
        pop: str,
        targets: Targets,
        want: Callable[[Indices], None],
        poll_s: float = POLL_S,
    ) -> None:
        self._store = store
        self._pop = pop
        self._want = want
        self._poll_s = poll_s
        self._plan: Wanted | None = None
        self._etag = ""
        self._given: list[int] = []
        self._said = OncePerKey()
        self._by_prefix: dict[tuple[int, int], list[int]] = {}
        pairs = zip(targets.net.tolist(), targets.plen.tolist(), strict=True)
        for index, pair in enumerate(pairs):
            self._by_prefix.setdefault(pair, []).append(index)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.to_thread(self.read)
            self.follow(now_ms())
            await asyncio.sleep(self._poll_s)

    def read(self) -> None:
        """Take the plan in the store when it is another; a broken one changes nothing."""
        try:
            stored = self._store.read(KEY, self._etag)
            if stored is not None:
                self._etag = stored.etag
                self._plan = wanted_format.decode(stored.body)
        except (StoreError, ConfigError) as error:
            if self._said.first(str(error)):
                logger().warning("no measurement plan is followed", reason=str(error))

    def follow(self, now: int) -> None:
        """Give what the plan says now, when it is something else than before."""
        listed = self._plan.of(self._pop, now) if self._plan else ()
        indices = [index for prefix in listed for index in self._indices(prefix)]
        if indices != self._given:
            self._given = indices
            self._want(np.array(indices, np.int64))

    def _indices(self, prefix: Prefix) -> list[int]:
        return self._by_prefix.get((prefix.net, prefix.plen), [])
