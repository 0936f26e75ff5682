"""The configuration: one frozen tree, TOML, strict.

Defaults stand here with their unit and reason. An unknown key is an error that names the file,
the key and the nearest valid key. Only `[dns]`, one `[[pop]]` and one `[[service]]` are needed to
serve. Relative paths are relative to the folder of the configuration file.
"""

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from popsteer.errors import ConfigError
from popsteer.names import PopId, Prefix

Positive = Annotated[float, msgspec.Meta(gt=0)]
NotNegative = Annotated[float, msgspec.Meta(ge=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]
Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]

POLICIES = (
    "optimum",
    "greedy",
    "nearest",
    "fastroute",
    "latency-band",
    "cost-aware",
    "weighted",
    "failover",
    "geographic",
    "geoproximity",
    "static",
)
"""What a service's `policy` can be; `aggregator.policy` says what each does."""


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One table of the file."""


class Dns(Section, frozen=True, kw_only=True):
    """`[dns]`: the authoritative server."""

    listen: str | tuple[str, ...] = "127.0.0.1:5300"
    zones: tuple[str, ...] = ()
    """RFC 1035 master files."""
    dnssec: str = ""
    """What `popsteer sign` made of zones and POPs; empty serves unsigned."""
    workers: Count = 1
    nsid: str = ""
    cookies: bool = True
    rrl_per_s: NotNegative = 0
    """Responses a second to one client network; 0 is off."""
    rrl_exempt: tuple[str, ...] = ()
    """Prefixes of clients that are never limited."""
    minimal_any: bool = True
    ecs: bool = True
    node: str = ""
    """Name of this DNS node in what it reports; empty is the host name."""
    demand_period_s: Positive = 5.0
    """How often demand is reported; well below the planner's latency loop."""

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Every (host, port) to listen on.

        Raises:
            ConfigError: not HOST:PORT.
        """
        texts = (self.listen,) if isinstance(self.listen, str) else self.listen
        return [host_port(text, "dns.listen") for text in texts]

    @property
    def rrl_exempt_nets(self) -> list[Prefix]:
        """`rrl_exempt`, read.

        Raises:
            ConfigError: not a prefix.
        """
        try:
            return [Prefix.parse(text) for text in self.rrl_exempt]
        except ConfigError as error:
            raise ConfigError(f"dns.rrl_exempt: {error}") from None


class Link(Section, frozen=True, kw_only=True):
    """`[[pop.link]]`: one egress of a POP (transit, peering, IX)."""

    id: str
    capacity_bps: Positive
    interface: str = ""
    """The kernel's name of the interface whose counters are read; empty is none."""


class Pop(Section, frozen=True, kw_only=True):
    """`[[pop]]`: a point of presence."""

    id: str
    ipv4: tuple[str, ...] = ()
    ipv6: tuple[str, ...] = ()
    location: tuple[float, float] | None = None
    """Latitude and longitude in degrees; absent means that geography cannot choose this POP."""
    capacity_bps: NotNegative = 0
    """0 is unlimited."""
    capacity_rps: NotNegative = 0
    """0 is unlimited. Requests count where load reports say how many there are."""
    weight: NotNegative = 1
    """Its share of traffic beside the others', for policies that go by weights."""
    cost: NotNegative = 0
    """What traffic costs here, in any unit, for `cost-aware`."""
    bias: Annotated[float, msgspec.Meta(gt=-100, lt=100)] = 0
    """Percent, for `geoproximity`: positive attracts from farther away."""
    link: tuple[Link, ...] = ()


class Service(Section, frozen=True, kw_only=True):
    """`[[service]]`: a steered name."""

    name: str
    ttl_s: Annotated[int, msgspec.Meta(ge=0, le=86_400)] = 20
    pops: tuple[str, ...] = ("*",)
    """POP ids that may serve it; `*` is all."""
    policy: str = "optimum"
    """One of `POLICIES`: how POPs are chosen."""
    band_ms: NotNegative = 5.0
    """For `latency-band` and `cost-aware`: POPs no slower than the best by this are as good."""
    weight: dict[str, NotNegative] = {}
    """Weights by POP id that replace the POPs' own for this service."""
    bias: dict[str, Annotated[float, msgspec.Meta(gt=-100, lt=100)]] = {}
    """Biases by POP id that replace the POPs' own for this service."""
    query_bits: Positive = 40e6
    """Traffic that one answer brings while it is cached, in bits; the planner calibrates it
    to the measured load, so only the order of magnitude matters."""


