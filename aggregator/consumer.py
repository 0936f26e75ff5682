"""The record processor of one shard; `python -m aggregator.child` runs it.

A child of the MultiLangDaemon. It decodes and folds (`aggregator.window`), writes the partials
of each closed cut to S3, then checkpoints at the cut's last record, in this order. Any unexpected
error ends the process: kclpy would swallow it and report the batch as done. stdout is the protocol
of the MultiLangDaemon and belongs to kclpy; what is to be told goes to stderr, one JSON object per
line.
"""

import functools
import json
import os
import random
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from typing import Any, ParamSpec

import pyarrow as pa
from amazon_kclpy import kcl, messages
from amazon_kclpy.checkpoint_error import CheckpointError
from amazon_kclpy.v3.processor import RecordProcessorBase
from botocore.exceptions import BotoCoreError, ClientError

from aggregator import settings as consumer_settings
from aggregator.partials import Partial, decode_origin, digest, encode
from aggregator.resume import Parents, resume
from aggregator.settings import ConsumerSettings
from aggregator.window import Cut, Record, Resume, ShardFold
from popsteer.aws import kinesis
from popsteer.clock import now_ms
from popsteer.errors import StoreError
from popsteer.memory import give_back, keep_little
from popsteer.store import ObjectStore, s3_store

WRITE_PATIENCE_S = 60.0
"""S3 may be away for this long before the process gives up and is started again."""
CHECKPOINT_PATIENCE_S = 10.0
"""A checkpoint throttled for longer is left to the next cut's, which covers it."""
PAUSE_S_MIN, PAUSE_S_MAX = 0.1, 5.0
GIVE_BACK_MS = 5_000
"""Processors of longer windows give memory back after each."""
PROGRESS_PERIOD_MS = 1_000
REFUSALS_TOLD_MAX = 1_000
"""Each (source, reason) is told once, and so many of them at the most; all are counted."""

RETRIED = {"ThrottlingException", "KinesisClientLibDependencyException"}
LEASE_LOST = "ShutdownException"

P = ParamSpec("P")


def tell(event: str, **fields: Any) -> None:
    """A line on stderr, for the daemon."""
    sys.stderr.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stderr.flush()


def or_exit(method: Callable[P, None]) -> Callable[P, None]:
    """An error that nothing has foreseen ends the process before kclpy can swallow it."""

    @functools.wraps(method)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            method(*args, **kwargs)
        except Exception as error:
            tell("crashed", error=repr(error), traceback=traceback.format_exc())
            os._exit(1)

    return guarded


