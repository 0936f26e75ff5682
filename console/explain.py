"""Why a client goes where it goes: the resolver's own decision, told with the planner's evidence.

Pure. Who is chosen comes from `resolver.route.decide`, the function that DNS nodes run, with the
published table and state; so an explanation cannot disagree with DNS, except where a DNS node's
own health checks know more than what was published. Evidence only adds numbers and reasons.
"""

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address

import numpy as np

from console.explanation import Candidate, Explanation
from console.published import View
from console.reasons import Case, Numbers, order_sentence, verdict
from console.units import duration_text
from popsteer import clock
from popsteer.config import Config, Service
from popsteer.errors import ConfigError
from popsteer.evidence import Evidence, Source
from popsteer.evidence import Reason as Planned
from popsteer.names import Prefix, dns_name
from popsteer.orders import Order, OrderKind
from popsteer.table import SHARE_WHOLE, Table
from resolver import route
from resolver.route import PART, PART_BITS, Decision, Outlook

NAMED_MAX = 8
"""So many POPs of a service are named."""
_SHED_STRATA = 100
"""Shedding is drawn so finely: shares of answers are exact to 1%."""


def client_of(text: str) -> Prefix:
    """The client that an address or prefix stands for.

    Raises:
        ConfigError: neither.
    """
    return Prefix.parse(text) if "/" in text else Prefix.of_address(text)


def service_of(config: Config, name: str | None) -> Service:
    """The service of a name; the first one where no name is given.

    Raises:
        ConfigError: no such service.
    """
    if not config.service:
        raise ConfigError("the configuration has no [[service]]; nothing is steered")
    if name is None:
        return config.service[0]
    services = {dns_name(service.name): service for service in config.service}
    if dns_name(name) not in services:
        near = difflib.get_close_matches(dns_name(name), services, 1, 0.0)
        raise ConfigError(f"{name} is not steered; did you mean {near[0]}?")
    return services[dns_name(name)]


def explain(asked: str, name: str | None, view: View, config: Config, now_ms: int) -> Explanation:
    """Why `asked`, an address or prefix, is answered as it is.

    Raises:
        ConfigError: no address or prefix, or not a steered name.
    """
    client, service = client_of(asked), service_of(config, name)
    if not _loads_tables(config):
        view = View(overview=view.overview, orders=view.orders)
    view = view.of_service(dns_name(service.name))
    account = _account(client, service, view, config, now_ms)
    candidates = tuple(_candidates(account, view, config, now_ms))
    first = next((one for one in candidates if one.pop == account.decision.pop), None)
    table, decision = view.table, account.decision
    meta = table.meta if table else None
    covered = table is not None and decision.row >= 0
    return Explanation(
        asked=asked,
        name=dns_name(service.name),
        pop=decision.pop,
        addresses=first.addresses if first else (),
        ttl_s=service.ttl_s,
        rtt_ms=first.rtt_ms if first else None,
        prefix=str(_row_prefix(table, decision.row)) if table and covered else None,
        scope=decision.scope,
        measured=account.measured,
        demand_bps=account.demand_bps,
        table_generation=meta.generation if meta else None,
        table_age_s=clock.age_s(meta.created_ms, now_ms) if meta else None,
        policy=meta.policy if meta else "",
        data_age_s=clock.age_s(meta.window_last_ms, now_ms)
        if meta and meta.window_last_ms
        else None,
        state_age_s=clock.age_s(view.state.created_ms, now_ms) if view.state else None,
        orders=tuple(order_sentence(order, now_ms) for order in account.orders),
        notes=tuple(_notes(client, service, account, view, config, now_ms)),
        candidates=candidates,
    )


@dataclass(frozen=True, slots=True)
class _Account:
    """What is put together before it is told."""

    decision: Decision
    """The one that most draws give."""
    answers: dict[str, float]
    """Share of draws by POP."""
    outlook: Outlook
    fleet: route.Fleet
    numbers: dict[str, Numbers]
    measured: str | None
    demand_bps: float | None
    orders: tuple[Order, ...]


