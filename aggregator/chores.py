"""The planner's chores: when each is due, and what becomes of it while the store is away."""

import contextlib
from collections.abc import Iterator

from popsteer.clock import SECOND_MS
from popsteer.errors import StoreError
from popsteer.telemetry import logger


class Chores:
    """Owns when each chore is due again, and which ones fail at the moment."""

    def __init__(self) -> None:
        self.failing: set[str] = set()
        """Tried, and refused by the store."""
        self._due: dict[str, int] = {}

    def is_due(self, name: str, period_s: float, now_ms: int) -> bool:
        """Whether it is; then the next one is a period away."""
        if now_ms < self._due.get(name, 0):
            return False
        self._due[name] = now_ms + int(period_s * SECOND_MS)
        return True

    @contextlib.contextmanager
    def attempt(self, name: str) -> Iterator[None]:
        """Go on without the store: say so once, and once when it is back; it is due at once."""
        try:
            yield
        except StoreError as error:
            if name not in self.failing:
                logger().warning("the store is away, trying again", what=name, reason=str(error))
            self.failing.add(name)
            self._due.pop(name, None)
        else:
            if name in self.failing:
                logger().info("the store is back", what=name)
                self.failing.discard(name)
