"""What the compiled path counted, as the rest of the server takes it."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Taken:
    """What was counted since the last time."""

    rcodes: Counter[str] = field(default_factory=Counter)
    pops: Counter[str] = field(default_factory=Counter)
    dropped: int = 0
    """Not answered: too short, responses, over the rate, or no room for the slow path."""

    def add(self, other: "Taken") -> None:
        """All of another's."""
        self.rcodes += other.rcodes
        self.pops += other.pops
        self.dropped += other.dropped
