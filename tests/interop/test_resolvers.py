"""Resolvers in use find every name of the zone through us, and cache as ECS says."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(300)
Served = Any  # tests/interop/conftest.py; tests are no package to import from
Running = Callable[[Served, Path], AbstractContextManager[None]]
AT = "127.0.0.2"
HINTS = ". 3600 NS a.root.\na.root. 3600 A 127.0.0.1\n"

NAMED = """
options {{
    directory "{folder}"; pid-file none; session-keyfile none; recursion yes;
    listen-on {{ {at}; }}; listen-on-v6 {{ none; }}; query-source address {at};
    dnssec-validation {validation}; notify no; minimal-responses yes;
    allow-query {{ any; }}; allow-recursion {{ any; }};
}};
controls {{ }};
zone "." {{ type hint; file "hints"; }};
{anchor}
"""
UNBOUND = """
server:
  directory: "{folder}"
  chroot: ""
  username: ""
  pidfile: ""
  use-syslog: no
  verbosity: 1
  log-queries: no
  interface: {at}
  access-control: 127.0.0.0/8 allow
  do-ip6: no
  do-daemonize: no
  do-not-query-localhost: no
  outgoing-interface: {at}
  module-config: "subnetcache {validator} iterator"
  send-client-subnet: 0.0.0.0/0
  client-subnet-always-forward: yes
  max-client-subnet-ipv4: 24
  root-hints: "{folder}/hints"
  qname-minimisation: yes
  aggressive-nsec: yes
  {anchor}
remote-control:
  control-enable: no
"""
KRESD = """
net.listen('{at}', 53, {{ kind = 'dns' }})
net.outgoing_v4('{at}')
net.ipv6 = false
cache.open(10 * MB, 'lmdb://{folder}/cache')
modules.load('hints')
hints.root({{ ['a.root.'] = '127.0.0.1' }})
trust_anchors.remove('.')
{anchor}
log_level('info')
"""
RECURSOR = """
local-address={at}
local-port=53
query-local-address={at}
dont-query=
hint-file={folder}/hints
socket-dir={sockets}
config-dir={folder}
edns-subnet-allow-list=127.0.0.1
use-incoming-edns-subnet=yes
dnssec={validation}
security-poll-suffix=
daemon=no
setuid=
setgid=
threads=1
lua-config-file={folder}/anchors.lua
max-cache-ttl=3600
"""


def hints(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "hints").write_text(HINTS)


@contextmanager
def bind(served: Served, folder: Path) -> Iterator[None]:
    hints(folder)
    ds = anchor_of(served)
    anchor = ""
    if ds:
        tag, algorithm, kind, digest = ds
        anchor = f'trust-anchors {{ . static-ds {tag} {algorithm} {kind} "{digest}"; }};'
    validation = "yes" if ds else "no"
    conf = NAMED.format(folder=folder, at=AT, validation=validation, anchor=anchor)
    (folder / "named.conf").write_text(conf)
    command = [served.space.program("named"), "-g", "-n", "1", "-c", str(folder / "named.conf")]
    with served.space.running(folder / "log", lambda log: " running\n" in log, *command):
        yield


@contextmanager
def unbound(served: Served, folder: Path) -> Iterator[None]:
    hints(folder)
    ds = anchor_of(served)
    anchor = f'trust-anchor: ". DS {" ".join(ds)}"' if ds else ""
    validator = "validator" if ds else ""
    conf = UNBOUND.format(folder=folder, at=AT, anchor=anchor, validator=validator)
    (folder / "unbound.conf").write_text(conf)
    command = [served.space.program("unbound"), "-dd", "-c", str(folder / "unbound.conf")]
    with served.space.running(folder / "log", lambda log: "start of service" in log, *command):
        yield


@contextmanager
def kresd(served: Served, folder: Path) -> Iterator[None]:
    hints(folder)
    ds = anchor_of(served)
    anchor = f"trust_anchors.add('. DS {' '.join(ds)}')" if ds else ""
    (folder / "conf").write_text(KRESD.format(folder=folder, at=AT, anchor=anchor))
    command = [served.space.program("kresd"), "-n", "-c", str(folder / "conf"), str(folder)]
    with served.space.running(folder / "log", lambda _: answers(served), *command):
        yield


@contextmanager
def recursor(served: Served, folder: Path) -> Iterator[None]:
    hints(folder)
    ds = anchor_of(served)
    sockets = tempfile.TemporaryDirectory(prefix="rec-")  # a socket's path is short
    anchor = f'addTA(".", "{" ".join(ds)}")\n' if ds else ""
    (folder / "anchors.lua").write_text(f'clearTA(".")\n{anchor}')
    validation = "validate" if ds else "process"
    conf = RECURSOR.format(folder=folder, at=AT, validation=validation, sockets=sockets.name)
    (folder / "recursor.conf").write_text(conf)
    command = [served.space.program("pdns_recursor"), f"--config-dir={folder}"]
    with sockets, served.space.running(folder / "log", lambda _: answers(served), *command):
        yield


RESOLVERS: dict[str, Running] = {
    "bind": bind,
    "unbound": unbound,
    "kresd": kresd,
    "recursor": recursor,
}


def anchor_of(served: Served) -> list[str]:
    """Tag, algorithm, digest type and digest of the root's DS; empty where it is unsigned."""
    if not (served.folder / "ds").exists():
        return []
    tag, algorithm, kind, *digest = served.trust_anchor().partition(" DS ")[2].split()
    return [tag, algorithm, kind, "".join(digest)]


