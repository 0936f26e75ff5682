"""`popsteer explain`: why a client goes where it goes."""

from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Parameter
from rich.console import Console

from console import explain as account
from console.explain_text import render
from console.published import Reader
from console.running import find_config, trusted
from popsteer import clock
from popsteer.store import s3_store


def explain(
    asked: Annotated[str, Parameter(help="An address or prefix of a client.")],
    /,
    *,
    name: Annotated[str | None, Parameter(help="The steered name; the first service.")] = None,
    json: Annotated[bool, Parameter(help="Print JSON.")] = False,
    file: Annotated[Path | None, Parameter(name="--config", help="Of the running system.")] = None,
) -> None:
    """Tell where a client is sent and why, with every candidate and the rule it lost by."""
    account.client_of(asked)  # refused before anything is read
    config = find_config(file)
    account.service_of(config, name)
    view = Reader(config, s3_store(config.aws), trusted(config)).refresh()
    told = account.explain(asked, name, view, config, clock.now_ms())
    if json:
        print(msgspec.json.format(msgspec.json.encode(told)).decode())
    else:
        Console().print(render(told), highlight=False)
