"""The stream's part of `popsteer bench pipeline`: fold, merge, and a minute end to end.

End to end is what runs in production: `popsteer aggregate` with its MultiLangDaemon, on the
embedded AWS, watched from outside by the objects it writes. The fold is measured on one core from
record bytes to a partial's rows, beside a consumer that reads one JSON document per sample.
"""

import contextlib
import json
import math
import os
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aggregator.estimate import Estimator
from aggregator.histogram import bucket_of
from aggregator.merge import rtt_windows
from aggregator.partials import (
    Origin,
    Partial,
    RttPartial,
    decode,
    decode_origin,
    kind_prefix,
    window_of_key,
)
from aggregator.prefixes import Prefixes
from aggregator.settings import BULK_KINDS
from aggregator.window import Cut, Record, Resume, Rules, ShardFold
from benchmarks.faults.local import EmbeddedAws
from benchmarks.figure import Figure
from benchmarks.loop import descendants, memory_mb
from benchmarks.stream_world import POPS, PREFIXES, ROWS, Templates, pops
from popsteer.aws import kinesis
from popsteer.clock import now_ms
from popsteer.config import Aws
from popsteer.names import SourceId
from popsteer.samples import (
    BULK_STREAM,
    URGENT_STREAM,
    Header,
    Kind,
    Signal,
    SignalBatch,
    encode,
)
from popsteer.samples import decode as decode_record
from popsteer.store import s3_store

FOLD_RECORDS, BASELINE_RECORDS, TEMPLATES = 600, 40, 850
WARM_WINDOWS, FOLD_WINDOWS = 3, 9
CALL_RECORDS = 100
"""Two megabytes a call."""
WINDOW_MS, GRACE_MS = 10_000, 500
SETTLE_S_MAX = 60.0
"""How long the last records may take into partials."""


def figures(folder: Path, samples_per_s: float, seconds: float, seed: int) -> list[Figure]:
    """All figures of the stream; `folder` is for the embedded AWS and the aggregator."""
    return [*_fold(seed), *_end_to_end(folder, samples_per_s, seconds, seed)]


def _fold(seed: int) -> list[Figure]:
    """Per CPU second of this process, so that other work on the machine counts little.

    A record processor folds one window after the other for weeks, in memory that it keeps, so
    what is measured is not its first windows, which compile and grow.
    """
    templates = Templates(FOLD_RECORDS, seed)
    rules = Rules(BULK_STREAM, "shard", BULK_KINDS, WINDOW_MS, GRACE_MS, frozenset(pops()))
    shard = ShardFold(rules, Resume())
    start_ms, lost, rates = now_ms() // WINDOW_MS * WINDOW_MS, 0, []
    for window in range(WARM_WINDOWS + FOLD_WINDOWS):
        at_ms = start_ms + window * WINDOW_MS + 2_000
        bodies = [templates.take(at_ms)[1] for _ in range(FOLD_RECORDS)]
        begun_s = time.process_time()
        cuts = _fold_window(shard, window * FOLD_RECORDS, at_ms, bodies)
        rates.append(FOLD_RECORDS * ROWS / (time.process_time() - begun_s) / 1e6)
        partials = [p for cut in cuts for p in cut.partials if isinstance(p, RttPartial)]
        lost += abs(sum(int(p.count.sum()) for p in partials) - FOLD_RECORDS * ROWS)
    usual = statistics.median(rates[WARM_WINDOWS:])
    return [
        Figure("fold, record to rows, of a usual window", usual, 20, "M samples/s a core", True),
        Figure("fold in pure Python from JSON", _baseline(bodies) / 1e6, 0, "M samples/s", True),
        Figure("samples that the fold lost", lost, 0, ""),
        *_merge(partials),
    ]


def _fold_window(shard: ShardFold, first: int, at_ms: int, bodies: list[bytes]) -> list[Cut]:
    records = (Record(first + number, at_ms, body) for number, body in enumerate(bodies))
    return [*(cut for record in records for cut in shard.take(record)), *shard.finish()]


def _baseline(bodies: list[bytes]) -> float:
    """Samples a CPU second of the obvious consumer: a JSON document and a dict entry each."""
    lines = []
    for batch in map(decode_record, bodies[:BASELINE_RECORDS]):
        pop = batch.header.subjects[0]
        columns = (getattr(batch, name).tolist() for name in ("net", "rtt_us", "lost"))
        rows = zip(*columns, strict=True)
        lines += [json.dumps({"pop": pop, "net": n, "rtt_us": r, "lost": x}) for n, r, x in rows]
    bucket = bucket_of(np.arange(1 << 20, dtype=np.uint32)).tolist()
    histograms: Counter[tuple[int, str, int]] = Counter()
    begun_s = time.process_time()
    for line in lines:
        row = json.loads(line)
        histograms[row["net"], row["pop"], -1 if row["lost"] else bucket[row["rtt_us"]]] += 1
    return len(lines) / (time.process_time() - begun_s)


