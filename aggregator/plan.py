"""The planner as a process: keys, store and targets in, steps until it is told to end."""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator

from prometheus_client import REGISTRY

from aggregator.planner import STEP_S, Planner
from aggregator.pulse import Pulse
from popsteer import targets as targets_format
from popsteer import vitals
from popsteer.clock import now_ms
from popsteer.config import Config
from popsteer.errors import ConfigError, PopsteerError
from popsteer.heartbeat import Alarm, bounds_s
from popsteer.memory import keep_little
from popsteer.signing import Signer, Verifier, create_signer, verifier
from popsteer.store import s3_store
from popsteer.telemetry import configure, serve_metrics

ONCE_PATIENCE_S = 60.0


def run(config: Config, once: bool = False) -> None:
    """Plan until SIGTERM, or until one table was judged.

    Raises:
        ConfigError: keys, targets or policies cannot be used.
        PopsteerError: with `once`, there was nothing to plan with.
    """
    log = configure("plan")
    keep_little()
    serve_metrics(config.telemetry.metrics)
    signer, trusted = keys_of(config)
    targets = targets_format.load(config.path(config.plan.targets)) if config.plan.targets else None
    planner = Planner(config, s3_store(config.aws), signer, trusted, targets)
    REGISTRY.register(Pulse(planner, config.aws.bulk_stream, bounds_s(config), now_ms))
    vitals.tell(config)
    log.info("planning", pops=len(planner.fleet.pops), targets=len(targets) if targets else 0)
    if once:
        _run_once(planner)
        return
    ended, alarm = threading.Event(), Alarm(bounds_s(config))
    with _on_signals(ended.set):
        while not ended.is_set():
            started = time.monotonic()
            planner.step(now_ms())
            alarm.look(planner.known.heard.newest_ms(), now_ms(), log)
            ended.wait(max(0.05, STEP_S - (time.monotonic() - started)))
    log.info("ended")


def keys_of(config: Config) -> tuple[Signer | None, Verifier | None]:
    """What the planner signs with, made at the first start, and whom it believes.

    Raises:
        ConfigError: a key is none, or nobody would believe what the planner signs.
    """
    trust = config.trust
    signer = create_signer(config.path(trust.signing_key)) if trust.signing_key else None
    trusted = verifier(trust.public_keys) if trust.public_keys else None
    if signer and trusted and signer.public_hex not in map(str.lower, trust.public_keys):
        raise ConfigError(
            f"trust.signing_key = {trust.signing_key}: its public key {signer.public_hex} is not "
            "in trust.public_keys, so nobody would believe what this planner signs; add it there, "
            "here and on all DNS nodes, or name the right key"
        )
    return signer, trusted


def _run_once(planner: Planner) -> None:
    """Step until a table was published or refused.

    Raises:
        PopsteerError: it was refused, or nothing came to plan with.
    """
    until = time.monotonic() + ONCE_PATIENCE_S
    while time.monotonic() < until:
        planner.step(now_ms())
        if planner.refused:
            raise PopsteerError(f"the table was refused: {planner.refused}")
        if planner.published:
            return
        time.sleep(STEP_S)
    raise PopsteerError("no table: there are no measurements to plan with; do the probes run?")


@contextlib.contextmanager
def _on_signals(end: Callable[[], None]) -> Iterator[None]:
    """SIGTERM and SIGINT end the loop between two steps; handlers are put back afterwards."""

    def handle(_number: int, _frame: object) -> None:
        end()

    old = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
