"""The keys that zones are signed with: one folder, for the machine that signs and no other.

Owns the folder: private keys (PKCS #8, mode 0600) and `keys.json`, which says what each key is
for and where in its life it is. A key is `published` before it signs and `retired` after, so that
at every moment all caches have the key of every signature they hold (RFC 7583, RFC 6781 §4.1.1.1).
Keys that the parent's DS names (ksk, csk) sign the DNSKEY set for as long as they are in it.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import dns.dnssec
import dns.name
import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from dns.dnssectypes import Algorithm
from dns.rdtypes.ANY.DNSKEY import DNSKEY

from popsteer.errors import ConfigError, SetupError

Role = Literal["csk", "ksk", "zsk"]
Stage = Literal["published", "active", "retired"]
PrivateKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey

ALGORITHMS = {"ed25519": Algorithm.ED25519, "ecdsap256": Algorithm.ECDSAP256SHA256}
"""RFC 8624 §3.1: the two to sign with."""
DNSKEY_TTL_S = 3_600
SPREAD_S = 3_600
"""What a change takes to reach every DNS node, with room."""
_ZONE_FLAG, _SEP_FLAG = 256, 1
_TAG_TRIES = 100


class KeyRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One key as `keys.json` has it."""

    zone: str
    role: Role
    algorithm: str
    tag: int
    file: str
    stage: Stage
    since_s: int
    """Epoch seconds at which the stage began."""


@dataclass(frozen=True, slots=True)
class ZoneKey:
    """A key at work."""

    record: KeyRecord
    private: PrivateKey
    public: DNSKEY

    @property
    def signs_keys(self) -> bool:
        """The parent's DS names it, or will, or did."""
        return self.record.role in {"csk", "ksk"}

    @property
    def signs_data(self) -> bool:
        """It signs the zone's records now."""
        return self.record.role in {"csk", "zsk"} and self.record.stage == "active"

    @property
    def text(self) -> str:
        """As people speak of it."""
        one = self.record
        return f"{one.role} {one.tag} ({one.algorithm}, {one.stage})"

    def ds(self) -> str:
        """The DS record for the parent zone, SHA-256 (RFC 8624 §3.3)."""
        data = dns.dnssec.make_ds(self.record.zone, self.public, "SHA256")
        return f"{self.record.zone} {DNSKEY_TTL_S} IN DS {data}"


class KeyFolder:
    """The folder of keys."""

    def __init__(self, path: Path) -> None:
        """Read it; a folder that is not there yet is empty.

        Raises:
            ConfigError: `keys.json` is none.
        """
        self.path = path
        self._records: list[KeyRecord] = []
        try:
            text = (path / "keys.json").read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            raise ConfigError(f"{path / 'keys.json'}: {error.strerror}") from None
        try:
            self._records = msgspec.json.decode(text, type=list[KeyRecord])
        except msgspec.DecodeError as error:
            raise ConfigError(f"{path / 'keys.json'}: {error}") from None

    def of(self, zone: str) -> list[ZoneKey]:
        """A zone's keys, in the order they were made."""
        return [self._load(record) for record in self._records if record.zone == zone]

    def create(self, zone: str, role: Role, algorithm: str, stage: Stage, now_s: int) -> ZoneKey:
        """A new key, kept.

        Raises:
            SetupError: the folder cannot be written.
        """
        taken = {record.tag for record in self._records if record.zone == zone}
        for _ in range(_TAG_TRIES):
            private = _generate(algorithm)
            public = _dnskey(private, algorithm, role)
            tag = dns.dnssec.key_id(public)
            if tag not in taken:  # RFC 4034 §8: a tag tells keys apart only if it differs
                break
        name = f"{zone.strip('.') or 'root'}+{algorithm}+{tag}.pem".replace("/", "_")
        record = KeyRecord(
            zone=zone,
            role=role,
            algorithm=algorithm,
            tag=tag,
            file=name,
            stage=stage,
            since_s=now_s,
        )
        pem = private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(pem)
        except OSError as error:
            raise SetupError(f"{self.path / name}: {error.strerror}") from None
        self._keep([*self._records, record])
        return ZoneKey(record, private, public)

    def move(self, key: ZoneKey, stage: Stage, now_s: int) -> None:
        """Another stage of its life."""
        moved = msgspec.structs.replace(key.record, stage=stage, since_s=now_s)
        self._keep([moved if one == key.record else one for one in self._records])

    def remove(self, key: ZoneKey) -> None:
        """Out of the zone; the private key is deleted."""
        self._keep([one for one in self._records if one != key.record])
        (self.path / key.record.file).unlink(missing_ok=True)

    def _keep(self, records: list[KeyRecord]) -> None:
        new = self.path / "keys.json.new"
        try:
            new.write_bytes(msgspec.json.format(msgspec.json.encode(records)) + b"\n")
            new.replace(self.path / "keys.json")
        except OSError as error:
            raise SetupError(f"{new}: {error.strerror}") from None
        self._records = records

    def _load(self, record: KeyRecord) -> ZoneKey:
        path = self.path / record.file
        try:
            private = serialization.load_pem_private_key(path.read_bytes(), None)
        except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise ConfigError(f"{path}: no private key in PEM: {error}") from None
        if not isinstance(private, PrivateKey) or record.algorithm not in ALGORITHMS:
            raise ConfigError(f"{path}: expected a key for {' or '.join(ALGORITHMS)}")
        public = _dnskey(private, record.algorithm, record.role)
        if dns.dnssec.key_id(public) != record.tag:
            raise ConfigError(f"{path}: is not the key {record.tag} of keys.json")
        return ZoneKey(record, private, public)


