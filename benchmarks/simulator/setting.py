"""The laid out world: prefixes, caches, links, and the truth about demand and RTT at any time.

Owns no state: everything is a function of the options and the virtual time. A policy never sees
these truths, only what `measurement` makes of them.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aggregator.fleet import Fleet
from aggregator.terms import Terms
from benchmarks.simulator.options import Options
from popsteer import world as worlds
from popsteer.geo import distance_km
from popsteer.names import link_subject
from popsteer.world import World

F64 = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

LINKS = 2
"""Of each POP; which one leads to a prefix is a fact of routing, here a coin."""
RESIDUAL_MIN = -0.2
"""No path becomes shorter than this, relatively, by chance."""
BIAS_PER_DECADE = 40.0
"""Percent of bias for a POP of ten times the usual capacity."""
TOP_SHARE = 0.25
"""What breaks or is crowded is one of the largest POPs, or nobody would notice."""


@dataclass(frozen=True, slots=True)
class Setting:
    """n prefixes, c caches, m metros, p POPs, LINKS * p links."""

    options: Options
    world: World
    user_metro: Ints
    """[n], where the users are; the resolver is at `world.metro`."""
    cache_prefix: Ints
    """[c], ascending."""
    cache_part: F64
    """[c], of its prefix's demand."""
    ttl_s: F64
    """[c], how long each keeps an answer."""
    measured: Ints
    """[n, k], the POPs that probe each prefix, ascending."""
    link: Ints
    """[n, p], the link through which a POP reaches a prefix."""
    link_bps: F64
    """[links]"""
    flash: Bools
    """[n], in the region of the flash crowd."""
    path_pop: Ints
    """[n], the POP to which the path changes; -1 for most."""
    path_factor: F64
    poison_column: Ints
    """[n], the column of `measured` that is lied about; -1 for most."""
    step_pop: int
    fail_pop: int

    @property
    def capacity_bps(self) -> F64:
        """[p], of the POPs."""
        return self.world.capacity_bps

    def fleet(self) -> Fleet:
        """As the planner's configuration would say."""
        pops = self.world.pops
        return Fleet(
            pops,
            self.capacity_bps,
            tuple(
                {str(b): float(self.link_bps[LINKS * p + b]) for b in range(LINKS)}
                for p in range(len(pops))
            ),
            np.ones(len(pops), bool),
            float(self.options.ttl_s),
        )

    def terms(self) -> Terms:
        """As the planner's configuration would say.

        Weights follow capacity, traffic is cheap at large POPs, and they attract from farther.
        """
        world, capacity = self.world, self.capacity_bps
        size = np.log10(capacity / np.median(capacity))
        return Terms(
            weight=capacity / capacity.mean(),
            cost=np.round(2 - np.clip(size, -1, 1)),
            bias=np.clip(BIAS_PER_DECADE * size, -BIAS_PER_DECADE, BIAS_PER_DECADE),
            lat=world.pop_lat,
            lon=world.pop_lon,
        )

    def places(self) -> F64:
        """[n, 2], where the resolvers are, degrees."""
        world = self.world
        return np.stack([world.metro_lat[world.metro], world.metro_lon[world.metro]], axis=1)

    def link_names(self) -> list[str]:
        """Subjects of the links' signals."""
        return [link_subject(pop, str(b)) for pop in self.world.pops for b in range(LINKS)]

    def demand_bps(self, t_s: float) -> F64:
        """[n], what the users ask for."""
        options, flash = self.options, self.options.timeline.flash
        demand = self.world.prefix_demand_bps(options.hour_utc + t_s / 3600)
        if flash.start_s <= t_s < flash.end_s + options.flash_ebb_s:
            up = (t_s - flash.start_s) / options.flash_ramp_s
            down = 1 - (t_s - flash.end_s) / options.flash_ebb_s
            crowd = (options.flash_factor - 1) * min(up, 1.0, max(down, 0.0))
            demand = demand * (1 + crowd * self.flash)
        return demand

    def foreign_bps(self, t_s: float) -> F64:
        """[p], load that no answer of ours brought."""
        foreign = np.zeros(len(self.capacity_bps))
        if self.options.timeline.step.holds(t_s):
            foreign[self.step_pop] = self.options.step_share * self.capacity_bps[self.step_pop]
        return foreign

    def alive(self, t_s: float) -> Bools:
        """[p], which POPs serve."""
        alive = np.ones(len(self.capacity_bps), bool)
        alive[self.fail_pop] = not self.options.timeline.fail.holds(t_s)
        return alive

    def rtt_ms(self, t_s: float) -> F64:
        """[n, p], between resolvers and POPs, queues left out."""
        return self._changed(self._metro_rtt_ms(t_s)[self.world.metro], t_s)

    def rtts_ms(self, t_s: float) -> tuple[F64, F64]:
        """The same, and between users and POPs."""
        metro_ms = self._metro_rtt_ms(t_s)
        resolvers, users = metro_ms[self.world.metro], metro_ms[self.user_metro]
        return self._changed(resolvers, t_s), self._changed(users, t_s)

    def _metro_rtt_ms(self, t_s: float) -> F64:
        """[m, p]; slow residuals, linear between the steps of their traces."""
        world = self.world
        m, p = world.rtt_ms.shape
        number = np.arange(m)[:, None] * 31 + np.arange(p) * 17 + self.options.seed
        traces, steps = world.residual.shape
        at = t_s / world.residual_step_s
        early = np.nan_to_num(world.residual[number % traces, (number * 7 + int(at)) % steps])
        late = np.nan_to_num(world.residual[number % traces, (number * 7 + int(at) + 1) % steps])
        ratio = np.maximum(early + (late - early) * (at % 1), RESIDUAL_MIN)
        rtt: F64 = world.rtt_ms * (1 + ratio)
        return rtt

    def _changed(self, rtt_ms: F64, t_s: float) -> F64:
        if t_s >= self.options.timeline.path_s:
            rows = np.flatnonzero(self.path_pop >= 0)
            rtt_ms[rows, self.path_pop[rows]] *= self.path_factor[rows]
        return rtt_ms