class Health(Section, frozen=True, kw_only=True):
    """`[health]`: active checks of POP addresses by each DNS node; absent means none."""

    method: Literal["tcp", "http", "https", "file", "command"] = "tcp"
    port: Port = 443
    path: str = "/"
    """For http and https: what is asked for."""
    host: str = ""
    """For http and https: the Host header; for https also the name that the certificate must be
    valid for. Empty sends the address and believes any certificate."""
    status: tuple[Annotated[int, msgspec.Meta(ge=100, le=599)], ...] = ()
    """For http and https: what is up; empty is any below 400."""
    body: str = ""
    """For http and https: text that the body must contain."""
    file: str = ""
    """For file: its first word is `up`, or the POP is down; `{pop}` and `{address}` are put in."""
    command: tuple[str, ...] = ()
    """For command: program and arguments, exit code 0 is up; `{pop}`, `{address}` are put in."""
    interval_s: Positive = 1.0
    timeout_s: Positive = 1.0
    down_after: Count = 2
    up_after: Count = 3
    panic_share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.5
    """When more than this share of POPs, or all, look down at once, the monitor is doubted."""
    all_down: Literal["all", "last_good", "fallback", "servfail"] = "all"
    """What a node that doubts its monitor goes by: all POPs are up, those that were up before,
    the fallback POP alone, or SERVFAIL so that resolvers ask another node."""
    fallback: str = ""
    """The POP of `all_down = "fallback"`."""


class Tsig(Section, frozen=True, kw_only=True):
    """`[[tsig]]`: a key shared with a secondary or another client (RFC 8945)."""

    name: str
    algorithm: Literal["hmac-sha224", "hmac-sha256", "hmac-sha384", "hmac-sha512"] = "hmac-sha256"
    file: str
    """File with the secret in base64."""


class Secondary(Section, frozen=True, kw_only=True):
    """`[[secondary]]`: a name server that gets our zones by transfer."""

    allow: tuple[str, ...]
    """Networks that it asks from."""
    notify: str = ""
    """HOST:PORT that is told of every change; empty is not told."""
    key: str = ""
    """Name of the [[tsig]] that signs its requests and our notices; empty signs nothing."""


class Aws(Section, frozen=True, kw_only=True):
    """`[aws]`: where Kinesis, DynamoDB, S3 and CloudWatch are."""

    region: str = "eu-west-1"
    endpoint: str = ""
    """Empty is AWS itself; otherwise one endpoint for every service, with fixed credentials."""
    bucket: str = "popsteer"
    bulk_stream: str = "popsteer-bulk"
    urgent_stream: str = "popsteer-urgent"


class TableSource(Section, frozen=True, kw_only=True):
    """`[table]`: where the DNS node gets its table from."""

    path: str = ""
    """A local file instead of S3."""
    poll_s: Positive = 1.0
    geography: str = ""
    """MaxMind DB file with coordinates: what a node without any table goes by."""


class Trust(Section, frozen=True, kw_only=True):
    """`[trust]`: Ed25519 keys. Without public keys a DNS node serves only a local table file."""

    public_keys: tuple[str, ...] = ()
    """Hex; a table or state signed by any of them is trusted."""
    signing_key: str = ""
    """File with the private key in hex, for the planner alone."""


class Probe(Section, frozen=True, kw_only=True):
    """`[probe]`: the agent."""

    pop: str = ""
    """The POP where this agent runs; empty for the replay of all POPs."""
    source: Literal["network", "replay"] = "network"
    targets: str = ""
    """CSV `prefix,address,weight`: what to measure; weight is expected demand in bits/s."""
    methods: tuple[Literal["icmp", "tcp", "tls", "http", "dns"], ...] = ("icmp",)
    port: Port = 443
    """For tcp, tls and http."""
    interval_s: Positive = 10.0
    """Every target is measured once in this time."""
    timeout_s: Positive = 1.0
    signal_period_s: Positive = 1.0
    load_url: str = ""
    """HTTP address of the POP's load report; `{address}` is the POP's first IPv4 address."""
    rate_max_per_s: Positive = 2_000.0
    """Probes a second that this agent sends at the most."""
    spill_bytes_max: Count = 256 * 1024 * 1024
    world: str = ""
    """For replay: the world file."""
    events: str = ""
    """For replay: a file of changes to the world, read again whenever it changes."""
    speed: Positive = 1.0
    """For replay: how much faster than real time the residuals run."""