def _generate(algorithm: str) -> PrivateKey:
    if algorithm == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    return ec.generate_private_key(ec.SECP256R1())


def _dnskey(private: PrivateKey, algorithm: str, role: Role) -> DNSKEY:
    flags = _ZONE_FLAG | (0 if role == "zsk" else _SEP_FLAG)
    return dns.dnssec.make_dnskey(private.public_key(), ALGORITHMS[algorithm], flags)


@dataclass(frozen=True, slots=True)
class Step:
    """What a rollover does next."""

    what: Literal["publish", "activate", "remove"]
    key: ZoneKey
    """The key in use for `publish`, else the one that moves."""
    safe_s: int
    """Epoch seconds from which every cache is ready for it."""


def next_step(keys: list[ZoneKey], role: Role, ttl_s_max: int) -> Step:
    """The next step of a role's rollover; pure.

    Pre-publish for zsk. A ksk or csk goes the same way; it signs the DNSKEY set from the day it is
    published, and between `activate` and `remove` the parent's DS is replaced (RFC 7583 §3.3.1).

    Args:
        keys: Of one zone.
        role: Which keys.
        ttl_s_max: The longest TTL of the zone: how long caches keep signatures of an old key.
    """
    own = [key for key in keys if key.record.role == role]
    for stage, what, wait_s in (
        ("retired", "remove", ttl_s_max),
        ("published", "activate", DNSKEY_TTL_S),
    ):
        for key in own:
            if key.record.stage == stage:
                return Step(what, key, key.record.since_s + wait_s + SPREAD_S)  # type: ignore[arg-type]
    active = [key for key in own if key.record.stage == "active"]
    if not active:
        raise ConfigError(f"there is no {role} to roll; the zone's keys: {_texts(keys)}")
    return Step("publish", active[0], 0)


def take(step: Step, folder: KeyFolder, now_s: int) -> ZoneKey:
    """Do a step; the key that is now new, in use or gone."""
    record = step.key.record
    if step.what == "publish":
        return folder.create(record.zone, record.role, record.algorithm, "published", now_s)
    if step.what == "remove":
        folder.remove(step.key)
        return step.key
    for key in folder.of(record.zone):
        if key.record.role == record.role and key.record.stage == "active":
            folder.move(key, "retired", now_s)
    folder.move(step.key, "active", now_s)
    return step.key


def _texts(keys: list[ZoneKey]) -> str:
    return ", ".join(key.text for key in keys) or "none"


def ensure(folder: KeyFolder, zone: str, algorithm: str, split: bool, now_s: int) -> list[ZoneKey]:
    """The zone's keys; where it has none yet, new ones: one csk, or a ksk and a zsk."""
    if found := folder.of(zone):
        return found
    roles: tuple[Role, ...] = ("ksk", "zsk") if split else ("csk",)
    return [folder.create(zone, role, algorithm, "active", now_s) for role in roles]