class ShardProcessor(RecordProcessorBase):  # type: ignore[misc]
    """One shard from lease to lease; what it knows beyond S3 is the open cut alone."""

    version = 3

    def __init__(self, settings: ConsumerSettings, store: ObjectStore, parents: Parents) -> None:
        self._settings = settings
        self._store = store
        self._parents = parents
        self._shard = ""
        self._fold: ShardFold
        self._refused: set[tuple[str, str]] = set()
        self._told_ms = 0
        self._counts: Counter[str] = Counter()

    @or_exit
    def initialize(self, initialize_input: messages.InitializeInput) -> None:
        """Take the shard up where the newest written cut ends."""
        self._shard = initialize_input.shard_id
        start = self._resume()
        self._fold = ShardFold(consumer_settings.rules(self._settings, self._shard), start)
        self._tell("resumed", after=str(start.after), sources=len(start.marks))

    @or_exit
    def process_records(self, process_records_input: messages.ProcessRecordsInput) -> None:
        """Fold; write and checkpoint the cuts that these records close."""
        behind_ms = process_records_input.millis_behind_latest
        cuts: list[Cut] = []
        for record in process_records_input.records:
            cuts += self._fold.take(
                Record(int(record.sequence_number), record.timestamp_millis, record.binary_data)
            )
        if behind_ms == 0 and not process_records_input.records:
            cuts += self._fold.tick(now_ms())
        self._settle(cuts, process_records_input.checkpointer)
        self._tell_refusals()
        self._tell_losses()
        self._tell_progress(behind_ms)

    @or_exit
    def shard_ended(self, shard_ended_input: messages.ShardEndedInput) -> None:
        """A split or merge: write what is open, then let the children start."""
        for cut in self._fold.finish():
            self._write(cut)
        if not self._checkpoint(shard_ended_input.checkpointer, None):
            raise CheckpointError("the end of the shard could not be checkpointed")
        self._tell("ended")

    @or_exit
    def shutdown_requested(self, _: messages.ShutdownRequestedInput) -> None:
        """Nothing: a half window is not written, and all that is written is checkpointed."""
        self._tell("stopping")

    @or_exit
    def lease_lost(self, _: messages.LeaseLostInput) -> None:
        """Nothing: the open cut is the next owner's to fold."""
        self._tell("lease_lost")

    def _settle(self, cuts: list[Cut], checkpointer: kcl.Checkpointer) -> None:
        for cut in cuts:
            self._write(cut)
        if cuts:
            self._checkpoint(checkpointer, cuts[-1].origin.last_sequence)
            if self._settings.window_ms >= GIVE_BACK_MS:
                give_back()

    def _write(self, cut: Cut) -> None:
        origin = cut.origin
        for first, partial in zip(
            (True, *(False,) * len(cut.partials)), cut.partials, strict=False
        ):
            key, body = origin.key(partial.kind), encode(partial)
            if not self._create(key, body):
                self._compare(key, body, partial, decides=first)
        self._tell(
            "cut",
            window_ms=origin.window_start_ms,
            supplement=origin.supplement,
            records=origin.records,
            samples=origin.samples,
            duplicates=origin.duplicates,
            quarantined=origin.quarantined,
            age_ms=now_ms() - origin.window_start_ms,
            heard_ms=max((mark.heard_ms for mark in origin.marks.values()), default=-1),
        )

    def _resume(self) -> Resume:
        """Where to go on; S3 and Kinesis may be away meanwhile."""
        deadline_s, pause_s = time.monotonic() + WRITE_PATIENCE_S, PAUSE_S_MIN
        stream, kinds = self._settings.stream, self._settings.kinds
        while True:
            try:
                return resume(self._store, stream, self._shard, kinds, self._parents, now_ms())
            except (StoreError, BotoCoreError, ClientError) as error:
                if time.monotonic() > deadline_s:
                    raise
                self._tell("resume_failed", error=str(error))
            pause_s = _longer(pause_s)
            time.sleep(pause_s)

    def _create(self, key: str, body: bytes) -> bool:
        deadline_s, pause_s = time.monotonic() + WRITE_PATIENCE_S, PAUSE_S_MIN
        while True:
            try:
                return self._store.create(key, body)
            except StoreError as error:
                if time.monotonic() > deadline_s:
                    raise
                self._tell("write_failed", key=key, error=str(error))
            pause_s = _longer(pause_s)
            time.sleep(pause_s)

    def _compare(self, key: str, body: bytes, partial: Partial, *, decides: bool) -> None:
        """Somebody wrote this key before: a predecessor that crashed, or a zombie."""
        stored = self._store.read(key)
        if stored is None or stored.body == body:
            return
        self._tell("conflict", key=key, ours=digest(body), theirs=digest(stored.body))
        if decides and decode_origin(stored.body).last_sequence != partial.origin.last_sequence:
            # The other cut ends elsewhere, and it came first. What comes after it is taken up
            # anew, from what is written.
            raise StoreError(f"{key}: another worker cut this window at another record")

    def _checkpoint(self, checkpointer: kcl.Checkpointer, sequence: int | None) -> bool:
        deadline_s, pause_s = time.monotonic() + CHECKPOINT_PATIENCE_S, PAUSE_S_MIN
        while True:
            try:
                checkpointer.checkpoint(None if sequence is None else str(sequence))
            except CheckpointError as error:
                self._tell("checkpoint_failed", error=error.value)
                if error.value == LEASE_LOST:
                    return False
                if error.value not in RETRIED:
                    raise
                if time.monotonic() > deadline_s:
                    return False
            else:
                return True
            pause_s = _longer(pause_s)
            time.sleep(pause_s)

    def _tell_refusals(self) -> None:
        for refusal in self._fold.refusals:
            which = (refusal.source, refusal.reason)
            if which not in self._refused and len(self._refused) < REFUSALS_TOLD_MAX:
                self._refused.add(which)
                self._tell(
                    "quarantined",
                    source=refusal.source,
                    reason=refusal.reason,
                    detail=refusal.detail,
                )
        self._fold.refusals.clear()

    def _tell_losses(self) -> None:
        for loss in self._fold.losses:
            self._tell("lost", source=loss.source, records=loss.records)
        self._fold.losses.clear()

    def _tell_progress(self, behind_ms: int) -> None:
        now = now_ms()
        if now - self._told_ms >= PROGRESS_PERIOD_MS:
            self._told_ms = now
            self._tell("progress", behind_ms=behind_ms, heard_ms=self._fold.heard_ms)

    def _tell(self, event: str, **fields: Any) -> None:
        tell(event, stream=self._settings.stream, shard=self._shard, **fields)


def _longer(pause_s: float) -> float:
    """Decorrelated jitter: many processors that fail together do not return together."""
    return min(PAUSE_S_MAX, random.uniform(PAUSE_S_MIN, pause_s * 3))  # noqa: S311


def kinesis_parents(settings: ConsumerSettings) -> Parents:
    """The parents of a shard, as Kinesis tells; it forgets them when their records expire."""

    def parents(shard: str) -> tuple[str, ...]:
        pages = kinesis(settings.aws).get_paginator("list_shards")
        for page in pages.paginate(StreamName=settings.stream):
            for one in page["Shards"]:
                if one["ShardId"] == shard:
                    known = (one.get("ParentShardId"), one.get("AdjacentParentShardId"))
                    return tuple(p for p in known if p)
        return ()

    return parents


def main() -> None:
    """Serve the MultiLangDaemon on stdin and stdout until it closes them."""
    # One light process per shard: the machine's cores are shared by shards, not by threads.
    keep_little()
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    settings = consumer_settings.load()
    processor = ShardProcessor(settings, s3_store(settings.aws), kinesis_parents(settings))
    kcl.KCLProcess(processor).run()
