"""Blocking calls that nobody has to wait for at the end.

The event loop's own threads are joined when the process stops, so a call that hangs on a network
which is away would hold up the end of the process. These are not.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar, cast

T = TypeVar("T")


async def aside(call: Callable[[], T]) -> T:
    """The result of a blocking call; when cancelled, the call is left to itself."""
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()

    def settle(outcome: T | None, error: BaseException | None) -> None:
        if result.done():
            return
        if error is not None:
            result.set_exception(error)
        else:
            result.set_result(cast("T", outcome))

    def run() -> None:
        outcome, failed = None, None
        try:
            outcome = call()
        except Exception as error:
            failed = error
        with contextlib.suppress(RuntimeError):  # the loop ended meanwhile
            loop.call_soon_threadsafe(settle, outcome, failed)

    threading.Thread(target=run, name="aside", daemon=True).start()
    return await result
