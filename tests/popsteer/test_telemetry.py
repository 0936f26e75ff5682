"""What a process says goes to stderr alone: stdout of a KCL child is protocol."""

import json
import socket
import subprocess
import sys

import pytest

from popsteer.errors import ConfigError, SetupError
from popsteer.telemetry import OncePerKey, serve_metrics

SPEAK = """
from popsteer import telemetry
telemetry.logger().info("before")
log = telemetry.configure("probe")
log.info("sent", records=3)
log.debug("not shown")
try:
    1 / 0
except ZeroDivisionError:
    log.exception("failed")
"""


def test_lines_are_json_on_stderr() -> None:
    spoken = subprocess.run(
        [sys.executable, "-c", SPEAK], capture_output=True, text=True, check=True
    )
    assert spoken.stdout == ""
    sent, failed = [
        json.loads(line) for line in spoken.stderr.splitlines() if line.startswith("{")
    ][-2:]
    assert sent["event"] == "sent"
    assert sent["records"] == 3
    assert sent["component"] == "probe"
    assert sent["timestamp"].endswith("Z")
    assert "ZeroDivisionError" in failed["exception"]


def test_a_port_in_use_is_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(SetupError, match=f"metrics = {listen}: Address already in use"):
            serve_metrics(listen)


def test_no_address_is_no_endpoint() -> None:
    serve_metrics("")
    with pytest.raises(ConfigError, match=r"telemetry\.metrics"):
        serve_metrics("9100")


def test_once_per_key_is_bounded() -> None:
    once = OncePerKey(limit=2)
    assert [once.first(key) for key in ("a", "a", "b", "c", "b")] == [
        True,
        False,
        True,
        False,
        False,
    ]
