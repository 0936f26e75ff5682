"""Transfers and TSIG, judged by dnspython: it applies what we send and checks every signature."""

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.tsig
import dns.xfr
import dns.zone
import pytest

from popsteer.config_file import parse
from popsteer.errors import ConfigError
from resolver.answer import Client, Transport, answer
from resolver.snapshot import Snapshot
from resolver.transfer import (
    DELTAS_MAX,
    Secondary,
    Transfers,
    is_newer,
    journals_of,
    since,
    transfers_of,
)
from resolver.zonefile import load_zones

NOW_S = 1_700_000_000
ORIGIN = dns.name.from_text("cdn.example.")
KEY = dns.tsig.Key("secondary.", b"k" * 32, "hmac-sha256")
OTHER = dns.tsig.Key("other.", b"o" * 32, "hmac-sha512")
HERE, AWAY = b"\x7f\0\0\1", b"\xc6\x33\x64\1"
HEAD = "$ORIGIN cdn.example.\n@ 60 SOA ns h {} 2 3 4 5\n@ 60 NS ns\nns 60 A 192.0.2.53\n"


@pytest.fixture(scope="module")
def transfers(tmp_path_factory: pytest.TempPathFactory) -> Transfers:
    folder = tmp_path_factory.mktemp("keys")
    (folder / "k").write_text("a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s=\n")
    (folder / "o").write_text("b29vb29vb29vb29vb29vb29vb29vb29vb29vb29vb28=\n")
    raw = {
        "tsig": [
            {"name": "Secondary", "file": "k"},
            {"name": "other", "file": "o", "algorithm": "hmac-sha512"},
        ],
        "secondary": [{"allow": ["127.0.0.0/8"], "key": "secondary."}],
    }
    return transfers_of(parse(raw, folder / "popsteer.toml"))


@pytest.fixture(scope="module")
def served(snapshot: Snapshot, transfers: Transfers) -> Snapshot:
    return replace(snapshot, transfers=transfers)


def query(
    qtype: str = "AXFR", key: dns.tsig.Key | None = KEY, serial: int | None = None, **more: Any
) -> dns.message.QueryMessage:
    made = dns.message.make_query(more.pop("name", ORIGIN), qtype)
    if serial is not None:
        text = f". . {serial} 0 0 0 0"
        made.authority.append(dns.rrset.from_text(ORIGIN, 0, "IN", "SOA", text))
    if key is not None:
        made.use_tsig(key, **more)
    return made


def said(
    asked: dns.message.QueryMessage,
    on: Snapshot,
    *,
    tcp: bool = True,
    address: bytes = HERE,
    now_s: int | None = None,
) -> list[bytes]:
    """The messages of the answer."""
    wire = asked.to_wire()
    client = Client(address, Transport.TCP if tcp else Transport.UDP)
    signed_s = asked.tsig[0].time_signed if asked.tsig else NOW_S
    made = answer(wire, client, on, 0, signed_s if now_s is None else now_s)
    assert made is not None
    return [made.wire, *made.more]


def read(asked: dns.message.QueryMessage, wires: list[bytes]) -> Iterator[dns.message.Message]:
    """The messages, each signature checked as the secondary does."""
    context = None
    for wire in wires:
        told = dns.message.from_wire(
            wire,
            keyring=asked.keyring or False,
            request_mac=asked.mac,
            xfr=True,
            tsig_ctx=context,
            multi=True,
            one_rr_per_rrset=True,
        )
        assert told.had_tsig == bool(asked.tsig)
        context = told.tsig_ctx
        yield told


def transferred(
    asked: dns.message.QueryMessage, wires: list[bytes], into: dns.zone.Zone, serial: int | None
) -> dns.zone.Zone:
    """A secondary's zone after the transfer."""
    kind = asked.question[0].rdtype
    done = False
    with dns.xfr.Inbound(into, kind, serial) as inbound:
        for told in read(asked, wires):
            done = inbound.process_message(told)
    assert done
    return into


def rcode(wires: list[bytes]) -> str:
    (wire,) = wires
    return dns.rcode.to_text(dns.rcode.from_flags(int.from_bytes(wire[2:4], "big"), 0))


