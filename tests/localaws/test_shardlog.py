"""The log of a shard against a plain list, through reopening, trimming and torn tails."""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from console.localaws.sequence import encode
from console.localaws.shardlog import LINE_PREFIX, ShardLog

CREATED_US = 1_763_715_723_000_000
SEGMENT_BYTES = 400


def line(tick: int) -> bytes:
    """A record as the log keeps it; the longer, the larger its tick's last digit."""
    number = str(encode(CREATED_US, 0, tick)).encode()
    return LINE_PREFIX + number + b'","Data":"' + b"A" * (tick % 10) * 4 + b'"}\n'


@dataclass
class Naive:
    """The obvious twin: all ticks in a list."""

    ticks: list[int]

    def read(self, after: int, count_max: int, bytes_max: int) -> list[int]:
        """Ticks above `after`, at least one, within both limits."""
        taken: list[int] = []
        size = 0
        for tick in self.ticks:
            if tick <= after:
                continue
            size += len(line(tick))
            if len(taken) == count_max or (taken and size > bytes_max):
                break
            taken.append(tick)
        return taken


@settings(max_examples=60)
@given(
    steps=st.lists(st.integers(1, 50), min_size=1, max_size=60),
    batch=st.integers(1, 7),
    after_place=st.floats(-0.1, 1.1),
    count_max=st.integers(1, 30),
    bytes_max=st.integers(1, 3000),
    dropped=st.integers(0, 2),
    reopened=st.booleans(),
)
def test_reads_are_those_of_a_list(
    steps: list[int],
    batch: int,
    after_place: float,
    count_max: int,
    bytes_max: int,
    dropped: int,
    reopened: bool,
) -> None:
    ticks = [CREATED_US + sum(steps[: i + 1]) for i in range(len(steps))]
    with TemporaryDirectory() as folder:
        log = ShardLog(Path(folder), SEGMENT_BYTES)
        for start in range(0, len(ticks), batch):
            part = ticks[start : start + batch]
            log.append(part, [line(tick) for tick in part])
        for _ in range(min(dropped, len(log.segments) - 1)):
            log.drop_oldest()
        kept = [tick for tick in ticks if tick >= (log.oldest or 0)]
        if reopened:
            log = ShardLog(Path(folder), SEGMENT_BYTES)
            log.load()
        after = CREATED_US + int(after_place * sum(steps))

        chunk = log.read(after, count_max, bytes_max)

        expected = Naive(kept).read(after, count_max, bytes_max)
        rest = [tick for tick in kept if tick > max(expected, default=after)]
        assert chunk.lines == b"".join(map(line, expected))
        assert chunk.count == len(expected)
        assert chunk.last == (expected[-1] if expected else after)
        assert chunk.next_tick == (rest[0] if rest else None)
        assert log.size_bytes == sum(len(line(tick)) for tick in kept)
        assert log.read(log.before(after), 1, 1).lines == b"".join(
            line(tick) for tick in [tick for tick in kept if tick >= after][:1]
        )


def test_a_torn_tail_is_cut_off_and_writing_goes_on(tmp_path: Path) -> None:
    log = ShardLog(tmp_path, SEGMENT_BYTES)
    log.append([CREATED_US, CREATED_US + 1], [line(CREATED_US), line(CREATED_US + 1)])
    file = log.segments[0].path
    with file.open("ab") as torn:
        torn.write(line(CREATED_US + 2)[:-7])

    again = ShardLog(tmp_path, SEGMENT_BYTES)
    again.load()
    again.append([CREATED_US + 3], [line(CREATED_US + 3)])

    assert again.newest == CREATED_US + 3
    assert again.read(0, 10, 10_000).lines == b"".join(line(CREATED_US + i) for i in (0, 1, 3))


def test_garbage_in_a_file_ends_it_there(tmp_path: Path) -> None:
    log = ShardLog(tmp_path, SEGMENT_BYTES)
    log.append([CREATED_US], [line(CREATED_US)])
    with log.segments[0].path.open("ab") as file:
        file.write(b"\0" * 100 + b"\n" + line(CREATED_US + 5))

    again = ShardLog(tmp_path, SEGMENT_BYTES)
    again.load()

    assert again.read(0, 10, 10_000).lines == line(CREATED_US)