def make_setting(options: Options, world_path: Path | None = None) -> Setting:
    """The world of these options: generated, or from a file.

    Raises:
        ConfigError: no such file, not a world, or more POPs or prefixes than it can have.
    """
    if world_path is None:
        world = worlds.generate(options.pops, options.prefixes, options.seed)
    else:
        world = worlds.load(world_path, options.prefixes)
        if options.pops < len(world.pops):
            world = worlds.keep_pops(world, options.pops)
    return _laid(options, _with_headroom(world, options.headroom))


def enlarged(setting: Setting, factor: F64) -> Setting:
    """The same with POPs and their links larger by a factor [p]."""
    world = replace(setting.world, capacity_bps=setting.world.capacity_bps * factor)
    return replace(setting, world=world, link_bps=setting.link_bps * np.repeat(factor, LINKS))


def _with_headroom(world: World, headroom: float) -> World:
    peak_bps = float(world.demand_bps.sum(axis=1).max())
    scale = headroom * peak_bps / float(world.capacity_bps.sum())
    return replace(world, capacity_bps=world.capacity_bps * scale)


def _laid(options: Options, world: World) -> Setting:
    # One stream of random numbers for each matter, so that one option changes nothing else.
    dice = [np.random.default_rng((options.seed, matter)) for matter in range(8)]
    n, p = len(world.net), len(world.pops)
    demand = world.prefix_demand_bps(options.hour_utc)
    prefix, part = _farms(demand, options.caches)
    near = np.argsort(world.rtt_ms[world.metro], axis=1, kind="stable")
    k = min(options.paths_measured, p)
    changed = dice[3].random(n) < options.path_share
    poisoned = dice[4].random(n) < options.poison_share
    step_pop, fail_pop = _victims(world, dice[5])
    return Setting(
        options=options,
        world=world,
        user_metro=_far(options, world, dice[0]),
        cache_prefix=prefix,
        cache_part=part,
        ttl_s=_ttls(options, len(prefix), dice[1]),
        measured=np.sort(near[:, :k], axis=1),
        link=dice[2].integers(0, LINKS, (n, p)) + LINKS * np.arange(p),
        link_bps=np.repeat(world.capacity_bps * options.link_capacity_share, LINKS),
        flash=_region(options, world, demand, dice[6]),
        path_pop=np.where(changed, near[:, 0], -1),
        path_factor=dice[3].choice(options.path_factors, n),
        poison_column=np.where(poisoned, dice[4].integers(0, k, n), -1),
        step_pop=step_pop,
        fail_pop=fail_pop,
    )


def _farms(demand_bps: F64, caches: int) -> tuple[Ints, F64]:
    """Caches of prefixes in proportion to demand, one at least; demand is split evenly."""
    n = len(demand_bps)
    quota = max(caches - n, 0) * demand_bps / demand_bps.sum()
    count = 1 + np.rint(quota).astype(np.int64)
    prefix = np.repeat(np.arange(n), count)
    return prefix, 1.0 / count[prefix]


def _ttls(options: Options, caches: int, dice: np.random.Generator) -> F64:
    ttl = np.full(caches, float(options.ttl_s))
    violates = dice.random(caches) < options.violators_share
    drawn = dice.lognormal(
        np.log(options.violators_ttl_s_median), options.violators_ttl_sigma, caches
    )
    return np.where(violates, np.maximum(drawn, 2 * ttl), ttl)


def _far(options: Options, world: World, dice: np.random.Generator) -> Ints:
    """Most users are where their resolver is; some are in a metro of the wider region."""
    km = distance_km(world.metro_lat, world.metro_lon, world.metro_lat, world.metro_lon)
    metro = world.metro.copy()
    for i in np.flatnonzero(dice.random(len(metro)) < options.far_share).tolist():
        there = np.flatnonzero((km[metro[i]] < options.far_km_max) & (km[metro[i]] > 0))
        if len(there):
            metro[i] = dice.choice(there)
    return metro


def _region(options: Options, world: World, demand_bps: F64, dice: np.random.Generator) -> Bools:
    """Prefixes around one metro with so much of all demand."""
    peopled = np.unique(world.metro)
    centre = int(dice.choice(peopled))
    km = distance_km(
        world.metro_lat[[centre]], world.metro_lon[[centre]], world.metro_lat, world.metro_lon
    )[0]
    order = np.argsort(km[world.metro], kind="stable")
    whole = options.flash_users_share * demand_bps.sum()
    inside = np.zeros(len(demand_bps), bool)
    inside[order[np.cumsum(demand_bps[order]) <= whole]] = True
    return inside


def _victims(world: World, dice: np.random.Generator) -> tuple[int, int]:
    top = np.argsort(-world.capacity_bps, kind="stable")
    few = dice.choice(top[1 : max(3, int(TOP_SHARE * len(top)))], 2, replace=False)
    return int(few[0]), int(few[1])
