"""What the resolver's tests share: zones, a configuration, a snapshot, ways to ask."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from popsteer.config import Config
from popsteer.config_file import parse
from resolver.answer import Answer, Client, Transport, answer
from resolver.cookies import CookieSecret
from resolver.route import fleet_of
from resolver.snapshot import Options, Snapshot
from resolver.zonefile import load_zones

DATA = Path(__file__).parent / "data"
SECRET = CookieSecret(b"a secret that only tests know..."[:32])
NOW_S = 1_700_000_000

Ask = Callable[..., Answer | None]


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of the zone files."""
    return DATA


@pytest.fixture(scope="session")
def secret() -> CookieSecret:
    """The snapshot's cookie secret."""
    return SECRET


@pytest.fixture(scope="session")
def settings() -> dict[str, Any]:
    """A configuration as TOML gives it: two POPs, one service, one zone."""
    return {
        "dns": {
            "listen": "127.0.0.1:0",
            "zones": [str(DATA / "cdn.example.zone")],
            "nsid": "node-1",
        },
        "pop": [
            {"id": "fra1", "ipv4": ["192.0.2.1", "192.0.2.11"], "ipv6": ["2001:db8::1"]},
            {"id": "nyc1", "ipv4": ["192.0.2.2"]},
        ],
        "service": [{"name": "www.cdn.example."}],
    }


@pytest.fixture(scope="session")
def config(settings: dict[str, Any]) -> Config:
    """The same, parsed."""
    return parse(settings, DATA / "popsteer.toml")


@pytest.fixture(scope="session")
def snapshot(config: Config) -> Snapshot:
    """Without a table: the static order."""
    return Snapshot(load_zones(config), fleet_of(config), Options(b"node-1", SECRET))


@pytest.fixture
def ask(snapshot: Snapshot) -> Ask:
    """Bytes to answer, over UDP from 127.0.0.1 unless told otherwise."""

    def asked(
        query: bytes,
        *,
        tcp: bool = False,
        address: bytes = b"\x7f\0\0\1",
        on: Snapshot = snapshot,
        draw: int = 0,
    ) -> Answer | None:
        transport = Transport.TCP if tcp else Transport.UDP
        return answer(query, Client(address, transport), on, draw, NOW_S)

    return asked


@pytest.fixture(scope="session")
def mmdb() -> Path:
    """A MaxMind DB of cities, from the data that lives beside the project."""
    named = os.environ.get("POPSTEER_SHARED_DATA")
    folder = Path(named) if named else Path(__file__).parents[3] / "shared" / "data"
    path = folder / "samples" / "mmdb" / "GeoLite2-City-Test.mmdb"
    if not path.exists():
        pytest.skip(f"no {path}; name the folder of the data in POPSTEER_SHARED_DATA")
    return path
