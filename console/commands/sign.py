"""`popsteer sign`: sign the zones ahead, and roll the keys. For the machine that has the keys."""

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from cyclopts import App, Parameter

from console.running import find_config
from popsteer.config import Config
from popsteer.errors import ConfigError, SetupError
from popsteer.names import dns_name
from resolver.dnssec import origin_text
from resolver.sign import lifetime, sign_zones, ttl_s_max
from resolver.zone import Zones
from resolver.zonefile import checked_fleet, unsigned_zones
from resolver.zonekeys import KeyFolder, Role, ZoneKey, ensure, next_step, take

app = App(name="sign", help="Sign the zones ahead, so that DNS nodes need no keys; roll the keys.")

File = Annotated[Path | None, Parameter(name="--config", help="Its zones, POPs and services.")]
Keys = Annotated[
    Path | None, Parameter(help="Folder of private keys; `dnssec-keys` in the data folder.")
]
Output = Annotated[
    Path | None, Parameter(name=["--output", "-o"], help="The file; what dns.dnssec names.")
]
Algorithm = Annotated[Literal["ed25519", "ecdsap256"], Parameter(help="Of keys made now.")]


@app.default
def sign(
    *,
    file: File = None,
    keys: Keys = None,
    output: Output = None,
    algorithm: Algorithm = "ed25519",
    split: Annotated[bool, Parameter(help="New zones get a ksk and a zsk, not one csk.")] = False,
    days: Annotated[float, Parameter(help="How long signatures hold.")] = 14.0,
) -> None:
    """Sign every answer that a DNS node can give, and print the DS records for the parents.

    A zone without keys gets some. Run it again, and ship the file, whenever zones, services or
    POPs change, and long before signatures expire: nodes warn when a quarter of the time is left.
    """
    config = find_config(file)
    path = output or (config.path(config.dns.dnssec) if config.dns.dnssec else None)
    if path is None:
        raise ConfigError("dns.dnssec is not set; set it, or name the file with --output FILE")
    zones = unsigned_zones(config)
    folder = _folder(config, keys)
    now_s = int(time.time())
    of = {
        name: ensure(folder, name, algorithm, split, now_s)
        for name in map(origin_text, zones.by_origin)
    }
    when = lifetime(now_s, days)
    signed = sign_zones(zones, checked_fleet(config), of, when)
    _replace(path, msgspec.msgpack.encode(signed))
    for one in signed.zones:
        print(f"{one.origin} {len(one.signatures):,} signatures, until {_date(when.expires_s)}")
        for key in of[one.origin]:
            print(f"  {key.text}")
    print("DS records for the parent zones:")
    for key in (key for found in of.values() for key in found if key.signs_keys):
        if key.record.stage == "active":
            print(key.ds())
    print(f"Ship {path} to the DNS nodes; dns.dnssec names it there.")


@app.command(name="roll")
def roll(
    zone: str,
    /,
    *,
    role: Annotated[Role, Parameter(help="Which of the zone's keys.")] = "csk",
    file: File = None,
    keys: Keys = None,
    now: Annotated[bool, Parameter(help="Do not wait for caches: for a key that leaked.")] = False,
    ds_replaced: Annotated[
        bool, Parameter(help="The parent has only the new DS, for longer than its TTL.")
    ] = False,
) -> None:
    """Take the next step of a key's rollover: publish a new key, activate it, remove the old one.

    Then sign and ship. A step that caches are not ready for is refused.
    """
    config = find_config(file)
    zones = unsigned_zones(config)
    name, longest_s = dns_name(zone), _longest_s(zones, zone)
    folder = _folder(config, keys)
    step = next_step(folder.of(name), role, longest_s)
    now_s = int(time.time())
    if now_s < step.safe_s and not now:
        raise ConfigError(
            f"{name} {step.key.text}: caches are ready to {step.what} it at "
            f"{_date(step.safe_s)}; wait, or take the step with --now"
        )
    if step.what == "remove" and step.key.signs_keys and not ds_replaced:
        raise ConfigError(
            f"{name} {step.key.text}: its DS must be gone from the parent first; "
            "when it is, say so with --ds-replaced"
        )
    key = take(step, folder, now_s)
    print(f"{name} {step.what}: {key.record.role} {key.record.tag}")
    _print_next(folder.of(name), role, longest_s, step.what, key)
    print("Now run `popsteer sign` and ship its file.")


def _print_next(keys: list[ZoneKey], role: Role, longest_s: int, what: str, key: ZoneKey) -> None:
    if what == "activate" and key.signs_keys:
        print(f"Have the parent replace its DS:\n{key.ds()}")
    if what != "remove":
        after = next_step(keys, role, longest_s)
        print(f"Next: {after.what} {after.key.record.tag}, not before {_date(after.safe_s)}")


def _longest_s(zones: Zones, zone: str) -> int:
    for origin, found in zones.by_origin.items():
        if origin_text(origin) == dns_name(zone):
            return ttl_s_max(found)
    known = ", ".join(map(origin_text, zones.by_origin))
    raise ConfigError(f"{zone!r} is no zone of the configuration; its zones: {known}")


def _folder(config: Config, chosen: Path | None) -> KeyFolder:
    return KeyFolder(chosen or config.data_dir / "dnssec-keys")


def _replace(path: Path, data: bytes) -> None:
    """Whole or not at all: a node may read it right now."""
    new = path.with_name(path.name + ".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new.write_bytes(data)
        new.replace(path)
    except OSError as error:
        raise SetupError(f"{path}: {error.strerror}") from None


def _date(epoch_s: int) -> str:
    return datetime.fromtimestamp(epoch_s, UTC).strftime("%Y-%m-%d %H:%M UTC")
