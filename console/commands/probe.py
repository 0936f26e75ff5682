"""`popsteer probe`: the measuring agent, and one measurement by hand."""

from pathlib import Path
from typing import Literal

from cyclopts import App

from popsteer.config_file import load

app = App(name="probe", help="Measure RTT, load and links.")


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
def once(target: str, /, *, method: Literal["icmp", "tcp", "tls", "http", "dns"] = "icmp") -> int:
    """Measure one target once and print what was seen.

    Args:
        target: An address, with a port where the method needs one.
        method: How to measure.
    """
    from probes.once import run

    return run(target, method)
