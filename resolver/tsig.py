"""TSIG: who signed a query, and the signature of what is said back (RFC 8945).

Owns the judgement of a query's signature and the record at the end of each message of the answer.
Digests are dnspython's; keys come in.
"""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import dns.exception
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rdtypes.ANY.TSIG
import dns.tsig

from popsteer.config import Config
from popsteer.errors import ConfigError
from resolver.wire import TSIG, Key, Query, Tsig, lower, octets

Keys = Mapping[Key, dns.tsig.Key]
"""Keys that we share with others, by name."""
FUDGE_S = 300
"""RFC 8945 §10: the recommended tolerance of clocks."""
SECRET_BYTES_MIN = 16
_CLASS_ANY = 255
# dnspython gives these no types.
_tsig: Any = dns.tsig
_Data: Any = dns.rdtypes.ANY.TSIG.TSIG
_OTHER_BYTES = 6
_RECORD_BYTES = 10 + 16
"""Type, class, TTL and length; time, fudge, sizes, id and error."""


@dataclass(slots=True)
class Seal:
    """What must be at the end of each message of one answer."""

    key: dns.tsig.Key
    error: int
    """0, or why the query's signature was not believed (§3)."""
    _form: Any
    """The TSIG data of an answer but for its time and MAC."""
    _query_mac: bytes
    _time_s: int
    _context: Any = field(default=None)

    @property
    def name(self) -> Key | None:
        """The key that signed the query; None where the signature is not good."""
        return None if self.error else lower(self.key.name.labels[:-1])

    @property
    def octets_max(self) -> int:
        """Room that the record takes."""
        names = len(_octets(self.key.name)) + len(_octets(self.key.algorithm))
        return names + _RECORD_BYTES + self._mac_bytes + _OTHER_BYTES

    @property
    def _mac_bytes(self) -> int:
        return 0 if self._unsigned else len(_tsig.get_context(self.key).sign())

    @property
    def _unsigned(self) -> bool:
        """§5.3.2: without a key that both know there is nothing to sign with."""
        return self.error in {dns.rcode.BADKEY, dns.rcode.BADSIG}

    def sign(self, message: bytes, more: bool = False) -> bytes:
        """The message with its TSIG record; `more` where it is one of several (§5.3.1)."""
        data = self._form
        if not self._unsigned:
            data, self._context = _tsig.sign(
                message, self.key, data, self._time_s, self._query_mac, self._context, more
            )
        count = int.from_bytes(message[10:12], "big") + 1
        rdata: bytes = data.to_wire()
        head = TSIG.to_bytes(2, "big") + _CLASS_ANY.to_bytes(2, "big") + bytes(4)
        record = _octets(self.key.name) + head + len(rdata).to_bytes(2, "big") + rdata
        return message[:10] + count.to_bytes(2, "big") + message[12:] + record


def seal_of(data: bytes, query: Query, keys: Keys, now_s: int) -> Seal | None:
    """The seal of the answer to a query; None where the query is not signed.

    The checks are in the order of RFC 8945 §5.2: key, MAC, time.
    """
    if query.tsig is None:
        return None
    signed = _read(query.tsig)
    owner = dns.name.Name([*query.tsig.key, b""])
    key = keys.get(lower(query.tsig.key))
    if key is None or signed is None or key.algorithm != signed.algorithm:
        unknown = dns.tsig.Key(owner, b"", signed.algorithm if signed else dns.tsig.HMAC_SHA256)
        return _refusal(unknown, dns.rcode.BADKEY, signed, query.id, now_s)
    try:
        _tsig.validate(data, key, key.name, signed, now_s, b"", query.tsig.start)
    except dns.tsig.BadTime:
        # §5.2.3: signed, with the client's time and ours beside it.
        return _refusal(key, dns.rcode.BADTIME, signed, query.id, now_s)
    except dns.exception.DNSException:
        return _refusal(key, dns.rcode.BADSIG, signed, query.id, now_s)
    form = signed.replace(fudge=FUDGE_S, mac=b"", original_id=query.id, error=0, other=b"")
    return Seal(key, 0, form, signed.mac, now_s)


def _refusal(key: dns.tsig.Key, error: int, signed: Any, query_id: int, now_s: int) -> Seal:
    other = now_s.to_bytes(_OTHER_BYTES, "big") if error == dns.rcode.BADTIME else b""
    time_s, fudge_s, mac = (
        (signed.time_signed, signed.fudge, signed.mac) if signed else (now_s, FUDGE_S, b"")
    )
    form = _Data(
        dns.rdataclass.ANY,
        dns.rdatatype.TSIG,
        key.algorithm,
        time_s,
        fudge_s,
        b"",
        query_id,
        error,
        other,
    )
    return Seal(key, error, form, mac, time_s)


def _octets(name: dns.name.Name) -> bytes:
    return octets(name.labels[:-1])


def _read(tsig: Tsig) -> Any:
    """Dnspython's form of the data; None where it is none that can be."""
    try:
        return dns.rdata.from_wire(
            dns.rdataclass.ANY, dns.rdatatype.TSIG, tsig.rdata, 0, len(tsig.rdata)
        )
    except dns.exception.DNSException:
        return None


def keys_of(config: Config) -> dict[Key, dns.tsig.Key]:
    """The keys of a configuration, their secrets read from their files.

    Raises:
        ConfigError: a file cannot be read or holds no secret.
    """
    keys = {}
    for one in config.tsig:
        path = config.path(one.file)
        try:
            secret = base64.b64decode(path.read_bytes().strip(), validate=True)
        except OSError as error:
            raise ConfigError(f"tsig {one.name}: {path}: {error.strerror}") from None
        except binascii.Error:
            secret = b""
        if len(secret) < SECRET_BYTES_MIN:
            raise ConfigError(
                f"tsig {one.name}: {path}: write a secret of {SECRET_BYTES_MIN} octets or more in "
                "base64, as tsig-keygen makes it"
            )
        name = key_name(one.name)
        keys[name] = dns.tsig.Key(dns.name.Name([*name, b""]), secret, one.algorithm)
    return keys


def key_name(text: str) -> Key:
    """The name of a key as compared.

    Raises:
        ConfigError: not a domain name.
    """
    try:
        return lower(dns.name.from_text(text).labels[:-1])
    except dns.exception.DNSException as error:
        raise ConfigError(f"tsig.name = {text!r}: {error}") from None
