"""Records from RFC 1035 master files, read with dnspython.

Owns the syntax (RFC 1035 §5, RFC 2308 §4, RFC 3597 §5, BIND's $GENERATE) and that every refusal
names the file, the line and what was expected. It knows nothing of services; `resolver.zonefile`
makes zones of its records.
"""

from pathlib import Path
from typing import Any

import dns.exception
import dns.grange
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rdtypes.ANY.RP
import dns.rdtypes.nsbase
import dns.tokenizer
import dns.ttl
import dns.zone
import dns.zonefile

from popsteer.errors import ConfigError

INCLUDES_MAX = 16
"""Files that include one another; more is a circle."""
_META_FIRST, _META_LAST, _OPT = 128, 255, 41
_rdata: Any = dns.rdata  # it has no types for this


def read_records(path: Path) -> dns.zone.Zone:
    """The records of one file.

    The origin is the owner of the SOA. Where the file gives names relative to an origin that it
    does not state, the origin is the file's name without `.zone`, `.db` or a leading `db.`.

    Raises:
        ConfigError: names the file, the line and what was expected.
    """
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"dns.zones: {path}: {reason}") from None
    _know_old_types()
    zone = dns.zone.Zone(_origin(text, path), relativize=False)
    with zone.writer(replacement=True) as txn:
        reader = _Reader(_Tokens(text, str(path)), dns.rdataclass.IN, txn, allow_include=True)
        txn.check_put_rdataset(_judge)
        try:
            reader.read()
        except (dns.exception.DNSException, ValueError, KeyError, OSError) as error:
            raise ConfigError(f"dns.zones: {reader.explain(error)}") from None
        finally:
            reader.close()
    return zone


def _know_old_types() -> None:
    """Teach dnspython the mail types of RFC 1035 §3.3, which it knows by name alone."""
    for name, form in {
        "MB": dns.rdtypes.nsbase.NSBase,
        "MG": dns.rdtypes.nsbase.NSBase,
        "MR": dns.rdtypes.nsbase.NSBase,
        "MINFO": dns.rdtypes.ANY.RP.RP,
    }.items():
        rtype = dns.rdatatype.from_text(name)
        if _rdata.get_rdata_class(dns.rdataclass.IN, rtype) is dns.rdata.GenericRdata:
            dns.rdata.register_type(form, rtype, name)


def _judge(txn: Any, name: dns.name.Name, rdataset: Any) -> None:
    """Refuse what no zone can hold and dnspython takes without a word."""
    rtype = rdataset.rdtype
    # RFC 6895 §3.1: such types are asked or signalled, never stored.
    if not rtype or rtype == _OPT or _META_FIRST <= rtype <= _META_LAST:
        raise ValueError(f"type {int(rtype)} is no data")
    if dns.rdatatype.is_singleton(rtype):
        # The later of two would win.
        before = txn.get(name, rtype)
        if before is not None and set(before) != set(rdataset):
            raise ValueError(f"{name} has more than one {dns.rdatatype.to_text(rtype)}")


class _Tokens(dns.tokenizer.Tokenizer):
    """dnspython's; the file of an $INCLUDE is looked for beside the file that names it."""

    _names_file = False

    def get(self, want_leading: bool = False, want_comment: bool = False) -> dns.tokenizer.Token:
        token = super().get(want_leading, want_comment)
        if self._names_file and not token.is_eol_or_eof():
            token.value = str(Path(self.filename).parent / token.value)
        # Only the first word of a line is asked for with the blanks before it.
        self._names_file = want_leading and token.value.upper() == "$INCLUDE"
        return token


