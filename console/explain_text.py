"""An explanation on one screen."""

from rich.console import Group, RenderableType
from rich.text import Text

from console.explanation import Candidate, Explanation
from console.table_text import grid
from console.units import duration_text, rate_text

ROWS_MAX = 12
"""So many candidates are printed; JSON has all."""


def render(told: Explanation) -> RenderableType:
    """What a person reads."""
    parts: list[RenderableType] = [_answer(told), _where(told)]
    parts += [Text(f"note   {note}", style="yellow") for note in told.notes]
    parts += [Text(f"order  {order}", style="yellow") for order in told.orders]
    parts += ["", _candidates(told.candidates[:ROWS_MAX])]
    if (more := len(told.candidates) - ROWS_MAX) > 0:
        parts.append(Text(f"… and {more} more candidates (--json tells all)", style="dim"))
    return Group(*parts)


def _answer(told: Explanation) -> Text:
    if told.pop is None:
        return Text(f"{told.asked} gets no address for {told.name}", style="bold red")
    line = Text.assemble(
        (told.asked, "bold"), " → ", (told.pop, "bold green"), f"  {' '.join(told.addresses)}"
    )
    if told.rtt_ms is not None:
        line.append(f"  {told.rtt_ms:.1f} ms expected")
    line.append(f"  ({told.name} TTL {told.ttl_s} s)", style="dim")
    return line


def _where(told: Explanation) -> Text:
    row = f"row {told.prefix}" if told.prefix else "no row"
    parts = [f"{row}, ECS scope /{told.scope}"]
    if told.measured:
        parts.append(f"measured as {told.measured}")
    if told.demand_bps is not None:
        parts.append(f"demand {rate_text(told.demand_bps)}")
    if told.table_generation is not None:
        age = f", {duration_text(told.table_age_s)} old" if told.table_age_s is not None else ""
        parts.append(f"table {told.table_generation} ({told.policy}{age})")
    if told.data_age_s is not None:
        parts.append(f"data {duration_text(told.data_age_s)} old")
    if told.state_age_s is not None:
        parts.append(f"state {duration_text(told.state_age_s)} old")
    return Text("; ".join(parts))


def _candidates(candidates: tuple[Candidate, ...]) -> RenderableType:
    lines = grid("", "POP", "RTT ms", "±", "samples", "age", "loss", "price", "answers", "why")
    for column in lines.columns[2:9]:
        column.justify = "right"
    for one in candidates:
        lines.add_row(
            str(one.rank or ""),
            one.pop,
            _number(one.rtt_ms, ".1f"),
            _number(one.spread_ms, ".1f"),
            _number(one.samples, ".0f"),
            "" if one.age_s is None else duration_text(one.age_s),
            _number(one.loss, ".1%"),
            _number(one.price_ms or None, ".1f"),
            f"{one.answers:.0%}" if one.answers else "",
            one.verdict,
            style="" if one.answers else "dim",
        )
    return lines


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
