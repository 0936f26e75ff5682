"""A running server over real sockets: UDP, TCP, signals, workers, limits."""

import contextlib
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import dns.message
import dns.query
import dns.rcode
import pytest

from popsteer.errors import SetupError
from resolver.sockets import bind

DEADLINE_S = 40
ZONE = "$ORIGIN z.example.\n$TTL 60\n@ SOA ns h 1 2 3 4 5\n@ NS ns\nns A 192.0.2.{}\n"
CONFIG = """
data = "data"
[dns]
listen = [{listen}]
zones = ["z.example.zone"]
workers = {workers}
[[pop]]
id = "fra1"
ipv4 = ["192.0.2.1"]
[[service]]
name = "www.z.example"
[telemetry]
metrics = "{metrics}"
"""
RUN = (
    "import sys; from pathlib import Path; from popsteer.config_file import load;"
    "from resolver.server import run; run(load(Path(sys.argv[1])))"
)


@dataclass(frozen=True, slots=True)
class Server:
    """A started server."""

    process: subprocess.Popen[bytes]
    folder: Path
    port: int

    def ask(self, name: str, rtype: str = "A", tcp: bool = False) -> dns.message.Message:
        """One answer."""
        query = dns.message.make_query(name, rtype)
        send = dns.query.tcp if tcp else dns.query.udp
        return send(query, "127.0.0.1", timeout=DEADLINE_S, port=self.port)

    def address(self, name: str = "ns.z.example.") -> str:
        """The first address of a name."""
        return str(self.ask(name).answer[0][0])

    def log(self) -> str:
        """What it wrote to stderr."""
        return (self.folder / "log").read_text()

    def until(self, true: Callable[[], bool]) -> None:
        """Wait for a condition, up to the deadline."""
        deadline = time.monotonic() + DEADLINE_S
        while not true():
            assert time.monotonic() < deadline, self.log()
            assert self.process.poll() is None, self.log()
            time.sleep(0.02)


def start(folder: Path, workers: int = 1, listen: str = "127.0.0.1:0", metrics: str = "") -> Server:
    (folder / "z.example.zone").write_text(ZONE.format(53))
    config = CONFIG.format(listen=f'"{listen}"', workers=workers, metrics=metrics)
    (folder / "popsteer.toml").write_text(config)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", RUN, str(folder / "popsteer.toml")], stderr=log
        )
    server = Server(process, folder, 0)
    server.until(lambda: '"ready"' in server.log())
    ready = next(json.loads(line) for line in server.log().splitlines() if '"ready"' in line)
    return Server(process, folder, int(ready["listen"][0].rpartition(":")[2]))


def stop(server: Server) -> int:
    server.process.send_signal(signal.SIGTERM)
    return server.process.wait(DEADLINE_S)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    started = start(tmp_path_factory.mktemp("one"))
    yield started
    assert stop(started) == 0, started.log()
    assert "Traceback" not in started.log()


@pytest.mark.parametrize("tcp", [False, True])
def test_static_and_steered_names_over_both_transports(server: Server, tcp: bool) -> None:
    assert str(server.ask("ns.z.example.", tcp=tcp).answer[0][0]) == "192.0.2.53"
    assert str(server.ask("www.z.example.", tcp=tcp).answer[0][0]) == "192.0.2.1"
    assert server.ask("no.z.example.", tcp=tcp).rcode() == dns.rcode.NXDOMAIN


def test_tcp_answers_pipelined_queries_and_one_in_pieces(server: Server) -> None:
    queries = [dns.message.make_query("ns.z.example.", "A") for _ in range(50)]
    wire = b"".join(struct.pack("!H", len(w)) + w for w in (q.to_wire() for q in queries))
    with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
        connection.sendall(wire[:7])
        connection.sendall(wire[7:])
        for query in queries:
            answer, _ = dns.query.receive_tcp(connection, time.time() + 10)
            assert answer.id == query.id


def test_a_client_that_closes_its_side_still_gets_its_answer(server: Server) -> None:
    query = dns.message.make_query("ns.z.example.", "A").to_wire()
    with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
        connection.sendall(struct.pack("!H", len(query)) + query)
        connection.shutdown(socket.SHUT_WR)
        answer, _ = dns.query.receive_tcp(connection, time.time() + 10)
        assert len(answer.answer) == 1
        assert connection.recv(1) == b""


def test_silent_and_greedy_tcp_clients_do_not_keep_others_out(server: Server) -> None:
    held = [socket.create_connection(("127.0.0.1", server.port), 10) for _ in range(250)]
    try:
        for connection in held[-20:]:
            fill(connection)
        assert str(server.ask("ns.z.example.", tcp=True).answer[0][0]) == "192.0.2.53"
        assert server.address() == "192.0.2.53"
    finally:
        for connection in held:
            connection.close()


def fill(connection: socket.socket) -> None:
    """Send queries and never read, until neither side's buffers take more."""
    query = dns.message.make_query("ns.z.example.", "A").to_wire()
    flood = (struct.pack("!H", len(query)) + query) * 200
    connection.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            connection.send(flood)


