"""One HTTP request and one answer, whole, as the services of this package see them."""

import re
from dataclasses import dataclass, field

_SCOPE = re.compile(r"Credential=[^/,]+/\d{8}/([^/,]+)/([^/,]+)/aws4_request")
"""SigV4: access key, date, region, service. Signatures are not checked."""


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

    @property
    def scope(self) -> tuple[str, str] | None:
        """Region and service that the request was signed for."""
        match = _SCOPE.search(self.headers.get("authorization", ""))
        return (match[1], match[2]) if match else None


@dataclass(frozen=True, slots=True)
class Response:
    """An answer whose body is complete."""

    status: int
    body: bytes = b""
    headers: list[tuple[str, str]] = field(default_factory=list)
