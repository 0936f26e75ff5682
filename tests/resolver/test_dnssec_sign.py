"""Signing and its keys: rollovers that caches survive, files that do not cover, what is said."""

import stat
from pathlib import Path
from typing import Any

import dns.dnssec
import dns.name
import dns.rdata
import dns.rdatatype
import dns.rrset
import msgspec
import pytest
from dns.exception import ValidationFailure

from console.cli import run
from popsteer.config import Config
from popsteer.config_file import parse
from popsteer.errors import ConfigError
from resolver.dnssec import SignedFile, Term, lay_over, life, read_signed
from resolver.expiry import Expiry
from resolver.route import fleet_of
from resolver.sign import lifetime, sign_zones, ttl_s_max
from resolver.zone import DNSKEY, SOA, RRset, Zone
from resolver.zonefile import load_zones, unsigned_zones
from resolver.zonekeys import KeyFolder, Role, ensure, next_step, take

NOW_S = 1_700_000_000
NAME = "cdn.example."
ZONE = dns.name.from_text(NAME)
DAY_S = 86_400


@pytest.fixture
def raw(settings: dict[str, Any], tmp_path: Path, data: Path) -> dict[str, Any]:
    """The configuration as TOML has it, in a folder of its own."""
    zone = (data / "cdn.example.zone").read_text()
    (tmp_path / "cdn.example.zone").write_text(zone)
    dns_keys = {**settings["dns"], "zones": ["cdn.example.zone"], "dnssec": "signed"}
    return {**settings, "dns": dns_keys}


def config_of(raw: dict[str, Any], folder: Path) -> Config:
    return parse(raw, folder / "popsteer.toml")


def signed_file(config: Config, keys: KeyFolder, now_s: int = NOW_S) -> SignedFile:
    """What `popsteer sign` makes."""
    of = {NAME: ensure(keys, NAME, "ed25519", False, now_s)}
    return sign_zones(unsigned_zones(config), fleet_of(config), of, lifetime(now_s, 14))


def write(config: Config, folder: Path) -> None:
    made = signed_file(config, KeyFolder(folder / "keys"))
    (folder / "signed").write_bytes(msgspec.msgpack.encode(made))


def as_dnspython(rrset: RRset) -> tuple[dns.rrset.RRset, dns.rrset.RRset]:
    """The RRset and its signatures."""
    owner = dns.name.Name([*rrset.owner, b""])
    return (
        dns.rrset.from_rdata_list(owner, rrset.ttl_s, _parse(rrset.rtype, _octets(rrset))),
        dns.rrset.from_rdata_list(owner, rrset.ttl_s, _parse(46, list(rrset.signatures))),
    )


def _octets(rrset: RRset) -> list[bytes]:
    return [rdata.octets for rdata in rrset.rdatas]


def _parse(rtype: int, found: list[bytes]) -> list[Any]:
    return [
        dns.rdata.from_wire("IN", dns.rdatatype.RdataType.make(rtype), one, 0, len(one))
        for one in found
    ]


def check_chain(keys: Zone, data: Zone, trusted: set[int], now_s: int) -> None:
    """A cache has the keys of one moment and the data of another: it must believe them.

    `trusted` are the tags that the parent's DS names.
    """
    rrset, signatures = as_dnspython(keys.apex.rrsets[DNSKEY])
    anchors = [key for key in rrset if dns.dnssec.key_id(key) in trusted]
    assert anchors, "the parent's DS names no key of the zone"
    anchor = dns.rrset.from_rdata_list(ZONE, 0, anchors)
    dns.dnssec.validate(rrset, signatures, {ZONE: anchor}, now=now_s)
    dns.dnssec.validate(*as_dnspython(data.apex.rrsets[SOA]), {ZONE: rrset}, now=now_s)


