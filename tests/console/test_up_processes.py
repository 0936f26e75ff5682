"""What `popsteer up` keeps running, and what that leaves behind."""

import asyncio
import time
from pathlib import Path

import pytest

from console.up import processes
from console.up.processes import Process, Program

CHATTER = "import time\nwhile True: print('x' * 999, flush=True); time.sleep(0.001)"


@pytest.mark.asyncio
async def test_the_log_of_a_process_that_never_ends_stays_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "LOG_BYTES_MAX", 20_000)
    monkeypatch.setattr(processes, "LOG_CHECK_S", 0.05)
    (tmp_path / "logs").mkdir()
    process = Process(Program("chatter", ("-c", CHATTER)), tmp_path)
    running = asyncio.create_task(process.run(asyncio.Event()))
    old, log = tmp_path / "logs" / "chatter.log.1", tmp_path / "logs" / "chatter.log"

    deadline_s = time.monotonic() + 60
    while not old.exists() or log.stat().st_size < 2_000:
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.01)
    await process.stop()
    await running

    assert process.restarts == 0
    assert old.stat().st_size > 20_000
    assert log.read_bytes()[:1] == b"x"  # it goes on at the beginning, without a hole
