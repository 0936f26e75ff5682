"""The data folder of `popsteer up`: what is written into it before the processes start.

    popsteer.toml    the configuration of every process
    world/           the world: world.npz, and for people pops.csv and prefixes.csv
    targets.csv      what the agents measure
    locations.csv    where prefixes are
    zones/           the zone
    keys/            the key that signs tables
    aws/             the embedded AWS's objects, records and leases
    state/           what each process keeps (last good table, spill, the lab's changes)
    logs/            one log a process

A folder that holds another world keeps that world's `aws/` and `state/` under `before/`.
"""

import csv
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from console.up.ports import Address, pop_address
from console.up.services import sections
from popsteer import locations, signing, targets, world
from popsteer.config import Service
from popsteer.errors import SetupError
from popsteer.geo import LIGHT_KM_PER_RTT_MS, distance_km
from popsteer.locations import Locations
from popsteer.names import Prefix
from popsteer.world import World

CONFIG = "popsteer.toml"


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where everything listens."""

    dns: Address
    http: Address
    aws: Address
    pop_port: int


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder for this process alone.

    Raises:
        SetupError: another `popsteer up` holds it, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "lock").open("a+")
    except OSError as error:
        raise SetupError(f"--data {folder}: {error.strerror}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            raise SetupError(
                f"--data {folder}: another `popsteer up` (pid {file.read().strip()}) runs in it; "
                "stop that one or name another folder"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def prepare(
    folder: Path, own: World, services: Sequence[Service], at: Addresses, hour_utc: float
) -> Path:
    """Write everything that the processes read; gives the path of the configuration.

    The expected demand is that of `hour_utc`.
    """
    _set_another_world_aside(folder, own)
    for name in ("world", "zones", "keys", "aws", "state", "logs"):
        (folder / name).mkdir(exist_ok=True)
    world.save(folder / "world" / "world.npz", own)
    _write_pops(folder / "world" / "pops.csv", own)
    _write_prefixes(folder / "world" / "prefixes.csv", own)
    targets.save(folder / "targets.csv", _targets(own, hour_utc))
    locations.save(folder / "locations.csv", _locations(own))
    (folder / "zones" / "cdn.example.zone").write_text(_ZONE_TEXT)
    signer = signing.create_signer(folder / "keys" / "table.key")
    path = folder / CONFIG
    path.write_text(_config_text(own, services, at, signer.public_hex))
    return path


def _set_another_world_aside(folder: Path, own: World) -> None:
    mark = folder / "world.sha256"
    digest = _digest(own)
    if mark.exists() and (before := mark.read_text().strip()) != digest:
        aside = folder / "before" / before[:12]
        aside.mkdir(parents=True, exist_ok=True)
        for name in ("aws", "state"):
            if (folder / name).exists():
                (folder / name).rename(aside / f"{name}-{os.getpid()}")
    mark.write_text(digest + "\n")


def _digest(own: World) -> str:
    whole = hashlib.sha256()
    for array in (own.net, own.plen, own.metro, own.rtt_ms, own.capacity_bps):
        whole.update(np.ascontiguousarray(array).tobytes())
    whole.update(",".join(own.pops).encode())
    return whole.hexdigest()


def _write_pops(path: Path, own: World) -> None:
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["pop", "address", "latitude", "longitude", "capacity_bps"])
        for i, pop in enumerate(own.pops):
            place = (f"{own.pop_lat[i]:.3f}", f"{own.pop_lon[i]:.3f}")
            rows.writerow([pop, pop_address(i), *place, f"{own.capacity_bps[i]:.0f}"])


def _write_prefixes(path: Path, own: World) -> None:
    """Which metro each prefix lies in: by this anybody can check answers against the world."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["prefix", "metro_index", "metro", "nearest_pop", "nearest_rtt_ms"])
        for prefix, metro in zip(own.prefixes(), own.metro.tolist(), strict=True):
            best = int(own.rtt_ms[metro].argmin())
            rtt = f"{own.rtt_ms[metro, best]:.2f}"
            rows.writerow([str(prefix), metro, own.metros[metro], own.pops[best], rtt])


def _locations(own: World) -> Locations:
    """Prefixes of all metros but those whose own RTTs say that they are elsewhere.

    Worlds that were measured have some of these.
    """
    fastest_ms = own.rtt_ms * (1 + np.nanmin(own.residual, initial=0.0))
    km = distance_km(own.metro_lat, own.metro_lon, own.pop_lat, own.pop_lon)
    reach_km = fastest_ms * LIGHT_KM_PER_RTT_MS + locations.PLACE_ERROR_KM
    kept = np.flatnonzero(np.all(km <= reach_km, axis=1)[own.metro])
    at = np.stack([own.metro_lat, own.metro_lon], axis=1)[own.metro]
    return Locations(own.net[kept], own.plen[kept], at[kept])


def _targets(own: World, hour_utc: float) -> targets.Targets:
    demand = own.prefix_demand_bps(hour_utc)
    addresses = tuple(_first_host(prefix) for prefix in own.prefixes())
    return targets.Targets(own.net, own.plen, addresses, demand)


def _first_host(prefix: Prefix) -> str:
    network = str(prefix).partition("/")[0]
    return f"{network}1" if prefix.is_ipv6 else f"{network.rpartition('.')[0]}.1"


def _config_text(own: World, services: Sequence[Service], at: Addresses, public_key: str) -> str:
    parts = [
        _GENERAL.format(
            dns=json.dumps(str(at.dns)),
            http=json.dumps(str(at.http)),
            endpoint=json.dumps(f"http://{at.aws}"),
            public_key=public_key,
            pop_port=at.pop_port,
        ),
        sections(services),
    ]
    for i, pop in enumerate(own.pops):
        capacity = float(own.capacity_bps[i])
        parts.append(
            _POP.format(
                pop=pop,
                address=pop_address(i),
                lat=own.pop_lat[i],
                lon=own.pop_lon[i],
                capacity=capacity,
                transit=capacity * 0.6,
                peering=capacity * 0.6,
            )
        )
    return "".join(parts)


_GENERAL = """\
# Written by `popsteer up` at every start; changes here are lost.
data = "state"

[dns]
listen = {dns}
zones = ["zones/cdn.example.zone"]
node = "up"
nsid = "up"

[health]
method = "tcp"
port = {pop_port}

[aws]
region = "us-east-1"
endpoint = {endpoint}

[trust]
public_keys = ["{public_key}"]
signing_key = "keys/table.key"

[probe]
source = "replay"
world = "world/world.npz"
events = "state/lab.json"
load_url = "http://{{address}}:{pop_port}/load"
targets = "targets.csv"

[aggregate]
worker_id = "up"
locations = "locations.csv"
java_heap_mb = 96

[plan]
targets = "targets.csv"

[console]
listen = {http}
"""

_POP = """
[[pop]]
id = "{pop}"
ipv4 = ["{address}"]
location = [{lat:.4f}, {lon:.4f}]
capacity_bps = {capacity:.6g}

[[pop.link]]
id = "transit"
capacity_bps = {transit:.6g}

[[pop.link]]
id = "peering"
capacity_bps = {peering:.6g}
"""

_ZONE_TEXT = """\
$ORIGIN cdn.example.
$TTL 300
@       IN SOA ns1 hostmaster 1 7200 900 1209600 30
@       IN NS  ns1
ns1     IN A   127.0.0.1
origin  IN A   127.0.0.1
@       IN TXT "the zone of popsteer up"
"""
