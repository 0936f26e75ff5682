"""Demand of every prefix in bits/s: what the DNS nodes report, calibrated to measured load.

A DNS node sees queries, not traffic; caches and far resolvers lie between. So reports give the
proportions, and the scale comes from the POPs: the ratio of measured to reported load of the POP
in the middle, which one POP's foreign load cannot bend. While there are few reports the expected
demand of the targets file rules; each query that is seen takes weight from it (a Dirichlet prior
of `PRIOR_QUERIES` queries for each prefix).

Proportions between prefixes need a long memory, or they would jump whenever caches ask together.
A crowd that comes to a region is seen in a short one all the same, where prefixes are taken
together that were answered the same POP: what they bring above the usual, beyond the noise of
single answers, is given to each in proportion.

Answers of a further set of a table (see `popsteer.table`) are reported under `POP/number of the
set`, so the demand of a prefix is known by set. A prefix of which little was seen is split like
all demand is, and before any report as the configuration expects it.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from aggregator.flight import InFlight, Kernel, Reported
from aggregator.merge import event_end_ms, rows_of_all
from aggregator.partials import DemandPartial
from aggregator.prefixes import UNKNOWN, Prefixes, Rows
from popsteer.clock import SECOND_MS
from popsteer.names import demand_subject

HALF_LIFE_S = 60.0
"""Longer than the TTL, so that every cache asks a few times within it."""
PRIOR_QUERIES = 4.0
GROWTH_SIGMAS = 1.0
"""Of the noise of single answers, taken as independent: so much growth is not believed. Caches
that keep to the TTL ask more evenly than that; for them it is more than two sigmas."""
FILLED_TTLS_MIN = 1.5
"""Reports are not believed for so many TTLs after the first, and fully after twice as many."""
SCALE_MIN, SCALE_MAX = 1e-4, 1e4
"""The scale from reported to measured load; beyond it somebody's unit is wrong."""

F64 = NDArray[np.float64]


