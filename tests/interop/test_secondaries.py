"""BIND, NSD and Knot as secondaries: they transfer, hear of changes, answer without steering."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(300)
Served = Any  # tests/interop/conftest.py; tests are no package to import from
Running = Callable[[Served, Path, str], AbstractContextManager[None]]
AT = "127.0.0.3"
SECRET = "a2V5IG9mIHRoZSB0ZXN0cyBhbmQgb2Ygbm9ib2R5IGVsc2U="

NAMED = """
options {{
    directory "{folder}"; pid-file none; session-keyfile none; recursion no;
    listen-on {{ {at}; }}; listen-on-v6 {{ none; }}; dnssec-validation no; notify no;
    transfer-source {at}; minimal-responses yes; check-names secondary ignore;
}};
controls {{ }};
key "interop" {{ algorithm hmac-sha256; secret "{secret}"; }};
server 127.0.0.1 {{ keys {{ "interop"; }}; request-ixfr yes; }};
zone "cdn.example" {{
    type secondary; primaries {{ 127.0.0.1; }}; file "{folder}/zone"; masterfile-format text;
}};
"""
NSD = """
server:
  ip-address: {at}
  username: ""
  chroot: ""
  zonesdir: "{folder}"
  database: ""
  pidfile: ""
  xfrdfile: "{folder}/xfrd"
  zonelistfile: "{folder}/zonelist"
  xfrdir: "{folder}"
  verbosity: 2
remote-control:
  control-enable: no
key:
  name: "interop"
  algorithm: hmac-sha256
  secret: "{secret}"
zone:
  name: "cdn.example"
  zonefile: "zone"
  request-xfr: 127.0.0.1 interop
  allow-notify: 127.0.0.0/8 interop
  outgoing-interface: {at}
"""
KNOT = """
server:
  listen: {at}@53
  rundir: {folder}
log:
  - target: stderr
    any: info
database:
  storage: {folder}
key:
  - id: interop
    algorithm: hmac-sha256
    secret: {secret}
remote:
  - id: primary
    address: 127.0.0.1@53
    via: {at}
    key: interop
acl:
  - id: notify
    address: 127.0.0.0/8
    key: interop
    action: notify
zone:
  - domain: cdn.example
    storage: {folder}
    master: primary
    acl: notify
"""


@contextmanager
def bind(served: Served, folder: Path, secret: str) -> Iterator[None]:
    (folder / "conf").write_text(NAMED.format(folder=folder, at=AT, secret=secret))
    command = [
        served.space.program("named"),
        "-g",
        "-d",
        "3",
        "-n",
        "1",
        "-c",
        str(folder / "conf"),
    ]
    with served.space.running(folder / "log", lambda log: " running\n" in log, *command):
        yield


@contextmanager
def nsd(served: Served, folder: Path, secret: str) -> Iterator[None]:
    (folder / "conf").write_text(NSD.format(folder=folder, at=AT, secret=secret))
    command = [served.space.program("nsd"), "-d", "-c", str(folder / "conf")]
    with served.space.running(folder / "log", lambda log: "nsd started" in log, *command):
        yield


@contextmanager
def knot(served: Served, folder: Path, secret: str) -> Iterator[None]:
    (folder / "conf").write_text(KNOT.format(folder=folder, at=AT, secret=secret))
    command = [served.space.program("knotd"), "-c", str(folder / "conf")]
    with served.space.running(folder / "log", lambda log: "server started" in log, *command):
        yield


SECONDARIES: dict[str, Running] = {"bind": bind, "nsd": nsd, "knot": knot}
INCREMENTAL = {
    "bind": ["got incremental response"],
    "nsd": [],  # its log does not tell
    "knot": ["AXFR, incoming", "IXFR, incoming"],
}
"""What each writes where it got a difference."""
SERIALS = {name: 10 * number for number, name in enumerate(SECONDARIES, 1)}


def records(served: Served, at: str, name: str, rtype: str) -> list[str]:
    out = served.space.dig("+noall", "+answer", name, rtype, at=at)
    return sorted(line.lower() for line in out.splitlines() if not line.startswith(";"))


def serial(served: Served, at: str) -> str:
    soa = records(served, at, "cdn.example", "SOA")
    return soa[0].split()[6] if soa else ""


def notices(served: Served) -> list[str]:
    """What the log says of secondaries that were told."""
    return [line for line in served.log.read_text().splitlines() if "secondary notified" in line]


@pytest.mark.parametrize("name", SECONDARIES)
def test_a_secondary_follows_the_zone(
    served: Served, questions: list[tuple[str, str]], name: str, tmp_path: Path
) -> None:
    number = SERIALS[name]
    served.write_zone(number)
    served.space.until(lambda: serial(served, "127.0.0.1") == str(number))
    with SECONDARIES[name](served, tmp_path, SECRET):
        served.space.until(lambda: serial(served, AT) == str(number))
        for owner, rtype in questions:
            if owner.startswith(("www.", "toww.")):
                continue
            want = records(served, "127.0.0.1", owner, rtype)
            assert records(served, AT, owner, rtype) == want, (owner, rtype)
        steered = records(served, AT, "www.cdn.example", "A")
        assert [one.split()[4] for one in steered] == ["198.51.100.1", "198.51.100.3"]
        # A change is announced, and fetched as a difference.
        served.write_zone(number + 1)
        served.space.until(lambda: serial(served, AT) == str(number + 1))
        changed = records(served, AT, "changed.cdn.example", "A")
        assert [one.split()[4] for one in changed] == [f"192.0.2.{number + 1}"]
        log = (tmp_path / "log").read_text("utf-8", "replace")
        assert all(said in log for said in INCREMENTAL[name]), log
        # It may have come by itself, before the notice that is sent a moment after the change.
        notice = f'"serial": {number + 1}'
        served.space.until(lambda: any(notice in line for line in notices(served)))


def test_a_secondary_with_another_key_gets_nothing(served: Served, tmp_path: Path) -> None:
    wrong = SECRET[:-4] + "AAA="
    with bind(served, tmp_path, wrong):
        log = tmp_path / "log"
        served.space.until(lambda: "failure trying primary" in log.read_text())
        assert serial(served, AT) == ""


def test_a_signed_zone_keeps_its_signatures_at_a_secondary(signed: Served, tmp_path: Path) -> None:
    with bind(signed, tmp_path, SECRET):
        signed.space.until(lambda: serial(signed, AT) != "")
        for name in ("mail", "www", "nothing", "x.wild", "toww"):
            out = signed.space.dig("+dnssec", f"{name}.cdn.example", "A", at=AT)
            assert "\tRRSIG\tA " in out or "\tRRSIG\tNSEC " in out, out
