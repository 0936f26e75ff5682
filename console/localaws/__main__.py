"""`python -m console.localaws`: the embedded AWS as a process of its own.

It prints one line on stdout, `ready http://HOST:PORT`, once everything popsteer needs is there.
Exit codes: 0 after SIGTERM or SIGINT, 2 when it cannot start, with one sentence on stderr.
"""

import argparse
import ctypes
import fcntl
import gc
import os
import signal
import socket
import sys
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import IO, NoReturn

BULK_SHARDS = 2
URGENT_SHARDS = 1
STREAM_MB = 64
PARTIALS_AGE_S = 7200.0
CLEAN_S = 60.0
IDLE_S = 75.0
"""The AWS SDK for Java lets go of an idle connection after 60 s: no request meets our closing."""
CANNOT_START = 2
BACKLOG = 128
M_MMAP_THRESHOLD = -3
LARGE_BLOCK_BYTES = 128 * 1024


def main() -> None:
    """Bind, lock the data, load, serve."""
    options = _options()
    # Before the imports that take a second: a port in use is told at once, and callers wait in
    # the backlog instead of being refused.
    listener = _listen(options.listen)
    with _lock(options.data) as lock:
        sys.exit(_serve(options, listener, lock))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m console.localaws", description=__doc__)
    parser.add_argument("--listen", metavar="HOST:PORT", required=True, help="port 0: any free one")
    parser.add_argument("--data", metavar="DIR", type=Path, required=True)
    parser.add_argument("--bucket", default="popsteer")
    parser.add_argument("--bulk-shards", metavar="N", type=int, default=BULK_SHARDS)
    parser.add_argument("--urgent-shards", metavar="N", type=int, default=URGENT_SHARDS)
    parser.add_argument("--limits", action="store_true", help="throttle shards as AWS does")
    parser.add_argument("--stream-mb", metavar="MB", type=float, default=STREAM_MB)
    parser.add_argument("--partials-age-s", metavar="S", type=float, default=PARTIALS_AGE_S)
    parser.add_argument("--clean-s", metavar="S", type=float, default=CLEAN_S)
    parser.add_argument("--idle-s", metavar="S", type=float, default=IDLE_S)
    return parser.parse_args()


def _listen(listen: str) -> socket.socket:
    host, _, port = listen.rpartition(":")
    try:
        address = (host.strip("[]"), int(port))
    except ValueError:
        _refuse(f"--listen {listen}: use HOST:PORT, as in 127.0.0.1:4566")
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        _refuse(f"--listen {listen}: {error.strerror}; choose another port or stop its owner")
    return listener


def _lock(data: Path) -> IO[bytes]:
    """Own the data directory for as long as the file is open; a kill releases it."""
    try:
        data.mkdir(parents=True, exist_ok=True)
        lock = (data / "lock").open("wb")
    except OSError as error:
        _refuse(f"--data {data}: {error.strerror}; choose a directory that can be written")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        _refuse(f"--data {data}: another process uses it; stop that one or choose another")
    return lock


def _serve(options: argparse.Namespace, listener: socket.socket, lock: IO[bytes]) -> int:
    host, port = listener.getsockname()[:2]
    endpoint = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    # The bucket is made last, so where it is, there is nothing to make.
    if (options.data / "s3" / options.bucket).is_dir():
        return _run(options, listener, endpoint, None)
    # A process of its own: it starts while this one does, and boto3's clients, which would keep
    # 45 MB, end with it.
    own_files = (listener.fileno(), lock.fileno())
    provisioner = get_context("fork").Process(
        target=_provision, args=(options, endpoint, own_files), daemon=True
    )
    provisioner.start()
    try:
        return _run(options, listener, endpoint, provisioner)
    finally:
        # Before the port closes: it would complain of that.
        provisioner.kill()
        provisioner.join()


def _run(
    options: argparse.Namespace,
    listener: socket.socket,
    endpoint: str,
    provisioner: BaseProcess | None,
) -> int:
    # Only now: the provisioner must not inherit them.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    from console.localaws import server
    from console.localaws.files import UnreadableError
    from console.localaws.services import Services, Settings

    services = Services(
        Settings(
            data=options.data,
            bucket=options.bucket,
            limited=options.limits,
            stream_bytes_max=int(options.stream_mb * 1_000_000),
            partials_age_s_max=options.partials_age_s,
            clean_period_s=options.clean_s,
            idle_s_max=options.idle_s,
        )
    )
    try:
        services.load()
    except UnreadableError as error:
        _refuse(f"--data {options.data}: {error}; move that file away or choose another directory")
    _settle_memory()
    return server.run(services, listener.detach(), provisioner, endpoint)


def _provision(options: argparse.Namespace, endpoint: str, not_ours: tuple[int, int]) -> None:
    for descriptor in not_ours:
        os.close(descriptor)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    from console.localaws.identity import REGION
    from console.localaws.provision import BULK_STREAM, URGENT_STREAM, provision, with_patience
    from popsteer import aws
    from popsteer.config import Aws

    own = Aws(region=REGION, endpoint=endpoint, bucket=options.bucket)
    counts = {BULK_STREAM: options.bulk_shards, URGENT_STREAM: options.urgent_shards}
    clients = aws.kinesis(own), aws.dynamodb(own), aws.s3(own)
    with_patience(lambda: provision(*clients, shard_counts=counts, bucket=options.bucket))


def _settle_memory() -> None:
    """See that freed request bodies go back to the kernel soon.

    glibc raises its threshold for that to the largest block it has seen freed, unless told one
    (mallopt(3)). And moto's requests are cycles: full collections, which free them, are rare while
    the hundreds of thousands of objects of the imports count as garbage to look through.
    """
    gc.collect()
    gc.freeze()
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)


def _refuse(sentence: str) -> NoReturn:
    print(sentence, file=sys.stderr)
    sys.exit(CANNOT_START)


if __name__ == "__main__":
    main()
