"""S3: conditional writes under contention, bodies on disk, the janitor."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from botocore.exceptions import ClientError

from popsteer import aws

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

    from tests.localaws.conftest import Launch, LocalAws

BUCKET = "popsteer"
WRITERS = 5
ROUNDS = 6


@pytest.fixture
def s3(shared: "LocalAws") -> "S3Client":
    """The shared server's S3."""
    return shared.s3


def status(error: ClientError) -> int:
    """The HTTP status of a refusal."""
    return error.response["ResponseMetadata"]["HTTPStatusCode"]


def refused(s3: "S3Client", **arguments: str) -> int:
    """Put something under conditions that must fail; gives the HTTP status."""
    with pytest.raises(ClientError) as caught:
        s3.put_object(Bucket=BUCKET, Body=b"late", **arguments)  # type: ignore[arg-type]
    return status(caught.value)


def test_conditions_of_writes_and_reads(s3: "S3Client") -> None:
    etag = s3.put_object(Bucket=BUCKET, Key="c/once", Body=b"first", IfNoneMatch="*")["ETag"]

    assert refused(s3, Key="c/once", IfNoneMatch="*") == 412
    assert refused(s3, Key="c/once", IfMatch='"0123"') == 412
    assert refused(s3, Key="c/none", IfMatch=etag) == 404
    with pytest.raises(ClientError) as same:
        s3.get_object(Bucket=BUCKET, Key="c/once", IfNoneMatch=etag)
    assert status(same.value) == 304
    newer = s3.put_object(Bucket=BUCKET, Key="c/once", Body=b"second", IfMatch=etag)["ETag"]
    assert s3.get_object(Bucket=BUCKET, Key="c/once", IfMatch=newer)["Body"].read() == b"second"


def test_of_many_writers_of_one_key_exactly_one_wins(shared: "LocalAws") -> None:
    clients = [aws.s3(shared.where) for _ in range(WRITERS)]
    keys = [f"race/{i}" for i in range(25)]

    def create_all(writer: int) -> list[str]:
        won = []
        for key in keys:
            try:
                body = str(writer).encode()
                clients[writer].put_object(Bucket=BUCKET, Key=key, Body=body, IfNoneMatch="*")
                won.append(key)
            except ClientError as error:
                if status(error) != 412:
                    raise
        return won

    with ThreadPoolExecutor(WRITERS) as pool:
        wins = list(pool.map(create_all, range(WRITERS)))

    assert sorted(key for won in wins for key in won) == sorted(keys)
    for writer, won in enumerate(wins):
        for key in won:
            answer = shared.s3.get_object(Bucket=BUCKET, Key=key)
            assert answer["Body"].read() == str(writer).encode()
    for client in clients:
        client.close()


def test_no_update_is_lost_by_compare_and_swap(shared: "LocalAws") -> None:
    clients = [aws.s3(shared.where) for _ in range(WRITERS)]
    shared.s3.put_object(Bucket=BUCKET, Key="counter", Body=b"0")

    def count(writer: int) -> None:
        done = 0
        while done < ROUNDS:
            now = clients[writer].get_object(Bucket=BUCKET, Key="counter")
            body = str(int(now["Body"].read()) + 1).encode()
            try:
                clients[writer].put_object(
                    Bucket=BUCKET, Key="counter", Body=body, IfMatch=now["ETag"]
                )
                done += 1
            except ClientError as error:
                if status(error) != 412:
                    raise

    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(count, range(WRITERS)))

    total = shared.s3.get_object(Bucket=BUCKET, Key="counter")["Body"].read()
    assert total == str(ROUNDS * WRITERS).encode()
    for client in clients:
        client.close()


