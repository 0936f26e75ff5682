"""Master files in, and what is refused."""

from pathlib import Path
from typing import Any

import pytest

from popsteer.config_file import parse
from popsteer.errors import ConfigError
from resolver.zone import RRSIG, TXT, A, Outcome, Zones
from resolver.zonefile import load_zones, read_zone

HEAD = "$ORIGIN z.example.\n$TTL 60\n@ SOA ns hostmaster 1 2 3 4 5\n@ NS ns\nns A 192.0.2.1\n"


def write(folder: Path, text: str, name: str = "z.example.zone") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def zones_of(
    settings: dict[str, Any], folder: Path, text: str, *services: str, name: str = "z.example.zone"
) -> Zones:
    write(folder, text, name)
    raw = settings | {
        "dns": {"zones": [name]},
        "service": [{"name": service} for service in services],
    }
    return load_zones(parse(raw, folder / "popsteer.toml"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (HEAD + "bad A 192.0.2.999\n", ":6: 'bad A 192.0.2.999'"),
        (HEAD + "bad A 192.0.2.999\n", "expected [NAME] [TTL] [IN] A and an IPv4 address"),
        (HEAD + "x FOO bar\n", "unknown rdatatype 'FOO'"),
        (HEAD + "x CNAME ns\nx A 192.0.2.1\n", ":7:"),
        (HEAD + "x MX mail\n", ":6:"),
        (HEAD + 'x TXT "never closed\n', ":6:"),
        (HEAD + "$INCLUDE nowhere.zone\n", "nowhere.zone"),
        (HEAD + "x CNAME a\nx CNAME b\n", "more than one CNAME"),
        ("$ORIGIN z.example.\n@ 60 NS ns\n", "no SOA"),
        ("$ORIGIN z.example.\n@ 60 SOA ns h 1 2 3 4 5\n", "no NS"),
        ("", "no SOA"),
        (HEAD + "a MX ns\n", "expected [NAME] [TTL] [IN] MX, a preference and a name"),
        (HEAD + "a TYPE255 \\# 0\n", "type 255 is no data"),
        (HEAD + "a OPT \\# 0\n", "type 41 is no data"),
        (HEAD + "$GENERATE 5-1 a$ A 192.0.2.$\n", "expected $GENERATE START-STOP[/STEP] NAME"),
        (HEAD + "$GENERATE 1-2 a$ A\n", "too few words"),
        (HEAD + "$INCLUDE z.example.zone\n", "include one another"),
        (HEAD + "".join(f"a TXT {n:0>250}\n" for n in range(300)), "300 records of type TXT"),
    ],
)
def test_a_bad_file_is_refused_with_its_name_and_line(tmp_path: Path, text: str, said: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match=r"z\.example\.zone") as refused:
        read_zone(path)
    assert said in str(refused.value)


def test_a_missing_file_and_a_binary_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.zone: No such file"):
        read_zone(tmp_path / "gone.zone")
    (tmp_path / "bin.zone").write_bytes(b"\xff\xfe\0")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_zone(tmp_path / "bin.zone")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("$ORIGIN example.\n$TTL 9\nz SOA ns h 1 2 3 4 5\nz NS ns\n", "any"),
        ("$TTL 9\nz.example. SOA ns h 1 2 3 4 5\n NS ns\n", "any"),
        ("$TTL 9\n@ IN SOA ns h (\n 1 2 3 4 5 )\n NS ns\n", "z.example.zone"),
        ("@ 9 IN SOA ns h 1 2 3 4 5\n@ NS ns\n", "db.z.example"),
    ],
)
def test_the_origin_is_the_owner_of_the_soa(tmp_path: Path, text: str, name: str) -> None:
    assert read_zone(write(tmp_path, text, name))[0] == (b"z", b"example")


def test_escapes_binary_labels_and_unknown_types(data: Path) -> None:
    _, nodes = read_zone(data / "cdn.example.zone")
    apex = nodes[b"cdn", b"example"]
    # \DDD is decimal: 200 and 65, which is A.
    assert apex.rrsets[TXT].rdatas[0].parts[0][-3:] == b"\x02\xc8A"
    assert (b"bin\0ary\xff.dot", b"cdn", b"example") in nodes
    assert nodes[b"unknown", b"cdn", b"example"].rrsets[65_400].rdatas[0].parts == (
        b"\xde\xad\xbe\xef",
    )


def test_names_between_names_exist(data: Path, settings: dict[str, Any]) -> None:
    zone = load_zones(parse(settings, data / "popsteer.toml")).by_origin[b"cdn", b"example"]
    between = zone.find((b"c", b"ent", b"cdn", b"example"), A)
    assert (between.outcome, dict(between.node.rrsets)) == (Outcome.FOUND, {})


def test_a_service_without_a_zone_gets_one_of_its_own(settings: dict[str, Any]) -> None:
    raw = settings | {"dns": {}, "service": [{"name": "WWW.lone.example"}]}
    zones = load_zones(parse(raw, Path("popsteer.toml")))
    zone = zones.by_origin[b"www", b"lone", b"example"]
    assert zone.apex.service is not None
    assert zone.negative_ttl_s == 300


