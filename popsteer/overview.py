"""The overview: `state/overview.json`, what the planner knows of every POP, for people.

The planner writes it beside the POP state; the console shows it. No decision rests on it.
"""

import msgspec

from popsteer.errors import TableError

KEY = "state/overview.json"


class LinkView(msgspec.Struct, frozen=True, kw_only=True):
    """One link."""

    tx_bps: float = 0.0
    capacity_bps: float = 0.0


class LossView(msgspec.Struct, frozen=True, kw_only=True):
    """What the loss of a POP would do at once, by the ranks of the table in force."""

    overload_bps: float = 0.0
    """For which there would be no room."""
    overload_share: float = 0.0
    """The same of all demand."""
    fullest: str = ""
    """The POP that would get fullest; empty when nobody takes anything over."""
    utilisation: float | None = None
    """Of that POP."""
    added_ms: float | None = None
    """Mean added RTT of those who would move."""
    age_s: float = 0.0
    """Since it was last looked at."""


class ServiceView(msgspec.Struct, frozen=True, kw_only=True):
    """One service."""

    policy: str = ""
    pops: int = 0
    """That may serve it."""
    shares_answers_with: tuple[str, ...] = ()
    """Services that ask for the same, and have the same answers."""
    demand_bps: float = 0.0
    """Of all services with these answers."""


class PopView(msgspec.Struct, frozen=True, kw_only=True):
    """One POP."""

    up: bool = True
    drained: bool = False
    shed: float = 0.0
    rtt_p50_us: float | None = None
    """Over the samples of the last minute of the prefixes that the table sends here."""
    rtt_p95_us: float | None = None
    loss: float | None = None
    """Share of probes lost in the last minute."""
    samples_per_min: float = 0.0
    age_s: float | None = None
    """Of its newest signal; None when there never was one."""
    load_bps: float = 0.0
    capacity_bps: float = 0.0
    """0 is unlimited."""
    planned_bps: float = 0.0
    """Load that the table in force should bring at the estimated demand."""
    links: dict[str, LinkView] = {}
    demand_share: float = 0.0
    """Of all demand, by the table in force."""
    demand_share_before: float = 0.0
    """The same ten minutes ago, or at the oldest table since start."""
    reason: str = ""
    """The rule that fired, in words; empty when all is well."""
    if_lost: LossView | None = None
    """None until it was looked at."""


class HeartbeatView(msgspec.Struct, frozen=True, kw_only=True):
    """How fresh one stream is; see `popsteer.heartbeat`."""

    newest_ms: int
    """Of the newest heartbeat that the planner has heard; its age grows when nothing comes."""
    lanes: int = 0
    """Agents' lanes heard of."""
    silent: int = 0
    """Those of configured POPs that are silent now."""
    silent_lanes: tuple[str, ...] = ()
    """The first few of them."""


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """The whole system at one time."""

    created_ms: int
    table_generation: int = 0
    table_created_ms: int = 0
    rows: int = 0
    prefixes: int = 0
    """Prefixes with an estimate."""
    window_last_ms: int = 0
    """End of the newest measurement window merged; data age counts from here."""
    demand_bps: float = 0.0
    latency_ms: float | None = None
    """Demand-weighted RTT of the table in force, by the estimates."""
    overload_share: float = 0.0
    """Share of demand above the capacity of where the table sends it."""
    policy: str = ""
    refused: str = ""
    """Why the guard refused the newest table; empty when it did not."""
    orders: int = 0
    heartbeats: dict[str, HeartbeatView] = {}
    """By stream."""
    services: dict[str, ServiceView] = {}
    pops: dict[str, PopView] = {}


def decode(data: bytes) -> Overview:
    """The overview in the bytes.

    Raises:
        TableError: not an overview.
    """
    try:
        return msgspec.json.decode(data, type=Overview)
    except ValueError as error:
        raise TableError(f"not an overview: {error}") from None