@pytest.mark.parametrize("role", ["csk", "ksk", "zsk"])
def test_a_rollover_is_believed_at_every_step(
    raw: dict[str, Any], tmp_path: Path, role: Role
) -> None:
    config, folder, now_s = config_of(raw, tmp_path), KeyFolder(tmp_path / "keys"), NOW_S
    ensure(folder, NAME, "ecdsap256", role != "csk", now_s)
    zones, fleet = unsigned_zones(config), fleet_of(config)
    longest_s = ttl_s_max(zones.by_origin[b"cdn", b"example"])

    def signed() -> Zone:
        file = sign_zones(zones, fleet, {NAME: folder.of(NAME)}, lifetime(now_s, 14))
        return lay_over(zones, fleet, file, tmp_path).by_origin[b"cdn", b"example"]

    def parental() -> set[int]:
        keys = folder.of(NAME)
        return {k.record.tag for k in keys if k.signs_keys and k.record.stage == "active"}

    first = {key.record.tag for key in folder.of(NAME)}
    moments, ds = [signed()], parental()
    for what in ("publish", "activate", "remove"):
        step = next_step(folder.of(NAME), role, longest_s)
        assert step.what == what
        now_s = max(now_s, step.safe_s)
        take(step, folder, now_s)
        moments.append(signed())
        before, after = moments[-2:]
        # Caches have either moment's keys and either moment's data, and the old DS for a while.
        for keys in (before, after):
            for data in (before, after):
                check_chain(keys, data, ds, now_s)
        if what == "activate":
            ds = parental()
            check_chain(after, after, ds, now_s)
            check_chain(after, before, ds, now_s)
    old = first - {key.record.tag for key in folder.of(NAME)}
    assert len(old) == 1
    assert len(folder.of(NAME)) == (1 if role == "csk" else 2)
    assert {k.record.stage for k in folder.of(NAME)} == {"active"}
    assert len(list((tmp_path / "keys").glob("*.pem"))) == len(folder.of(NAME))


