"""`python -m aggregator.compactor`: makes the archive's files that are due, then ends.

A process of its own, started now and then by the aggregator, so that what merging needs of memory
and time is nobody else's. Several at once do no harm.
"""

import sys

from aggregator import settings
from aggregator.archive import compact
from popsteer.clock import now_ms
from popsteer.errors import PopsteerError
from popsteer.store import s3_store
from popsteer.telemetry import configure


def main() -> int:
    """Compact once; gives the exit code."""
    log = configure("compactor")
    try:
        written = compact(s3_store(settings.load().aws), now_ms())
    except PopsteerError as error:
        log.warning("compaction_failed", reason=str(error))
        return error.exit_code
    log.info("compacted", files=written)
    return 0


if __name__ == "__main__":
    sys.exit(main())
