"""Supervises the KCL: one MultiLangDaemon per stream, kept running, ended cleanly.

It owns the JVMs and nothing of the data: leases, checkpoints and windows are theirs and their
record processors'. It tells what they tell, as structured lines and as metrics.
"""

import asyncio
import os
import random
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from aggregator import multilang, settings
from aggregator.gauges import Gauges
from aggregator.lines import parse
from aggregator.settings import ConsumerSettings
from aggregator.tether import tethered
from popsteer import vitals
from popsteer.aws import environment
from popsteer.clock import now_ms
from popsteer.config import Config
from popsteer.heartbeat import Alarm, Stage, bounds_s
from popsteer.telemetry import Logger, configure, serve_metrics

if TYPE_CHECKING:
    from collections.abc import Mapping

STOP_S_MAX = 7.0
"""The daemon asks its processors to stop and waits for them; then it is ended."""
PAUSE_S_MIN, PAUSE_S_MAX = 0.5, 30.0
HEALTHY_S = 60.0
"""A daemon that ran for this long starts again without delay."""
LINE_BYTES_MAX = 1 << 20
WATCH_S = 5.0
"""How often it is looked whether the streams go on."""
FATAL = (
    # A record processor has died. The daemon cannot go on without it: it asks the others to stop,
    # waits for all of them, and ends; there is nothing to wait for.
    b"Reached end of STDIN of child process",
    # A batch could not be handed on, and the daemon is about to go on behind it.
    b"Caught exception from handleInput",
    b"incoming data has been skipped",
)
"""What a daemon says when it must be ended at once; the next one goes on from what is written."""
COMPACT_S = 1_200.0
"""Hours of partials are merged soon after their end, and old ones deleted."""


def run(config: Config) -> None:
    """Fold the streams until SIGTERM or SIGINT; leaves no process.

    Raises:
        SetupError: Java or the KCL's jars are missing, or the metrics port is taken.
    """
    log = configure("aggregator")
    serve_metrics(config.telemetry.metrics)
    vitals.tell(config)
    asyncio.run(_supervise_all(config, log))


async def _supervise_all(config: Config, log: Logger) -> None:
    gauges = Gauges()
    daemons = [
        StreamDaemon(config, one, gauges, log.bind(stream=one.stream))
        for one in (settings.bulk(config), settings.urgent(config))
    ]
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with asyncio.TaskGroup() as group:
        for daemon in daemons:
            group.create_task(daemon.keep_running(stop))
        group.create_task(_watch(gauges, Alarm(bounds_s(config)), stop, log))
        group.create_task(_compact_now_and_then(daemons[0].environment, stop, log))


async def _watch(gauges: Gauges, alarm: Alarm, stop: asyncio.Event, log: Logger) -> None:
    """Ring when what is written grows old."""
    while not stop.is_set():
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), WATCH_S)
        stages = gauges.newest().items()
        written_ms = {stream: ms for (stage, stream), ms in stages if stage is Stage.PARTIAL}
        alarm.look(written_ms, now_ms(), log)


