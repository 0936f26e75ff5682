"""One fault played on a stage: samples flow, something breaks, and in the end everything counts.

The fault itself is a generator (`benchmarks.faults.scenarios`): before its `yield` it breaks and
mends, behind it, when all is counted, it shows that it was really there.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from botocore.exceptions import BotoCoreError, ClientError

from benchmarks.faults.processes import BULK_WINDOW_S, ProducerProcess
from benchmarks.faults.producer import Status
from benchmarks.faults.stage import LOOK_S, NotMetError, Stage
from benchmarks.faults.watch import LOOKBACK_MS
from benchmarks.faults.world import SPREAD_MS, Name, Tally, batch, pops, samples, tally
from popsteer.clock import now_ms
from popsteer.errors import PopsteerError
from popsteer.samples import Kind, rows

SETTLE_S_MAX = 120.0
REPORT_MS = 200
"""A producer has told of a batch within this time."""
HELD_SAMPLES_MAX = 2_000_000
"""Half of what an outbox holds at 8 bytes a sample."""
STEADY_SAMPLES_PER_S = 80_000
"""Below the limits of two shards, so that a backlog can be caught up."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How much and how long."""

    samples: int
    """At the least, for each fault."""
    offer_s: float
    """In about this time, besides what the fault itself takes."""
    outage_s: float

    def rate(self, lasts_s: float) -> float:
        """Samples a second around a fault that lasts so long."""
        return min(STEADY_SAMPLES_PER_S, self.samples / (self.offer_s + lasts_s))


@dataclass(frozen=True, slots=True)
class Outcome:
    """One line of the matrix."""

    fault: str
    sent: int
    counted: int
    quarantined: int
    """Samples whose records were refused, as they should be."""
    wrong: int
    """By how much the counts differ from what was sent, over all (prefix, POP), unless
    quarantined."""
    recovery_s: float
    """From the end of the fault until all that was measured up to then is in partials; a kill has
    no length."""
    error: str = ""

    @property
    def good(self) -> bool:
        """Whether every sample counts once, or is among the quarantined ones."""
        return not self.wrong and not self.error


@dataclass
class Scene:
    """A running fault, as its scenario sees it."""

    stage: Stage
    run: int
    scale: Scale
    producer: ProducerProcess
    names: list[Name] = field(default_factory=list)
    """Batches that were sent past the producer."""
    signals_before: Counter[str] = field(default_factory=Counter)
    quarantined_before: Counter[str] = field(default_factory=Counter)
    duplicates_before: int = 0

    def __post_init__(self) -> None:
        watch = self.stage.watch
        self.signals_before = watch.signals.copy()
        self.quarantined_before = watch.quarantined.copy()
        self.duplicates_before = watch.duplicates

    @property
    def sent(self) -> list[Name]:
        """All batches so far."""
        return [*self.producer.names, *self.names]

    @property
    def status(self) -> Status:
        """The producer's last report."""
        self.stage.wait(lambda: self.producer.status, "the producer does not report")
        assert self.producer.status is not None
        return self.producer.status

    @property
    def duplicates(self) -> int:
        """Records dropped as seen before, in this run."""
        return self.stage.watch.duplicates - self.duplicates_before

    def require(self, holds: object, why: str) -> None:
        """Refuse a run in which the fault did not come about.

        Raises:
            NotMetError: it did not.
        """
        if not holds:
            raise NotMetError(f"the fault did not come about: {why}")

    def wait(self, what: Callable[[], object], why: str, timeout_s: float = 90.0) -> None:
        """See `Stage.wait`."""
        self.stage.wait(what, why, timeout_s)

    def counted(self) -> Tally:
        """What the partials say of this run."""
        watch, found = self.stage.watch, Tally()
        found.rtt, found.queries = watch.runs[self.run].rtt, watch.runs[self.run].queries
        found.signals = Counter({p: watch.signals[p] - self.signals_before[p] for p in pops()})
        return found

    def partials(self) -> int:
        """How many there are."""
        self.stage.watch.look()
        return len(self.stage.watch.seen)

    def refused(self) -> Counter[str]:
        """Records that were quarantined in this run, by reason."""
        return self.stage.watch.quarantined - self.quarantined_before


Play = Callable[[Scene], Iterator[None]]


@dataclass(frozen=True, slots=True)
class Fault:
    """A kind of fault."""

    name: str
    play: Play
    long: bool = False
    """Whether only the long form plays it."""
    lasting: bool = False
    """Whether it lasts as long as an outage."""
    rate: float = 0.0
    """Samples a second, where the fault is about that."""
    samples_min: int = 0
    spill_bytes: int = 0
    needs_real: bool = False
    """Only an AWS `as_real` can play it."""


