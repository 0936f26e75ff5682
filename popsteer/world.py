"""A world: POPs, metros of clients, the RTT between them and the demand of every hour.

A world file (.npz) holds measured ones; `generate` makes one of city coordinates. Prefixes are
laid over the metros in private and documentation space, so that nothing of a world is ever
somebody's real address: /24 of 10.0.0.0/8 and, every tenth, /48 of 2001:db8::/32. Prefixes of a
metro are neighbours, and within a metro demand is spread by Zipf's law.
"""

import zlib
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, is_zipfile

import numpy as np
from numpy.typing import NDArray

from popsteer.errors import ConfigError
from popsteer.names import IPV6_BIT, Net, Plen, Prefix, prefixes_of

BPS_PER_USER = 25e3
"""Peak-hour traffic of one user through one CDN, bits/s; the scale of all loads of a world."""
HEADROOM = 1.4
"""Sum of all capacities over the peak of demand."""
ZIPF = 0.6
"""Exponent of demand over the prefixes of a metro."""
IPV6_EVERY = 10
PREFIXES_MAX = 60_000
RESIDUAL_BASE_MS = 180.0
"""The residual bank was recorded on paths of about this RTT, so it is applied as a ratio."""

F64 = NDArray[np.float64]

_DAMAGED = (OSError, ValueError, TypeError, EOFError, BadZipFile, zlib.error)
"""What numpy raises on a file that is cut or is something else."""


@dataclass(frozen=True, slots=True)
class World:
    """p POPs, m metros, n prefixes."""

    pops: tuple[str, ...]
    pop_lat: F64
    pop_lon: F64
    capacity_bps: F64
    """[p]"""
    metros: tuple[str, ...]
    """In the order of the world file; one without users has no prefix."""
    metro_lat: F64
    metro_lon: F64
    rtt_ms: F64
    """[m, p]"""
    mdev_ms: F64
    """[m, p], mean deviation of one RTT."""
    demand_bps: F64
    """[24, m], by UTC hour."""
    net: Net
    plen: Plen
    metro: NDArray[np.int64]
    """[n], the metro of each prefix."""
    share: F64
    """[n], its part of the metro's demand."""
    residual: F64
    """[k, steps], RTT minus its base as a ratio of the base; NaN is a lost probe."""
    residual_step_s: float

    def prefixes(self) -> list[Prefix]:
        """All prefixes, in order."""
        return prefixes_of(self.net, self.plen)

    def prefix_demand_bps(self, hour_utc: float) -> F64:
        """[n], demand of each prefix, linear between full hours."""
        early = int(hour_utc) % 24
        late, part = (early + 1) % 24, hour_utc % 1
        metro = (1 - part) * self.demand_bps[early] + part * self.demand_bps[late]
        wanted: F64 = metro[self.metro] * self.share
        return wanted


def load(path: Path, prefixes: int) -> World:
    """The world in a file, with `prefixes` prefixes laid over its metros.

    A residual bank beside it (`rtt_series/replay_residual_bank.npz`) is used when present.

    Raises:
        ConfigError: no such file, or an array is missing or of the wrong shape.
    """
    try:
        arrays = _arrays(path)
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: no such world file; leave --world out to use a generated world"
        ) from None
    except _DAMAGED as error:
        raise ConfigError(f"{path}: not a world file: {error}") from None
    try:
        return _from_arrays(arrays, prefixes, _bank(path))
    except KeyError as error:
        raise ConfigError(f"{path}: array {error} is missing; is it a world file?") from None
    except ValueError as error:
        raise ConfigError(f"{path}: arrays do not fit each other: {error}") from None


def keep_pops(world: World, pops: int) -> World:
    """The same world with only its `pops` largest POPs, capacities as they are.

    Raises:
        ConfigError: it has not that many.
    """
    if not 2 <= pops <= len(world.pops):
        raise ConfigError(f"--pops {pops}: this world has {len(world.pops)}; name 2 or more")
    kept = np.sort(np.argsort(-world.capacity_bps, kind="stable")[:pops])
    return replace(
        world,
        pops=tuple(world.pops[i] for i in kept),
        pop_lat=world.pop_lat[kept],
        pop_lon=world.pop_lon[kept],
        capacity_bps=world.capacity_bps[kept],
        rtt_ms=world.rtt_ms[:, kept],
        mdev_ms=world.mdev_ms[:, kept],
    )


