"""The fault matrix in its short form: every fault on one stage, counted exactly.

`popsteer bench pipeline --faults` is the long form, with a million samples for each.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.faults.kinesis_local import chosen
from benchmarks.faults.matrix import Matrix, line
from benchmarks.faults.scenarios import FAULTS
from benchmarks.faults.scene import Fault, Scale

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

SHORT = Scale(samples=60_000, offer_s=3.0, outage_s=4.5)


@pytest.mark.parametrize(
    "fault", [f for f in FAULTS if not f.long], ids=lambda fault: fault.name.replace(" ", "-")
)
def test_every_sample_counts_once(
    matrix: Matrix, fault: Fault, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    if fault.needs_real and not chosen(tmp_path).as_real:
        pytest.skip("kinesis-local has no limits of shards and keeps nothing over a kill")
    outcome = matrix.play(fault, SHORT)

    record_property("fault matrix", line(outcome))
    assert outcome.good, line(outcome)
    assert outcome.counted >= outcome.sent - outcome.quarantined >= SHORT.samples / 2