def test_skipping_the_wait_of_a_rollover_would_break_caches(
    raw: dict[str, Any], tmp_path: Path
) -> None:
    """The check above can fail: keys cached before a new one was published do not know it."""
    config, folder = config_of(raw, tmp_path), KeyFolder(tmp_path / "keys")
    ensure(folder, NAME, "ed25519", True, NOW_S)
    zones, fleet = unsigned_zones(config), fleet_of(config)
    moments = []
    for _ in range(3):
        file = sign_zones(zones, fleet, {NAME: folder.of(NAME)}, lifetime(NOW_S, 14))
        moments.append(lay_over(zones, fleet, file, tmp_path).by_origin[b"cdn", b"example"])
        take(next_step(folder.of(NAME), "zsk", 3_600), folder, NOW_S)
    (ds,) = (k.record.tag for k in folder.of(NAME) if k.signs_keys)
    with pytest.raises(ValidationFailure):
        check_chain(moments[0], moments[2], {ds}, NOW_S)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"service": [{"name": "www.cdn.example.", "ttl_s": 30}]},
            "no signature for www.cdn.example.",
        ),
        (
            {"pop": [{"id": "fra1", "ipv4": ["192.0.2.9"]}]},
            "no signature for www.cdn.example.",
        ),
        (
            {"service": [{"name": "www.cdn.example."}, {"name": "new.elsewhere.test."}]},
            "the zone new.elsewhere.test. is not signed",
        ),
        ({"service": [{"name": "www.cdn.example."}, {"name": "img.cdn.example."}]}, "no signature"),
    ],
)
def test_what_is_not_covered_is_an_error(
    raw: dict[str, Any], tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    write(config_of(raw, tmp_path), tmp_path)
    with pytest.raises(ConfigError, match="run `popsteer sign`") as error:
        load_zones(config_of({**raw, **change}, tmp_path))
    assert said in str(error.value)
    assert str(tmp_path / "signed") in str(error.value)


def test_a_changed_zone_is_not_covered(raw: dict[str, Any], tmp_path: Path) -> None:
    config = config_of(raw, tmp_path)
    write(config, tmp_path)
    assert load_zones(config).by_origin[b"cdn", b"example"].signing is not None
    with (tmp_path / "cdn.example.zone").open("a") as zone:
        zone.write("later IN A 192.0.2.200\n")
    with pytest.raises(ConfigError, match="no signature for"):
        load_zones(config)


@pytest.mark.parametrize("content", [None, b"", b"\x00not a file", b"half"])
def test_a_broken_file_is_an_error(
    raw: dict[str, Any], tmp_path: Path, content: bytes | None
) -> None:
    write(config_of(raw, tmp_path), tmp_path)
    whole = (tmp_path / "signed").read_bytes()
    (tmp_path / "signed").unlink()
    if content is not None:
        (tmp_path / "signed").write_bytes(whole[:99] if content == b"half" else content)
    with pytest.raises(ConfigError, match="popsteer sign"):
        read_signed(tmp_path / "signed")


def test_records_of_signing_in_a_zone_file_are_refused(raw: dict[str, Any], tmp_path: Path) -> None:
    with (tmp_path / "cdn.example.zone").open("a") as zone:
        zone.write("x IN NSEC y A\n")
    with pytest.raises(ConfigError, match=r"x\.cdn\.example\. NSEC"):
        write(config_of(raw, tmp_path), tmp_path)


def test_a_lifetime_near_the_ttl_is_refused(raw: dict[str, Any], tmp_path: Path) -> None:
    config, keys = config_of(raw, tmp_path), KeyFolder(tmp_path / "keys")
    of = {NAME: ensure(keys, NAME, "ed25519", False, NOW_S)}
    with pytest.raises(ConfigError, match="longest TTL"):
        sign_zones(unsigned_zones(config), fleet_of(config), of, lifetime(NOW_S, 0.1))


@pytest.mark.parametrize(
    ("after_s", "said"),
    [
        (-2 * 3_600, "not valid yet"),
        (0, ""),
        (7 * DAY_S, ""),
        (12 * DAY_S, "expire in 48.0 hours"),
        (14 * DAY_S, "have expired"),
    ],
)
def test_the_term_is_told(after_s: int, said: str) -> None:
    when = lifetime(NOW_S, 14)
    term = Term(format=1, inception_s=when.inception_s, expires_s=when.expires_s)
    text = life(term, NOW_S + after_s).text
    assert said in text
    assert bool(said) == bool(text)


def test_expiry_is_a_metric_and_an_error(
    raw: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_of(raw, tmp_path)
    write(config, tmp_path)
    expiry = Expiry(config)
    assert expiry.gauges(NOW_S) == {"dnssec_left_seconds": 14 * DAY_S}
    for hour in (0, 1, 2):
        for second in (0, 5):
            expiry.say(NOW_S + 15 * DAY_S + hour * 3_600 + second)
    told = capsys.readouterr()
    assert (told.out + told.err).count("have expired") == 3
    assert Expiry(config_of({**raw, "dns": {"listen": "127.0.0.1:0"}}, tmp_path)).gauges(0) == {}


CONFIG = """
[dns]
zones = ["cdn.example.zone"]
dnssec = "signed"
[[pop]]
id = "fra1"
ipv4 = ["192.0.2.1"]
[[service]]
name = "www.cdn.example."
"""


def test_the_command_makes_keys_once_and_rolls_them(
    raw: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert raw
    config = tmp_path / "popsteer.toml"
    config.write_text(CONFIG)
    sign = ["sign", "--config", str(config), "--keys", str(tmp_path / "keys")]
    roll = ["sign", "roll", "cdn.example", *sign[1:]]
    assert run(sign) == 0
    first = capsys.readouterr().out
    assert first.count(" IN DS ") == 1
    assert run(sign) == 0
    assert capsys.readouterr().out == first
    (key,) = (tmp_path / "keys").glob("*.pem")
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert run(roll) == 0
    assert run(roll) != 0
    assert "--now" in capsys.readouterr().err
    assert run([*roll, "--now"]) == 0
    assert "Have the parent replace its DS" in capsys.readouterr().out
    assert run([*roll, "--now"]) != 0
    assert "--ds-replaced" in capsys.readouterr().err
    assert run([*roll, "--now", "--ds-replaced"]) == 0
    assert not key.exists()
    assert run(sign) == 0
    assert first.splitlines()[3] not in capsys.readouterr().out


def test_the_command_names_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], raw: dict[str, Any]
) -> None:
    assert raw
    config = tmp_path / "popsteer.toml"
    config.write_text(CONFIG.replace('dnssec = "signed"', ""))
    assert run(["sign", "--config", str(config)]) == 2
    assert "dns.dnssec is not set" in capsys.readouterr().err
    assert run(["sign", "roll", "other.test", "--config", str(config)]) == 2
    assert "its zones: cdn.example." in capsys.readouterr().err
