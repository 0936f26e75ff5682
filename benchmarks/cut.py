"""The origin of partials that no fold wrote: one cut of one shard, nothing refused or late."""

from aggregator.partials import Origin


def origin(stream: str, window_start_ms: int, window_ms: int, shard: str = "shard-0") -> Origin:
    """An origin of one cut."""
    return Origin(
        stream=stream,
        shard=shard,
        window_start_ms=window_start_ms,
        window_ms=window_ms,
        first_sequence=window_start_ms,
        last_sequence=window_start_ms + 1,
        records=1,
        samples=1,
        duplicates=0,
        quarantined={},
        supplement=False,
        previous=(),
        marks={},
    )
