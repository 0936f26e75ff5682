"""Keeps processes running: starts them, logs them, starts them again, ends them in order.

A process that ends is started again after a pause that doubles; one that ran well for a while
starts from the shortest pause. All end with this process, even when it is killed with -9.
"""

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from popsteer.errors import SetupError
from popsteer.process import end_with_parent

PAUSE_S = (0.5, 10.0)
"""First and longest pause before a restart."""
WELL_S = 30.0
GRACE_S = 12.0
"""From SIGTERM to SIGKILL; the aggregator needs about eight seconds for its daemons."""
LOG_BYTES_MAX = 10 * 1024 * 1024
"""A larger one becomes the old log, of which there is one."""
LOG_CHECK_S = 60.0
OWN_FAULT_CODES = (2, 3)
"""Exit codes of configuration and set-up errors: starting again would not help."""

SMALL = {
    "MALLOC_ARENA_MAX": "2",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "ARROW_DEFAULT_MEMORY_POOL": "system",
}
"""Nine processes on one laptop: no arenas and thread pools per core."""


@dataclass(frozen=True, slots=True)
class Program:
    """One process to keep running."""

    name: str
    arguments: tuple[str, ...]
    """After the interpreter."""


class Process:
    """One program, kept running until `stop`."""

    def __init__(self, program: Program, folder: Path) -> None:
        self.program = program
        self.restarts = 0
        self.running: asyncio.subprocess.Process | None = None
        self._log = folder / "logs" / f"{program.name}.log"
        self._pid = folder / "run" / f"{program.name}.pid"
        self._stopped = asyncio.Event()

    async def run(self, ready: asyncio.Event) -> None:
        """Keep it running until `stop` is called.

        Raises:
            SetupError: before `ready` is set it ended by its own configuration's fault.
        """
        pause_s = PAUSE_S[0]
        while not self._stopped.is_set():
            started_s = asyncio.get_running_loop().time()
            code = await self._run_once()
            if self._stopped.is_set():
                return
            if code in OWN_FAULT_CODES and not ready.is_set():
                raise SetupError(f"{self.program.name}: {self._last_words()}")
            if asyncio.get_running_loop().time() - started_s > WELL_S:
                pause_s = PAUSE_S[0]
            self.restarts += 1
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopped.wait(), pause_s)
            pause_s = min(2 * pause_s, PAUSE_S[1])

    async def _run_once(self) -> int:
        with self._open_log() as log:
            self.running = await asyncio.create_subprocess_exec(
                sys.executable,
                *self.program.arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | SMALL,
                start_new_session=True,
                preexec_fn=end_with_parent,
            )
        self._pid.parent.mkdir(exist_ok=True)
        self._pid.write_text(f"{self.running.pid}\n")
        code = await self._ended(self.running)
        self._pid.unlink(missing_ok=True)
        return code

    async def _ended(self, running: asyncio.subprocess.Process) -> int:
        """Its exit code; its log is kept small meanwhile, for it may run for months."""
        while True:
            with suppress(TimeoutError):
                return await asyncio.wait_for(running.wait(), LOG_CHECK_S)
            self._keep_log_small()

    def _open_log(self) -> BinaryIO:
        self._keep_log_small()
        return self._log.open("ab")

    def _keep_log_small(self) -> None:
        if self._log.exists() and self._log.stat().st_size > LOG_BYTES_MAX:
            # Who has it open appends, so it goes on at the beginning.
            shutil.copyfile(self._log, self._log.with_suffix(".log.1"))
            os.truncate(self._log, 0)

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return f"{lines[-1] if lines else 'no word'} (see {self._log})"

    async def stop(self) -> None:
        """SIGTERM, and after the grace SIGKILL to its whole group."""
        self._stopped.set()
        running = self.running
        if running is None or running.returncode is not None:
            return
        with suppress(ProcessLookupError):
            running.terminate()
        try:
            await asyncio.wait_for(running.wait(), GRACE_S)
        except TimeoutError:
            with suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)
            await running.wait()


async def stop_in_order(waves: Sequence[Sequence[Process]]) -> None:
    """Stop each wave whole before the next: who asks before who answers."""
    for wave in waves:
        await asyncio.gather(*(process.stop() for process in wave))
