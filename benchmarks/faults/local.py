"""The local AWS behind the proxy: the embedded one, with the limits of real shards.

It is a process that can be killed and started again on its data.
"""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from benchmarks.faults.proxy import Service
from popsteer.config import Aws
from popsteer.errors import SetupError

STOP_S_MAX = 10.0
SHARDS = 2


class LocalAws(Protocol):
    """Where each service is, and its life."""

    as_real: bool
    """Whether it limits its shards, and keeps what it has when it is killed, as AWS does."""

    def start(self) -> None:
        """Start; what an earlier life stored is there again."""

    def address(self, service: Service) -> tuple[str, int]:
        """Host and port of a service."""

    def kill(self) -> None:
        """Kill -9."""

    def stop(self) -> None:
        """End it."""


@dataclass
class EmbeddedAws:
    """`console.localaws`, by default with `--limits`: shards throttle as on AWS."""

    folder: Path
    options: tuple[str, ...] = ("--limits", "--bulk-shards", str(SHARDS))
    as_real: bool = True
    process: subprocess.Popen[str] | None = None
    host: str = ""
    port: int = 0

    def start(self) -> None:
        """See `LocalAws.start`.

        Raises:
            SetupError: it did not start; with its last words.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "console.localaws", "--listen", f"127.0.0.1:{self.port}"]
        command += ["--data", str(self.folder / "data"), *self.options]
        with (self.folder / "lines").open("ab") as lines:
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=lines, text=True
            )
        assert self.process.stdout is not None
        endpoint = self.process.stdout.readline().removeprefix("ready http://").strip()
        if not endpoint:
            raise SetupError(f"no local AWS: {(self.folder / 'lines').read_text()[-500:]}")
        self.host, _, port = endpoint.rpartition(":")
        self.port = int(port)

    @property
    def aws(self) -> Aws:
        """All services, for a configuration."""
        return aws_at((self.host, self.port))

    def address(self, service: Service) -> tuple[str, int]:  # noqa: ARG002
        """See `LocalAws.address`: one port for all."""
        return self.host, self.port

    def kill(self) -> None:
        """See `LocalAws.kill`."""
        assert self.process is not None
        self.process.kill()
        self._reap()

    def stop(self) -> None:
        """See `LocalAws.stop`."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self._reap()

    def _reap(self) -> None:
        assert self.process is not None
        assert self.process.stdout is not None
        self.process.wait()
        self.process.stdout.close()
        self.process = None


def aws_at(address: tuple[str, int]) -> Aws:
    """The configuration for an address."""
    return Aws(endpoint=f"http://{address[0]}:{address[1]}")
