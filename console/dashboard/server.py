"""The page's HTTP server: HTML, JSON, server-sent events, Prometheus metrics. It only reads."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
from aiohttp import web

from console.dashboard.live import Live, event
from console.dashboard.metrics import CONTENT_TYPE, exposition
from console.explain import explain
from console.published import Reader
from console.running import trusted
from popsteer import clock
from popsteer.config import Config, host_port
from popsteer.errors import PopsteerError, SetupError
from popsteer.memory import keep_little
from popsteer.store import ObjectStore, s3_store
from popsteer.telemetry import configure

PERIOD_S = 1.0
RECONNECT_MS = 2_000
WATCHERS_MAX = 200
"""Pages that watch at once; more are asked to come back."""
SHUTDOWN_S = 1.0
"""Open event streams never end by themselves."""

STATIC = Path(__file__).parent / "static"
CONTENT_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"} | {
    ".svg": "image/svg+xml"
}
HEADERS = {
    # Everything comes from here, and nothing is inline; nobody frames or embeds the page.
    "Content-Security-Policy": (
        "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def app(
    config: Config,
    store: ObjectStore,
    period_s: float = PERIOD_S,
    now_ms: Callable[[], int] = clock.now_ms,
) -> web.Application:
    """The application over a store; it reads every `period_s` while it runs."""
    page = _Page(config, Live(config, Reader(config, store, trusted(config)), now_ms), now_ms)
    application = web.Application()
    application.add_routes(
        [
            web.get("/", page.file),
            web.get("/favicon.ico", page.file),
            web.get("/static/{name}", page.file),
            web.get("/events", page.events),
            web.get("/api/overview", page.overview),
            web.get("/api/pops", page.pops),
            web.get("/api/history", page.history),
            web.get("/api/explain", page.explain),
            web.get("/metrics", page.metrics),
            web.get("/healthz", page.healthz),
        ]
    )
    application.on_response_prepare.append(_secure)

    async def keep_live(_app: web.Application) -> AsyncIterator[None]:
        task = asyncio.create_task(page.live.run(period_s))
        yield
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    application.cleanup_ctx.append(keep_live)
    return application


async def _secure(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(HEADERS)


class _Page:
    """The handlers."""

    def __init__(self, config: Config, live: Live, now_ms: Callable[[], int]) -> None:
        self.live = live
        self._config = config
        self._now_ms = now_ms
        self._watchers = 0
        self._exposition = exposition(lambda: live.snapshot)
        self._files = {path.name: path.read_bytes() for path in STATIC.iterdir()}

    async def file(self, request: web.Request) -> web.Response:
        """One of the page's own files; they are few and read once."""
        special = {"/": "index.html", "/favicon.ico": "favicon.svg"}
        name = special.get(request.path) or request.match_info["name"]
        if name not in self._files:
            raise web.HTTPNotFound
        kind = CONTENT_TYPES[Path(name).suffix]
        return web.Response(body=self._files[name], content_type=kind, charset="utf-8")

    async def events(self, request: web.Request) -> web.StreamResponse:
        """Snapshots as they come; a slow reader misses some and always gets the newest."""
        if self._watchers >= WATCHERS_MAX:
            raise web.HTTPServiceUnavailable(headers={"Retry-After": "10"})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        self._watchers += 1
        try:
            await response.write(b"retry: %d\n\n" % RECONNECT_MS)
            sequence = -1
            while True:
                snapshot = await self.live.after(sequence)
                sequence = self.live.sequence
                await response.write(event(snapshot))
        except ConnectionError:
            return response  # the reader has left
        finally:
            self._watchers -= 1

    async def overview(self, _request: web.Request) -> web.Response:
        """The status line, and what the planner last reported."""
        now = self.live.snapshot
        return _json({"status": now.status, "overview": now.view.overview})

    async def pops(self, _request: web.Request) -> web.Response:
        """Every POP, worst first."""
        return _json(self.live.snapshot.pops)

    async def history(self, request: web.Request) -> web.Response:
        """The past of one POP."""
        pop = request.query.get("pop", "")
        try:
            return _json(self.live.past(pop))
        except KeyError:
            return _json({"error": f"no POP {pop!r}"}, status=404)

    async def explain(self, request: web.Request) -> web.Response:
        """Why an address or prefix is answered as it is."""
        asked, name = request.query.get("address", ""), request.query.get("name") or None
        view = self.live.snapshot.view
        try:
            return _json(explain(asked, name, view, self._config, self._now_ms()))
        except PopsteerError as error:
            return _json({"error": str(error)}, status=400)

    async def metrics(self, _request: web.Request) -> web.Response:
        """For Prometheus."""
        return web.Response(body=self._exposition(), headers={"Content-Type": CONTENT_TYPE})

    async def healthz(self, _request: web.Request) -> web.Response:
        """This process answers; whether the data are fresh is said beside it."""
        line = self.live.snapshot.status
        return _json({"ok": True, "stale": line.stale, "problems": line.problems})


def _json(document: object, status: int = 200) -> web.Response:
    body = msgspec.json.encode(document)
    return web.Response(body=body, status=status, content_type="application/json")


def run(config: Config) -> int:
    """Serve until SIGTERM or Ctrl-C; gives the exit code.

    Raises:
        SetupError: the port cannot be bound.
    """
    configure("console")
    keep_little()
    return asyncio.run(_serve(config))


async def _serve(config: Config) -> int:
    host, port = host_port(config.console.listen, "console.listen")
    runner = web.AppRunner(
        app(config, s3_store(config.aws)), access_log=None, shutdown_timeout=SHUTDOWN_S
    )
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise SetupError(
                f"console.listen = {config.console.listen}: {error.strerror}; choose another port "
                "with --listen, or stop who uses it"
            ) from None
        ended = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, ended.set)
        await ended.wait()
    finally:
        await runner.cleanup()
    return 0