class Demand:
    """Owns the decayed sums of reports, by prefix and by answered POP."""

    def __init__(
        self, pops: Sequence[str], ttl_s: float, expected: Sequence[float] = (1.0,)
    ) -> None:
        """`expected` is the share of each set of answers until reports say otherwise."""
        self._expected = np.array(expected, np.float64)
        subjects = (demand_subject(pop, one) for one in range(len(expected)) for pop in pops)
        self._subjects = {str(subject): number for number, subject in enumerate(subjects)}
        # An answer brings traffic for its TTL: a mean life of that length is what is in flight.
        self._flight_ms = max(ttl_s, 1.0) * SECOND_MS
        self._prior_bps = np.zeros(0)
        # All decayed to `_as_of_ms`, the end of the newest window reported.
        self._bits = np.zeros(0)
        self._further_bits = [np.zeros(0) for _ in expected[1:]]
        """By further set, of the bits above."""
        # With the short memory of what is in flight; the squares are of single answers.
        self._recent_bits, self._recent_squares = np.zeros(0), np.zeros(0)
        self._home = np.zeros(0, np.int64)
        """[rows], the POP that each prefix was last answered."""
        self._pop_bits = np.zeros(len(pops))
        self._answers = Reported(len(pops), Kernel(ttl_s))
        self._queries = 0.0
        self._as_of_ms = 0
        self._since_ms = 0

    def expect(self, rows: Rows, weight_bps: F64) -> None:
        """Set the demand that is expected of rows until reports say otherwise."""
        self._prior_bps = _longer(self._prior_bps, int(rows.max(initial=-1)) + 1)
        self._prior_bps[rows] = weight_bps

    def observe(self, partials: Iterable[DemandPartial], prefixes: Prefixes) -> None:
        """Learn from reports; late ones count as if they had come in time and aged since."""
        listed = [partial for partial in partials if len(partial.net)]
        if not listed:
            return
        ends_ms = [event_end_ms(partial) for partial in listed]
        since = (int(e.min()) - p.origin.window_ms for e, p in zip(ends_ms, listed, strict=True))
        end_ms = np.concatenate(ends_ms)
        self._advance(int(end_ms.max()), min(since))
        subject = self._subjects
        pop = [np.array([subject.get(n, -1) for n in p.pops], np.int64)[p.pop] for p in listed]
        row, number = np.concatenate(rows_of_all(listed, prefixes)), np.concatenate(pop)
        bits = np.concatenate([partial.bits for partial in listed])
        queries = np.concatenate([partial.queries for partial in listed])
        # In one order, whatever shards the reports came by: sums of floats depend on it.
        order = np.lexsort((queries, bits, number, row, end_ms))
        late_ms = self._as_of_ms - end_ms[order]
        self._add(row[order], number[order], bits[order], queries[order], late_ms)

    def _add(
        self, row: Rows, subject: Rows, bits: F64, queries: NDArray[np.uint64], late_ms: Rows
    ) -> None:
        pops = len(self._pop_bits)
        weight = np.exp2(-late_ms / (HALF_LIFE_S * SECOND_MS))
        known = row != UNKNOWN
        self._bits = _longer(self._bits, int(row.max()) + 1)
        self._bits += np.bincount(row[known], (weight * bits)[known], len(self._bits))
        here = known & (subject >= 0)
        flying = np.exp(-late_ms / self._flight_ms) * bits
        self._add_recent(row[here], subject[here] % pops, flying[here], queries[here])
        self._queries += float((weight * queries).sum())
        for number, old in enumerate(self._further_bits, 1):
            own = known & (subject // pops == number)
            more = np.bincount(row[own], (weight * bits)[own], len(self._bits))
            self._further_bits[number - 1] = _longer(old, len(self._bits)) + more
        told = subject >= 0
        self._pop_bits += np.bincount(subject[told] % pops, flying[told], pops)
        end_ms = self._as_of_ms - late_ms[told]
        self._answers.add(end_ms, subject[told] % pops, bits[told])

    def _add_recent(self, row: Rows, pop: Rows, bits: F64, queries: NDArray[np.uint64]) -> None:
        rows = len(self._bits)
        self._recent_bits = _longer(self._recent_bits, rows)
        self._recent_bits += np.bincount(row, bits, rows)
        self._recent_squares = _longer(self._recent_squares, rows)
        self._recent_squares += np.bincount(row, bits**2 / np.maximum(queries, 1), rows)
        self._home = np.append(self._home, np.zeros(rows - len(self._home), np.int64))
        self._home[row] = pop

    def _grown_bits(self) -> F64:
        """[rows], the reported bits with the growth of each prefix's neighbours under its POP."""
        pops, home = len(self._pop_bits), self._home
        recent = np.bincount(home, self._recent_bits, pops)
        usual = np.bincount(home, self._bits, pops) * (recent.sum() / self._bits.sum())
        noise = GROWTH_SIGMAS * np.sqrt(np.bincount(home, self._recent_squares, pops))
        more = np.sign(recent - usual) * np.maximum(np.abs(recent - usual) - noise, 0.0)
        growth = np.divide(more, usual, out=np.zeros(pops), where=usual > 0)
        grown: F64 = self._bits * (1 + growth[home])
        return grown

    def _advance(self, end_ms: int, start_ms: int) -> None:
        if not self._since_ms:
            self._since_ms, self._as_of_ms = start_ms, end_ms
        if end_ms > self._as_of_ms:
            passed_ms = end_ms - self._as_of_ms
            faded = 2.0 ** (-passed_ms / (HALF_LIFE_S * SECOND_MS))
            self._bits *= faded
            short = np.exp(-passed_ms / self._flight_ms)
            self._recent_bits *= short
            self._recent_squares *= short * short
            self._further_bits = [bits * faded for bits in self._further_bits]
            self._pop_bits *= np.exp(-passed_ms / self._flight_ms)
            self._queries *= faded
            self._as_of_ms = end_ms

    def _seconds(self, mean_life_s: float) -> float:
        """The decayed length of the time that sums of this mean life cover."""
        covered_s = (self._as_of_ms - self._since_ms) / SECOND_MS
        return float(mean_life_s * -np.expm1(-covered_s / mean_life_s))

    def in_flight(self, rows: int, load_bps: F64) -> InFlight:
        """What answers had brought when they were last fully reported, calibrated to the load."""
        at_ms = self._answers.known_ms
        brought = self._answers.load_bps(at_ms)
        return InFlight(at_ms, _middle_ratio(load_bps, brought) * brought, self.trust(rows))

    def reported_bps(self) -> F64:
        """[pops], the load that answers give to each POP now, in reported units."""
        seconds = self._seconds(self._flight_ms / SECOND_MS)
        return self._pop_bits / seconds if seconds else self._pop_bits.copy()

    def scale(self, load_bps: F64) -> float:
        """Measured over reported load: the median over POPs, weighted by what is reported.

        `load_bps` is [pops], NaN where nothing was measured. 1 where nothing can be compared.
        """
        return _middle_ratio(load_bps, self.reported_bps())

    def trust(self, rows: int) -> float:
        """Weight of the reports against the prior, 0 to 1; all where nothing is expected."""
        if not self._prior_bps.any():
            return 1.0
        seen = self._queries / (self._queries + PRIOR_QUERIES * max(rows, 1))
        # Until the caches have filled, both reports and load tell less than there is.
        ttls = (self._as_of_ms - self._since_ms) / self._flight_ms
        return seen * min(max((ttls - FILLED_TTLS_MIN) / FILLED_TTLS_MIN, 0.0), 1.0)

    def bps(self, rows: int, load_bps: F64) -> F64:
        """[rows], the demand of every prefix, calibrated to the measured `load_bps` of POPs."""
        prior = _longer(self._prior_bps, rows)[:rows]
        trust = self.trust(rows)
        whole = float(self._bits.sum())
        if not self._queries or not whole:
            return prior.copy()
        # Proportions from a long memory, the sum from what is in flight: a flash crowd shows at
        # once, and no single prefix jumps because its caches asked together.
        in_flight_bps = float(self.reported_bps().sum())
        grown = self._grown_bits()
        reported = _longer(grown, rows)[:rows] / float(grown.sum()) * in_flight_bps
        wanted: F64 = trust * self.scale(load_bps) * reported + (1 - trust) * prior
        return wanted

    def by_set(self, demand_bps: F64) -> list[F64]:
        """The demand of every prefix, taken apart by set of answers."""
        if len(self._expected) == 1:
            return [demand_bps]
        rows, trust = len(demand_bps), self.trust(len(demand_bps))
        bits = _longer(self._bits, rows)[:rows]
        further = [_longer(own, rows)[:rows] for own in self._further_bits]
        own = np.stack([np.maximum(bits - sum(further), 0.0), *further])
        whole = float(bits.sum())
        seen = own.sum(axis=1) / whole if whole else self._expected
        usual = trust * seen + (1 - trust) * self._expected
        # As if each prefix had been seen once more, at the usual shares.
        more = max(whole / max(int((bits > 0).sum()), 1), 1.0)
        share = (own + more * usual[:, None]) / (own.sum(axis=0) + more)
        return list(share * demand_bps)


def _middle_ratio(load_bps: F64, reported_bps: F64) -> float:
    both = np.flatnonzero((reported_bps > 0) & (load_bps > 0))
    if not len(both):
        return 1.0
    ratio, weight = load_bps[both] / reported_bps[both], reported_bps[both]
    order = np.argsort(ratio, kind="stable")
    half = int(np.searchsorted(np.cumsum(weight[order]), weight.sum() / 2))
    return float(np.clip(ratio[order[half]], SCALE_MIN, SCALE_MAX))


def _longer(column: F64, rows: int) -> F64:
    """The column with zeros behind it, at least `rows` long."""
    if len(column) >= rows:
        return column
    return np.concatenate([column, np.zeros(rows - len(column))])
