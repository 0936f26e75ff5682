"""The port: both protocols, nonsense, signals, and refusals that a person can read."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.request import Request, urlopen

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, ResponseReceived, StreamEnded

if TYPE_CHECKING:
    from tests.localaws.conftest import Launch, LocalAws

SIGNED = (
    "AWS4-HMAC-SHA256 Credential=local/20260101/eu-west-1/{service}/aws4_request, "
    "SignedHeaders=host, Signature=00"
)


@contextmanager
def connected(server: "LocalAws") -> Iterator[socket.socket]:
    """A plain connection."""
    host, _, port = server.listen.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        yield connection


def ask_h2(connection: socket.socket, target: str, body: bytes) -> tuple[int, bytes]:
    """One request over cleartext HTTP/2 by prior knowledge, as the KCL's client sends it."""
    h2 = H2Connection(H2Configuration(client_side=True))
    h2.initiate_connection()
    headers = [
        (":method", "POST"),
        (":path", "/"),
        (":scheme", "http"),
        (":authority", "localhost"),
        ("x-amz-target", target),
        ("content-type", "application/x-amz-json-1.1"),
        ("authorization", SIGNED.format(service="kinesis")),
    ]
    h2.send_headers(1, headers)
    h2.send_data(1, body, end_stream=True)
    connection.sendall(h2.data_to_send())
    status, answer = 0, b""
    while True:
        for event in h2.receive_data(connection.recv(65536)):
            match event:
                case ResponseReceived(headers=pairs):
                    status = int(dict(pairs)[b":status"])
                case DataReceived(data=data, flow_controlled_length=length):
                    answer += data or b""
                    h2.acknowledge_received_data(length, 1)
                case StreamEnded():
                    return status, answer
        connection.sendall(h2.data_to_send())


def test_http2_by_prior_knowledge(shared: "LocalAws") -> None:
    with connected(shared) as connection:
        status, body = ask_h2(connection, "Kinesis_20131202.ListStreams", b"{}")

    assert status == 200
    assert json.loads(body)["StreamNames"] == ["popsteer-bulk", "popsteer-urgent"]


def test_a_large_answer_over_http2_is_not_stuck(shared: "LocalAws") -> None:
    """10 MB exceed every flow-control window (RFC 9113 §5.2)."""
    kinesis = shared.kinesis
    kinesis.create_stream(StreamName="large", ShardCount=1)
    for _ in range(10):
        kinesis.put_record(StreamName="large", Data=b"x" * 1_000_000, PartitionKey="k")
    iterator = kinesis.get_shard_iterator(
        StreamName="large", ShardId="shardId-000000000000", ShardIteratorType="TRIM_HORIZON"
    )["ShardIterator"]

    with connected(shared) as connection:
        request = json.dumps({"ShardIterator": iterator}).encode()
        status, body = ask_h2(connection, "Kinesis_20131202.GetRecords", request)

    kinesis.delete_stream(StreamName="large")
    assert status == 200
    assert len(json.loads(body)["Records"]) == 10


NONSENSE = [
    b"\x00\x01\x02 nonsense\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 999\r\n\r\nshort",
    b"PUT /popsteer/k HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
]


@pytest.mark.parametrize("nonsense", NONSENSE, ids=range(len(NONSENSE)))
def test_bytes_that_are_no_request_end_only_their_connection(
    shared: "LocalAws", nonsense: bytes
) -> None:
    with connected(shared) as connection:
        connection.sendall(nonsense)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(4096):
            pass

    assert shared.kinesis.list_streams()["StreamNames"]


BODIES = [
    (b"", "ValidationException"),
    (b"{", "SerializationException"),
    (b"\xff\xfe", "SerializationException"),
    (b"[1]", "ValidationException"),
    (b'{"StreamName": 7}', "ValidationException"),
    (b'{"StreamName": "popsteer-bulk", "Records": []}', "ValidationException"),
    (
        b'{"StreamName":"popsteer-bulk","Records":[{"Data":"a\\"}","PartitionKey":"k"}]}',
        "SerializationException",
    ),
    (
        b'{"StreamName":"../../etc","Records":[{"Data":"","PartitionKey":"k"}]}',
        "ValidationException",
    ),
]


