"""One HTTP request and one answer, whole, as the services of this package see them."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Request:
    """A request whose body is complete; header names are lower case."""

    method: str
    path: str
    """Decoded, as WSGI wants it."""
    raw_path: str
    """As it came, percent-encoded."""
    query: str
    headers: dict[str, str]
    body: bytes

    @property
    def target(self) -> str:
        """The operation of a JSON service, as `Kinesis_20131202.PutRecords`, else empty."""
        return self.headers.get("x-amz-target", "")


@dataclass(frozen=True, slots=True)
class Response:
    """An answer whose body is complete."""

    status: int
    body: bytes = b""
    headers: list[tuple[str, str]] = field(default_factory=list)