class Aggregate(Section, frozen=True, kw_only=True):
    """`[aggregate]`: the KCL workers."""

    worker_id: str = ""
    """Fixed per machine (a new id waits out the leader lock); empty is the host name."""
    bulk_window_s: Count = 10
    urgent_window_s: Count = 1
    grace_s: Positive = 0.5
    """A quiet shard closes its window this long after the window's end."""
    application: str = ""
    """Prefix of the lease tables' names; empty uses the stream's name."""
    java_heap_mb: Count = 192
    locations: str = ""
    """CSV `prefix,latitude,longitude` of prefixes whose place is beyond doubt: samples faster than
    light between there and the POP are refused."""
    hang_s_max: Count = 300
    """A shard's record processor of which nothing is heard for so long hangs: its daemon is ended
    and started again."""


class Plan(Section, frozen=True, kw_only=True):
    """`[plan]`: the planner."""

    latency_period_s: Positive = 30.0
    load_period_s: Positive = 5.0
    state_period_s: Positive = 2.0
    target_utilisation: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.82
    """Share of a capacity that the table fills; the rest absorbs noise and cached answers."""
    estimate_half_life_s: Positive = 120.0
    """Weight of an RTT sample halves in this time. A change of path does not wait for it: two
    windows that agree are believed."""
    age_s_max: Positive = 600.0
    """An estimate older than this is unknown."""
    move_gain_ms: NotNegative = 8.0
    """A prefix moves only for a gain above this and above its uncertainty."""
    rollout: Literal["all", "canary", "shadow"] = "all"
    """Whom a new table reaches: everybody; first a part of the prefixes that move for gain, and
    the rest when that part does not regret it; or nobody, only to be looked at."""
    canary_share: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.1
    """Of the prefixes that move for gain, for `rollout = "canary"`."""
    targets: str = ""
    """CSV `prefix,address,weight`: expected demand until the DNS nodes report it."""


class Console(Section, frozen=True, kw_only=True):
    """`[console]`: the page."""

    listen: str = "127.0.0.1:8053"


class Telemetry(Section, frozen=True, kw_only=True):
    """`[telemetry]`: metrics of this process."""

    metrics: str = ""
    """HOST:PORT of a Prometheus endpoint; empty is none."""
    namespace: str = "popsteer"
    """Of the metrics in CloudWatch, which each process that reaches AWS tells once a minute;
    empty tells nothing."""
    heartbeat_age_s_max: Positive = 15.0
    """A stream whose newest heartbeat at the planner is older than its window and this rings."""


class Config(Section, frozen=True, kw_only=True):
    """The whole file."""

    dns: Dns = Dns()
    pop: tuple[Pop, ...] = ()
    service: tuple[Service, ...] = ()
    health: Health | None = None
    tsig: tuple[Tsig, ...] = ()
    secondary: tuple[Secondary, ...] = ()
    aws: Aws = Aws()
    table: TableSource = TableSource()
    trust: Trust = Trust()
    probe: Probe = Probe()
    aggregate: Aggregate = Aggregate()
    plan: Plan = Plan()
    console: Console = Console()
    telemetry: Telemetry = Telemetry()
    data: str = "popsteer-data"
    """Folder where each process keeps what must survive it."""
    folder: str = ""
    """Folder of the file itself; set by `config_file.load`, not a key of the file."""

    def path(self, text: str) -> Path:
        """A path of the file, made absolute."""
        return Path(self.folder) / text

    @property
    def data_dir(self) -> Path:
        """The data folder, absolute."""
        return self.path(self.data)

    def pop_ids(self) -> list[PopId]:
        """Ids in the order of the file."""
        return [PopId(pop.id) for pop in self.pop]

    def pops_of(self, service: Service) -> list[PopId]:
        """The POPs that may serve a service, in the order of the file."""
        return [PopId(p.id) for p in self.pop if "*" in service.pops or p.id in service.pops]


def host_port(text: str, key: str) -> tuple[str, int]:
    """`HOST:PORT` or `[V6]:PORT`, taken apart; port 0 asks the system for one.

    Raises:
        ConfigError: not of that form; names `key`.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65_535:
        raise ConfigError(f"{key} = {text!r}: write HOST:PORT, as in 127.0.0.1:5300")
    return host.strip("[]"), int(port)