class _Reader(dns.zonefile.Reader):
    """dnspython's reader; it knows where the record at hand began."""

    record_at: tuple[str, int] | None = None

    @property
    def tok(self) -> dns.tokenizer.Tokenizer:
        """The words of the file that is read now."""
        return self._tok

    @tok.setter
    def tok(self, tokens: dns.tokenizer.Tokenizer) -> None:
        fresh = not isinstance(tokens, _Tokens)
        if fresh and len(self.saved_state) > INCLUDES_MAX:
            raise ValueError(f"more than {INCLUDES_MAX} files include one another")
        self._tok = _Tokens(tokens.file, tokens.filename) if fresh else tokens

    def close(self) -> None:
        """Close included files that an error left open."""
        for file in (self.current_file, *(state[3] for state in self.saved_state)):
            if file is not None:
                file.close()

    def _rr_line(self) -> None:
        self.record_at = self.tok.where()
        super()._rr_line()
        self.record_at = None

    def _generate_line(self) -> None:
        """$GENERATE range owner [TTL] [class] type data, where dnspython wants data of one word."""
        self.record_at = self.tok.where()
        words = []
        while not (token := self.tok.get()).is_eol_or_eof():
            words.append(token)
        if len(words) < _GENERATE_WORDS_MIN:
            raise ValueError("too few words")
        span, owner, *rest = words
        ttl_s = self._generated_ttl_s(rest)
        rtype = dns.rdatatype.from_text(rest.pop(0).value)
        # Quotes around all of the data only hold it together, as in BIND.
        alone = rest[0].value.replace('\\"', '"')
        data = alone if len(rest) == 1 else " ".join(map(_written, rest))
        start, stop, step = dns.grange.from_text(span.value)
        for number in range(start, stop + 1, step):
            self._generate_one(owner.value, ttl_s, rtype, data, number)
        self.record_at = None

    def _generated_ttl_s(self, rest: list[dns.tokenizer.Token]) -> int:
        """TTL and class, in any order; taken off the words."""
        ttl_s: int | None = None
        while len(rest) > 1:
            word = rest[0].value
            if word[:1].isdigit() and ttl_s is None:
                ttl_s = self.last_ttl = dns.ttl.from_text(word)
                self.last_ttl_known = True
            elif word.upper() != "IN":
                break
            del rest[0]
        if ttl_s is None:
            ttl_s = self._implicit_ttl()
        if ttl_s is None or not rest[1:]:
            raise ValueError("no TTL" if ttl_s is None else "too few words")
        return ttl_s

    def _generate_one(
        self, owner: str, ttl_s: int, rtype: dns.rdatatype.RdataType, data: str, number: int
    ) -> None:
        origin, top = self.current_origin, self.zone_origin
        assert origin is not None
        assert top is not None
        name = dns.name.from_text(_numbered(owner, number), origin)
        self.last_name = name
        if name.is_subdomain(top):
            made = _numbered(data, number)
            rdata = dns.rdata.from_text(self.zone_rdclass, rtype, made, origin, False, top)
            self.txn.add(name, ttl_s, rdata)

    def explain(self, error: Exception) -> str:
        """File, line, what is wrong and what was expected."""
        file, line = self.record_at or self.tok.where()
        detail = str(error)
        if isinstance(error, dns.exception.SyntaxError):
            # dnspython puts its own idea of file and line in front, often one line late.
            detail = detail.split(": ", 1)[-1]
        if isinstance(error, OSError):
            return f"{file}:{line}: $INCLUDE {error.filename}: {error.strerror}"
        written = _line(file, line)
        expected = f"[NAME] [TTL] [IN] {_FORMS.get(_type_in(written), 'TYPE DATA')}"
        if written.upper().startswith("$GENERATE"):
            expected = "$GENERATE START-STOP[/STEP] NAME [TTL] [IN] TYPE DATA"
        return f"{file}:{line}: {written.strip()!r}: {detail.rstrip('.')}; expected {expected}"


_GENERATE_WORDS_MIN = 4
_numbered = dns.zonefile._generate_text


def _written(token: dns.tokenizer.Token) -> str:
    return f'"{token.value}"' if token.is_quoted_string() else token.value


_FORMS = {
    "A": "A and an IPv4 address",
    "AAAA": "AAAA and an IPv6 address",
    "CNAME": "CNAME and one name, alone at its owner",
    "DNAME": "DNAME and one name",
    "NS": "NS and one name",
    "PTR": "PTR and one name",
    "MX": "MX, a preference and a name",
    "SRV": "SRV, priority, weight, port and a name",
    "SOA": "SOA, two names and the numbers serial, refresh, retry, expire, minimum",
    "TXT": "TXT and strings, quoted where they hold spaces",
    "CAA": 'CAA, flags, a tag and a quoted value, as in 0 issue "ca.example"',
    "HTTPS": "HTTPS, priority, target and key=value pairs",
    "SVCB": "SVCB, priority, target and key=value pairs",
}


def _line(file: str, line: int) -> str:
    """The line of a file as it stands there."""
    lines = Path(file).read_text("utf-8-sig").splitlines()
    return lines[line - 1] if 0 < line <= len(lines) else ""


def _type_in(written: str) -> str:
    """The type of the record in a line: the first word behind name, TTL and class."""
    words = written.split()
    behind = words if written[:1].isspace() else words[1:]
    types = (word.upper() for word in behind if not word[0].isdigit() and word.upper() != "IN")
    return next(types, "")


def _origin(text: str, path: Path) -> dns.name.Name:
    """Owner of the SOA, found without reading records: their reader wants to know it first."""
    stem = path.name.removeprefix("db.").removesuffix(".zone").removesuffix(".db")
    owner = ""
    try:
        origin = dns.name.from_text(stem)
        for line in text.splitlines():
            words = line.partition(";")[0].split()
            if not words:
                continue
            if words[0].upper() == "$ORIGIN" and len(words) > 1:
                origin = dns.name.from_text(words[1], origin)
            if words[0].startswith("$"):
                continue
            if not line[0].isspace():
                owner = words.pop(0)
            if "SOA" in (word.upper() for word in words[:3]):
                return dns.name.from_text(owner or "@", origin)
    except dns.exception.DNSException as error:
        raise ConfigError(f"dns.zones: {path}: {error}") from None
    raise ConfigError(f"dns.zones: {path}: no SOA record; a zone starts with one")
