"""POP listeners: one HTTP server per POP on its own loopback address.

`GET /load` is the POP's load report, any other path answers 200 as a cache would. A POP that the
lab takes down has its listener and every open connection closed, as when the machine is gone.
"""

from collections.abc import Callable, Mapping

from aiohttp import web

from popsteer.config import Pop

LoadReport = dict[str, object]
"""`{"load_bps": …, "load_rps": …, "links": {"<link id>": tx_bps}}`"""


class Listeners:
    """Owns every POP's server."""

    def __init__(
        self, pops: Mapping[str, Pop], port: int, report: Callable[[str], LoadReport]
    ) -> None:
        self._pops = pops
        self._port = port
        self._report = report
        self._running: dict[str, web.AppRunner] = {}

    async def apply(self, down: frozenset[str]) -> None:
        """Open and close listeners so that exactly the POPs in `down` are closed."""
        for pop in self._pops:
            if pop in down and pop in self._running:
                await self._running.pop(pop).cleanup()
            elif pop not in down and pop not in self._running:
                self._running[pop] = await self._open(pop)

    async def close(self) -> None:
        """Close all."""
        await self.apply(frozenset(self._pops))

    async def _open(self, pop: str) -> web.AppRunner:
        async def load(_request: web.Request) -> web.Response:
            return web.json_response(self._report(pop))

        async def anything(_request: web.Request) -> web.Response:
            return web.Response(text=f"{pop}\n")

        app = web.Application()
        app.router.add_get("/load", load)
        app.router.add_get("/{path:.*}", anything)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, self._pops[pop].ipv4[0], self._port).start()
        return runner
