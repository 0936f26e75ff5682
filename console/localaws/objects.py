"""S3 objects on disk, behind moto's S3: one file an object, a line of JSON and then the body.

moto keeps each body in memory or in a temporary file for as long as the object lives. Here its
buffer is replaced, once a request is done, by one that reads the file, so neither memory nor file
descriptors grow with the bucket, and objects outlive a kill with their ETags. Of an object with
several versions only the newest outlives it; so do buckets, but not their settings.
"""

import io
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from moto.core import DEFAULT_ACCOUNT_ID
from moto.s3.models import FakeKey, FakeMultipart, S3Backend, s3_backends

from console.localaws import files
from console.localaws.identity import REGION

if TYPE_CHECKING:
    from collections.abc import Iterable

PARTITION = "aws"
NO_VERSION = "null"


class ObjectInfo(msgspec.Struct):
    """The first line of an object's file."""

    key: str
    etag: str
    size: int
    modified_s: float
    version: str = NO_VERSION
    storage_class: str | None = None
    metadata: dict[str, str] = msgspec.field(default_factory=dict)
    checksum: tuple[str | None, str | None, str | None, int | None] = (None, None, None, None)
    """Algorithm, value, type, parts."""
    encryption: tuple[str | None, str | None] = (None, None)
    """Algorithm, key."""


class DiskBody(io.RawIOBase):
    """The body of one object: a read-only file that is open only while it is read."""

    def __init__(self, path: Path, offset: int) -> None:
        self.path = path
        self.offset = offset
        self.at = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Only from the start: moto does nothing else."""
        assert whence == io.SEEK_SET
        self.at = offset
        return offset

    def read(self, size: int = -1) -> bytes:
        """The body from the current place on."""
        with self.path.open("rb") as file:
            file.seek(self.offset + self.at)
            data = file.read(size)
        self.at += len(data)
        return data


class DurableS3(S3Backend):  # type: ignore[misc]
    """moto's S3 that remembers which keys a request has touched; `Objects.sync` writes them."""

    def __init__(self, region_name: str, account_id: str) -> None:
        super().__init__(region_name, account_id)
        self.touched: set[tuple[str, str]] = set()

    def put_object(self, bucket_name: str, key_name: str, *args: Any, **kwargs: Any) -> FakeKey:
        """Store; metadata may still follow within the same request."""
        self.touched.add((bucket_name, key_name))
        return super().put_object(bucket_name, key_name, *args, **kwargs)

    def delete_object(
        self, bucket_name: str, key_name: str, *args: Any, **kwargs: Any
    ) -> tuple[bool, dict[str, Any]]:
        """Delete, or lay a delete marker."""
        self.touched.add((bucket_name, key_name))
        done: tuple[bool, dict[str, Any]] = super().delete_object(
            bucket_name, key_name, *args, **kwargs
        )
        return done


