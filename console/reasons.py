"""What the resolver, the planner and the operators decided, in words with numbers. Pure."""

from dataclasses import dataclass

from console.units import duration_text, rate_text
from popsteer import clock
from popsteer.config import Config
from popsteer.evidence import Reason as Planned
from popsteer.evidence import Source
from popsteer.orders import Order, OrderKind
from popsteer.state import PopState
from resolver.route import Reason as Routed


@dataclass(frozen=True, slots=True)
class Numbers:
    """What is known of one (prefix, POP); None is unknown."""

    rtt_ms: float | None = None
    spread_ms: float | None = None
    samples: float | None = None
    age_s: float | None = None
    loss: float | None = None
    price_ms: float | None = None
    planned: Planned | None = None
    """What the planner made of it."""
    source: Source | None = None
    """Where the RTT comes from."""


@dataclass(frozen=True, slots=True)
class Case:
    """Everything that a verdict on one candidate rests on."""

    pop: str
    routed: Routed | None
    """What the resolver made of it; None when it is not in the table's row."""
    numbers: Numbers
    chosen: str
    chosen_numbers: Numbers
    answers: float
    """Share of answers that it gets."""
    state: PopState | None
    drain: Order | None
    pin: Order | None
    config: Config


def verdict(case: Case) -> str:
    """Why it is chosen, or the rule by which it lost."""
    shed = case.state.shed if case.state else 0.0
    match case.routed:
        case Routed.CHOSEN:
            return _chosen(case)
        case Routed.SHED:
            return f"sheds {shed:.0%} of its answers to the next"
        case Routed.DOWN | Routed.REPORTED_DOWN:
            return _because("down", case.state)
        case Routed.DRAINED:
            return f"drained{_by(case.drain)}" if case.drain else _because("drained", case.state)
        case Routed.NO_ADDRESS:
            return "has no address in this family"
        case Routed.NOT_IN_SERVICE:
            return "does not serve this name"
        case Routed.UNKNOWN:
            return "is not in the configuration"
    if case.answers > 0:
        if shed > 0:
            return f"takes {case.answers:.0%} of the answers and sheds {shed:.0%}"
        return f"takes {case.answers:.0%} of the answers"
    return _planned(case)


def _chosen(case: Case) -> str:
    if case.pin is not None:
        return f"pinned{_by(case.pin)}"
    part = f"takes {case.answers:.0%} of the answers" if case.answers < 0.9995 else ""
    shed = case.state.shed if case.state else 0.0
    if shed > 0:
        part += f"{' and ' if part else ''}sheds {shed:.0%}"
    if case.numbers.source not in {None, Source.MEASURED}:
        return f"chosen{', ' + part if part else ''}; {_inferred(case.numbers)}"
    return f"chosen: {part}" if part else "chosen"


def _planned(case: Case) -> str:
    """By the planner's evidence; the POP can serve but gets no answer."""
    difference = _difference_ms(case)
    match case.numbers.planned:
        case Planned.FULL:
            return _full(case)
        case Planned.DOWN:
            return _because("was down when the table was made", case.state)
        case Planned.DRAINED:
            return "was drained when the table was made"
        case Planned.UNMEASURED:
            return _inferred(case.numbers)
        case Planned.PINNED_ELSEWHERE:
            return f"the prefix is pinned to {case.chosen}{_by(case.pin)}"
        case Planned.NOT_WORTH_MOVING:
            gain = f"faster by {-difference:.1f} ms" if difference is not None else "faster"
            return f"{gain}, but moving needs more than {case.config.plan.move_gain_ms:.1f} ms"
        case Planned.POLICY:
            return f"the policy prefers {case.chosen}"
    if difference is None:
        return "next in order"
    if difference >= 0.05:
        return f"slower by {difference:.1f} ms"
    if difference > -0.05:
        return "as fast; ranked behind"
    return f"faster by {-difference:.1f} ms; ranked behind"


def _inferred(numbers: Numbers) -> str:
    like = {
        Source.WIDER: " from a wider prefix",
        Source.NETWORK: " from its network",
        Source.PLACE: " from the map",
    }
    origin = like.get(numbers.source, "") if numbers.source is not None else ""
    return f"its RTT is inferred{origin}, not measured"


def _full(case: Case) -> str:
    target = case.config.plan.target_utilisation
    if case.state is None or not case.state.capacity_bps:
        return f"full: planned up to its {target:.0%} target"
    used = case.state.load_bps / case.state.capacity_bps
    return f"full: {used / target:.0%} of its {target:.0%} target"


def _difference_ms(case: Case) -> float | None:
    own, other = case.numbers.rtt_ms, case.chosen_numbers.rtt_ms
    return None if own is None or other is None else own - other


def _because(word: str, state: PopState | None) -> str:
    return f"{word}: {state.reason}" if state and state.reason else word


def _by(order: Order | None) -> str:
    return f" by {order.owner}: {order.reason}" if order else ""


def order_text(order: Order) -> str:
    """What an order says."""
    return {
        OrderKind.DRAIN: f"drain {order.pop}",
        OrderKind.PIN: f"pin {order.prefix} to {order.pop}",
        OrderKind.CAP: f"cap {order.pop} at {rate_text(order.value_bps)}",
        OrderKind.FREEZE: "freeze the table",
    }[order.kind]


def order_sentence(order: Order, now_ms: int) -> str:
    """What an order says, for how long yet, by whom and why."""
    left = duration_text((order.expires_ms - now_ms) / clock.SECOND_MS)
    return f"{order_text(order)} for {left} more, by {order.owner}: {order.reason}"
