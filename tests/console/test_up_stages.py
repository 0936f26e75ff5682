"""The stages of `popsteer up`: none is told too early, and what fails meanwhile is told."""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest

from console.up.folder import Addresses, prepare
from console.up.ports import Address
from console.up.run import _first_of
from console.up.services import services_of
from console.up.stages import stages
from popsteer import world
from popsteer.aws import s3
from popsteer.config import Aws
from popsteer.config_file import load
from popsteer.errors import StoreError
from popsteer.store import s3_store


async def test_the_aws_answers_only_when_it_has_its_bucket(tmp_path: Path, local_aws: Aws) -> None:
    """It makes the bucket after it begins to listen; what writes in between would fail."""
    own, nowhere = world.generate(2, 150, 1), Address("127.0.0.1", 1)
    at = Addresses(dns=nowhere, http=nowhere, aws=nowhere, pop_port=1)
    config = load(prepare(tmp_path, own, services_of(None, own), at, 0))
    late = msgspec.structs.replace(local_aws, bucket="made-late")
    config = msgspec.structs.replace(config, aws=late)
    first = stages(config, s3_store(late), own.prefixes()[0])[0]

    before = await first.reached()
    await asyncio.to_thread(s3(late).create_bucket, Bucket=late.bucket)

    assert not before
    assert await first.reached()


async def _nothing() -> None:
    pass


async def _fail() -> None:
    raise StoreError("no bucket")


async def _wait(event: asyncio.Event) -> None:
    await event.wait()


async def _ended(watched: Coroutine[Any, Any, None], other: Coroutine[Any, Any, None]) -> None:
    watching, ending = asyncio.create_task(watched), asyncio.create_task(other)
    try:
        await asyncio.wait_for(_first_of([ending], watching), 5)
    finally:
        ending.cancel()
        await asyncio.gather(watching, ending, return_exceptions=True)


async def test_what_fails_while_stages_are_shown_ends_everything() -> None:
    with pytest.raises(StoreError, match="no bucket"):
        await _ended(_fail(), _wait(asyncio.Event()))


async def test_stages_that_are_all_reached_end_nothing() -> None:
    signalled = asyncio.Event()
    asyncio.get_running_loop().call_later(0.05, signalled.set)

    await _ended(_nothing(), _wait(signalled))

    assert signalled.is_set()
