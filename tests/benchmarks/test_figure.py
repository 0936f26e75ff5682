import io
import json
import math
from pathlib import Path

from rich.console import Console

from benchmarks.figure import Figure, report


def test_what_is_missed_and_the_figures_come_last() -> None:
    out = io.StringIO()
    figures = [
        Figure("late", 61.23456, 60, "s"),
        Figure("rate", 1_000.5, 1_000, "1/s", at_least=True),
        Figure("sent", 1_234_567, math.inf, ""),
        Figure("recovery", math.inf, math.inf, "s"),
    ]

    code = report(Console(file=out, width=40), figures, None)

    missed, told = out.getvalue().splitlines()[-2:]
    assert code == 1
    assert missed == "misses: late"
    assert json.loads(told) == {"late": 61.23, "rate": 1000.0, "sent": 1_234_567, "recovery": None}


def test_the_file_has_every_figure_and_what_else_was_told(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"

    code = report(Console(file=io.StringIO()), [Figure("age", 1.5, 2, "s")], path, seed=7)

    assert code == 0
    told = {"name": "age", "value": 1.5, "bound": 2, "unit": "s", "at_least": False, "good": True}
    assert json.loads(path.read_text()) == {"figures": [told], "seed": 7}
