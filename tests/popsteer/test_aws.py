"""Clients for a local endpoint never touch a profile of the machine."""

from pathlib import Path

import pytest

from popsteer import aws
from popsteer.config import Aws


def test_a_local_endpoint_has_fixed_credentials(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, local_aws: Aws
) -> None:
    profile = tmp_path / "credentials"
    profile.write_text("[default]\naws_access_key_id = MINE\naws_secret_access_key = SECRET\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(profile))
    client = aws.s3(local_aws)
    assert client.meta.endpoint_url == local_aws.endpoint
    assert [bucket["Name"] for bucket in client.list_buckets()["Buckets"]].count("popsteer") == 1
    assert "MINE" not in str(aws.environment(local_aws))


def test_a_child_of_aws_itself_keeps_its_own_credentials() -> None:
    assert aws.environment(Aws(region="us-east-2")) == {
        "AWS_REGION": "us-east-2",
        "AWS_DEFAULT_REGION": "us-east-2",
    }


@pytest.mark.parametrize("make", [aws.kinesis, aws.s3, aws.dynamodb, aws.cloudwatch])
def test_no_call_holds_a_loop_for_long(make: object, local_aws: Aws) -> None:
    assert callable(make)
    config = make(local_aws).meta.config
    assert config.connect_timeout <= 2
    assert config.read_timeout <= 10
    assert config.retries["total_max_attempts"] <= 3


def test_put_records_is_never_retried_whole(local_aws: Aws) -> None:
    retries = aws.kinesis(local_aws).meta.config.retries  # type: ignore[attr-defined]
    assert retries["total_max_attempts"] == 1
