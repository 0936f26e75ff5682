"""All streams, and what they share: the ticker, the disk, the settings."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from console.localaws import files
from console.localaws import kinesis_errors as errors
from console.localaws.identity import ACCOUNT
from console.localaws.kinesis_api import OnStream
from console.localaws.sequence import Ticker
from console.localaws.streams import Stream, StreamInfo


class Account:
    """The streams by name; the only place that makes and deletes them."""

    def __init__(self, folder: Path, bytes_max: int, *, limited: bool) -> None:
        self.folder = folder
        self.bytes_max = bytes_max
        self.limited = limited
        self.ticker = Ticker()
        self.streams: dict[str, Stream] = {}

    def load(self) -> None:
        """Take up the streams that an earlier process left."""
        for description in sorted(self.folder.glob("*/stream.json")):
            stream = Stream.load(description.parent, self.bytes_max)
            self.streams[stream.info.name] = stream
            self.ticker.seen(stream.newest)
            stream.trim()

    def create(self, name: str, shard_count: int, tick: int) -> Stream:
        """A new stream.

        Raises:
            KinesisError: ResourceInUseException.
        """
        if name in self.streams:
            raise errors.in_use(f"Stream {name} under account {ACCOUNT} already exists.")
        folder = self.folder / files.file_name(name)
        # A kill between the first log and stream.json leaves a folder without a description.
        shutil.rmtree(folder, ignore_errors=True)
        stream = Stream(StreamInfo(name, tick), folder, self.bytes_max)
        stream.cut(shard_count, tick)
        self.streams[name] = stream
        return stream

    def find(self, name: str | None, arn: str | None = None) -> Stream:
        """A stream by its name or ARN.

        Raises:
            KinesisError: ResourceNotFoundException, or neither is given.
        """
        name = name or (arn or "").rpartition("/")[2]
        if not name:
            raise errors.invalid("Either StreamARN or StreamName should be specified.")
        if name not in self.streams:
            raise errors.not_found(f"Stream {name} under account {ACCOUNT} not found.")
        return self.streams[name]

    def expire(self, now_us: int) -> None:
        """Drop records out of retention."""
        for stream in self.streams.values():
            stream.expire(now_us)

    def delete(self, stream: Stream) -> None:
        """Forget a stream and its records."""
        del self.streams[stream.info.name]
        stream.delete()


@dataclass(frozen=True, slots=True)
class Call:
    """What every call of the API knows besides its request."""

    account: Account
    now_us: int

    def stream(self, request: OnStream) -> Stream:
        """The stream that a request is about."""
        return self.account.find(request.stream_name, request.stream_arn)

    def tick(self) -> int:
        """The next place in the order of things."""
        return self.account.ticker.next(self.now_us)