@pytest.mark.parametrize(("body", "code"), BODIES, ids=range(len(BODIES)))
def test_malformed_requests_are_answered_with_the_callers_error(
    shared: "LocalAws", body: bytes, code: str
) -> None:
    with connected(shared) as connection:
        status, answer = ask_h2(connection, "Kinesis_20131202.PutRecords", body)

    assert (status, json.loads(answer)["__type"]) == (400, code)


@pytest.mark.parametrize("target", ["DynamoDB_20120810.PutItem", "DynamoDB_20120810.", "Nobody.X"])
def test_a_failure_within_moto_is_one_answer_of_500(shared: "LocalAws", target: str) -> None:
    service = target.partition("_")[0].lower()
    request = Request(
        shared.endpoint,
        data=b"\xff{",
        headers={"X-Amz-Target": target, "Authorization": SIGNED.format(service=service)},
    )

    with pytest.raises(OSError, match="HTTP Error") as caught:
        urlopen(request, timeout=10)
    caught.value.close()  # type: ignore[attr-defined]

    assert shared.dynamodb.list_tables()["TableNames"]


def test_sigterm_ends_it_cleanly_even_with_clients_connected(launch: "Launch") -> None:
    server = launch()

    with connected(server) as connection:
        ask_h2(connection, "Kinesis_20131202.ListStreams", b"{}")
        assert server.stop() == 0


def test_what_clients_have_closed_is_let_go(launch: "Launch") -> None:
    """Every command that anybody runs opens a connection, and nobody has endless descriptors."""
    server = launch("--idle-s", "0.5")
    descriptors = Path(f"/proc/{server.process.pid}/fd")
    before = len(list(descriptors.iterdir()))

    for _ in range(30):
        with connected(server) as connection:
            connection.sendall(b"GET /popsteer/none HTTP/1.1\r\nHost: x\r\n\r\n")
            assert connection.recv(65536)

    deadline_s = time.monotonic() + 60
    while len(list(descriptors.iterdir())) > before + 2:
        assert time.monotonic() < deadline_s
        time.sleep(0.1)


def refusal(*options: str) -> tuple[int, str]:
    """Exit code and standard error of a start that must fail."""
    command = [sys.executable, "-m", "console.localaws", *options]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert ended.stdout == ""
    return ended.returncode, ended.stderr


def test_a_port_in_use_is_one_sentence(shared: "LocalAws", tmp_path: Path) -> None:
    code, text = refusal("--listen", shared.listen, "--data", str(tmp_path))

    assert code == 2
    assert text == (
        f"--listen {shared.listen}: Address already in use; choose another port or stop its owner\n"
    )


def test_data_in_use_is_one_sentence(shared: "LocalAws") -> None:
    code, text = refusal("--listen", "127.0.0.1:0", "--data", str(shared.data))

    assert code == 2
    assert text == (
        f"--data {shared.data}: another process uses it; stop that one or choose another\n"
    )


def test_a_bad_address_is_one_sentence(tmp_path: Path) -> None:
    code, text = refusal("--listen", "here", "--data", str(tmp_path))

    assert code == 2
    assert text == "--listen here: use HOST:PORT, as in 127.0.0.1:4566\n"


def test_a_file_that_is_not_ours_is_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "kinesis" / "s" / "stream.json"
    file.parent.mkdir(parents=True)
    file.write_text('{"name": 7}')

    code, text = refusal("--listen", "127.0.0.1:0", "--data", str(tmp_path))

    assert code == 2
    assert text.startswith(f"--data {tmp_path}: {file}: ")
    assert text.endswith("; move that file away or choose another directory\n")
    assert text.count("\n") == 1


def test_an_object_whose_sender_hung_up_half_way_is_not_stored(shared: "LocalAws") -> None:
    head = (
        "PUT /popsteer/half HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n"
        f"Authorization: {SIGNED.format(service='s3')}\r\nIf-None-Match: *\r\n\r\n"
    )

    with connected(shared) as connection:
        connection.sendall(head.encode() + b"x" * 500)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65_536):
            pass

    assert "Contents" not in shared.s3.list_objects_v2(Bucket="popsteer", Prefix="half")
    shared.s3.put_object(Bucket="popsteer", Key="half", Body=b"whole", IfNoneMatch="*")
    assert shared.s3.get_object(Bucket="popsteer", Key="half")["Body"].read() == b"whole"
