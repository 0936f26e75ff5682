"""`popsteer probe`: the measuring agent, and one measurement by hand."""

import asyncio
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter
from cyclopts.validators import Number

from popsteer.config_file import load

app = App(name="probe", help="Measure RTT, load and links.")

NOTHING_ANSWERED = 1
"""Exit code when every probe was lost."""


@app.default
def agent(*, config: Path) -> None:
    """Measure as configured and send the samples to Kinesis, until Ctrl-C.

    Args:
        config: The configuration file.
    """
    own = load(config)
    from probes.agent import run

    run(own)


@app.command
def once(
    target: str,
    /,
    *,
    method: Literal["icmp", "tcp", "tls", "http", "dns"] = "icmp",
    count: Annotated[int, Parameter(validator=Number(gte=1))] = 1,
) -> int:
    """Measure one target by hand and print what was seen.

    Args:
        target: An address or name, with a port where the method needs another than the usual one.
        method: How to measure.
        count: How often, one second apart.
    """
    return asyncio.run(_measure(target, method, count))


async def _measure(text: str, method: str, count: int) -> int:
    from probes.once import measurements, parse

    target, answers = parse(text, method), 0
    where = target.address if method == "icmp" else f"{target.address} port {target.port}"
    async for seen in measurements(target, count=count):
        answers += not seen.lost
        took = f"{seen.rtt_us / 1_000:.2f} ms"
        print(f"{where} {method}: " + (f"no answer in {took}" if seen.lost else took), flush=True)
    return 0 if answers else NOTHING_ANSWERED
