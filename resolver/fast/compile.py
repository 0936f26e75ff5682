"""Compiling the answer path, once for each machine and version of the sources.

Machine code is made in a process of its own, so that neither its memory nor its hold on the
interpreter is the server's; the server then loads it from the disk.
"""

import fcntl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from popsteer.config import Config
from popsteer.telemetry import logger
from resolver.fast import book as books
from resolver.fast.engine import World, warm
from resolver.fast.kernel import cache_folder
from resolver.fast.limit import limits
from resolver.fast.load import ranked_of, routes_of, services_of, settings_of
from resolver.route import fleet_of
from resolver.snapshot import Options, Snapshot
from resolver.zonefile import load_zones

COMPILE_S_MAX = 300.0
"""A compilation that takes longer is given up; this process then compiles for itself."""


def ensure_compiled() -> None:
    """Have machine code of these very sources on the disk; one process compiles, others wait."""
    with _alone():
        if _is_compiled():
            return
        logger().info("compiling the answer path, once; the slow path answers meanwhile")
        began_s = time.monotonic()
        try:
            subprocess.run(
                [sys.executable, "-m", __name__],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                check=True,
                timeout=COMPILE_S_MAX,
            )
        except (OSError, subprocess.SubprocessError) as error:
            logger().warning("compiling in this process instead", reason=str(error))
            return
        logger().info("compiled", seconds=round(time.monotonic() - began_s, 1))


def compile_all() -> None:
    """Compile everything that a server calls, in a world without names."""
    config = Config()
    snapshot = Snapshot(load_zones(config), fleet_of(config), Options())
    services = services_of(snapshot, {})
    routes, pops = routes_of(snapshot, ranked_of(None, None), services)
    book = books.build(snapshot.zones, True, services.number)
    settings = settings_of(snapshot.options, limits(0.0), int(time.time()))
    # The loop comes last: its file on the disk says that all are there.
    warm(World(book, routes, settings, tuple(pops)))


def _is_compiled() -> bool:
    return any(cache_folder().rglob("serve.serve-*.nbi"))


@contextmanager
def _alone() -> Iterator[None]:
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
    except OSError:  # no place to keep it: every process compiles for itself
        yield
        return
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    compile_all()
