"""The spill on a real disk: order, bounds, damage, kill -9."""

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popsteer.errors import SetupError
from popsteer.names import SourceId
from popsteer.spill import Segment, Spill, Urgency, frame_of, parse

A, B = SourceId("a.rtt"), SourceId("b.rtt")
RECORDS = st.lists(
    st.tuples(
        st.sampled_from([A, B, SourceId("pop-ü.signal")]),
        # Records that hold the frame marker themselves are the hard case.
        st.one_of(st.binary(max_size=60), st.just(b"\xf0PS1\xf0PS1"), st.just(b"")),
    ),
    max_size=12,
)


@pytest.fixture
def spill(tmp_path: Path) -> Iterator[Spill]:
    opened = Spill(tmp_path / "spill", 100_000, segment_bytes=1_000)
    yield opened
    opened.close()


def drain(spill: Spill, urgency: Urgency) -> list[tuple[SourceId, bytes]]:
    found: list[tuple[SourceId, bytes]] = []
    while (segment := spill.oldest(urgency)) is not None:
        found += parse(segment.path.read_bytes())
        spill.remove(segment)
    return found


def record(number: int, size: int = 100) -> bytes:
    return number.to_bytes(4, "big") * (size // 4)


def test_records_come_out_in_order_over_many_segments(spill: Spill) -> None:
    for number in range(50):
        assert spill.append(Urgency.BULK, A if number % 2 else B, record(number))
    assert [body for _, body in drain(spill, Urgency.BULK)] == [record(n) for n in range(50)]
    assert spill.bytes == 0
    assert not spill.waits(A)


def test_what_is_appended_while_a_segment_is_read_is_not_lost(spill: Spill) -> None:
    spill.append(Urgency.BULK, A, record(1))
    segment = spill.oldest(Urgency.BULK)
    assert segment is not None
    spill.append(Urgency.BULK, A, record(2))
    spill.remove(segment)
    assert spill.waits(A)
    assert drain(spill, Urgency.BULK) == [(A, record(2))]


def test_the_oldest_bulk_goes_first_when_the_bound_is_reached(tmp_path: Path) -> None:
    spill = Spill(tmp_path, 5_000, segment_bytes=1_000)
    for number in range(10):
        spill.append(Urgency.URGENT, A, record(number))
    for number in range(100):
        spill.append(Urgency.BULK, B, record(number))
        assert spill.bytes <= 5_000
    urgent = drain(spill, Urgency.URGENT)
    bulk = [body for _, body in drain(spill, Urgency.BULK)]
    assert [body for _, body in urgent] == [record(n) for n in range(10)]
    assert bulk == [record(n) for n in range(100)][-len(bulk) :]
    assert spill.dropped == 100 - len(bulk) > 0
    spill.close()


def test_urgent_records_are_dropped_only_when_no_bulk_is_left(tmp_path: Path) -> None:
    spill = Spill(tmp_path, 3_000, segment_bytes=500)
    spill.append(Urgency.BULK, B, record(0))
    for number in range(60):
        spill.append(Urgency.URGENT, A, record(number))
    assert not spill.waits(B)
    kept = [body for _, body in drain(spill, Urgency.URGENT)]
    assert kept == [record(n) for n in range(60)][-len(kept) :]
    spill.close()


def test_old_records_are_dropped(tmp_path: Path) -> None:
    spill = Spill(tmp_path, 10_000, age_s_max=0.0)
    spill.append(Urgency.BULK, A, record(1))
    spill.append(Urgency.BULK, A, record(2))
    assert drain(spill, Urgency.BULK) == [(A, record(2))]
    assert spill.dropped == 1
    spill.close()


def test_a_second_process_is_refused(spill: Spill, tmp_path: Path) -> None:
    spill.append(Urgency.BULK, A, record(1))
    with pytest.raises(SetupError, match="in use by another process"):
        Spill(tmp_path / "spill", 1_000)


def test_a_disk_that_is_full_refuses_and_nothing_else_is_lost(spill: Spill) -> None:
    spill.append(Urgency.BULK, A, record(1))
    segment = spill.oldest(Urgency.BULK)
    assert segment is not None
    folder = segment.path.parent
    moved = folder.rename(folder.with_name("away"))
    assert not spill.append(Urgency.BULK, A, record(2))
    moved.rename(folder)
    assert spill.append(Urgency.BULK, A, record(3))
    assert drain(spill, Urgency.BULK) == [(A, record(1)), (A, record(3))]


def test_a_frame_that_a_full_disk_refuses_leaves_no_segment(spill: Spill) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        assert not spill.append(Urgency.BULK, A, record(1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert spill.oldest(Urgency.BULK) is None


@given(records=RECORDS, cut=st.integers(0, 2_000))
@settings(max_examples=150)
def test_a_torn_segment_gives_every_whole_frame(
    records: list[tuple[SourceId, bytes]], cut: int
) -> None:
    frames = [frame_of(*one) for one in records]
    body = b"".join(frames)[:cut]
    whole = [i for i in range(len(frames)) if sum(map(len, frames[: i + 1])) <= cut]
    assert parse(body) == [records[i] for i in whole]


@given(records=RECORDS, data=st.data())
@settings(max_examples=150)
def test_a_damaged_frame_costs_only_itself(
    records: list[tuple[SourceId, bytes]], data: st.DataObject
) -> None:
    if not records:
        return
    frames = [frame_of(*one) for one in records]
    hurt = data.draw(st.integers(0, len(frames) - 1))
    at = data.draw(st.integers(0, len(frames[hurt]) - 1))
    frame = bytearray(frames[hurt])
    frame[at] ^= data.draw(st.integers(1, 255))
    frames[hurt] = bytes(frame)
    found = parse(b"".join(frames))
    assert found == [one for i, one in enumerate(records) if i != hurt]


@given(noise=st.binary(max_size=200))
def test_noise_is_passed_over(noise: bytes) -> None:
    assert parse(noise + frame_of(A, b"x")) == [(A, b"x")]


def test_what_was_appended_survives_kill_9(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", _APPEND_FOR_EVER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    said = 0
    while said < 300:
        said = int(child.stdout.readline())
    os.kill(child.pid, signal.SIGKILL)
    rest = child.stdout.read().split("\n")
    child.wait()
    child.stdout.close()
    said = max([said, *(int(line) for line in rest[:-1])])
    spill = Spill(tmp_path, 1 << 30)
    assert spill.waits(A)
    numbers = [int.from_bytes(body[:4], "big") for _, body in drain(spill, Urgency.BULK)]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) > said
    spill.close()


_APPEND_FOR_EVER = """
import sys
from pathlib import Path
from popsteer.names import SourceId
from popsteer.spill import Spill, Urgency
spill = Spill(Path(sys.argv[1]), 1 << 30, segment_bytes=20_000)
number = 0
while number < 1_000_000:
    assert spill.append(Urgency.BULK, SourceId("a.rtt"), number.to_bytes(4, "big") * 200)
    print(number, flush=True)
    number += 1
"""


def test_segments_are_told_apart_by_identity(tmp_path: Path) -> None:
    one, other = (Segment(Urgency.BULK, 1, tmp_path) for _ in range(2))
    assert one != other