class Objects:
    """The buckets of the one S3 backend, on disk below `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        s3_backends.backend = DurableS3
        self.backend: DurableS3 = s3_backends[DEFAULT_ACCOUNT_ID][PARTITION]
        self.paths: dict[tuple[str, str], set[Path]] = {}
        """The files of each key: one, or one a version."""

    def load(self) -> None:
        """Take up what an earlier process left."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for folder in sorted(self.folder.iterdir()):
            self.backend.create_bucket(folder.name, REGION)
            for path in folder.iterdir():
                if path.name.endswith(files.ASIDE):
                    path.unlink()
                else:
                    self._load_object(folder.name, path)
        self.backend.touched.clear()

    def sync(self) -> None:
        """Bring the disk up to what the last request did."""
        self._sync_buckets()
        for bucket_name, key_name in self.backend.touched:
            bucket = self.backend.buckets.get(bucket_name)
            versions = bucket.keys.getlist(key_name, []) if bucket else []
            self._sync_key(bucket_name, key_name, versions)
        self.backend.touched.clear()

    def expire(self, bucket_name: str, prefix: str, before: datetime) -> int:
        """Delete the objects under `prefix` last written before a time; says how many."""
        bucket = self.backend.buckets.get(bucket_name)
        listed: Iterable[tuple[str, Any]] = bucket.keys.items() if bucket else ()
        old = [
            name
            for name, key in listed
            if name.startswith(prefix) and key.last_modified.replace(tzinfo=UTC) < before
        ]
        for name in old:
            self.backend.delete_object(bucket_name, name)
        self.sync()
        return len(old)

    def abort_uploads(self, count_max: int) -> None:
        """Forget the oldest unfinished multipart uploads beyond a number: they lie in memory."""
        for bucket in self.backend.buckets.values():
            for upload in list(bucket.multiparts)[:-count_max]:
                self.backend.abort_multipart_upload(bucket.name, upload)

    def _sync_buckets(self) -> None:
        known = {folder.name for folder in self.folder.iterdir()}
        for name in self.backend.buckets.keys() - known:
            (self.folder / name).mkdir()
        for name in known - self.backend.buckets.keys():
            # moto deletes a bucket only when it is empty.
            shutil.rmtree(self.folder / name)

    def _sync_key(self, bucket_name: str, key_name: str, versions: list[Any]) -> None:
        kept: set[Path] = set()
        for key in versions:
            if isinstance(key, FakeKey):
                path = self.folder / bucket_name / _file_name(key)
                kept.add(path)
                if not isinstance(key._value_buffer, DiskBody):
                    _write(key, path)
        place = (bucket_name, key_name)
        for path in self.paths.pop(place, set()) - kept:
            path.unlink(missing_ok=True)
        if kept:
            self.paths[place] = kept

    def _load_object(self, bucket_name: str, path: Path) -> None:
        with path.open("rb") as file:
            line = file.readline()
        info = files.decode(path, line, ObjectInfo)
        key = _restored(info, bucket_name)
        key._value_buffer = DiskBody(path, len(line))
        bucket = self.backend.buckets[bucket_name]
        other = bucket.keys.get(info.key)
        if other is not None and other.last_modified > key.last_modified:
            path.unlink()
            return
        bucket.keys.setlist(info.key, [key])
        for stale in self.paths.pop((bucket_name, info.key), set()):
            stale.unlink()
        self.paths[bucket_name, info.key] = {path}


def _file_name(key: FakeKey) -> str:
    name = files.file_name(key.name)
    return name if key.version_id == NO_VERSION else f"{name}@{key.version_id}"


def _write(key: FakeKey, path: Path) -> None:
    """Write a new object and let go of its body."""
    info = ObjectInfo(
        key.name,
        key.etag.strip('"'),
        key.size,
        key.last_modified.replace(tzinfo=UTC).timestamp(),
        key.version_id,
        key.storage_class,
        dict(key.metadata),
        (key.checksum_algorithm, key.checksum_value, key.checksum_type, key.checksum_parts),
        (key.encryption, key.kms_key_id),
    )
    head = msgspec.json.encode(info) + b"\n"
    files.replace(path, head, key.value)
    key._value_buffer.close()
    key._value_buffer = DiskBody(path, len(head))
    if isinstance(key.multipart, FakeMultipart):
        key.multipart.dispose()
        key.multipart.parts.clear()


def _restored(info: ObjectInfo, bucket_name: str) -> FakeKey:
    algorithm, value, kind, parts = info.checksum
    key = FakeKey(
        info.key,
        b"",
        DEFAULT_ACCOUNT_ID,
        PARTITION,
        storage=info.storage_class,
        etag=info.etag,
        version_id=info.version,
        bucket_name=bucket_name,
        encryption=info.encryption[0],
        kms_key_id=info.encryption[1],
        checksum_value=value,
        checksum_type=kind,
        checksum_parts=parts,
    )
    key.contentsize = info.size
    key.checksum_algorithm = algorithm
    # moto's times are UTC without saying so.
    key.last_modified = datetime.fromtimestamp(info.modified_s, UTC).replace(tzinfo=None)
    key.set_metadata(info.metadata)
    return key
