"""One measured figure and the bound that it must keep."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """What was measured, in which unit, and what would be a miss."""

    name: str
    value: float
    bound: float
    """Infinity (or 0 with `at_least`): told without a bound."""
    unit: str
    at_least: bool = False
    """Whether the bound is the least good value instead of the largest."""

    @property
    def good(self) -> bool:
        """Whether the bound is kept."""
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    @property
    def bound_text(self) -> str:
        """The bound for people."""
        if self.bound == (0 if self.at_least else float("inf")):
            return ""
        return f"{'>=' if self.at_least else '<='} {self.bound:,g} {self.unit}"
