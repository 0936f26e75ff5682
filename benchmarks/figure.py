"""Measured figures and the bounds that they must keep; how every benchmark tells them."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table


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
    def value_text(self) -> str:
        """The value for people: what was counted exactly, what was measured in four digits."""
        return f"{self.value:,}" if isinstance(self.value, int) else f"{self.value:,.4g}"

    @property
    def bound_text(self) -> str:
        """The bound for people."""
        if self.bound == (0 if self.at_least else math.inf):
            return ""
        return f"{'>=' if self.at_least else '<='} {self.bound:,g} {self.unit}"

    @property
    def facts(self) -> dict[str, object]:
        """For JSON, which has no infinity."""
        bound = self.bound if self.bound_text else None
        return asdict(self) | {"value": finite(self.value), "bound": bound, "good": self.good}


def report(
    screen: Console, figures: Sequence[Figure], json_path: Path | None, **more: object
) -> int:
    """Print figures and bounds, write them to a file; what is missed and the figures come last.

    Args:
        screen: Where to print.
        figures: What was measured.
        json_path: File for the figures and `more`.
        **more: What else goes into the file, by name.

    Returns:
        The exit code: 1 when a bound is missed.
    """
    table = Table("figure", "measured", "bound", "")
    for one in figures:
        word = ("ok" if one.good else "MISSED") if one.bound_text else ""
        table.add_row(one.name, f"{one.value_text} {one.unit}", one.bound_text, word)
    screen.print(table)
    if json_path is not None:
        facts = {"figures": [one.facts for one in figures], **more}
        json_path.write_text(json.dumps(facts, indent=1) + "\n")
    missed = [one.name for one in figures if not one.good]
    if missed:
        screen.out(f"misses: {'; '.join(missed)}", highlight=False)
    # One line for scripts, however narrow the terminal is.
    told = {one.name: finite(_rounded(one.value)) for one in figures}
    screen.out(json.dumps(told), highlight=False)
    return 1 if missed else 0


def finite(value: float) -> float | None:
    """For JSON, which has no infinity: what never came is null."""
    return value if math.isfinite(value) else None


def _rounded(value: float) -> float:
    return value if isinstance(value, int) else float(f"{value:.4g}")