def play(stage: Stage, fault: Fault, run: int, scale: Scale) -> Outcome:
    """Play a fault; whatever goes wrong is told in the outcome."""
    producer = stage.start_producer(run, fault.spill_bytes)
    scene = Scene(stage, run, scale, producer)
    try:
        stage.ready()
        return _played(scene, fault)
    except (PopsteerError, OSError, ClientError, BotoCoreError) as error:
        # One fault that could not be played ends no other one's run.
        stage.broken = True
        producer.end()
        expected = tally(name for name in scene.sent if not name.step_ms)
        counted = scene.counted()
        sent = samples(scene.sent)
        wrong = expected.wrong(counted)
        return Outcome(fault.name, sent, counted.samples, 0, wrong, float("inf"), _words(error))


def _words(error: Exception) -> str:
    return str(error) if isinstance(error, PopsteerError) else repr(error)


def _played(scene: Scene, fault: Fault) -> Outcome:
    scale, producer = scene.scale, scene.producer
    rate = fault.rate or scale.rate(scale.outage_s if fault.lasting else 0.0)
    if fault.spill_bytes:
        # What the disk does not take must fit into memory; more than that is lost, as it should be.
        rate = min(rate, HELD_SAMPLES_MAX / scale.outage_s)
    producer.offer(rate)
    before = scene.stage.rng.uniform(0.2, 0.4) * scale.offer_s * rate
    scene.wait(lambda: samples(scene.sent) >= before, "the producer offers nothing")
    playing = fault.play(scene)
    next(playing)
    scene.stage.watch.lookback_ms = int(LOOKBACK_MS + 2_000 * scale.outage_s)
    recovery_s = _settled(scene, max(scale.samples, fault.samples_min), rate)
    for _ in playing:  # what follows the one `yield`
        pass
    producer.end()
    good = [name for name in scene.sent if not name.step_ms]
    bad = [name for name in scene.sent if name.step_ms]
    expected, counted, refused = tally(good), scene.counted(), scene.refused().total()
    scene.stage.signals_sent += expected.signals
    error = "" if refused == len(bad) else f"{refused} records quarantined instead of {len(bad)}"
    outcome = Outcome(
        fault.name,
        sent=samples(scene.sent),
        counted=counted.samples,
        quarantined=samples(bad),
        wrong=expected.wrong(counted),
        recovery_s=recovery_s,
        error=error,
    )
    scene.stage.broken |= not outcome.good
    return outcome


def _settled(scene: Scene, wanted: int, rate: float) -> float:
    """Offer what is wanted, wait until all is counted; gives the seconds until recovery."""
    recovery, mended_s = Recovery(scene), time.monotonic()
    # A machine that is too slow for the rate gets three times as long.
    offered_s = mended_s + SETTLE_S_MAX + 3 * max(0, wanted - samples(scene.sent)) / rate
    last, stop_s = Tally(), float("inf")
    while True:
        scene.stage.look()
        recovery.look()
        now_s = time.monotonic()
        if stop_s == float("inf") and samples(scene.sent) >= wanted and recovery.known:
            scene.producer.offer(0)
            scene.wait(lambda: not scene.status.rate, "the producer does not pause")
            stop_s, last = now_s, tally(name for name in scene.sent if not name.step_ms)
        if stop_s < now_s and scene.producer.is_idle() and not last.wrong(scene.counted()):
            return recovery.took_s
        if now_s - min(stop_s, offered_s) > SETTLE_S_MAX:
            _fail(scene, last)
        time.sleep(LOOK_S)


class Recovery:
    """How long it takes from now until all that is measured in the present window is counted.

    Of a stream that nothing has disturbed that is the rest of the window, the grace and the way.
    """

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._begun_s = time.monotonic()
        window_ms = BULK_WINDOW_S * 1_000
        self._end_ms = (now_ms() // window_ms + 1) * window_ms
        self._measured: int | None = None
        self.took_s = float("inf")

    @property
    def known(self) -> bool:
        """Whether the window is over, so that its samples are known."""
        return self._measured is not None

    def look(self) -> None:
        """See whether it is over."""
        if now_ms() < self._end_ms + SPREAD_MS + REPORT_MS:
            return
        if self._measured is None:
            self._measured = _measured_before(self._scene.sent, self._end_ms)
        counted = self._scene.stage.watch.before(self._scene.run, self._end_ms)
        if counted >= self._measured and self.took_s == float("inf"):
            self.took_s = time.monotonic() - self._begun_s


def _fail(scene: Scene, expected: Tally) -> None:
    counted, status = scene.counted(), scene.producer.status
    raise NotMetError(
        f"{expected.samples} samples were to be counted and {counted.samples} were, "
        f"{expected.wrong(counted)} wrong; the producer: {status}"
    )


def _measured_before(names: list[Name], event_ms: int) -> int:
    """RTT samples measured before a time."""
    total = 0
    for name in names:
        if name.kind is not Kind.RTT or name.step_ms or name.t0_ms >= event_ms:
            continue
        held = batch(name)
        early = rows(held)
        if name.t0_ms + SPREAD_MS > event_ms:
            early = int(np.count_nonzero(held.dt_ms < event_ms - name.t0_ms))
        total += early
    return total