def test_axfr_gives_the_whole_zone_with_fallbacks_for_steered_names(served: Snapshot) -> None:
    asked = query()
    zone = transferred(asked, said(asked, served), dns.zone.Zone(ORIGIN, relativize=False), None)
    source = dns.zone.from_file(
        str(Path(__file__).parent / "data" / "cdn.example.zone"), ORIGIN, relativize=False
    )
    steered = dns.name.from_text("www", ORIGIN)
    assert {str(one) for one in zone.find_rdataset(steered, "A")} == {"192.0.2.1", "192.0.2.2"}
    assert {str(one) for one in zone.find_rdataset(steered, "AAAA")} == {"2001:db8::1"}
    zone.delete_rdataset(steered, "A")
    zone.delete_rdataset(steered, "AAAA")
    assert zone == source


def test_a_large_zone_is_a_stream_of_signed_messages(served: Snapshot, tmp_path: Path) -> None:
    zones = zone_of(tmp_path, 1, {f"h{i} 60 TXT {'x' * 200}" for i in range(1_000)})
    asked = query()
    wires = said(asked, replace(served, zones=zones))
    assert len(wires) > 10
    assert max(map(len, wires)) < 20_000
    zone = transferred(asked, wires, dns.zone.Zone(ORIGIN, relativize=False), None)
    assert len(zone.nodes) == 1_003  # the steered name is one of them
    questions = [len(dns.message.from_wire(w, keyring=False).question) for w in wires]
    assert questions == [1] + [0] * (len(wires) - 1)


def zone_of(folder: Path, serial: int, lines: set[str]) -> Any:
    (folder / "cdn.example.zone").write_text(
        HEAD.format(serial) + "".join(f"{line}\n" for line in sorted(lines))
    )
    raw = {
        "dns": {"zones": ["cdn.example.zone"]},
        "pop": [{"id": "fra1", "ipv4": ["192.0.2.1"]}],
        "service": [{"name": "www.cdn.example"}],
    }
    return load_zones(parse(raw, folder / "popsteer.toml"))


def test_ixfr_from_any_version_gives_the_zone_of_now(served: Snapshot, tmp_path: Path) -> None:
    rng = random.Random(7)
    lines = {f"h{i} 60 A 192.0.2.{i}" for i in range(30)}
    versions = [zone_of(tmp_path, 4_294_967_290, lines)]
    on = replace(served, zones=versions[0])
    for step in range(1, 12):  # over the end of the serial numbers
        lines = {line for line in lines if rng.random() > 0.2}
        lines |= {f"n{rng.randrange(50)} {rng.choice((60, 60, 60))} A 192.0.2.{step}"}
        versions.append(zone_of(tmp_path, (4_294_967_290 + step) % 2**32, lines))
        journals = journals_of(versions[-2], versions[-1], on.journals, on.fleet)
        on = replace(on, zones=versions[-1], journals=MappingProxyType(journals))
    whole = query()
    want = transferred(whole, said(whole, on), dns.zone.Zone(ORIGIN, relativize=False), None)
    for back, old in enumerate(versions[:-1]):
        before = query()
        have = transferred(
            before,
            said(before, replace(on, zones=old)),
            dns.zone.Zone(ORIGIN, relativize=False),
            None,
        )
        serial = (4_294_967_290 + back) % 2**32
        asked = query("IXFR", serial=serial)
        wires = said(asked, on)
        second = next(read(asked, wires)).answer[1]
        assert second.rdtype == dns.rdatatype.SOA, "a difference, not the zone"
        assert transferred(asked, wires, have, serial) == want


def test_ixfr_falls_back_to_the_whole_zone_and_says_when_nothing_is_new(served: Snapshot) -> None:
    serial = 2_024_010_101
    now = list(read(asked := query("IXFR", serial=serial), said(asked, served)))
    assert [str(r.rdtype) for m in now for r in m.answer] == [str(dns.rdatatype.SOA)]
    old = list(read(asked := query("IXFR", serial=serial - 5), said(asked, served)))
    assert len(old[0].answer) > 50
    assert old[0].answer[1].rdtype != dns.rdatatype.SOA


def test_over_udp_an_ixfr_is_the_soa_and_an_axfr_is_malformed(served: Snapshot) -> None:
    (wire,) = said(query("IXFR", serial=1), served, tcp=False)
    assert len(dns.message.from_wire(wire, keyring=False).answer) == 1
    assert rcode(said(query(), served, tcp=False)) == "FORMERR"
    assert rcode(said(query("IXFR"), served)) == "FORMERR"  # without the SOA that it needs


def test_zones_are_refused_to_others_and_to_wrong_keys(served: Snapshot) -> None:
    assert rcode(said(query(), served, address=AWAY)) == "REFUSED"
    assert rcode(said(query(key=None), served)) == "REFUSED"
    assert rcode(said(query(key=OTHER), served)) == "REFUSED"
    assert rcode(said(query(name="www.cdn.example."), served)) == "NOTAUTH"
    assert Secondary((), None).is_at(HERE, None) is False


