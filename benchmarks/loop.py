"""A running `popsteer up`, driven from outside as a person would: DNS, HTTP, the lab, signals.

The pipeline benchmark and the end-to-end tests share it. It knows nothing of the inside.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
from dnslib import QTYPE, DNSRecord

from console.lab.clients import query
from popsteer import lab, world
from popsteer.config import Config
from popsteer.config_file import load
from popsteer.errors import SetupError
from popsteer.names import Prefix
from popsteer.overview import Overview

ANSWER_TIMEOUT_S = 1.0


class Loop:
    """One `popsteer up` in a child process; ends with the `with` block."""

    def __init__(self, data: Path, arguments: Iterable[str] = ()) -> None:
        self.data = data
        self._arguments = tuple(arguments)
        self._child: subprocess.Popen[bytes] | None = None

    def start(self, timeout_s: float) -> float:
        """Start it and wait until it is ready; gives the seconds that took.

        Raises:
            SetupError: it ended, or was not ready in time; with what it last said.
        """
        command = [sys.executable, "-m", "console.cli", "up", "--data", str(self.data)]
        command += ["--dns", "127.0.0.1:0", "--http", "127.0.0.1:0", *self._arguments]
        self.data.mkdir(parents=True, exist_ok=True)
        begun_s = time.monotonic()
        with (self.data / "up.log").open("wb") as log:
            self._child = subprocess.Popen(command, stdout=log, stderr=log)
        while not (self.data / "ready.json").exists():
            ended = self._child.poll() is not None
            if ended or time.monotonic() - begun_s > timeout_s:
                words = (self.data / "up.log").read_text(errors="replace")[-2_000:]
                state = "ended" if ended else "is not ready"
                passed_s = time.monotonic() - begun_s
                raise SetupError(f"popsteer up {state} after {passed_s:.0f} s: {words}")
            time.sleep(0.05)
        return time.monotonic() - begun_s

    def stop(self, number: int = signal.SIGINT, timeout_s: float = 30.0) -> int:
        """Ctrl-C, and wait; gives the exit code."""
        assert self._child is not None
        self._child.send_signal(number)
        return self._child.wait(timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if self._child is not None and self._child.poll() is None:
            self.stop()

    @property
    def pid(self) -> int:
        """Of `popsteer up` itself."""
        assert self._child is not None
        return self._child.pid

    def pid_of(self, name: str) -> int:
        """Of one of its processes: aws, lab, probe, aggregate, plan, serve, console."""
        return int((self.data / "run" / f"{name}.pid").read_text())

    def kill(self, name: str) -> None:
        """`kill -9` one of its processes."""
        os.kill(self.pid_of(name), signal.SIGKILL)

    @property
    def config(self) -> Config:
        """The configuration that its processes read."""
        return load(self.data / "popsteer.toml")

    @property
    def world(self) -> world.World:
        """The world that it runs in."""
        return world.read(self.data / "world" / "world.npz")

    def change(self, edit: Callable[[lab.Changes], lab.Changes]) -> None:
        """Change the world, as `popsteer lab` does."""
        path = self.config.data_dir / lab.FILE
        lab.save(path, edit(lab.load(path)))

    def get(self, path: str) -> Any:
        """JSON from the console."""
        url = f"http://{self.config.console.listen}{path}"
        with urllib.request.urlopen(url, timeout=5) as answer:
            return msgspec.json.decode(answer.read())

    def overview(self) -> Overview:
        """What the planner knows, from the console; an empty one before it published any."""
        found = self.get("/api/overview")["overview"]
        return msgspec.convert(found, Overview) if found else Overview(created_ms=0)

    def asker(self, name: str = "") -> "Asker":
        """Something that asks its DNS server for a steered name, the first unless told."""
        return Asker(self.config, name)

    def facts(self) -> dict[str, Any]:
        """What `ready.json` says."""
        facts: dict[str, Any] = json.loads((self.data / "ready.json").read_text())
        return facts


class Asker:
    """Asks for a steered name with a client subnet, over UDP."""

    def __init__(self, config: Config, name: str = "") -> None:
        self._server = config.dns.addresses[0]
        self._name = name or config.service[0].name
        self._pop_of = {address: pop.id for pop in config.pop for address in pop.ipv4}

    def ask(self, prefix: Prefix) -> str | None:
        """The POP that the prefix is sent to; None without an answer."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
            own.settimeout(ANSWER_TIMEOUT_S)
            own.connect(self._server)
            try:
                own.send(query(self._name, prefix))
                record = DNSRecord.parse(own.recv(4096))
            except OSError:
                return None
        for answer in record.rr:
            if answer.rtype == QTYPE.A:
                return self._pop_of.get(str(answer.rdata))
        return None


def wait_until(true: Callable[[], bool], timeout_s: float, every_s: float = 0.1) -> float:
    """Seconds until a condition holds; infinity when it does not in time."""
    begun_s = time.monotonic()
    while not true():
        if time.monotonic() - begun_s > timeout_s:
            return float("inf")
        time.sleep(every_s)
    return time.monotonic() - begun_s


def descendants(pid: int) -> list[int]:
    """Pids of all processes below one, from /proc."""
    parent: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parent[int(path.parent.name)] = int(fields[1])
    found = [pid]
    for one in found:
        found += [child for child, of in parent.items() if of == one]
    return found[1:]


def memory_mb(pids: Iterable[int], key: str) -> float:
    """Memory of processes: `Pss:` counts shared pages once, `Rss:` in each."""
    return sum(_memory_kb(pid, key) for pid in pids) / 1024


def _memory_kb(pid: int, key: str) -> float:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0.0
    return sum(float(line.split()[1]) for line in text.splitlines() if line.startswith(key))