def _merge(partials: list[RttPartial]) -> list[Figure]:
    """Sums, medians and estimates of all pairs of these partials."""
    prefixes, estimator = Prefixes(), Estimator(60.0, 3_600.0)
    begun_s = time.process_time()
    for window in rtt_windows(partials, prefixes, pops()):
        estimator.observe(window, POPS)
    took_s = time.process_time() - begun_s
    each = took_s / len(estimator) * 1e6
    return [Figure("merge and estimate, for each million pairs", each, 2, "CPU s")]


class Watch(threading.Thread):
    """Notes when each partial is first seen in the bucket."""

    def __init__(self, aws: Aws) -> None:
        super().__init__(daemon=True)
        self._store = s3_store(aws)
        self._over = threading.Event()
        self.seen_ms: dict[str, int] = {}
        self.urgent_ms: dict[str, int] = {}
        self._origins: dict[str, Origin] = {}

    def run(self) -> None:
        """Look again and again, until `end`."""
        while not self._over.wait(0.2):
            for kind, seen_ms in ((Kind.RTT, self.seen_ms), (Kind.SIGNAL, self.urgent_ms)):
                for key in self._store.list(kind_prefix(kind)):
                    seen_ms.setdefault(key, now_ms())

    def end(self) -> None:
        """Look no more."""
        self._over.set()
        self.join()

    def partials(self) -> list[tuple[str, Partial]]:
        """All partials of RTT seen, with their keys."""
        bodies = [(key, self._store.read(key)) for key in sorted(self.seen_ms)]
        return [(key, decode(stored.body)) for key, stored in bodies if stored is not None]

    def origins(self) -> dict[str, Origin]:
        """What all partials seen account for, by key; each is read once."""
        for key in set(self.seen_ms) | set(self.urgent_ms):
            if key not in self._origins and (stored := self._store.read(key)) is not None:
                self._origins[key] = decode_origin(stored.body)
        return dict(self._origins)


def _end_to_end(folder: Path, samples_per_s: float, seconds: float, seed: int) -> list[Figure]:
    templates = Templates(TEMPLATES, seed)
    with _aws(folder) as (aws, aws_pid), _aggregator(folder, aws) as aggregator_pid:
        watch = Watch(aws)
        watch.start()
        # Until the daemon reads: its start is not what is measured here.
        _send(aws, templates, samples_per_s, 0.0)
        _settle(watch, templates.samples)
        started = set(watch.seen_ms) | set(watch.urgent_ms)
        before, used_s = templates.samples, cpu_s((aws_pid, aggregator_pid))
        with _urgent(aws):
            sent_s = _send(aws, templates, samples_per_s, seconds)
        sent = templates.samples - before
        pids = [pid for top in (aws_pid, aggregator_pid) for pid in (top, *descendants(top))]
        memory = memory_mb(pids, "Pss:")
        begun_s = time.monotonic()
        missing = _settle(watch, templates.samples)
        settled_s = time.monotonic() - begun_s
        used_after_s = cpu_s((aws_pid, aggregator_pid))
        watch.end()
        found = watch.partials()
        watch.origins()
        bulk_ms, urgent_ms = (
            {key: seen for key, seen in all_ms.items() if key not in started}
            for all_ms in (watch.seen_ms, watch.urgent_ms)
        )
    wrong = int(np.abs(_counted(found) - templates.counts()).sum())
    return [
        Figure("end to end", sent / sent_s / 1e6, samples_per_s / 1e6, "M samples/s", True),
        *[
            Figure(
                f"CPU of {role}", (after - used_s[role]) / sent * 1e6, math.inf, "s per M samples"
            )
            for role, after in sorted(used_after_s.items())
        ],
        Figure("samples not in partials in time", missing, 0, ""),
        Figure("samples counted wrong, by (prefix, POP)", wrong, 0, ""),
        Figure("last record to its partial", settled_s, 15, "s"),
        Figure("oldest sample of a cut to its partial, p99", _age_s(watch, bulk_ms), 15, "s"),
        Figure("the same of urgent samples, p99", _age_s(watch, urgent_ms), 2.5, "s"),
        Figure(f"memory of the stream's {len(pids)} processes (PSS)", memory, 1_500, "MB"),
    ]


