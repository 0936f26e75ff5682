"""The window machine of one shard: records in, cuts out. Pure; time is an argument.

A **cut** is a stretch of the shard that becomes one set of partials, one per kind of the stream.
Where cuts fall depends on nothing but the records and the state before, except that a quiet shard
is cut by the clock. What makes it exact:

- Windows follow Kinesis's approximate arrival timestamp, which a replay repeats.
- A record of an older window joins the open cut; its samples keep their event time anyway. A cut
  whose window is already written is a supplement: it has its own key, so nothing is overwritten.
- The partials of a cut say where it ended and what had been seen (`Origin`). A restarted worker
  continues there, whatever the last checkpoint says; see `aggregator.resume`.

It owns the open cut and the marks of all sources. It never writes and never reads a clock.
"""

import functools
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aggregator.fold import fold_demand, fold_signal
from aggregator.partials import Origin, Partial, RttPartial
from aggregator.seen import Mark
from popsteer.clock import HOUR_MS, MINUTE_MS
from popsteer.errors import RecordError
from popsteer.samples import (
    Batch,
    DemandBatch,
    Kind,
    RttBatch,
    SignalBatch,
    decode,
    newest_ms,
    rows,
)

if TYPE_CHECKING:
    from aggregator.fold_rtt import RttFold, RttRows
    from aggregator.light import Sites

CLOCK_BEHIND_MS_MAX = HOUR_MS
CLOCK_AHEAD_MS_MAX = 5 * MINUTE_MS
"""Samples further from their arrival than these two come from a clock that is off, unless they
continue where their source stood: then they waited on its disk while Kinesis was away."""
CLOCK_BACK_MS_MAX = 5 * MINUTE_MS
"""A source further behind its own last samples than this has set its clock back."""
SAMPLES_MAX = 2_000_000
"""A cut closes at this many samples, which bounds memory. A shard within Kinesis's write limit
(1 MB/s) stays below it."""
MARK_AGE_MS_MAX = 48 * HOUR_MS
"""A source idle for longer is forgotten: retries come within minutes, Kinesis keeps a day."""
SOURCE_SAMPLES_MAX = 1_800_000
"""What one source may add to a cut, so that a broken or hostile one cannot crowd out the rest. A
lane that drains what waited on its disk brings up to 1.5 million: 1 MB/s for 10 s, 7 B a sample."""
MARKS_MAX = 20_000
"""Sources remembered; the longest idle ones go first."""


@dataclass(frozen=True, slots=True)
class Record:
    """A record as it came off the shard."""

    sequence: int
    arrival_ms: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Rules:
    """What one shard's fold follows."""

    stream: str
    shard: str
    kinds: tuple[Kind, ...]
    """What the stream carries; every cut writes a partial of each, in this order."""
    window_ms: int
    grace_ms: int
    subjects: frozenset[str]
    """What samples of this stream may be about; a record that names another is quarantined.
    Empty: not known, all are accepted."""
    sites: "Sites | None" = None
    """By what RTTs are judged that light could not make."""


@dataclass(frozen=True, slots=True)
class Resume:
    """Where a worker takes a shard up; the default is a shard that nobody has read."""

    after: int = -1
    """Records up to this sequence number are accounted for in written partials."""
    window_start_ms: int = -1
    """The newest window written."""
    marks: dict[str, Mark] = field(default_factory=dict)
    previous: tuple[str, ...] = ()
    cut_at: int | None = None
    """Where the next cut must end: a predecessor died between two partials of that cut."""


@dataclass(frozen=True, slots=True)
class Cut:
    """A closed stretch of the shard."""

    origin: Origin
    partials: tuple[Partial, ...]
    """One per kind of the stream, in the order in which they must be written."""


