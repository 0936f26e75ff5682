"""Objects with conditional writes: the seam behind which S3 stands.

Everything that popsteer coordinates, it coordinates by two conditions: `If-None-Match: *` (write
once) and `If-Match` (compare and swap). `MemoryStore` is the same contract in memory, for tests
and the simulator.
"""

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from botocore.exceptions import BotoCoreError, ClientError, EndpointConnectionError

from popsteer.config import Aws
from popsteer.errors import ConflictError, StoreError

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client


@dataclass(frozen=True, slots=True)
class Stored:
    """An object's bytes and the tag of exactly these bytes."""

    body: bytes
    etag: str


class ObjectStore(Protocol):
    """Five calls; each raises `StoreError` when the store cannot be reached."""

    def read(self, key: str, unless_etag: str = "") -> Stored | None:
        """The object; None where there is none, or where it still has `unless_etag`."""

    def create(self, key: str, body: bytes) -> bool:
        """Write once: False, and nothing written, where the key already exists."""

    def swap(self, key: str, body: bytes, etag: str) -> str:
        """Replace exactly the version `etag` ("" = there must be none); gives the new tag.

        Raises:
            ConflictError: somebody else wrote first.
        """

    def list(self, prefix: str, after: str = "") -> list[str]:
        """Keys under a prefix that sort after `after`, in order."""

    def delete(self, key: str) -> None:
        """Remove; nothing happens where there is none."""


class S3Store:
    """A bucket as an `ObjectStore`."""

    def __init__(self, client: "S3Client", bucket: str) -> None:
        self._client = client
        self._bucket = bucket

    def read(self, key: str, unless_etag: str = "") -> Stored | None:
        """See `ObjectStore.read`."""
        try:
            if unless_etag:
                answer = self._client.get_object(
                    Bucket=self._bucket, Key=key, IfNoneMatch=unless_etag
                )
            else:
                answer = self._client.get_object(Bucket=self._bucket, Key=key)
            return Stored(answer["Body"].read(), answer["ETag"])
        except ClientError as error:
            if _status(error) in {304, 404} and _code(error) != "NoSuchBucket":
                return None
            raise StoreError(f"s3://{self._bucket}/{key}: {error}") from error
        except (BotoCoreError, OSError) as error:
            raise _away(f"s3://{self._bucket}/{key}", error) from error

    def create(self, key: str, body: bytes) -> bool:
        """See `ObjectStore.create`."""
        try:
            self._put(key, body, {"IfNoneMatch": "*"})
        except ConflictError:
            # A concurrent write that made S3 refuse ours (409) may itself have failed.
            if self.read(key) is None:
                raise
            return False
        return True

    def swap(self, key: str, body: bytes, etag: str) -> str:
        """See `ObjectStore.swap`."""
        return self._put(key, body, {"IfMatch": etag} if etag else {"IfNoneMatch": "*"})

    def _put(self, key: str, body: bytes, condition: dict[str, str]) -> str:
        try:
            answer = self._client.put_object(
                Bucket=self._bucket,
                Key=key,
                Body=body,
                **condition,  # type: ignore[arg-type]
            )
        except ClientError as error:
            # 412: the condition failed. 409: a concurrent conditional write is under way.
            # 404 under If-Match: the object is gone.
            if _status(error) in {404, 409, 412} and _code(error) != "NoSuchBucket":
                raise ConflictError(f"s3://{self._bucket}/{key}: written meanwhile") from error
            raise StoreError(f"s3://{self._bucket}/{key}: {error}") from error
        except (BotoCoreError, OSError) as error:
            raise _away(f"s3://{self._bucket}/{key}", error) from error
        return answer["ETag"]

    def list(self, prefix: str, after: str = "") -> list[str]:
        """See `ObjectStore.list`."""
        keys: list[str] = []
        try:
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=prefix, StartAfter=after
            )
            for page in pages:
                keys += [entry["Key"] for entry in page.get("Contents", [])]
        except (ClientError, BotoCoreError, OSError) as error:
            raise _away(f"s3://{self._bucket}/{prefix}", error) from error
        return keys

    def delete(self, key: str) -> None:
        """See `ObjectStore.delete`."""
        try:
            self._client.delete_object(Bucket=self._bucket, Key=key)
        except (ClientError, BotoCoreError, OSError) as error:
            raise _away(f"s3://{self._bucket}/{key}", error) from error


def s3_store(aws: Aws) -> S3Store:
    """The bucket of a configuration."""
    from popsteer.aws import s3

    return S3Store(s3(aws), aws.bucket)


def _away(where: str, error: Exception) -> StoreError:
    if isinstance(error, EndpointConnectionError):
        asked = urlsplit(error.kwargs["endpoint_url"])
        nobody = f"nothing answers at {asked.scheme}://{asked.netloc} (aws.endpoint)"
        return StoreError(f"{where}: {nobody}; is `popsteer up`, or what serves it, running?")
    return StoreError(f"{where}: {error}")


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


@dataclass(slots=True)
class MemoryStore:
    """An `ObjectStore` in memory with S3's semantics."""

    objects: dict[str, bytes] = field(default_factory=dict)

    def read(self, key: str, unless_etag: str = "") -> Stored | None:
        """See `ObjectStore.read`."""
        body = self.objects.get(key)
        if body is None or _etag(body) == unless_etag:
            return None
        return Stored(body, _etag(body))

    def create(self, key: str, body: bytes) -> bool:
        """See `ObjectStore.create`."""
        if key in self.objects:
            return False
        self.objects[key] = body
        return True

    def swap(self, key: str, body: bytes, etag: str) -> str:
        """See `ObjectStore.swap`."""
        present = self.objects.get(key)
        if etag != ("" if present is None else _etag(present)):
            raise ConflictError(f"{key}: written meanwhile")
        self.objects[key] = body
        return _etag(body)

    def list(self, prefix: str, after: str = "") -> list[str]:
        """See `ObjectStore.list`."""
        return sorted(k for k in self.objects if k.startswith(prefix) and k > after)

    def delete(self, key: str) -> None:
        """See `ObjectStore.delete`."""
        self.objects.pop(key, None)


def _etag(body: bytes) -> str:
    return f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'
