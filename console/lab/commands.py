"""`popsteer lab …`: change the world under a running `popsteer up` and watch the loop answer."""

import json as jsons
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import App, Parameter
from cyclopts.validators import Number
from rich.console import Console
from rich.table import Table

from console.known import known_pop
from console.running import find_config
from console.units import rate_text
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
    named = _known(own, pops)
    path = _file(own)
    old = load(path)
    save(path, msgspec.structs.replace(old, down=tuple(sorted({*old.down, *named}))))
    words = " ".join(named)
    print(f"{words}: the listeners close; they open again with: popsteer lab up {words}")


@app.command
def up(*pops: str, config: Path | None = None) -> None:
    """Open the listeners of POPs again."""
    own = find_config(config)
    named = _known(own, pops)
    path = _file(own)
    old = load(path)
    save(path, msgspec.structs.replace(old, down=tuple(p for p in old.down if p not in named)))
    print(f"{' '.join(named)}: the listeners open")


@app.command
def rtt(
    prefix: str,
    pop: str,
    *,
    factor: Annotated[float, Parameter(validator=Number(gt=0))] = 1.0,
    add_ms: Annotated[float, Parameter(validator=Number(gte=0))] = 0.0,
    loss: Annotated[float, Parameter(validator=Number(gte=0, lte=1))] = 0.0,
    config: Path | None = None,
) -> None:
    """Change the RTT between a prefix and a POP; without an option, take the change away.

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
        known_pop(own, pop)
    change = RttChange(
        prefix=str(Prefix.parse(prefix)), pop=pop, factor=factor, add_ms=add_ms, loss=loss
    )
    path = _file(own)
    old = load(path)
    others = tuple(c for c in old.rtt if (c.prefix, c.pop) != (change.prefix, change.pop))
    is_change = (factor, add_ms, loss) != (1.0, 0.0, 0.0)
    save(path, msgspec.structs.replace(old, rtt=(*others, change) if is_change else others))
    told = f"RTT x{factor:g} + {add_ms:g} ms, {loss:.0%} lost" if is_change else "as measured"
    print(f"{change.prefix} to {'every POP' if pop == '*' else pop}: {told}")


@app.command
def load_pop(
    pop: str,
    gbps: Annotated[float, Parameter(validator=Number(gte=0))],
    *,
    config: Path | None = None,
) -> None:
    """Put load on a POP beside that of its clients; 0 takes it away.

    Args:
        pop: The POP.
        gbps: In Gbit/s.
        config: Configuration of the running `popsteer up`.
    """
    own = find_config(config)
    known_pop(own, pop)
    path = _file(own)
    old = load(path)
    loads = {p: bps for p, bps in old.load_bps.items() if p != pop}
    save(path, msgspec.structs.replace(old, load_bps=loads | ({pop: gbps * 1e9} if gbps else {})))
    print(f"{pop}: {rate_text(gbps * 1e9)} beside its clients' load")


@app.command
def demand(
    prefix: str,
    factor: Annotated[float, Parameter(validator=Number(gte=0))],
    *,
    config: Path | None = None,
) -> None:
    """Multiply the demand of a prefix and all within it; 1 takes the change away.

    Args:
        prefix: The prefix, and all within it.
        factor: Times so much.
        config: Configuration of the running `popsteer up`.
    """
    own = find_config(config)
    key = str(Prefix.parse(prefix))
    path = _file(own)
    old = load(path)
    factors = {p: f for p, f in old.demand.items() if p != key}
    new = factors | ({key: factor} if factor != 1 else {})
    save(path, msgspec.structs.replace(old, demand=new))
    print(f"{key}: demand x{factor:g}")


@app.command
def clear(*, config: Path | None = None) -> None:
    """Take every change back."""
    save(_file(find_config(config)), Changes())
    print("the world is as measured")


@app.command
def pops(*, config: Path | None = None, json: bool = False) -> None:
    """List the POPs with their addresses.

    Args:
        config: Configuration of the running `popsteer up`.
        json: Print JSON.
    """
    own = find_config(config)
    if json:
        print(jsons.dumps({pop.id: pop.ipv4[0] for pop in own.pop}))
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


def _known(config: Config, names: tuple[str, ...]) -> tuple[str, ...]:
    if not names:
        raise ConfigError("name a POP or several; see: popsteer lab pops")
    return tuple(known_pop(config, name) for name in names)
