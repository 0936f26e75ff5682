"""`popsteer lab …`: change the world under a running `popsteer up` and watch the loop answer."""

import json
from pathlib import Path

import msgspec
from cyclopts import App
from rich.console import Console
from rich.table import Table

from console.running import find_config
from popsteer.config import Config
from popsteer.errors import ConfigError
from popsteer.lab import FILE, Changes, RttChange, load, save
from popsteer.names import Prefix

app = App(name="lab", help="Change the world under a running `popsteer up`.")


@app.command
def show(*, config: Path | None = None) -> None:
    """Show the changes in force.

    Args:
        config: Configuration of the running `popsteer up`.
    """
    print(msgspec.json.format(msgspec.json.encode(load(_file(find_config(config))))).decode())


@app.command
def down(*pops: str, config: Path | None = None) -> None:
    """Close the listeners of POPs, as when the machines are gone."""
    own = find_config(config)
    _check_pops(own, pops)
    path = _file(own)
    old = load(path)
    save(path, msgspec.structs.replace(old, down=tuple(sorted({*old.down, *pops}))))


@app.command
def up(*pops: str, config: Path | None = None) -> None:
    """Open the listeners of POPs again."""
    own = find_config(config)
    _check_pops(own, pops)
    path = _file(own)
    old = load(path)
    save(path, msgspec.structs.replace(old, down=tuple(p for p in old.down if p not in pops)))


@app.command
def rtt(
    prefix: str,
    pop: str,
    *,
    factor: float = 1.0,
    add_ms: float = 0.0,
    loss: float = 0.0,
    config: Path | None = None,
) -> None:
    """Change the RTT between a prefix and a POP.

    Args:
        prefix: The prefix, and all within it.
        pop: A POP, or * for every POP.
        factor: The measured RTT times this.
        add_ms: And this on top.
        loss: Share of probes lost, 0 to 1.
        config: Configuration of the running `popsteer up`.
    """
    own = find_config(config)
    if pop != "*":
        _check_pops(own, (pop,))
    change = RttChange(
        prefix=str(Prefix.parse(prefix)), pop=pop, factor=factor, add_ms=add_ms, loss=loss
    )
    path = _file(own)
    old = load(path)
    others = tuple(c for c in old.rtt if (c.prefix, c.pop) != (change.prefix, change.pop))
    save(path, msgspec.structs.replace(old, rtt=(*others, change)))


@app.command
def load_pop(pop: str, gbps: float, *, config: Path | None = None) -> None:
    """Put load on a POP beside that of its clients, in Gbit/s; 0 takes it away."""
    own = find_config(config)
    _check_pops(own, (pop,))
    path = _file(own)
    old = load(path)
    loads = {p: bps for p, bps in old.load_bps.items() if p != pop}
    save(path, msgspec.structs.replace(old, load_bps=loads | ({pop: gbps * 1e9} if gbps else {})))


@app.command
def demand(prefix: str, factor: float, *, config: Path | None = None) -> None:
    """Multiply the demand of a prefix and all within it; 1 takes the change away."""
    own = find_config(config)
    key = str(Prefix.parse(prefix))
    path = _file(own)
    old = load(path)
    factors = {p: f for p, f in old.demand.items() if p != key}
    new = factors | ({key: factor} if factor != 1 else {})
    save(path, msgspec.structs.replace(old, demand=new))


@app.command
def clear(*, config: Path | None = None) -> None:
    """Take every change back."""
    save(_file(find_config(config)), Changes())


@app.command
def pops(*, config: Path | None = None, as_json: bool = False) -> None:
    """List the POPs with their addresses."""
    own = find_config(config)
    if as_json:
        print(json.dumps({pop.id: pop.ipv4[0] for pop in own.pop}))
        return
    table = Table("POP", "address", "capacity Gbit/s", "latitude", "longitude")
    for pop in own.pop:
        lat, lon = pop.location or (0.0, 0.0)
        table.add_row(
            pop.id, pop.ipv4[0], f"{pop.capacity_bps / 1e9:,.0f}", f"{lat:.1f}", f"{lon:.1f}"
        )
    Console().print(table)


def _file(config: Config) -> Path:
    return config.data_dir / FILE


def _check_pops(config: Config, names: tuple[str, ...]) -> None:
    known = [pop.id for pop in config.pop]
    for name in names:
        if name not in known:
            raise ConfigError(f"no POP {name!r}; the POPs are {', '.join(sorted(known))}")
