"""The processes of a stage: producers and `popsteer aggregate`, to be started, stopped and killed.

Each has a folder; what a supervisor has started is found by that folder in its environment, as
the kernel tells it.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import msgspec

from benchmarks.faults.producer import Command, Offer, Offered, Report, Start, Status
from benchmarks.faults.world import Name, pops
from popsteer.config import Aws

STOP_S_MAX = 15.0
BULK_WINDOW_S = 2
"""Short, so that one fault meets many cuts."""
HANG_S_MAX = 300
"""As by default."""

_REPORT = msgspec.json.Decoder(Report)


@dataclass
class Worker:
    """`popsteer aggregate` under a worker id."""

    folder: Path
    worker_id: str
    process: subprocess.Popen[bytes] | None = None

    def start(self, aws: Aws, hang_s_max: int = HANG_S_MAX) -> None:
        """Start it; its lines go to `lines` in its folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / "popsteer.toml"
        listed = "".join(f'[[pop]]\nid = "{pop}"\n' for pop in pops())
        config.write_text(
            f'{listed}[aws]\nendpoint = "{aws.endpoint}"\nbulk_stream = "{aws.bulk_stream}"\n'
            f'urgent_stream = "{aws.urgent_stream}"\nbucket = "{aws.bucket}"\n'
            f'[aggregate]\nworker_id = "{self.worker_id}"\nbulk_window_s = {BULK_WINDOW_S}\n'
            f"hang_s_max = {hang_s_max}\n"
        )
        command = [sys.executable, "-m", "console.cli", "aggregate", "--config", str(config)]
        with (self.folder / "lines").open("ab") as lines:
            self.process = subprocess.Popen(command, stderr=lines)

    def pids(self, program: str, stream: str = "") -> list[int]:
        """Living processes below the supervisor that run `program`, those of one stream first."""
        mark = f"{self.folder}/"
        return [
            pid
            for pid, environment, line in all_processes()
            if mark in environment and f"/{stream}" in environment and program in line
        ]

    def kill(self) -> None:
        """Kill -9 of the supervisor; what it has started must end by itself."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def signal_all(self, number: int) -> None:
        """Send a signal to the supervisor and all below it."""
        assert self.process is not None
        for pid in (self.process.pid, *self.pids("")):
            os.kill(pid, number)

    def told(self, event: str, stream: str) -> int:
        """How often it has told of an event of a stream, in all its lives."""
        lines = (self.folder / "lines").read_bytes().splitlines()
        words = (f'"event": "{event}"'.encode(), f'"stream": "{stream}"'.encode())
        return sum(all(word in line for word in words) for line in lines)

    def stop(self) -> None:
        """SIGTERM, and wait until nothing of it is left."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def all_processes() -> Iterator[tuple[int, str, str]]:
    """Pid, environment and command line of every process that may be looked at (proc(5))."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            environment = (entry / "environ").read_bytes().decode("utf-8", "replace")
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if line:
            yield int(entry.name), environment, line


@dataclass
class ProducerProcess:
    """A producer, seen by what it reports."""

    start: Start
    spill_bytes: int = 0
    """Where given, the spill's file system holds so much and no more; nothing at all, where no
    file system can be mounted."""
    names: list[Name] = field(default_factory=list)
    """Every batch that it may have sent, of all lives."""
    status: Status | None = None
    _process: subprocess.Popen[str] | None = None
    _reader: threading.Thread | None = None

    def launch(self, life: int = 0) -> None:
        """Start a life."""
        folder = Path(self.start.folder)
        (folder / "spill").mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "benchmarks.faults.producer"]
        small = _small_disk(folder / "spill", self.spill_bytes) if self.spill_bytes else []
        command = [*small, *command]
        writes = bool(small) or not self.spill_bytes
        with (folder / "lines").open("ab") as lines:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=lines, text=True
            )
        self.status = None
        assert self._process.stdout is not None
        self._reader = threading.Thread(
            target=self._read, args=(self._process.stdout,), daemon=True
        )
        self._reader.start()
        start = msgspec.structs.replace(self.start, life=life, writes=writes)
        self._write(msgspec.json.encode(start))

    def tell(self, command: Command) -> None:
        """Have it do something."""
        self._write(msgspec.json.encode(command))

    def offer(self, samples_per_s: float) -> None:
        """From now on at this rate; 0 is none."""
        self.tell(Offer(samples_per_s))

    def is_idle(self) -> bool:
        """Whether it offers nothing and all that it had is accepted."""
        return self.status is not None and not self.status.rate and not self.status.backlog_bytes

    def signal(self, number: int) -> None:
        """Send it a signal, and do not wait."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """Kill -9; its last reports are still read."""
        assert self._process is not None
        self._process.kill()
        self._join()

    def end(self) -> None:
        """Let it finish."""
        if self._process is not None and self._process.poll() is None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._join()

    @property
    def ended(self) -> bool:
        """Whether it has ended, by itself or not."""
        return self._process is not None and self._process.poll() is not None

    def _join(self) -> None:
        assert self._process is not None
        assert self._reader is not None
        try:
            self._process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):  # what it did not read any more
                self._process.stdin.close()

    def _write(self, line: bytes) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(line.decode() + "\n")
        self._process.stdin.flush()

    def _read(self, lines: IO[str]) -> None:
        with lines:
            for line in lines:
                try:
                    report = _REPORT.decode(line)
                except msgspec.DecodeError:
                    continue  # torn by a kill: the batch after it was never offered
                if isinstance(report, Offered):
                    self.names.append(report.name)
                else:
                    self.status = report


def _small_disk(folder: Path, size_bytes: int) -> list[str]:
    """The start of a command that sees a file system of its own, of this size, at `folder`.

    Empty where nobody may mount one.
    """
    namespaces = ["--mount"] if os.geteuid() == 0 else ["--user", "--map-root-user", "--mount"]
    script = f'mount -t tmpfs -o size={size_bytes} tmpfs "{folder}" && exec "$@"'
    command = ["unshare", *namespaces, "sh", "-c", script, "sh"]
    try:
        tried = subprocess.run([*command, "true"], capture_output=True, check=False)
    except OSError:
        return []
    return [] if tried.returncode else command
