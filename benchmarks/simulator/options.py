"""What a simulated world is like, and what happens in it when. Plain values, no behaviour."""

from dataclasses import dataclass, replace

from popsteer.config import Plan

PLAN = Plan()


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of virtual time, end excluded."""

    start_s: int
    end_s: int

    def holds(self, t_s: float) -> bool:
        """Whether the time lies in it."""
        return self.start_s <= t_s < self.end_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """What goes wrong when; nothing is scored before `warm_s`."""

    warm_s: int
    step: Span
    """Foreign load falls on one POP and stays."""
    flash: Span
    """The users of one region double within a minute, and go again in five."""
    path_s: int
    """From here on some paths have another RTT."""
    fail: Span
    """One POP is dead."""
    poison: Span
    """Some paths are reported to be wonderfully short."""
    end_s: int


LONG = Timeline(
    warm_s=900,
    step=Span(1_500, 2_100),
    flash=Span(2_700, 3_600),
    path_s=4_500,
    fail=Span(5_100, 6_000),
    poison=Span(6_900, 7_500),
    end_s=8_100,
)
"""Two hours that count."""
SHORT = Timeline(
    warm_s=600,
    step=Span(780, 1_080),
    flash=Span(1_260, 1_740),
    path_s=2_040,
    fail=Span(2_160, 2_520),
    poison=Span(2_760, 3_060),
    end_s=3_240,
)
"""The same in three quarters of an hour."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """One simulated world; everything random in it follows from `seed`."""

    seed: int = 1
    timeline: Timeline = LONG
    pops: int = 100
    prefixes: int = 3_500
    caches: int = 7_000
    """Large resolvers are farms of caches, each with its own idea of the answer."""
    headroom: float = 1.4
    """Sum of all capacities over the peak of demand."""
    hour_utc: float = 7.0
    """At the start; demand follows the hours of the world from there."""
    ttl_s: int = 20
    violators_share: float = 0.25
    """Of the caches: they keep an answer for longer than its TTL."""
    violators_ttl_s_median: float = 600.0
    violators_ttl_sigma: float = 0.7
    far_share: float = 0.05
    """Of the prefixes: their users are in another metro than their resolver."""
    far_km_max: float = 3_000.0
    paths_measured: int = 12
    """POPs that probe each prefix, at least: its nearest."""
    probe_interval_s: int = 30
    rtt_noise_share: float = 0.05
    load_noise_share: float = 0.03
    demand_noise_share: float = 0.10
    window_s: int = 10
    """Of RTT and demand."""
    signal_period_s: int = 2
    bulk_delay_s: int = 4
    """From the end of a window to the planner: the fold, its grace, and S3."""
    signal_delay_s: int = 3
    table_delay_s: int = 3
    """From the planner's decision to all DNS nodes."""
    state_delay_s: int = 2
    link_capacity_share: float = 0.75
    """Each of a POP's two links over the POP's capacity."""
    check_down_s: int = 2
    check_up_s: int = 3
    """How long the DNS nodes' own checks take to see a POP die and return."""
    step_share: float = 0.3
    """Of the POP's capacity."""
    flash_users_share: float = 0.05
    flash_factor: float = 2.0
    flash_ramp_s: int = 60
    flash_ebb_s: int = 300
    path_share: float = 0.08
    """Of the prefixes: the path to their best POP changes."""
    path_factors: tuple[float, ...] = (1.6, 0.7)
    poison_share: float = 0.05
    poison_ms: float = 0.5
    plan: Plan = PLAN
    """Of the planner's configuration."""

    def delayed(self, factor: int) -> "Options":
        """The same with every measurement and every publication later."""
        return replace(
            self,
            bulk_delay_s=self.bulk_delay_s * factor,
            signal_delay_s=self.signal_delay_s * factor,
            table_delay_s=self.table_delay_s * factor,
            state_delay_s=self.state_delay_s * factor,
        )
