"""A second opinion on AWS: kinesis-local (npm) and DynamoDB Local (Maven) behind the same proxy.

Both are other people's code, so what passes with them and with the embedded AWS does not hang on
our own reading of the API. S3 stays the embedded one. They are fetched by npm and Maven into a
cache folder, only when somebody asks for them; where Node, Java, Maven or the packages are not at
hand, `fetch` says so.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from botocore.exceptions import BotoCoreError, ClientError

from benchmarks.faults.local import SHARDS, STOP_S_MAX, EmbeddedAws, LocalAws, aws_at
from benchmarks.faults.proxy import Service
from console.localaws.provision import provision
from popsteer import aws as clients
from popsteer.errors import SetupError
from popsteer.samples import BULK_STREAM, URGENT_STREAM

KINESIS_LOCAL, DYNAMODB_LOCAL = "0.6.2", "2.6.1"
FETCH_S_MAX, START_S_MAX = 600.0, 60.0
POM = f"""\
<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>popsteer</groupId><artifactId>test-aws</artifactId><version>0</version>
  <dependencies><dependency>
    <groupId>com.amazonaws</groupId><artifactId>DynamoDBLocal</artifactId>
    <version>{DYNAMODB_LOCAL}</version>
  </dependency></dependencies>
</project>
"""


VARIABLE = "POPSTEER_TEST_AWS"


def chosen(folder: Path) -> LocalAws:
    """The local AWS that the environment asks for, not started; the embedded one by default.

    Raises:
        SetupError: it asks for one that is not known, or not at hand.
    """
    name = os.environ.get(VARIABLE, "embedded")
    if name == "embedded":
        return EmbeddedAws(folder)
    if name != "kinesis-local":
        raise SetupError(f"{VARIABLE}={name}: write embedded or kinesis-local")
    fetch(cache_folder())
    return KinesisLocalAws(folder)


def cache_folder() -> Path:
    """Where the packages are kept (XDG Base Directory Specification)."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "popsteer" / "test-aws"


def fetch(folder: Path) -> None:
    """Have both packages in a folder.

    Raises:
        SetupError: a program is missing, or a package is not to be had.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pom.xml").write_text(POM)
    package = f"kinesis-local@{KINESIS_LOCAL}"
    jars = f"-DoutputDirectory={folder / 'dynamodb'}"
    _program("node")
    _program("java")
    if not (folder / "node_modules" / "kinesis-local" / "main.js").exists():
        _run(folder, "npm", "install", "--prefix", str(folder), "--no-audit", "--no-fund", package)
    if not any((folder / "dynamodb").glob("DynamoDBLocal-*.jar")):
        pom = str(folder / "pom.xml")
        _run(folder, "mvn", "-q", "-B", "-f", pom, "dependency:copy-dependencies", jars)


def _program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise SetupError(f"{name} is not at hand; install it to test with kinesis-local")
    return path


def _run(folder: Path, program: str, *arguments: str) -> None:
    command = [_program(program), *arguments]
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=FETCH_S_MAX)
    except (subprocess.SubprocessError, OSError) as error:
        words = getattr(error, "stderr", None) or str(error).encode()
        raise SetupError(f"{program}: {words.decode(errors='replace').strip()[-300:]}") from None


@dataclass
class KinesisLocalAws:
    """A `LocalAws` of three processes; two of them keep nothing when they are killed."""

    folder: Path
    packages: Path = field(default_factory=cache_folder)
    as_real: bool = False
    _children: list[subprocess.Popen[bytes]] = field(default_factory=list)
    _ports: dict[Service, int] = field(default_factory=dict)
    _s3: EmbeddedAws | None = None

    def start(self) -> None:
        """Fetch, start, and make streams, lease tables and bucket.

        Raises:
            SetupError: see `fetch`; or one of them did not start.
        """
        fetch(self.packages)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._s3 = EmbeddedAws(self.folder / "s3")
        self._s3.start()
        self._start_kinesis()
        self._start_dynamodb()
        self._provision()

    def address(self, service: Service) -> tuple[str, int]:
        """See `LocalAws.address`."""
        if service is Service.S3:
            assert self._s3 is not None
            return self._s3.address(service)
        return "127.0.0.1", self._ports[service]

    def kill(self) -> None:
        """See `LocalAws.kill`."""
        for child in self._children:
            child.kill()
            child.wait()
        self._children.clear()
        if self._s3 is not None:
            self._s3.kill()

    def stop(self) -> None:
        """See `LocalAws.stop`."""
        for child in self._children:
            child.terminate()
        for child in self._children:
            try:
                child.wait(STOP_S_MAX)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        self._children.clear()
        if self._s3 is not None:
            self._s3.stop()

    def _start_kinesis(self) -> None:
        port = self._ports[Service.KINESIS] = _free_port()
        environment = {
            **os.environ,
            "KINESIS_MOCK_PLAIN_PORT": str(port),
            "KINESIS_MOCK_TLS_PORT": str(_free_port()),
            "LOG_LEVEL": "ERROR",
        }
        # It reads its certificate from the folder it is started in.
        package = self.packages / "node_modules" / "kinesis-local"
        self._spawn(["node", "main.js"], package, environment, "kinesis")

    def _start_dynamodb(self) -> None:
        port = self._ports[Service.DYNAMODB] = _free_port()
        jars = self.packages / "dynamodb"
        command = ["java", "-Xmx160m", "-XX:+UseSerialGC", f"-Djava.library.path={jars}"]
        command += ["-cp", f"{jars}/*", "com.amazonaws.services.dynamodbv2.local.main.ServerRunner"]
        command += ["-inMemory", "-sharedDb", "-disableTelemetry", "-port", str(port)]
        self._spawn(command, self.folder, dict(os.environ), "dynamodb")

    def _spawn(self, command: list[str], folder: Path, env: dict[str, str], name: str) -> None:
        with (self.folder / f"{name}.lines").open("ab") as lines:
            child = subprocess.Popen(command, cwd=folder, env=env, stdout=lines, stderr=lines)
        self._children.append(child)

    def _provision(self) -> None:
        kinesis = clients.kinesis(aws_at(self.address(Service.KINESIS)))
        dynamodb = clients.dynamodb(aws_at(self.address(Service.DYNAMODB)))
        s3 = clients.s3(aws_at(self.address(Service.S3)))
        counts = {BULK_STREAM: SHARDS, URGENT_STREAM: 1}
        deadline_s = time.monotonic() + START_S_MAX
        while time.monotonic() < deadline_s:
            with contextlib.suppress(ClientError, BotoCoreError):
                provision(kinesis, dynamodb, s3, shard_counts=counts, bucket="popsteer")
                return
            if any(child.poll() is not None for child in self._children):
                break
            time.sleep(0.5)
        words = "".join(path.read_text()[-300:] for path in self.folder.glob("*.lines"))
        self.stop()
        raise SetupError(f"kinesis-local or DynamoDB Local did not start: {words}")


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