def _account(client: Prefix, service: Service, view: View, config: Config, now_ms: int) -> _Account:
    # As a DNS node: without checks of its own there is no share of POPs that it would doubt.
    panic_share = config.health.panic_share if config.health else 1.0
    outlook = route.outlook_of(frozenset(), view.state, now_ms, panic_share, len(config.pop))
    fleet, steered = route.fleet_of(config), route.steered_of(config, service)
    ipv6 = not any(fleet.ipv4[pop] for pop in steered.pops)
    answers: dict[str, float] = {}
    decisions: dict[str | None, Decision] = {}
    for weight, draw in _draws(view.table, client, outlook):
        decision = route.decide(steered, client, ipv6, view.table, outlook, fleet, draw)
        decisions.setdefault(decision.pop, decision)
        if decision.pop is not None:
            answers[decision.pop] = answers.get(decision.pop, 0.0) + weight
    most = max(answers, key=lambda pop: answers[pop], default=None)
    numbers, measured, demand_bps = _numbers(view.evidence, client, now_ms)
    considered = {one.pop for one in decisions[most].candidates} | set(numbers)
    return _Account(
        decisions[most],
        answers,
        outlook,
        fleet,
        numbers,
        measured,
        demand_bps,
        tuple(_orders_here(view.orders.live(now_ms), client, considered)),
    )


def _draws(table: Table | None, client: Prefix, outlook: Outlook) -> Iterator[tuple[float, int]]:
    """Draws that stand for all: one for each share of the row, times the strata of shedding."""
    row = table.find(client)[0] if table is not None else -1
    shares = table.share[row].tolist() if table is not None and row >= 0 else [SHARE_WHOLE]
    strata = _SHED_STRATA if outlook.shed else 1
    begin = 0
    for share in shares:
        # The smallest draw that `decide` maps to the first of this share's 255ths.
        share_draw = (begin * PART + SHARE_WHOLE - 1) // SHARE_WHOLE
        begin += share
        for stratum in range(strata if share else 0):
            shed_draw = (2 * stratum + 1) * PART // (2 * strata)
            yield share / SHARE_WHOLE / strata, shed_draw << PART_BITS | share_draw


def _numbers(
    evidence: Evidence | None, client: Prefix, now_ms: int
) -> tuple[dict[str, Numbers], str | None, float | None]:
    """What the planner knew, by POP, fastest first; the prefix it is of; its demand."""
    if evidence is None:
        return {}, None, None
    rows = evidence.rows_of(client)
    if not len(rows):
        return {}, None, None
    since_s = clock.age_s(evidence.created_ms, now_ms)
    found = {
        evidence.pops[int(evidence.pop[row])]: Numbers(
            rtt_ms=_known(evidence.rtt_us[row], 1e-3),
            spread_ms=_known(evidence.spread_us[row], 1e-3),
            samples=_known(evidence.samples[row]),
            age_s=_known(evidence.age_s[row], plus=since_s),
            loss=_known(evidence.loss[row]),
            price_ms=_known(evidence.price_us[row], 1e-3),
            planned=Planned(int(evidence.reason[row])),
            source=Source(int(evidence.source[row])),
        )
        for row in rows.tolist()
    }
    by_rtt = sorted(found.items(), key=lambda item: (item[1].rtt_ms is None, item[1].rtt_ms or 0))
    first = int(rows[0])
    prefix = Prefix(int(evidence.net[first]), int(evidence.plen[first]))
    return dict(by_rtt), str(prefix), _known(evidence.demand_bps[first])


def _known(value: np.float32, factor: float = 1.0, plus: float = 0.0) -> float | None:
    return None if np.isnan(value) else float(value) * factor + plus


def _orders_here(live: tuple[Order, ...], client: Prefix, considered: set[str]) -> Iterator[Order]:
    """Those that bear on this client: its pins, its candidates' drains and caps, a freeze."""
    for order in live:
        if order.kind == OrderKind.PIN:
            if Prefix.parse(order.prefix).contains(client):
                yield order
        elif not order.pop or order.pop in considered:
            yield order


