"""What a process tells of itself: structured lines on stderr, Prometheus metrics over HTTP.

stdout is left alone: in a KCL child it is the protocol.
"""

import logging
import sys
from dataclasses import dataclass, field

import structlog

from popsteer.config import host_port
from popsteer.errors import SetupError

Logger = structlog.stdlib.BoundLogger


def configure(component: str, level: int = logging.INFO) -> Logger:
    """Structured JSON lines on stderr, each with the component's name; gives the logger."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_to_stderr,
    )
    structlog.contextvars.bind_contextvars(component=component)
    return logger()


def _to_stderr(*_: object) -> structlog.WriteLogger:
    """To what stderr is now, not to what it was when logging began."""
    return structlog.WriteLogger(sys.stderr)


def logger() -> Logger:
    """The logger of this process; before `configure` it writes to nobody's stdout."""
    if not structlog.is_configured():
        structlog.configure(logger_factory=_to_stderr)
    log: Logger = structlog.get_logger()
    return log


def serve_metrics(listen: str) -> None:
    """Serve this process's Prometheus metrics on HOST:PORT from a daemon thread; "" is none.

    Raises:
        SetupError: the port cannot be bound.
    """
    if not listen:
        return
    from prometheus_client import start_http_server

    host, port = host_port(listen, "telemetry.metrics")
    try:
        start_http_server(port, host)
    except OSError as error:
        raise SetupError(f"telemetry.metrics = {listen}: {error.strerror}") from None


@dataclass(slots=True)
class OncePerKey:
    """Says whether a thing is seen for the first time: log once per source, count always."""

    limit: int = 1_000
    _seen: set[str] = field(default_factory=set)

    def first(self, key: str) -> bool:
        """True the first time for each key; after `limit` keys always False."""
        if key in self._seen or len(self._seen) >= self.limit:
            return False
        self._seen.add(key)
        return True
