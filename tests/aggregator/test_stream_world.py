"""The benchmark's records: numbered afresh each time, and what they say they count."""

import numpy as np

from benchmarks.stream_world import POPS, PREFIXES, ROWS, Templates
from popsteer.samples import RECORD_BYTES_MAX, RttBatch, decode


def test_templates_count_what_their_records_hold() -> None:
    templates = Templates(3, seed=1)
    counts = np.zeros((POPS, PREFIXES), np.int64)
    numbers = set()

    for now_ms in (1_700_000_000_000, 1_700_000_001_000):
        for _ in range(3):
            key, body = templates.take(now_ms)
            batch = decode(body)
            assert isinstance(batch, RttBatch)
            assert (batch.header.source, batch.header.t0_ms) == (key, now_ms - 1_000)
            assert len(body) <= RECORD_BYTES_MAX
            numbers.add((key, batch.header.sequence))
            pop = int(batch.header.subjects[0].removeprefix("p"))
            np.add.at(counts[pop], (batch.net >> np.uint64(40)).astype(np.int64), 1)

    assert len(numbers) == 6
    assert templates.samples == 6 * ROWS
    assert (templates.counts() == counts).all()