@pytest.mark.parametrize(
    ("extra", "service", "said"),
    [
        ("www CNAME ns\n", "www.z.example", "has a CNAME record"),
        ("sub NS ns.other.\n", "www.sub.z.example", "gives sub.z.example. away"),
        ("old DNAME new\n", "www.old.z.example", "gives old.z.example. away"),
    ],
)
def test_a_service_that_contradicts_its_zone_is_refused(
    settings: dict[str, Any], tmp_path: Path, extra: str, service: str, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        zones_of(settings, tmp_path, HEAD + extra, service)


def test_a_steered_name_may_be_a_wildcard_or_the_apex(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    zones = zones_of(settings, tmp_path, HEAD, "*.z.example", "z.example")
    zone = zones.by_origin[b"z", b"example"]
    assert zone.apex.service is not None
    found = zone.find((b"any", b"z", b"example"), A)
    assert found.node.service is not None
    assert found.node.service.name == "*.z.example."


def test_an_included_file_stands_beside_the_one_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    write(tmp_path / "parts", "a A 192.0.2.7\n$INCLUDE more.zone\n", "hosts.zone")
    write(tmp_path / "parts", "b A 192.0.2.8\n", "more.zone")
    text = HEAD + "$INCLUDE parts/hosts.zone\nc TXT $INCLUDE parts/hosts.zone\n"
    _, nodes = read_zone(write(tmp_path, text))
    assert {(b"a", b"z", b"example"), (b"b", b"z", b"example")} <= nodes.keys()
    words = nodes[b"c", b"z", b"example"].rrsets[TXT].rdatas[0].parts[0]
    assert words == b"\x08$INCLUDE\x10parts/hosts.zone"


def test_a_bad_line_of_an_included_file_is_named(tmp_path: Path) -> None:
    write(tmp_path, "a A nowhere\n", "hosts.zone")
    with pytest.raises(ConfigError, match=r"hosts\.zone:1: 'a A nowhere'"):
        read_zone(write(tmp_path, HEAD + "$INCLUDE hosts.zone\n"))


@pytest.mark.parametrize(
    ("line", "owner", "rtype", "octets"),
    [
        ("$GENERATE 7-9/2 a$ A 192.0.2.$", "a9", 1, b"\xc0\0\2\x09"),
        ("$GENERATE 7-9 a${-6,3,d} 5 IN A 192.0.2.${1}", "a003", 1, b"\xc0\0\2\x0a"),
        ("$GENERATE 1-2 IN$ IN 5 TYPE1 192.0.2.$ ; remark", "in2", 1, b"\xc0\0\2\2"),
        ('$GENERATE 1-2 a$ MX "10 m$.x."', "a2", 15, b"\0\x0a\2m2\1x\0"),
        ("$GENERATE 1-2 a$ MX 10 m$.x.", "a1", 15, b"\0\x0a\2m1\1x\0"),
        ('$GENERATE 1-2 a$ TXT "$ b" c', "a1", 16, b"\x031 b\x01c"),
        ('$GENERATE 1-2 a$ TXT "\\"$ b\\""', "a1", 16, b"\x031 b"),
        ("$GENERATE 31-31 a$$ CNAME x${0,4,x}.", "a$", 5, b"\5x001f\0"),
        ("$GENERATE 18-18 ${0,3,n} PTR a\\$.", "2.1", 12, b"\2a$\0"),
        ("a MB m.", "a", 7, b"\1m\0"),
        ("a MR m.", "a", 9, b"\1m\0"),
        ("a MINFO m. e.", "a", 14, b"\1m\0\1e\0"),
        ("a CLASS1 TYPE1 \\# 4 C0000207", "a", 1, b"\xc0\0\2\7"),
        ("a IN TYPE65280 \\# 0", "a", 65_280, b""),
    ],
)
def test_what_lines_mean(tmp_path: Path, line: str, owner: str, rtype: int, octets: bytes) -> None:
    _, nodes = read_zone(write(tmp_path, HEAD + line + "\n"))
    key = (*owner.encode().split(b"."), b"z", b"example")
    assert [rdata.octets for rdata in nodes[key].rrsets[rtype].rdatas] == [octets]


def test_odd_files_that_are_good(tmp_path: Path) -> None:
    text = "\ufeff" + HEAD.replace("\n", "\r\n") + "a 2147483648 A 192.0.2.1\r\nb A 192.0.2.2"
    _, nodes = read_zone(write(tmp_path, text))
    assert nodes[b"a", b"z", b"example"].rrsets[A].ttl_s == 0  # RFC 2181 §8
    assert nodes[b"b", b"z", b"example"].rrsets[A].ttl_s == 60


def test_signatures_in_a_file_are_one_rrset(tmp_path: Path) -> None:
    signature = "a RRSIG {} 13 3 60 20300101000000 20200101000000 1 z.example. AQID\n"
    text = HEAD + "a A 192.0.2.1\n" + signature.format("A") + signature.format("TXT")
    _, nodes = read_zone(write(tmp_path, text))
    assert len(nodes[b"a", b"z", b"example"].rrsets[RRSIG].rdatas) == 2


def test_addresses_in_the_file_give_way_to_the_table(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    extra = "www A 192.0.2.9\nwww AAAA 2001:db8::9\nwww TXT kept\n"
    zone = zones_of(settings, tmp_path, HEAD + extra, "www.z.example").by_origin[b"z", b"example"]
    node = zone.nodes[b"www", b"z", b"example"]
    assert (set(node.rrsets), node.service is not None) == ({TXT}, True)