def _candidates(account: _Account, view: View, config: Config, now_ms: int) -> Iterator[Candidate]:
    """Those of the decision by rank, then the others that the planner considered."""
    considered = {one.pop: one for one in account.decision.candidates}
    chosen = account.decision.pop or ""
    chosen_numbers = _with_table_rtt(account, considered.get(chosen), chosen)
    drains = view.orders.drained(now_ms)
    pins = [order for order in account.orders if order.kind == OrderKind.PIN]
    # Of pins within each other the planner obeys the longest.
    pin = max(pins, key=lambda order: Prefix.parse(order.prefix).length, default=None)
    states = view.state.pops if view.state else {}
    for pop in dict.fromkeys([*considered, *account.numbers]):
        routed = considered.get(pop)
        numbers = _with_table_rtt(account, routed, pop)
        answers = account.answers.get(pop, 0.0)
        case = Case(
            pop=pop,
            routed=routed.reason if routed else None,
            numbers=numbers,
            chosen=chosen,
            chosen_numbers=chosen_numbers,
            answers=answers,
            state=states.get(pop),
            drain=drains.get(pop),
            pin=pin,
            config=config,
        )
        in_row = routed is not None and routed.tier is route.Tier.TABLE
        yield Candidate(
            pop=pop,
            answers=round(answers, 4),
            rank=list(considered).index(pop) + 1 if in_row else None,
            addresses=_addresses(account.fleet, pop),
            rtt_ms=numbers.rtt_ms,
            spread_ms=numbers.spread_ms,
            samples=numbers.samples,
            age_s=numbers.age_s,
            loss=numbers.loss,
            price_ms=numbers.price_ms,
            shed=account.outlook.shed.get(pop, 0.0),
            verdict=verdict(case),
        )


def _with_table_rtt(account: _Account, routed: route.Candidate | None, pop: str) -> Numbers:
    """The evidence, or where it is silent the RTT that stands in the table."""
    numbers = account.numbers.get(pop, Numbers())
    if numbers.rtt_ms is None and routed is not None:
        return Numbers(rtt_ms=routed.rtt_ms, planned=numbers.planned)
    return numbers


def _addresses(fleet: route.Fleet, pop: str) -> tuple[str, ...]:
    packed = (*fleet.addresses(pop, ipv6=False), *fleet.addresses(pop, ipv6=True))
    return tuple(str(ip_address(address)) for address in packed)


def _row_prefix(table: Table, row: int) -> Prefix:
    return Prefix(int(table.net[row]), int(table.plen[row]))


def _loads_tables(config: Config) -> bool:
    """Whether a DNS node loads any table: a local file, or signed ones that it can verify."""
    return bool(config.table.path or config.trust.public_keys)


def _notes(
    client: Prefix, service: Service, account: _Account, view: View, config: Config, now_ms: int
) -> Iterator[str]:
    able = config.pops_of(service)
    if len(able) < len(config.pop):
        named = f": {', '.join(able)}" if len(able) <= NAMED_MAX else ""
        yield f"{len(able)} of {len(config.pop)} POPs may serve this name{named}"
    if not _loads_tables(config):
        yield "trust.public_keys is empty: DNS nodes load no table and keep the order of the file"
        return
    if view.table is None:
        yield "no table was published yet: answers follow the order of the configuration"
    elif account.decision.row < 0:
        yield "no row of the table covers it: answers follow the default order"
    elif (rows := _rows_within(view.table, client)) > 1:
        yield f"this prefix holds {rows} rows of the table; told is that of its first address"
    if account.decision.last_resort:
        yield "no candidate can serve: a monitor is doubted sooner than nobody is answered"
    yield from _state_notes(account, view, config, now_ms)
    if view.table is not None and not account.numbers:
        yield "no evidence of this prefix is at hand: RTTs are those of the table"


def _state_notes(account: _Account, view: View, config: Config, now_ms: int) -> Iterator[str]:
    state = view.state
    if config.table.path:
        return  # a DNS node with a local table reads no state
    if state is None:
        yield "no POP state was published yet"
        return
    if now_ms >= state.expires_ms:
        late = duration_text(clock.age_s(state.expires_ms, now_ms))
        yield f"the POP state expired {late} ago: sheds and reports are ignored, drains hold"
        return
    down = [pop for pop, one in state.pops.items() if not one.up]
    if down and not account.outlook.reported_down:
        yield f"{len(down)} of {len(config.pop)} POPs look down at once: the reports are doubted"


def _rows_within(table: Table, client: Prefix) -> int:
    split = table.ipv4_rows
    net = table.net[split:] if client.is_ipv6 else table.net[:split]
    first = int(np.searchsorted(net, np.uint64(client.net), side="right"))
    last = int(np.searchsorted(net, np.uint64(client.last), side="right"))
    return last - first + 1
