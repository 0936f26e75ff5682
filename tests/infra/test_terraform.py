"""Applies infra/terraform for real, to the embedded AWS, and looks at what it made."""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest

from popsteer import aws
from popsteer.config import Aws

MODULE = Path(__file__).parents[2] / "infra" / "terraform"
BUCKET = "terraform-test"
STREAMS = ("terraform-bulk", "terraform-urgent")
PROCESSES = {"probe", "aggregate", "plan", "serve", "console"}

# The provider itself waits half a minute for streams and another for the lifecycle.
pytestmark = pytest.mark.timeout(400)


@dataclass(frozen=True, slots=True)
class Terraform:
    """One working folder."""

    folder: Path
    environment: dict[str, str]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A terraform command; its output is kept."""
        return subprocess.run(
            ["terraform", *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=300,
            check=False,
        )


def _mirror() -> Path:
    """The folder of providers; nothing is ever downloaded by a test."""
    if shutil.which("terraform") is None:
        pytest.skip("terraform is not on PATH")
    mirror = Path(os.environ.get("POPSTEER_TF_PLUGINS", "/opt/tf-plugins"))
    if not list(mirror.glob("*/hashicorp/aws")):
        pytest.skip(f"no AWS provider in {mirror}; name its mirror in POPSTEER_TF_PLUGINS")
    return mirror


@pytest.fixture(scope="module")
def mirror() -> Path:
    return _mirror()


@pytest.fixture(scope="module")
def terraform(mirror: Path, local_aws: Aws, tmp_path_factory: pytest.TempPathFactory) -> Terraform:
    """The module, initialised, in a folder of its own."""
    folder = tmp_path_factory.mktemp("terraform")
    for source in (*MODULE.glob("*.tf"), *MODULE.glob("*.json")):
        shutil.copy(source, folder)
    rc = folder / "terraformrc"
    rc.write_text(f'provider_installation {{\n  filesystem_mirror {{ path = "{mirror}" }}\n}}\n')
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "TF_"))} | {
        "TF_CLI_CONFIG_FILE": str(rc),
        "TF_IN_AUTOMATION": "1",
        "TF_VAR_endpoint": local_aws.endpoint,
        "TF_VAR_bucket": BUCKET,
        "TF_VAR_bulk_stream": STREAMS[0],
        "TF_VAR_urgent_stream": STREAMS[1],
        "TF_VAR_bulk_shards": "2",
    }
    ready = Terraform(folder, environment)
    started = ready.run("init", "-no-color", "-input=false")
    assert started.returncode == 0, started.stderr
    return ready


@pytest.fixture(scope="module")
def outputs(terraform: Terraform) -> dict[str, Any]:
    """What the module gives, once it is applied."""
    applied = terraform.run("apply", "-no-color", "-input=false", "-auto-approve")
    assert applied.returncode == 0, applied.stderr
    values = json.loads(terraform.run("output", "-json").stdout)
    return {name: value["value"] for name, value in values.items()}


def _client(name: str, local: Aws) -> Any:
    return boto3.client(  # type: ignore[call-overload]
        name,
        endpoint_url=local.endpoint,
        region_name=local.region,
        aws_access_key_id="local",
        aws_secret_access_key="local",
    )


def test_files_are_formatted(mirror: Path) -> None:
    assert mirror
    answer = subprocess.run(
        ["terraform", "fmt", "-check", "-diff", str(MODULE)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stdout


def test_streams_are_encrypted(outputs: dict[str, Any], local_aws: Aws) -> None:
    kinesis = aws.kinesis(local_aws)
    for key, name, shards in (("bulk", STREAMS[0], 2), ("urgent", STREAMS[1], 1)):
        stream = kinesis.describe_stream(StreamName=name)["StreamDescription"]
        assert stream["StreamARN"] == outputs["streams"][key]
        assert stream["EncryptionType"] == "KMS"
        assert len(stream["Shards"]) == shards


def test_lease_tables_have_the_index_of_the_kcl(outputs: dict[str, Any], local_aws: Aws) -> None:
    assert outputs
    dynamodb = aws.dynamodb(local_aws)
    for name in STREAMS:
        table = dynamodb.describe_table(TableName=name)["Table"]
        assert table["KeySchema"] == [{"AttributeName": "leaseKey", "KeyType": "HASH"}]
        (index,) = table["GlobalSecondaryIndexes"]
        assert index["IndexName"] == "LeaseOwnerToLeaseKeyIndex"
        assert [key["AttributeName"] for key in index["KeySchema"]] == ["leaseOwner", "leaseKey"]
        assert table["SSEDescription"]["Status"] == "ENABLED"
        backups = dynamodb.describe_continuous_backups(TableName=name)
        recovery = backups["ContinuousBackupsDescription"]["PointInTimeRecoveryDescription"]
        assert recovery["PointInTimeRecoveryStatus"] == "ENABLED"


def test_bucket_is_private_encrypted_and_versioned(outputs: dict[str, Any], local_aws: Aws) -> None:
    s3 = aws.s3(local_aws)
    bucket = outputs["bucket"]
    assert s3.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"
    blocked = s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"]
    assert set(blocked.values()) == {True}
    assert len(blocked) == 4
    encryption = s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]
    (rule,) = encryption["Rules"]
    assert rule["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "aws:kms"
    policy = json.loads(s3.get_bucket_policy(Bucket=bucket)["Policy"])
    assert policy["Statement"][0]["Effect"] == "Deny"


def test_old_objects_expire(outputs: dict[str, Any], local_aws: Aws) -> None:
    s3 = aws.s3(local_aws)
    rules = s3.get_bucket_lifecycle_configuration(Bucket=outputs["bucket"])["Rules"]
    days = {rule["ID"]: rule.get("Expiration", {}).get("Days") for rule in rules}
    assert days["partials"] == 30
    assert days["evidence"] == 14
    assert days["old-versions"] is None, "what is in force never expires"


def test_each_process_has_a_role_of_its_own(outputs: dict[str, Any], local_aws: Aws) -> None:
    iam = _client("iam", local_aws)
    assert set(outputs["roles"]) == PROCESSES
    for process in PROCESSES:
        role = iam.get_role(RoleName=f"{BUCKET}-{process}")["Role"]
        assert role["Arn"] == outputs["roles"][process]
        for statement in _statements(iam, process):
            assert not any(action.endswith("*") for action in statement["Action"]), statement
            if "cloudwatch:PutMetricData" not in statement["Action"]:
                assert "*" not in statement["Resource"], statement


def test_every_alarm_stands_and_watches_our_namespace(
    outputs: dict[str, Any], local_aws: Aws
) -> None:
    assert outputs
    pages = aws.cloudwatch(local_aws).get_paginator("describe_alarms").paginate()
    alarms = {one["AlarmName"]: one for page in pages for one in page["MetricAlarms"]}
    listed = json.loads((MODULE / "alarms.json").read_text())
    wanted = {
        f"{BUCKET}-{name}{suffix}"
        for name, alarm in listed.items()
        for suffix in (
            [f"-{stream}" for stream in alarm["streams"]] if "streams" in alarm else [""]
        )
    }
    assert set(alarms) == wanted
    assert {one["Namespace"] for one in alarms.values()} == {"popsteer"}
    late = alarms[f"{BUCKET}-heartbeat-late-bulk"]
    dimensions = {one["Name"]: one["Value"] for one in late["Dimensions"]}
    assert dimensions == {"Stage": "planner", "Stream": STREAMS[0]}
    assert (late["Threshold"], late["TreatMissingData"]) == (25, "breaching")


def test_only_the_planner_writes_tables(outputs: dict[str, Any], local_aws: Aws) -> None:
    assert outputs
    iam = _client("iam", local_aws)
    for action in ("s3:PutObject", "s3:DeleteObject"):
        allowed = {
            process
            for process in PROCESSES
            for statement in _statements(iam, process)
            if action in statement["Action"]
            and any(arn.endswith("/tables/*") for arn in statement["Resource"])
        }
        assert allowed == {"plan"}


def _statements(iam: Any, process: str) -> list[dict[str, Any]]:
    policy = iam.get_role_policy(RoleName=f"{BUCKET}-{process}", PolicyName=f"popsteer-{process}")
    statements: list[dict[str, Any]] = policy["PolicyDocument"]["Statement"]
    return statements


def test_a_second_plan_is_empty(terraform: Terraform, outputs: dict[str, Any]) -> None:
    assert outputs
    plan = terraform.run("plan", "-no-color", "-input=false", "-detailed-exitcode")
    assert plan.returncode == 0, plan.stdout + plan.stderr
