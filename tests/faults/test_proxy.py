"""The proxy before a real embedded AWS: what passes, and what each fault does to a client."""

import threading
from collections.abc import Iterator

import pytest
from botocore.exceptions import ClientError, HTTPClientError

from benchmarks.faults.proxy import Answered, Call, Frozen, Lost, Proxy, Refused, Service, call_of
from popsteer import aws as clients
from popsteer.config import Aws
from popsteer.errors import StoreError
from popsteer.store import S3Store, s3_store

SLOW = b"<Error><Code>SlowDown</Code></Error>"


@pytest.fixture
def proxy(local_aws: Aws) -> Iterator[Proxy]:
    host, _, port = local_aws.endpoint.removeprefix("http://").rpartition(":")
    with Proxy(lambda _: (host, int(port))) as running:
        yield running


@pytest.fixture
def store(proxy: Proxy, local_aws: Aws) -> S3Store:
    return s3_store(replaced(local_aws, proxy))


def replaced(aws: Aws, proxy: Proxy) -> Aws:
    return Aws(endpoint=proxy.endpoint, bucket=aws.bucket)


def test_a_request_is_told_by_its_head() -> None:
    head = (
        b"POST / HTTP/1.1\r\nX-Amz-Target: Kinesis_20131202.PutRecords\r\nContent-Length: 7\r\n\r\n"
    )
    assert call_of(head) == Call(Service.KINESIS, "PutRecords", 7, waits=False)
    head = b"PUT /b/key HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"
    assert call_of(head) == Call(Service.S3, "PUT /b/key", 3, waits=True)
    head = b"POST / HTTP/1.1\r\nx-amz-target: DynamoDB_20120810.GetItem\r\n\r\n"
    assert call_of(head).service is Service.DYNAMODB


def test_everything_passes_unchanged(store: S3Store) -> None:
    body = bytes(range(256)) * 1_000
    assert store.create("faults/whole", body)
    stored = store.read("faults/whole")
    assert stored is not None
    assert stored.body == body


def test_an_answered_fault_is_the_clients_error_and_reaches_nobody(
    proxy: Proxy, store: S3Store
) -> None:
    with (
        proxy.broken(Service.S3, Answered(503, SLOW, lambda call: "refused" in call.operation)),
        pytest.raises(StoreError),
    ):
        store.create("faults/refused", b"x")
    assert store.read("faults/refused") is None


def test_a_lost_answer_leaves_what_was_done(proxy: Proxy, store: S3Store) -> None:
    seen = threading.Event()
    lost = Lost(lambda call: call.operation.startswith("PUT"), seen.set)
    with proxy.broken(Service.S3, lost), pytest.raises(StoreError):
        store.swap("faults/lost", b"done", "")
    assert seen.is_set()
    stored = store.read("faults/lost")
    assert stored is not None
    assert stored.body == b"done"


def test_a_refused_service_refuses_alone(proxy: Proxy, store: S3Store, local_aws: Aws) -> None:
    kinesis = clients.kinesis(replaced(local_aws, proxy))
    assert kinesis.list_streams()["StreamNames"]
    with proxy.broken(Service.KINESIS, Refused()):
        with pytest.raises((ClientError, HTTPClientError)):
            kinesis.list_streams()
        assert store.read("faults/none") is None
    assert kinesis.list_streams()["StreamNames"]


def test_a_frozen_service_goes_on_where_it_stood(proxy: Proxy, store: S3Store) -> None:
    assert store.create("faults/ice", b"x")
    proxy.set(Service.S3, Frozen())
    reading = threading.Thread(target=store.read, args=("faults/ice",))
    reading.start()
    reading.join(0.5)
    assert reading.is_alive()
    proxy.heal(Service.S3)
    reading.join(20)
    assert not reading.is_alive()
