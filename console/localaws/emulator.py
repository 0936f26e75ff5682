"""moto as one function from request to response, with its memory bounded.

moto is made for tests that end: it remembers every object it ever made and every metric datum it
ever got. Here neither grows.
"""

import io
import re
import sys
from collections import deque
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from moto.cloudwatch.models import cloudwatch_backends
from moto.core import DEFAULT_ACCOUNT_ID
from moto.core.model_instances import model_data
from moto.core.request import (
    PRESERVED_HEADER_NAMES_ENVIRON_KEY,
    environ_key_for_header,
    should_preserve_original_header_name,
)
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

from console.localaws.identity import REGION
from console.localaws.messages import Request, Response

METRICS_MAX = 5_000
"""Ten minutes of all processes; each takes about a kilobyte."""
BACKENDS_MAX = 64

_SIGNED_FOR = re.compile(r"(Credential=[^/,\s]+/\d{8}/)[^/,\s]+/")
"""SigV4: access key, date, region. Signatures are not checked."""


class Dispatcher(DomainDispatcherApplication):  # type: ignore[misc]
    """moto's dispatcher, which else reads its own folder anew for each request."""

    def __init__(self, create_app: Callable[[Any], Any]) -> None:
        super().__init__(create_app)
        self.get_backend_for_host = lru_cache(BACKENDS_MAX)(super().get_backend_for_host)


class Emulator:
    """moto's WSGI application for every service but Kinesis."""

    def __init__(self) -> None:
        self.app = Dispatcher(create_backend_app)
        forget_instances()

    def handle(self, request: Request) -> Response:
        """Answer one request; whatever moto raises is passed on."""
        begun: list[tuple[str, list[tuple[str, str]]]] = []

        def start_response(status: str, headers: list[tuple[str, str]], *_: object) -> None:
            begun.append((status, headers))

        chunks = self.app(_environ(request), start_response)
        try:
            body = b"".join(chunks)
        finally:
            chunks.close()
        status, headers = begun[-1]
        return Response(int(status.partition(" ")[0]), body, headers)


def forget_instances() -> None:
    """Make moto's list of all instances of each class one that holds none."""
    for classes in model_data.values():
        for kind in classes.values():
            kind.instances_tracked = deque(maxlen=0)


def trim_metrics() -> None:
    """Keep the newest metric data."""
    backend = cloudwatch_backends[DEFAULT_ACCOUNT_ID][REGION]
    del backend.metric_data[:-METRICS_MAX]
    backend.paged_metric_data.clear()


def _environ(request: Request) -> dict[str, Any]:
    """The request in the words of WSGI (PEP 3333)."""
    environ: dict[str, Any] = {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": request.path.encode().decode("latin-1"),
        "QUERY_STRING": request.query,
        "RAW_URI": request.raw_path,
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "CONTENT_LENGTH": str(len(request.body)),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(request.body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": False,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    names: dict[str, str] = {}
    for name, value in request.headers.items():
        if name not in ("content-length", "transfer-encoding"):
            key = environ_key_for_header(name)
            environ[key] = _SIGNED_FOR.sub(rf"\g<1>{REGION}/", value)
            if should_preserve_original_header_name(name):
                names[key] = name
    environ[PRESERVED_HEADER_NAMES_ENVIRON_KEY] = names
    return environ