def save(path: Path, world: World) -> None:
    """Write a whole world, prefixes and all, for the processes of `popsteer up`; see `read`."""
    arrays = {field.name: np.asarray(getattr(world, field.name)) for field in fields(World)}
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def read(path: Path) -> World:
    """The world that `save` wrote.

    Raises:
        ConfigError: no such file, or not a saved world.
    """
    try:
        found = _arrays(path)
        arrays: dict[str, Any] = {field.name: found[field.name] for field in fields(World)}
    except (*_DAMAGED, KeyError) as error:
        raise ConfigError(f"{path}: not a saved world: {error}") from None
    arrays["pops"] = tuple(arrays["pops"].tolist())
    arrays["metros"] = tuple(arrays["metros"].tolist())
    arrays["residual_step_s"] = float(arrays["residual_step_s"])
    return World(**arrays)


def _arrays(path: Path) -> dict[str, NDArray[np.generic]]:
    # Opened here, because numpy leaves a damaged file open.
    with path.open("rb") as raw:
        if not is_zipfile(raw):
            raise TypeError("no .npz archive")
        raw.seek(0)
        file = np.load(raw, allow_pickle=False)
        assert isinstance(file, np.lib.npyio.NpzFile)
        return {name: file[name] for name in file.files}


def _from_arrays(
    arrays: dict[str, NDArray[np.generic]], prefixes: int, bank: tuple[F64, float]
) -> World:
    _check_shapes(arrays)
    users = _f64(arrays["demand_by_utc_hour"])
    at = arrays["pop_index"].astype(np.int64)
    demand = users * BPS_PER_USER
    share = _f64(arrays["pop_capacity_share"])
    peak = demand.sum(axis=1).max()
    net, plen, metro, part = _lay(demand.sum(axis=0), prefixes)
    lat, lon = _f64(arrays["metro_lat"]), _f64(arrays["metro_lon"])
    return World(
        pops=tuple(str(code).lower() for code in arrays["pop_code"]),
        pop_lat=lat[at],
        pop_lon=lon[at],
        capacity_bps=share / share.sum() * peak * HEADROOM,
        metros=tuple(str(name) for name in arrays["metro"]),
        metro_lat=lat,
        metro_lon=lon,
        rtt_ms=_f64(arrays["rtt_ms"]),
        mdev_ms=_f64(arrays["rtt_mdev_ms"]),
        demand_bps=demand,
        net=net,
        plen=plen,
        metro=metro,
        share=part,
        residual=bank[0],
        residual_step_s=bank[1],
    )


def _check_shapes(arrays: dict[str, NDArray[np.generic]]) -> None:
    pops, metros = len(arrays["pop_code"]), len(arrays["metro"])
    shapes = {
        "pop_index": (pops,),
        "pop_capacity_share": (pops,),
        "metro_lat": (metros,),
        "metro_lon": (metros,),
        "rtt_ms": (metros, pops),
        "rtt_mdev_ms": (metros, pops),
        "demand_by_utc_hour": (24, metros),
    }
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            raise ValueError(f"{name} is {arrays[name].shape}, not {shape}")
        if not np.isfinite(_f64(arrays[name])).all():
            raise ValueError(f"{name} has a value that is no number")
    at = arrays["pop_index"].astype(np.int64)
    if ((at < 0) | (at >= metros)).any():
        raise ValueError(f"pop_index names metro {int(at.max())} of {metros}")


def _f64(array: NDArray[np.generic]) -> F64:
    return array.astype(np.float64)


def _bank(path: Path) -> tuple[F64, float]:
    beside = path.parent / "rtt_series" / "replay_residual_bank.npz"
    if not beside.exists():
        return generated_residuals(np.random.default_rng(0)), 240.0
    with np.load(beside, allow_pickle=False) as file:
        return file["residual_ms"].astype(np.float64) / RESIDUAL_BASE_MS, float(file["step_s"])


def generated_residuals(rng: np.random.Generator, traces: int = 16, steps: int = 1_000) -> F64:
    """Slow correlated noise of about 3% of the base, now and then a lost probe."""
    noise = rng.normal(0, 1, (traces, steps))
    for step in range(1, steps):
        noise[:, step] = 0.9 * noise[:, step - 1] + 0.436 * noise[:, step]
    ratio: F64 = 0.03 * noise
    ratio[rng.random(ratio.shape) < 0.002] = np.nan
    return ratio