async def _compact_now_and_then(
    environment: "Mapping[str, str]", stop: asyncio.Event, log: Logger
) -> None:
    """Run the compactor every `COMPACT_S`, spread so that many machines do not meet in it."""
    while not stop.is_set():
        pause_s = random.uniform(0.5, 1.5) * COMPACT_S  # noqa: S311
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), pause_s)
            return
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "aggregator.compactor", env=dict(environment), stdin=DEVNULL
        )
        stopped = asyncio.create_task(stop.wait())
        ended = asyncio.create_task(process.wait())
        await asyncio.wait({ended, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if process.returncode is None:
            # What is written is whole, and what is not is made by the next one.
            process.kill()
        if await ended and not stop.is_set():
            log.error("compactor_ended", code=process.returncode)
        stopped.cancel()


class StreamDaemon:
    """The MultiLangDaemon of one stream."""

    def __init__(
        self, config: Config, consumer: ConsumerSettings, gauges: Gauges, log: Logger
    ) -> None:
        self._gauges = gauges
        self._log = log
        self._hang_s_max = config.aggregate.hang_s_max
        self.stream = consumer.stream
        folder = config.data_dir / "aggregate"
        folder.mkdir(parents=True, exist_ok=True)
        worker_id = f"{config.aggregate.worker_id or socket.gethostname()}-{consumer.stream}"
        consumer_file = folder / f"{consumer.stream}.json"
        properties_file = folder / f"{consumer.stream}.properties"
        logback_file = folder / "logback.xml"
        settings.save(consumer, consumer_file)
        properties_file.write_text(multilang.properties(config, consumer, worker_id))
        logback_file.write_text(multilang.LOGBACK)
        self._command = tethered(
            multilang.command(config.aggregate.java_heap_mb, properties_file, logback_file)
        )
        self.environment = process_environment(os.environ, config, consumer_file)

    async def keep_running(self, stop: asyncio.Event) -> None:
        """Start the daemon again whenever it ends, until told to stop."""
        pause_s = PAUSE_S_MIN
        loop = asyncio.get_running_loop()
        while not stop.is_set():
            started_s = loop.time()
            code = await self._run_once(stop)
            if stop.is_set():
                return
            if loop.time() - started_s > HEALTHY_S:
                pause_s = PAUSE_S_MIN
            self._gauges.restarts.labels(self.stream).inc()
            self._gauges.forget(self.stream)
            self._log.error("daemon_ended", code=code, again_in_s=round(pause_s, 1))
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), pause_s)
            # Decorrelated jitter: daemons that one outage ended do not return together.
            pause_s = min(PAUSE_S_MAX, random.uniform(PAUSE_S_MIN, pause_s * 3))  # noqa: S311

    async def _run_once(self, stop: asyncio.Event) -> int:
        process = await asyncio.create_subprocess_exec(
            *self._command,
            env=self.environment,
            stdin=DEVNULL,
            stdout=DEVNULL,
            stderr=PIPE,
            limit=LINE_BYTES_MAX,
            # A group of its own: a Ctrl-C in the terminal reaches us alone, and its processors
            # can be ended with it.
            start_new_session=True,
        )
        self._log.info("daemon_started", pid=process.pid)
        told = asyncio.create_task(self._tell_all(process))
        stopped = asyncio.create_task(stop.wait())
        watched = asyncio.create_task(self._end_when_hanging(process))
        try:
            ended = asyncio.create_task(process.wait())
            await asyncio.wait({ended, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if process.returncode is None:
                process.terminate()
                with suppress(TimeoutError):
                    await asyncio.wait_for(asyncio.shield(ended), STOP_S_MAX)
        finally:
            _end_group(process.pid)
            code = await process.wait()
            stopped.cancel()
            watched.cancel()
            await told
        return code

    async def _end_when_hanging(self, process: Process) -> None:
        """A daemon or processor that stands still keeps its leases: nobody else would go on."""
        while self._gauges.silent_s(self.stream) < self._hang_s_max:  # noqa: ASYNC110 -- time
            await asyncio.sleep(WATCH_S)
        self._log.error("daemon_hangs", silent_s=round(self._gauges.silent_s(self.stream), 1))
        _end_group(process.pid)

    async def _tell_all(self, process: Process) -> None:
        assert process.stderr is not None
        while True:
            try:
                text = await process.stderr.readline()
            except ValueError:
                continue  # longer than the limit: dropped by the reader
            if not text:
                return
            line = parse(text.decode("utf-8", "replace"))
            if any(words in text for words in FATAL):
                _end_group(process.pid)
            if line is not None:
                self._gauges.observe(line)
                report = getattr(self._log, line.level, self._log.warning)
                report(line.event, **line.fields)


def process_environment(
    own: "Mapping[str, str]", config: Config, consumer_file: Path
) -> dict[str, str]:
    """The environment of a daemon, which its record processors inherit."""
    return {
        **own,
        **environment(config.aws),
        settings.VARIABLE: str(consumer_file),
        # The daemon splits its command at blanks, so it gets a bare name, found by the PATH.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{own.get('PATH', os.defpath)}",
        "PYTHONUNBUFFERED": "1",
        # One light process per shard: no thread pools, no heaps per thread.
        "MALLOC_ARENA_MAX": "2",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }


def _end_group(leader: int) -> None:
    """End the daemon and every record processor that outlived it."""
    with suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)