@pytest.mark.parametrize(
    ("key", "late_s", "error"),
    [
        (dns.tsig.Key("nobody.", b"k" * 32), 0, "BADKEY"),
        (dns.tsig.Key("secondary.", b"k" * 32, "hmac-sha512"), 0, "BADKEY"),
        (dns.tsig.Key("secondary.", b"wrong" * 8), 0, "BADSIG"),
        (KEY, 301, "BADTIME"),
        (KEY, -301, "BADTIME"),
    ],
)
def test_a_bad_signature_is_told_why(
    served: Snapshot, key: dns.tsig.Key, late_s: int, error: str
) -> None:
    asked = query("A", key, name="mail.cdn.example.")
    asked.to_wire()
    assert asked.tsig is not None
    signed_s = asked.tsig[0].time_signed
    wires = said(asked, served, now_s=signed_s + late_s)
    told = dns.message.from_wire(wires[0], keyring=False)
    assert (told.rcode(), told.answer) == (dns.rcode.NOTAUTH, [])
    assert told.tsig is not None
    record = told.tsig[0]
    assert dns.rcode.to_text(record.error, tsig=True) == error
    if error == "BADTIME":
        # RFC 8945 §5.2.3: signed, with the client's time, and ours beside it.
        assert record.time_signed == signed_s
        assert int.from_bytes(record.other, "big") == signed_s + late_s
        with pytest.raises(dns.tsig.PeerBadTime):
            dns.message.from_wire(wires[0], keyring=KEY, request_mac=asked.mac)
        assert record.mac
    else:
        assert record.mac == b""


@pytest.mark.parametrize("key", [KEY, OTHER])
@pytest.mark.parametrize("name", ["mail", "nothing", "www", "many"])
def test_ordinary_queries_are_answered_signed_and_fit(
    served: Snapshot, key: dns.tsig.Key, name: str
) -> None:
    asked = query("A", key, name=f"{name}.cdn.example.")
    asked.use_edns(0, payload=1_232)
    (wire,) = said(asked, served, tcp=False)
    assert len(wire) <= 1_232
    told = dns.message.from_wire(wire, keyring=key, request_mac=asked.mac)
    assert told.had_tsig
    assert bool(told.flags & dns.flags.TC) == (name == "many")


def test_the_journal_is_bounded(served: Snapshot, tmp_path: Path) -> None:
    journals: Any = {}
    old = zone_of(tmp_path, 1, set())
    for serial in range(2, DELTAS_MAX + 10):
        new = zone_of(tmp_path, serial, {f"a 60 A 192.0.2.{serial % 250}"})
        journals = journals_of(old, new, journals, served.fleet)
        old = new
    journal = journals[(b"cdn", b"example")]
    assert len(journal) == DELTAS_MAX
    assert since(journal, 2) is None
    assert since(journal, serial) is None
    back = since(journal, serial - 1)
    assert back is not None
    assert len(back) == 1


def test_a_serial_that_fell_starts_a_new_journal(served: Snapshot, tmp_path: Path) -> None:
    a, b = zone_of(tmp_path, 5, set()), zone_of(tmp_path, 6, {"x 60 A 192.0.2.1"})
    journals = journals_of(a, b, {}, served.fleet)
    assert len(journals[(b"cdn", b"example")]) == 1
    assert journals_of(b, a, journals, served.fleet)[(b"cdn", b"example")] == ()


def test_serial_arithmetic() -> None:
    assert is_newer(1, 0)
    assert is_newer(0, 2**32 - 1)
    assert not is_newer(0, 0)
    assert not is_newer(0, 1)
    assert not is_newer(2**31, 0)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ({"secondary": [{"allow": ["127.0.0.1/8"]}]}, "secondary.allow"),
        ({"secondary": [{"allow": [], "key": "no."}]}, r"no \[\[tsig\]\] has this name"),
        ({"tsig": [{"name": "k", "file": "missing"}]}, "No such file"),
        ({"tsig": [{"name": "k", "file": "short"}]}, "16 octets or more"),
        ({"tsig": [{"name": "a..b", "file": "short"}]}, "16 octets or more|empty"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(
    tmp_path: Path, raw: dict[str, Any], text: str
) -> None:
    (tmp_path / "short").write_text("c2hvcnQ=")
    with pytest.raises(ConfigError, match=text):
        transfers_of(parse(raw, tmp_path / "popsteer.toml"))
