"""The port: HTTP/1.1 and cleartext HTTP/2 by prior knowledge (RFC 9113 §3.3), by Hypercorn.

Requests are answered one at a time on the event loop; only reading and writing overlap.
"""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from multiprocessing.process import BaseProcess
from typing import Any

import uvloop
from hypercorn.asyncio import serve
from hypercorn.config import Config

from console.localaws.messages import Request, Response
from console.localaws.services import Services

BODY_BYTES_MAX = 64 * 2**20
TIDY_PERIOD_S = 0.5
STOP_S_MAX = 1.0
"""After a signal, time for answers on their way; everything is on disk already."""

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


def run(services: Services, listener: int, provisioner: BaseProcess | None, endpoint: str) -> int:
    """Serve on a listening socket, by its number, until SIGTERM or SIGINT; gives the exit code.

    `provisioner` is a child process that fills us through our own port, if there is anything to
    fill; when it has succeeded we say `ready` on stdout, and when it has failed we end.
    """
    return uvloop.run(_serve(services, listener, provisioner, endpoint))


async def _serve(
    services: Services, listener: int, provisioner: BaseProcess | None, endpoint: str
) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, _stop, services, provisioner, stop)
    async with asyncio.TaskGroup() as tasks:
        chores = [
            tasks.create_task(_repeat(services.tidy, TIDY_PERIOD_S)),
            tasks.create_task(_repeat(services.clean, services.settings.clean_period_s)),
        ]
        announced = tasks.create_task(_announce(provisioner, endpoint, stop))
        await serve(
            _application(services),
            _config(listener, services.settings.idle_s_max),
            shutdown_trigger=stop.wait,
            mode="asgi",
        )
        services.close()
        for chore in chores:
            chore.cancel()
    return announced.result()


async def _announce(provisioner: BaseProcess | None, endpoint: str, stop: asyncio.Event) -> int:
    if provisioner is not None:
        await asyncio.to_thread(provisioner.join)
    if provisioner is None or provisioner.exitcode == 0:
        print(f"ready {endpoint}", flush=True)
    elif not stop.is_set():
        stop.set()
        return 1
    return 0


def _stop(services: Services, provisioner: BaseProcess | None, stop: asyncio.Event) -> None:
    """End soon, and end surely: a client that holds its connection open must not keep us."""
    stop.set()
    if provisioner is not None:
        provisioner.terminate()
    asyncio.get_running_loop().call_later(STOP_S_MAX, _exit, services)


def _exit(services: Services) -> None:
    services.close()
    os._exit(0)


async def _repeat(chore: Callable[[], None], period_s: float) -> None:
    while True:
        await asyncio.sleep(period_s)
        chore()


def _config(listener: int, idle_s_max: float) -> Config:
    config = Config()
    config.bind = [f"fd://{listener}"]
    config.accesslog = None
    config.errorlog = "-"
    config.loglevel = "ERROR"
    config.graceful_timeout = STOP_S_MAX / 2
    # Hypercorn holds a connection that its client has closed for as long as an idle one.
    config.keep_alive_timeout = idle_s_max
    # The default, 1000, would close the one connection of the KCL every few minutes.
    config.keep_alive_max_requests = 1 << 62
    config.h2_max_concurrent_streams = 1000
    config.h2_max_inbound_frame_size = 2**18
    return config


def _application(services: Services) -> Callable[[Message, Receive, Send], Awaitable[None]]:
    async def application(scope: Message, receive: Receive, send: Send) -> None:
        match scope["type"]:
            case "lifespan":
                await _lifespan(receive, send)
            case "http":
                try:
                    body = await _body(receive)
                except _HungUpError:
                    return
                if body is None:
                    await _reply(send, Response(413, b"request body too large"))
                else:
                    await _reply(send, services.handle(_request(scope, body)))
            case _:
                await send({"type": "websocket.close", "code": 1003, "reason": "no websockets"})

    return application


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        event = (await receive())["type"]
        await send({"type": f"{event}.complete"})
        if event == "lifespan.shutdown":
            return


class _HungUpError(Exception):
    """The caller has gone before all was said."""


async def _body(receive: Receive) -> bytes | None:
    """The whole body; None when it is larger than we take.

    Raises:
        _HungUpError: it is not whole, so that nothing of it may be kept.
    """
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _HungUpError
        part = message.get("body", b"")
        size += len(part)
        if size <= BODY_BYTES_MAX:
            parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts) if size <= BODY_BYTES_MAX else None


def _request(scope: Message, body: bytes) -> Request:
    headers: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]},{value}" if name in headers else value
    return Request(
        scope["method"],
        scope["path"],
        scope["raw_path"].decode("latin-1"),
        scope["query_string"].decode("latin-1"),
        headers,
        body,
    )


async def _reply(send: Send, response: Response) -> None:
    headers = [
        (name.lower().encode("latin-1"), value.encode("latin-1"))
        for name, value in response.headers
    ]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": response.body, "more_body": False})
