"""Lines on the MultiLangDaemon's stderr, taken apart. Pure.

The JVM writes `LEVEL TAB logger TAB message` (see `aggregator.multilang.LOGBACK`); a line that a
record processor wrote on its own stderr comes wrapped in such a message. Anything else, such as a
fault of the JVM itself, is passed on as it is.
"""

import json
import re
from dataclasses import dataclass, field
from typing import Any

SEPARATOR = "\t"
TEXT_MAX = 2_000
HARMLESS = (
    "LeaderDecider uninitialized",  # the leader is not used in 2X-compatible mode
    "operating range metadata",  # nor are the workers' load metrics
    "sun.misc.Unsafe",
    "terminally deprecated",
)
"""What a healthy daemon says at warning level."""
ECHO = '{"event": '
"""The JVM logs a processor's line and echoes it as it was; the echo is dropped."""

_FROM_CHILD = re.compile(r"Received error line from subprocess \[(.*)\] for shard (\S+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that was told."""

    event: str
    """What a record processor calls it; `daemon` for the JVM itself."""
    level: str = "info"
    fields: dict[str, Any] = field(default_factory=dict)


def parse(text: str) -> Line | None:
    """What a line tells; None for blank and harmless ones."""
    text = text.strip()[:TEXT_MAX]
    if not text or text.startswith(ECHO) or any(part in text for part in HARMLESS):
        return None
    level, _, rest = text.partition(SEPARATOR)
    logger, separator, message = rest.partition(SEPARATOR)
    if not separator:
        return Line("daemon", "warning", {"text": text})
    child = _FROM_CHILD.search(message)
    if child is None:
        return Line("daemon", level.lower(), {"logger": logger, "text": message.strip()})
    return _of_child(child[1], child[2])


def _of_child(text: str, shard: str) -> Line:
    try:
        fields = json.loads(text)
        event = fields.pop("event")
    except (ValueError, KeyError, AttributeError, TypeError):
        # Not ours: the interpreter's own last words.
        return Line("processor", "error", {"shard": shard, "text": text})
    return Line(event, LEVELS.get(event, "info"), fields)


LEVELS = {
    "progress": "debug",
    "cut": "debug",
    "crashed": "error",
    "conflict": "error",
    "lost": "error",
    "write_failed": "warning",
    "resume_failed": "warning",
    "checkpoint_failed": "warning",
    "quarantined": "warning",
}