def test_junk_gets_silence_or_an_answer_and_the_server_stays(server: Server) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        for junk in (b"", b"\0", b"\xff" * 64, b"\0" * 5_000):
            client.sendto(junk, ("127.0.0.1", server.port))
    with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
        connection.sendall(b"\0\4junk")
        assert connection.recv(1) == b""
    assert server.address() == "192.0.2.53"


def test_zones_are_read_again_on_sighup_and_on_change_and_bad_ones_are_not_taken(
    server: Server,
) -> None:
    zone = server.folder / "z.example.zone"
    zone.write_text(ZONE.format(54))
    server.process.send_signal(signal.SIGHUP)
    server.until(lambda: server.address() == "192.0.2.54")
    zone.write_text("not a zone at all\n")
    server.process.send_signal(signal.SIGHUP)
    server.until(lambda: "zones not reloaded" in server.log())
    assert server.address() == "192.0.2.54"
    zone.write_text(ZONE.format(53))
    server.until(lambda: server.address() == "192.0.2.53")


def test_dig_understands_it(server: Server) -> None:
    if not shutil.which("dig"):
        pytest.skip("dig is not installed")
    command = ["dig", "@127.0.0.1", "-p", str(server.port), "www.z.example", "A"]
    options = ["+subnet=198.51.100.0/24", "+nsid", "+tries=5"]
    out = subprocess.run([*command, *options], capture_output=True, text=True, check=True).stdout
    assert "status: NOERROR" in out
    assert "flags: qr aa rd;" in out
    assert "CLIENT-SUBNET: 198.51.100.0/24/0" in out
    assert "(good)" in out  # the cookie
    assert "WARNING: recursion requested but not available" in out


def test_the_cookie_secret_is_private(server: Server) -> None:
    secret = server.folder / "data" / "resolver" / "cookie.secret"
    assert secret.stat().st_mode & 0o777 == 0o600


def test_a_port_in_use_is_one_sentence() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        for workers in (1, 2):
            with pytest.raises(SetupError, match=rf"UDP port {port} is in use"):
                bind([("127.0.0.1", port)], workers)


def test_hosts_may_have_names() -> None:
    for bound in (found := bind([("localhost", 0)], 1)[0]):
        assert bound.udp.getsockname()[:2] == bound.tcp.getsockname()[:2]
        bound.close()
    assert found
    with pytest.raises(SetupError, match="no such host; write an IP address"):
        bind([("127.0.0.1,127.0.0.2", 0)], 1)


def test_the_command_listens_where_it_is_told(tmp_path: Path) -> None:
    (tmp_path / "z.example.zone").write_text(ZONE.format(53))
    config = CONFIG.format(listen='"127.0.0.1:1"', workers=1, metrics="")
    (tmp_path / "popsteer.toml").write_text(config)
    told = [part for host in ("127.0.0.1", "127.0.0.7") for part in ("--listen", f"{host}:0")]
    serve = [
        sys.executable,
        "-m",
        "console.cli",
        "serve",
        "--config",
        str(tmp_path / "popsteer.toml"),
    ]
    with (tmp_path / "log").open("wb") as log:
        server = Server(subprocess.Popen([*serve, *told], stderr=log), tmp_path, 0)
    try:
        server.until(lambda: '"ready"' in server.log())
        ready = next(json.loads(line) for line in server.log().splitlines() if '"ready"' in line)
        assert [one.rpartition(":")[0] for one in ready["listen"]] == ["127.0.0.1", "127.0.0.7"]
        for one in ready["listen"]:
            host, _, port = one.rpartition(":")
            query = dns.message.make_query("ns.z.example.", "A")
            assert dns.query.udp(query, host, timeout=DEADLINE_S, port=int(port)).answer
    finally:
        assert stop(server) == 0


def test_a_wildcard_listener_answers_from_the_address_that_was_asked(tmp_path: Path) -> None:
    server = start(tmp_path, listen="0.0.0.0:0")
    try:
        query = dns.message.make_query("ns.z.example.", "A")
        for address in ("127.0.0.1", "127.0.0.9"):
            # dnspython refuses an answer from any other address.
            answer = dns.query.udp(query, address, timeout=10, port=server.port)
            assert len(answer.answer) == 1
    finally:
        stop(server)


def test_workers_answer_count_and_come_back(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        metrics = f"127.0.0.1:{probe.getsockname()[1]}"
    server = start(tmp_path, workers=2, metrics=metrics)
    try:
        for _ in range(20):
            assert server.address("www.z.example.") == "192.0.2.1"
        server.until(lambda: 'popsteer_dns_steered_total{pop="fra1"} 20.0' in scraped(metrics))
        assert 'popsteer_dns_rung{rung="static"} 1.0' in scraped(metrics)
        os.kill(children_of(server.process.pid)[0], signal.SIGKILL)
        server.until(lambda: "worker died" in server.log())
        for _ in range(20):
            assert server.address("www.z.example.") == "192.0.2.1"
    finally:
        assert stop(server) == 0


def scraped(metrics: str) -> str:
    import urllib.request

    with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=10) as page:
        text: str = page.read().decode()
    return text


def children_of(pid: int) -> list[int]:
    """The workers: children that run multiprocessing's spawn, not its resource tracker."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [
        int(child)
        for child in children
        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]