def answers(served: Served) -> bool:
    """Whether the resolver is there already."""
    return "status:" in served.space.dig("ns1.cdn.example", "A", "+tries=1", "+time=1", at=AT)


def records(served: Served, at: str, name: str, rtype: str) -> list[str]:
    """The answer section, without TTLs, in any order."""
    out = served.space.dig("+noall", "+answer", "+nocrypto", "+nottlid", name, rtype, at=at)
    return sorted(line.lower() for line in out.splitlines() if "\tRRSIG\t" not in line)


@pytest.mark.parametrize("name", RESOLVERS)
def test_every_name_is_found(
    served: Served, questions: list[tuple[str, str]], name: str, tmp_path: Path
) -> None:
    with RESOLVERS[name](served, tmp_path / name):
        for owner, rtype in questions:
            want = records(served, "127.0.0.1", owner, rtype)
            assert records(served, AT, owner, rtype) == want, (name, owner, rtype)
            assert want, (owner, rtype)
        for missing in ("nothing", "x.y.ent"):
            out = served.space.dig(f"{missing}.cdn.example", "A", at=AT)
            assert "status: NXDOMAIN" in out
        out = served.space.dig("ent.cdn.example", "A", at=AT)
        assert "status: NOERROR" in out
        assert "ANSWER: 0" in out


@pytest.mark.parametrize("name", RESOLVERS)
def test_the_signed_zone_validates(
    signed: Served, questions: list[tuple[str, str]], name: str, tmp_path: Path
) -> None:
    with RESOLVERS[name](signed, tmp_path / name):
        asked = [*questions, ("nothing.cdn.example.", "A"), ("ent.cdn.example.", "A")]
        asked += [("mail.cdn.example.", "TXT"), ("www.cdn.example.", "TXT")]
        for owner, rtype in asked:
            out = signed.space.dig("+dnssec", owner, rtype, at=AT)
            flags = next(line for line in out.splitlines() if line.startswith(";; flags:"))
            assert " ad" in flags, (name, owner, rtype, out)


def test_unbound_caches_for_each_scope(served: Served, tmp_path: Path) -> None:
    """One question for each scope, however many subnets of it ask (RFC 7871 §7.3.1)."""
    with unbound(served, tmp_path / "unbound"):

        def asked(subnet: str) -> tuple[str, str]:
            out = served.space.dig(f"+subnet={subnet}", "www.cdn.example", "A", at=AT)
            answer = [line.split()[4] for line in out.splitlines() if "\tA\t" in line]
            scope = next(line for line in out.splitlines() if "CLIENT-SUBNET" in line)
            return min(answer), scope.rpartition("/")[2]

        assert asked("10.1.5.0/24") == ("198.51.100.1", "16")
        assert asked("10.2.5.0/24") == ("198.51.100.3", "16")
        # The zone is changed underneath: what was cached for a scope is still answered from there.
        table = served.folder / "table.csv"
        table.write_text("prefix,pop\n10.0.0.0/8,nyc1\n")
        swap(served, table)
        served.space.until(
            lambda: "198.51.100.3" in served.space.dig("+subnet=10.1.5.0/24", "www.cdn.example")
        )
        assert asked("10.1.200.0/24") == ("198.51.100.1", "16")
        assert asked("10.9.0.0/24")[0] == "198.51.100.3"


def swap(served: Served, table: Path) -> None:
    """A new generation of the table, put in place at once."""
    import subprocess
    import sys

    new = served.folder / "new.arrow"
    run = [sys.executable, "-c", "from console.cli import main; main()", "table", "compile"]
    run += [str(table), "-o", str(new), "--generation", "2"]
    subprocess.run(run, check=True, capture_output=True)
    new.replace(served.folder / "table.arrow")