@dataclass(slots=True)
class _Open:
    """The cut that is being filled."""

    arrival_window_ms: int
    first_sequence: int
    last_sequence: int = -1
    records: int = 0
    samples: int = 0
    duplicates: int = 0
    quarantined: dict[str, int] = field(default_factory=dict)
    by_source: Counter[str] = field(default_factory=Counter)
    """Samples accepted of each source."""
    demand: list[DemandBatch] = field(default_factory=list)
    signals: list[SignalBatch] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A record, or some samples, that were quarantined, for the log."""

    reason: str
    detail: str
    source: str
    """Empty where the record does not even tell; of samples alone, their POP."""


@dataclass(frozen=True, slots=True)
class Loss:
    """Records of a source that did not come within a whole cut after the ones behind them."""

    source: str
    records: int


class ShardFold:
    """Folds one shard; feed `take` in sequence order, `tick` between."""

    def __init__(self, rules: Rules, resume: Resume) -> None:
        self._rules = rules
        self._after = resume.after
        self._newest_window_ms = resume.window_start_ms
        self._marks = dict(resume.marks)
        self._previous = resume.previous
        self._cut_at = resume.cut_at
        self._open: _Open | None = None
        self._known: tuple[str, ...] = ()
        self.heard_ms = max((m.heard_ms for m in resume.marks.values()), default=-1)
        """The newest heartbeat or sample of any source, capped by its arrival; -1: none yet."""
        self.refusals: list[Refusal] = []
        """Quarantined since the caller last cleared the list."""
        self._missing = _missing(self._marks)
        self._lost = dict(self._missing)
        """Of `_missing`, what was reported as lost."""
        self.losses: list[Loss] = []
        """Found since the caller last cleared the list."""

    def take(self, record: Record) -> list[Cut]:
        """Account for a record; gives the cuts that it closes. A record seen before is nothing."""
        if record.sequence <= self._after:
            return []
        cuts = []
        if self._open is not None and self._ends_before(record, self._open):
            cuts.append(self._close(self._open))
        cut = self._opened(record)
        cut.last_sequence = self._after = record.sequence
        cut.records += 1
        self._admit(record, cut)
        if record.sequence == self._cut_at or cut.samples >= SAMPLES_MAX:
            cuts.append(self._close(cut))
        return cuts

    def tick(self, now_ms: int) -> list[Cut]:
        """To be called when the shard is read to its end; closes a window whose time is over."""
        cut, rules = self._open, self._rules
        if cut is None or self._cut_at is not None:
            return []
        if now_ms < cut.arrival_window_ms + rules.window_ms + rules.grace_ms:
            return []
        return [self._close(cut)]

    def finish(self) -> list[Cut]:
        """The shard has ended: closes what is open."""
        return [self._close(self._open)] if self._open is not None else []

    def _ends_before(self, record: Record, cut: _Open) -> bool:
        if self._cut_at is not None:
            return record.sequence > self._cut_at
        return record.arrival_ms >= cut.arrival_window_ms + self._rules.window_ms

    def _opened(self, record: Record) -> _Open:
        if self._open is None:
            window_ms = record.arrival_ms // self._rules.window_ms * self._rules.window_ms
            self._open = _Open(window_ms, record.sequence)
        return self._open

    def _admit(self, record: Record, cut: _Open) -> None:
        source = ""
        try:
            batch = decode(record.data)
            source = batch.header.source
            mark = self._marks.get(source, Mark())
            if mark.has(batch.header.sequence):
                cut.duplicates += 1
                return
            # A refused record is seen, too: its retry is a duplicate, not a second refusal.
            mark = mark.add(batch.header.sequence, record.arrival_ms)
            self._marks[source] = mark
            newest = self._check(batch, record.arrival_ms, mark)
            if cut.by_source[source] + rows(batch) > SOURCE_SAMPLES_MAX:
                raise RecordError("cap", f"over {SOURCE_SAMPLES_MAX} samples in one window")
        except RecordError as error:
            cut.quarantined[error.reason] = cut.quarantined.get(error.reason, 0) + 1
            self.refusals.append(Refusal(error.reason, str(error), source))
            return
        self._marks[source] = mark.told(newest)
        cut.by_source[source] += rows(batch)
        cut.samples += rows(batch)
        self.heard_ms = max(self.heard_ms, self._marks[source].heard_ms)
        if not rows(batch):
            return
        match batch:
            case RttBatch():
                self._rtt.add(batch, newest)
            case DemandBatch():
                cut.demand.append(batch)
            case SignalBatch():
                cut.signals.append(batch)

    def _check(self, batch: Batch, arrival_ms: int, mark: Mark) -> int:
        """What only this place knows: the stream, the POPs, the time; gives the newest sample's."""
        header = batch.header
        if batch.kind not in self._rules.kinds:
            raise RecordError("stream", f"{batch.kind} in {self._rules.stream}")
        # A source repeats its subjects record after record.
        if self._rules.subjects and header.subjects != self._known:
            unknown = [s for s in header.subjects if s not in self._rules.subjects]
            if unknown:
                raise RecordError("pop", f"unknown: {unknown[0][:64]!r}")
            self._known = header.subjects
        newest = newest_ms(batch)
        _check_clock(header.t0_ms, newest, arrival_ms, mark)
        return newest

    def _close(self, cut: _Open) -> Cut:
        rules = self._rules
        window_ms = max(cut.arrival_window_ms, self._newest_window_ms)
        self._forget(cut.arrival_window_ms)
        self._find_losses()
        rtt = self._rtt_rows(cut) if Kind.RTT in rules.kinds else None
        origin = Origin(
            stream=rules.stream,
            shard=rules.shard,
            window_start_ms=window_ms,
            window_ms=rules.window_ms,
            first_sequence=cut.first_sequence,
            last_sequence=cut.last_sequence,
            records=cut.records,
            samples=cut.samples,
            duplicates=cut.duplicates,
            quarantined=cut.quarantined,
            supplement=window_ms == self._newest_window_ms,
            previous=self._previous,
            marks=dict(self._marks),
        )
        self._open = None
        self._cut_at = None
        self._newest_window_ms = window_ms
        self._previous = (origin.key(rules.kinds[0]),)
        partials: dict[Kind, Partial] = {}
        for kind in rules.kinds:
            match kind:
                case Kind.RTT:
                    assert rtt is not None
                    partials[kind] = RttPartial(origin, rtt.pops, **rtt.columns)
                case Kind.DEMAND:
                    partials[kind] = fold_demand(cut.demand, origin)
                case Kind.SIGNAL:
                    partials[kind] = fold_signal(cut.signals, origin)
        return Cut(origin, tuple(partials.values()))

    def _rtt_rows(self, cut: _Open) -> "RttRows":
        """The rows of the cut; what light could not have made is quarantined."""
        rows = self._rtt.close()
        for one in rows.refused:
            told = cut.quarantined.get(one.reason, 0)
            cut.quarantined[one.reason] = told + one.samples
            self.refusals.append(Refusal(one.reason, one.detail, one.pop))
        return rows

    @functools.cached_property
    def _rtt(self) -> "RttFold":
        # Compiled code weighs 60 MB: processors of streams without RTT do without.
        from aggregator.fold_rtt import RttFold

        return RttFold(self._rules.window_ms, self._rules.sites)

    def _find_losses(self) -> None:
        """What was missing at the last cut and still is will hardly come: a retry takes seconds.

        Should it come all the same (from a disk), it counts, and was reported too early.
        """
        missing = _missing(self._marks)
        for source, count in missing.items():
            known = min(self._lost.get(source, 0), count)
            lost = min(self._missing.get(source, 0), count)
            if lost > known:
                self.losses.append(Loss(source, lost - known))
            self._lost[source] = max(lost, known)
        self._missing = missing
        self._lost = {source: self._lost[source] for source in missing}

    def _forget(self, now_ms: int) -> None:
        """Bound the marks, by nothing but what the shard itself says."""
        oldest_ms = now_ms - MARK_AGE_MS_MAX
        kept = {s: m for s, m in self._marks.items() if m.arrival_ms >= oldest_ms}
        if len(kept) > MARKS_MAX:
            newest = sorted(kept, key=lambda s: (kept[s].arrival_ms, s))[-MARKS_MAX:]
            kept = {s: kept[s] for s in newest}
        self._marks = kept


def _missing(marks: dict[str, Mark]) -> dict[str, int]:
    return {source: mark.missing for source, mark in marks.items() if mark.missing}


def _check_clock(oldest_ms: int, newest_ms: int, arrival_ms: int, mark: Mark) -> None:
    if newest_ms > arrival_ms + CLOCK_AHEAD_MS_MAX:
        raise RecordError("clock", f"{newest_ms - arrival_ms} ms ahead of its arrival")
    if oldest_ms >= arrival_ms - CLOCK_BEHIND_MS_MAX:
        return
    if mark.newest_ms < 0:
        raise RecordError("clock", f"{arrival_ms - oldest_ms} ms behind its arrival")
    if oldest_ms < mark.newest_ms - CLOCK_BACK_MS_MAX:
        raise RecordError("clock", f"{mark.newest_ms - oldest_ms} ms behind its source's last")
