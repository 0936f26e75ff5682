"""The servers that popsteer is measured against, each on one core and a port of loopback.

Peers are what Debian packages; one that is not installed is left out and said so. All run in the
foreground as children of the benchmark and are stopped by their process id.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.dns_world import (
    NAME,
    POPS,
    TTL_S,
    WIRE_NAME,
    World,
    address_of,
    prefix_texts,
    write_popsteer,
)

START_S_MAX = 180.0
COMPILED_S_MAX = 300.0
"""The first start on a machine compiles; after that machine code comes from the disk."""
SERVER_CORE = 0
_PROBE = b"\0\0\0\0\0\1\0\0\0\0\0\0" + WIRE_NAME + b"\0\1\0\1"
_SOA = f"@ {TTL_S} SOA ns1 host 1 7200 900 1209600 60\n@ {TTL_S} NS ns1\nns1 {TTL_S} A 192.0.2.53\n"


@dataclass(frozen=True, slots=True)
class Peer:
    """One server: how to write its configuration, which gives the command."""

    name: str
    program: str
    steers: bool
    """It answers by client subnet; the others serve one static address."""
    write: Callable[[World, Path, int], list[str]]
    ratio_at_least: float
    """How many times as fast popsteer has to be, by CPU time; 0 is not judged."""


def _popsteer(of: World, folder: Path, port: int) -> list[str]:
    config = write_popsteer(of, folder, port)
    code = (
        "from pathlib import Path\nfrom popsteer.config_file import load\n"
        f"from resolver.server import run\nrun(load(Path({str(config)!r})))"
    )
    return [sys.executable, "-c", code]


def _gdnsd(of: World, folder: Path, port: int) -> list[str]:
    names = ", ".join(f"p{i}" for i in range(POPS))
    places = ", ".join(f"p{i} => {address_of(i)}" for i in range(POPS))
    (folder / "zones").mkdir(parents=True)
    (folder / "geoip").mkdir()
    (folder / "config").write_text(
        f"options => {{ listen => [127.0.0.1:{port}], udp_threads => 1, tcp_threads => 1,\n"
        f" run_dir => {folder}/run, state_dir => {folder}/state }}\n"
        f"plugins => {{ geoip => {{ maps => {{ m => {{ datacenters => [{names}],\n"
        f" nets => nets }} }},\n resources => {{ r => {{ map => m, service_types => up,\n"
        f" dcmap => {{ {places} }} }} }} }} }}\n"
    )
    rows = zip(prefix_texts(of), of.pop.tolist(), strict=True)
    lines = "".join(f"{prefix} => [ p{pop} ]\n" for prefix, pop in rows)
    (folder / "geoip" / "nets").write_text(lines)
    (folder / "zones" / "cdn.example").write_text(_SOA + f"www {TTL_S} DYNA geoip!r\n")
    return ["gdnsd", "-c", str(folder), "start"]


def _knot(of: World, folder: Path, port: int) -> list[str]:
    folder.mkdir(parents=True)
    rows = zip(prefix_texts(of), of.pop.tolist(), strict=True)
    lines = "".join(f" - net: {prefix}\n   A: {address_of(pop)}\n" for prefix, pop in rows)
    (folder / "geo.conf").write_text(f"{NAME}:\n{lines}")
    (folder / "cdn.example.zone").write_text(_SOA + f"www {TTL_S} A {address_of(0)}\n")
    (folder / "knot.conf").write_text(
        f"server:\n  listen: 127.0.0.1@{port}\n  rundir: {folder}\n  udp-workers: 1\n"
        "  tcp-workers: 1\n  background-workers: 1\n  edns-client-subnet: on\n"
        f"database:\n  storage: {folder}\n"
        f"mod-geoip:\n  - id: m\n    config-file: {folder}/geo.conf\n    ttl: {TTL_S}\n"
        "    mode: subnet\n"
        f"zone:\n  - domain: cdn.example\n    storage: {folder}\n    file: cdn.example.zone\n"
        "    module: mod-geoip/m\n"
    )
    return ["knotd", "-c", str(folder / "knot.conf")]


def _nsd(_: World, folder: Path, port: int) -> list[str]:
    folder.mkdir(parents=True)
    (folder / "cdn.example.zone").write_text(_SOA + f"www {TTL_S} A {address_of(0)}\n")
    (folder / "nsd.conf").write_text(
        f"server:\n  ip-address: 127.0.0.1@{port}\n  server-count: 1\n"
        '  rrl-ratelimit: 0\n  username: ""\n'
        f'  chroot: ""\n  zonesdir: "{folder}"\n  pidfile: "{folder}/pid"\n  database: ""\n'
        f'  xfrdfile: "{folder}/xfrd"\n  zonelistfile: "{folder}/zones"\n  xfrdir: "{folder}"\n'
        "remote-control:\n  control-enable: no\n"
        'zone:\n  name: "cdn.example"\n  zonefile: "cdn.example.zone"\n'
    )
    return ["nsd", "-d", "-c", str(folder / "nsd.conf")]


def _pdns(of: World, folder: Path, port: int) -> list[str]:
    folder.mkdir(parents=True)
    rows = zip(prefix_texts(of), of.pop.tolist(), strict=True)
    nets = "".join(f"      {prefix}: [p{pop}.cdn.example]\n" for prefix, pop in rows)
    places = "".join(f"    p{i}.cdn.example:\n      - a: {address_of(i)}\n" for i in range(POPS))
    (folder / "geo.yml").write_text(
        f"domains:\n- domain: cdn.example\n  ttl: {TTL_S}\n  records:\n    cdn.example:\n"
        "      - soa: ns1.cdn.example host.cdn.example 1 7200 900 1209600 60\n"
        f"      - ns: ns1.cdn.example\n{places}"
        f"  services:\n    www.cdn.example:\n      default: [p0.cdn.example]\n{nets}"
    )
    return [
        *("pdns_server", "--config-dir=" + str(folder), "--launch=geoip", "--daemon=no"),
        *(f"--geoip-zones-file={folder}/geo.yml", "--geoip-database-files=", "--guardian=no"),
        *("--local-address=127.0.0.1", f"--local-port={port}", f"--socket-dir={folder}"),
        *("--edns-subnet-processing=yes", "--receiver-threads=1", "--cache-ttl=0"),
        *("--query-cache-ttl=0", "--loglevel=0", "--disable-syslog=yes"),
    ]


def _bind(_: World, folder: Path, port: int) -> list[str]:
    folder.mkdir(parents=True)
    (folder / "cdn.example.zone").write_text(_SOA + f"www {TTL_S} A {address_of(0)}\n")
    (folder / "named.conf").write_text(
        f'options {{ directory "{folder}"; listen-on port {port} {{ 127.0.0.1; }};\n'
        "  listen-on-v6 { none; }; pid-file none; session-keyfile none; recursion no;\n"
        "  notify no; minimal-responses yes; };\ncontrols { };\n"
        "logging { category default { null; }; };\n"
        'zone "cdn.example" { type primary; file "cdn.example.zone"; };\n'
    )
    return ["named", "-f", "-n", "1", "-c", str(folder / "named.conf")]


PEERS = (
    Peer("popsteer", sys.executable, True, _popsteer, 0),
    Peer("gdnsd geoip", "gdnsd", True, _gdnsd, 1.1),
    Peer("NSD static", "nsd", False, _nsd, 1.1),
    Peer("Knot geoip", "knotd", True, _knot, 1.9),
    Peer("PowerDNS geoip", "pdns_server", True, _pdns, 5.0),
    Peer("BIND static", "named", False, _bind, 0),
)


def installed(peer: Peer) -> bool:
    """Whether its program is there."""
    return shutil.which(peer.program, path=os.environ.get("PATH", "") + ":/usr/sbin") is not None


@contextmanager
def running(command: list[str], port: int, folder: Path) -> Iterator[tuple[int, float]]:
    """A server on the server's core; gives its process id and the seconds to its first answer."""
    began_s = time.monotonic()
    environment = os.environ | {"PATH": os.environ.get("PATH", "") + ":/usr/sbin"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # as installed: a warm start has bytecode
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            ["taskset", "-c", str(SERVER_CORE), *command],
            stdout=log,
            stderr=log,
            env=environment,
            cwd=folder,
        )
        try:
            _await_answer(port, process, folder / "log")
            yield process.pid, time.monotonic() - began_s
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _await_answer(port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline_s = time.monotonic() + START_S_MAX
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.settimeout(0.05)
        probe.connect(("127.0.0.1", port))
        while time.monotonic() < deadline_s:
            try:
                probe.send(_PROBE)
                if probe.recv(1_500)[7]:
                    return
            except OSError:
                time.sleep(0.02)
            if process.poll() is not None:
                break
    raise RuntimeError(f"no answer: {log.read_text(errors='replace')[-400:]}")


def await_compiled(log: Path) -> None:
    """Until a popsteer server answers at its full speed, as it says in its log.

    Raises:
        RuntimeError: it never does.
    """
    deadline_s = time.monotonic() + COMPILED_S_MAX
    while "compiled answer path ready" not in log.read_text(errors="replace"):
        if time.monotonic() > deadline_s:
            raise RuntimeError("the compiled answer path was not ready in time")
        time.sleep(0.05)
    time.sleep(0.2)


def free_port() -> int:
    """A port that nobody has just now, neither of UDP nor of TCP."""
    while True:
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
            socket.socket(socket.AF_INET, socket.SOCK_STREAM) as streams,
        ):
            datagrams.bind(("127.0.0.1", 0))
            port: int = datagrams.getsockname()[1]
            try:
                streams.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def cpu_ns(pid: int) -> int:
    """CPU time of a process and all its threads and children (`/proc/PID/task/*/schedstat`)."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            total += int((task / "schedstat").read_text().split()[0])
            children = (task / "children").read_text().split()
        except OSError:
            continue
        total += sum(cpu_ns(int(child)) for child in children)
    return total


def resident_mb(pid: int) -> float:
    """Resident memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