def _send(aws: Aws, templates: Templates, samples_per_s: float, seconds: float) -> float:
    """Put records at this rate; gives the seconds that took, longer where it is not kept."""
    client, begun_s, before = kinesis(aws), time.monotonic(), templates.samples
    while (sent := templates.samples - before) <= samples_per_s * seconds:
        ahead_s = sent / samples_per_s - (time.monotonic() - begun_s)
        time.sleep(max(0.0, ahead_s))
        records = [templates.take(now_ms()) for _ in range(CALL_RECORDS)]
        answer = client.put_records(
            StreamName=BULK_STREAM,
            Records=[{"PartitionKey": key, "Data": body} for key, body in records],
        )
        assert not answer["FailedRecordCount"]
    return time.monotonic() - begun_s


@contextlib.contextmanager
def _urgent(aws: Aws) -> Iterator[None]:
    """Meanwhile a POP reports that it is up, ten times a second."""
    over, client, source = threading.Event(), kinesis(aws), SourceId("p00.signal")
    up = (np.zeros(1, np.uint16), np.full(1, Signal.UP, np.uint8), np.ones(1))

    def beat() -> None:
        number = time.time_ns() // 1_000
        while not over.wait(0.1):
            number += 1
            header = Header(source, number, now_ms(), (pops()[0],))
            body = encode(SignalBatch(header, np.zeros(1, np.uint32), *up))
            client.put_record(StreamName=URGENT_STREAM, PartitionKey=source, Data=body)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _settle(watch: Watch, samples: int) -> int:
    """Wait until all samples are in partials; gives how many are not."""
    deadline_s = time.monotonic() + SETTLE_S_MAX
    while time.monotonic() < deadline_s and _arrived(watch) < samples:
        time.sleep(0.2)
    return abs(samples - _arrived(watch))


def _arrived(watch: Watch) -> int:
    origins = watch.origins()
    return sum(origins[key].samples for key in list(watch.seen_ms) if key in origins)


def _counted(found: list[tuple[str, Partial]]) -> NDArray[np.int64]:
    """Samples in the partials, by POP and prefix number."""
    number = {pop: n for n, pop in enumerate(pops())}
    counts = np.zeros(POPS * PREFIXES, np.int64)
    for _, partial in found:
        assert isinstance(partial, RttPartial)
        pop = np.array([number[name] for name in partial.pops], np.int64)[partial.pop]
        net = (partial.net >> np.uint64(40)).astype(np.int64)
        counts += np.bincount(pop * PREFIXES + net, partial.count, len(counts)).astype(np.int64)
    return counts.reshape(POPS, PREFIXES)


def _age_s(watch: Watch, seen_ms: dict[str, int]) -> float:
    """The age that no sample of 99 in 100 exceeds; of a cut, that of its oldest possible one."""
    origins = watch.origins()
    ages = sorted((seen - window_of_key(k), origins[k].samples) for k, seen in seen_ms.items())
    below = 0.99 * sum(samples for _, samples in ages)
    total = 0
    for age_ms, samples in ages:
        total += samples
        if total >= below:
            return age_ms / 1_000
    return math.inf


ROLES = {
    "console.localaws": "the embedded AWS",
    "MultiLangDaemon": "the JVMs of the KCL",
    "aggregator.child": "the record processors",
    "aggregate": "their supervisor",
}
"""What a process is, by a word of its command line; the first that fits."""


def cpu_s(tops: Sequence[int]) -> dict[str, float]:
    """CPU seconds that these processes and those below them have used, by role."""
    used: dict[str, float] = defaultdict(float)
    for pid in (pid for top in tops for pid in (top, *descendants(top))):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        role = next((role for word, role in ROLES.items() if word in words), "others")
        used[role] += (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")
    return used


@contextlib.contextmanager
def _aws(folder: Path) -> Iterator[tuple[Aws, int]]:
    embedded = EmbeddedAws(folder / "aws", options=())
    embedded.start()
    try:
        assert embedded.process is not None
        yield embedded.aws, embedded.process.pid
    finally:
        embedded.stop()


@contextlib.contextmanager
def _aggregator(folder: Path, aws: Aws) -> Iterator[int]:
    listed = "".join(f'[[pop]]\nid = "{pop}"\n' for pop in pops())
    config = folder / "popsteer.toml"
    config.write_text(f'{listed}[aws]\nendpoint = "{aws.endpoint}"\n')
    command = [sys.executable, "-m", "console.cli", "aggregate", "--config", str(config)]
    with (
        (folder / "aggregate.log").open("wb") as log,
        subprocess.Popen(command, stderr=log) as child,
    ):
        try:
            yield child.pid
        finally:
            child.terminate()
