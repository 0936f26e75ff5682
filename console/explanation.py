"""An explanation as a value: what `explain` gives, the page shows and the API sends."""

import msgspec


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """One POP that was considered."""

    pop: str
    answers: float
    """Share of this client's answers that name it."""
    rank: int | None
    """In the table's row, from 1; None when it is not in it."""
    addresses: tuple[str, ...]
    rtt_ms: float | None
    spread_ms: float | None
    samples: float | None
    age_s: float | None
    loss: float | None
    price_ms: float | None
    shed: float
    verdict: str
    """The rule by which it won or lost."""


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """The whole account of one client."""

    asked: str
    name: str
    pop: str | None
    """Who most answers name; None when nobody has an address."""
    addresses: tuple[str, ...]
    ttl_s: int
    rtt_ms: float | None
    """Expected."""
    prefix: str | None
    """The table's row that covers the client."""
    scope: int
    """ECS scope prefix-length of the answer."""
    measured: str | None
    """The prefix that the evidence is of."""
    demand_bps: float | None
    table_generation: int | None
    table_age_s: float | None
    policy: str
    data_age_s: float | None
    """Since the end of the newest window that the table rests on."""
    state_age_s: float | None
    orders: tuple[str, ...]
    """In force and of importance here."""
    notes: tuple[str, ...]
    """What is out of the ordinary."""
    candidates: tuple[Candidate, ...]
    """Best first."""
