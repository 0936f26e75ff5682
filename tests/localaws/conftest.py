"""A real embedded AWS in a child process, and clients to it."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from popsteer import aws
from popsteer.config import Aws

if TYPE_CHECKING:
    from types_boto3_cloudwatch import CloudWatchClient
    from types_boto3_dynamodb import DynamoDBClient
    from types_boto3_kinesis import KinesisClient
    from types_boto3_s3 import S3Client

BUCKET = "popsteer"


@dataclass
class LocalAws:
    """One child process; it may be killed and started again on the same port and data."""

    data: Path
    options: tuple[str, ...] = ()
    listen: str = "127.0.0.1:0"
    process: subprocess.Popen[str] = field(init=False)
    endpoint: str = field(init=False)

    def start(self) -> None:
        """Start and wait until it says that it is ready."""
        command = [sys.executable, "-m", "console.localaws", "--listen", self.listen]
        command += ["--data", str(self.data), *self.options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        word, _, self.endpoint = self.process.stdout.readline().strip().partition(" ")
        assert word == "ready"
        self.listen = self.endpoint.removeprefix("http://")

    def kill(self) -> None:
        """SIGKILL: nothing is said, nothing is flushed."""
        self.process.kill()
        self._reap()

    def stop(self) -> int:
        """SIGTERM; gives the exit code."""
        self.process.terminate()
        return self._reap()

    def restart_after_kill(self) -> None:
        """Kill and come back."""
        self.kill()
        self.start()

    def _reap(self) -> int:
        code = self.process.wait(timeout=60)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    @cached_property
    def where(self) -> Aws:
        """As every process of popsteer is configured; the region is anybody's choice."""
        return Aws(region="eu-west-1", endpoint=self.endpoint, bucket=BUCKET)

    @cached_property
    def kinesis(self) -> "KinesisClient":
        """A client."""
        return aws.kinesis(self.where)

    @cached_property
    def dynamodb(self) -> "DynamoDBClient":
        """A client."""
        return aws.dynamodb(self.where)

    @cached_property
    def s3(self) -> "S3Client":
        """A client."""
        return aws.s3(self.where)

    @cached_property
    def cloudwatch(self) -> "CloudWatchClient":
        """A client."""
        return aws.cloudwatch(self.where)

    def close(self) -> None:
        """Close the clients that were made, and end the process if it still runs."""
        for name in ("kinesis", "dynamodb", "s3", "cloudwatch"):
            if name in self.__dict__:
                self.__dict__[name].close()
        if self.process.poll() is None:
            self.kill()


Launch = Callable[..., LocalAws]


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    """Starts an embedded AWS of the test's own, with options."""
    with ExitStack() as running:

        def start(*options: str) -> LocalAws:
            server = LocalAws(tmp_path / "aws", options)
            server.start()
            running.callback(server.close)
            return server

        yield start


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalAws]:
    """One embedded AWS for all tests that neither kill it nor need options."""
    server = LocalAws(tmp_path_factory.mktemp("shared") / "aws")
    server.start()
    yield server
    server.close()


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalAws]:
    """One embedded AWS for all tests of a module that kill it."""
    server = LocalAws(tmp_path_factory.mktemp("mortal") / "aws")
    server.start()
    yield server
    server.close()