def _lay(weight: F64, prefixes: int) -> tuple[Net, Plen, NDArray[np.int64], F64]:
    """Prefixes over metros in proportion to demand, at least one where there is any."""
    peopled = weight > 0
    if prefixes < peopled.sum():
        raise ConfigError(
            f"--prefixes {prefixes}: {peopled.sum()} metros of the world have users; "
            "give at least one prefix each"
        )
    if prefixes > PREFIXES_MAX:
        raise ConfigError(f"--prefixes {prefixes}: at most {PREFIXES_MAX} fit into 10.0.0.0/8")
    quota = weight / weight.sum() * (prefixes - int(peopled.sum()))
    count = peopled + np.floor(quota).astype(np.int64)
    rest = prefixes - int(count.sum())
    count[np.argsort(np.floor(quota) - quota, kind="stable")[:rest]] += 1
    metro = np.repeat(np.arange(len(weight)), count)
    rank = np.arange(prefixes) - np.repeat(np.cumsum(count) - count, count) + 1
    part = rank.astype(np.float64) ** -ZIPF
    part /= np.bincount(metro, part)[metro]
    number = np.arange(prefixes, dtype=np.uint64)
    ipv6 = number % np.uint64(IPV6_EVERY) == IPV6_EVERY - 1
    net4 = (np.uint64(10 << 24) | (number << np.uint64(8))) << np.uint64(32)
    net6 = np.uint64(0x20010DB8 << 32) | (number << np.uint64(16))
    plen = np.where(ipv6, np.uint8(48 | IPV6_BIT), np.uint8(24))
    return np.where(ipv6, net6, net4), plen, metro, part


def generate(pops: int, prefixes: int, seed: int) -> World:
    """A world of the largest cities: RTT is the great circle through fibre, made longer.

    Paths are 1.2 to 2.5 times the great circle (Singla et al., "The Internet at the Speed of
    Light", 2014, find a median inflation of that order), plus a few ms of access; demand
    follows the evening of each longitude.
    """
    from popsteer.cities import CITIES
    from popsteer.geo import distance_km, floor_rtt_ms

    if not 2 <= pops <= len(CITIES):
        raise ConfigError(f"--pops {pops}: a generated world has 2 to {len(CITIES)}")
    rng = np.random.default_rng(seed)
    lat = np.array([city.lat for city in CITIES])
    lon = np.array([city.lon for city in CITIES])
    people = np.array([city.people_m for city in CITIES]) * 1e6
    at = _spread(lat, lon, people, pops)
    km = distance_km(lat, lon, lat[at], lon[at])
    inflation = rng.uniform(1.2, 2.5, km.shape)
    rtt = 1.0 + rng.gamma(2.0, 1.0, len(lat))[:, None] + floor_rtt_ms(km) * inflation
    hours = (np.arange(24)[:, None] + lon[None, :] / 15) % 24
    demand = people * BPS_PER_USER * (1 + 0.5 * np.cos((hours - 20.5) / 24 * 2 * np.pi)) / 1.5
    catchment = np.bincount(rtt.argmin(axis=1), demand.max(axis=0), pops)
    share = np.sqrt(catchment + 0.2 * catchment.mean())
    capacity = share / share.sum() * demand.sum(axis=1).max() * HEADROOM
    net, plen, metro, part = _lay(demand.sum(axis=0), prefixes)
    return World(
        pops=tuple(CITIES[i].code for i in at),
        pop_lat=lat[at],
        pop_lon=lon[at],
        capacity_bps=capacity,
        metros=tuple(city.name for city in CITIES),
        metro_lat=lat,
        metro_lon=lon,
        rtt_ms=rtt,
        mdev_ms=0.2 + 0.01 * rtt,
        demand_bps=demand,
        net=net,
        plen=plen,
        metro=metro,
        share=part,
        residual=generated_residuals(rng),
        residual_step_s=240.0,
    )


def _spread(lat: F64, lon: F64, people: F64, pops: int) -> NDArray[np.int64]:
    """Cities for POPs: each next one is where most people are far from all chosen so far."""
    from popsteer.geo import distance_km

    km = distance_km(lat, lon, lat, lon)
    chosen = [int(people.argmax())]
    while len(chosen) < pops:
        away = km[:, chosen].min(axis=1)
        chosen.append(int((np.sqrt(people) * away).argmax()))
    return np.array(sorted(chosen))