def test_multipart_ranges_copies_and_lists(s3: "S3Client") -> None:
    first, second = os.urandom(5 * 2**20), os.urandom(1000)
    upload = s3.create_multipart_upload(Bucket=BUCKET, Key="m/whole")["UploadId"]
    parts = [
        s3.upload_part(Bucket=BUCKET, Key="m/whole", UploadId=upload, PartNumber=i, Body=body)
        for i, body in ((1, first), (2, second))
    ]
    s3.complete_multipart_upload(
        Bucket=BUCKET,
        Key="m/whole",
        UploadId=upload,
        MultipartUpload={
            "Parts": [{"PartNumber": i, "ETag": p["ETag"]} for i, p in enumerate(parts, 1)]
        },
        IfNoneMatch="*",
    )
    s3.copy_object(Bucket=BUCKET, Key="m/copy", CopySource={"Bucket": BUCKET, "Key": "m/whole"})
    s3.copy_object(
        Bucket=BUCKET,
        Key="m/copy",
        CopySource={"Bucket": BUCKET, "Key": "m/copy"},
        MetadataDirective="REPLACE",
        Metadata={"a_b": "c"},
    )

    got = s3.get_object(Bucket=BUCKET, Key="m/copy")

    assert got["Body"].read() == first + second
    assert got["Metadata"] == {"a_b": "c"}
    cut = s3.get_object(Bucket=BUCKET, Key="m/whole", Range="bytes=5242879-5242881")
    assert cut["Body"].read() == first[-1:] + second[:2]
    listed = s3.list_objects_v2(Bucket=BUCKET, Prefix="m/")["Contents"]
    assert [(entry["Key"], entry["Size"]) for entry in listed] == [
        ("m/copy", len(first + second)),
        ("m/whole", len(first + second)),
    ]


def test_odd_keys_keep_apart(s3: "S3Client") -> None:
    keys = ["odd/a b+c=d%2Fe", "odd/é/ü", "odd/x", "odd/x/y", "odd/.new", "odd/" + "n" * 900]
    for key in keys:
        s3.put_object(Bucket=BUCKET, Key=key, Body=key.encode())

    assert all(s3.get_object(Bucket=BUCKET, Key=k)["Body"].read() == k.encode() for k in keys)
    listed = s3.list_objects_v2(Bucket=BUCKET, Prefix="odd/")["Contents"]
    assert {entry["Key"] for entry in listed} == set(keys)
    s3.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": key} for key in keys]})
    assert s3.list_objects_v2(Bucket=BUCKET, Prefix="odd/")["KeyCount"] == 0


def test_bodies_lie_on_disk_alone(shared: "LocalAws") -> None:
    def held() -> tuple[int, int]:
        process = shared.process.pid
        with open(f"/proc/{process}/status") as lines:  # noqa: PTH123
            rss = next(line for line in lines if line.startswith("VmRSS"))
        return int(rss.split()[1]), len(os.listdir(f"/proc/{process}/fd"))  # noqa: PTH208

    body = os.urandom(2**20)
    shared.s3.put_object(Bucket=BUCKET, Key="big/0", Body=body)
    memory_kb, files = held()
    for i in range(100):
        shared.s3.put_object(Bucket=BUCKET, Key=f"big/{i}", Body=body)

    after_kb, after_files = held()

    assert after_kb - memory_kb < 50_000
    assert after_files <= files + 2


def test_the_janitor_deletes_old_partials_and_nothing_else(launch: "Launch") -> None:
    server = launch("--partials-age-s", "0.5", "--clean-s", "0.2")
    for key in ("partials/kind=rtt/window=1/a.parquet", "tables/1.arrow", "partials.txt"):
        server.s3.put_object(Bucket=BUCKET, Key=key, Body=b"x")

    def keys() -> list[str]:
        listed = server.s3.list_objects_v2(Bucket=BUCKET)
        return [entry["Key"] for entry in listed.get("Contents", [])]

    deadline = time.monotonic() + 20
    while len(keys()) > 2 and time.monotonic() < deadline:
        time.sleep(0.05)

    assert keys() == ["partials.txt", "tables/1.arrow"]
    assert len(list((server.data / "s3" / BUCKET).iterdir())) == 2
