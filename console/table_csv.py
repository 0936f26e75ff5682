"""CSV into a table: `prefix,pop[,pop...]` (ranked) or `prefix,pop=share;pop=share`.

Prefixes may nest (the longest wins) and stand in any order; of equal ones the later wins. Empty
lines and what follows `#` are left out, and so are a header that starts with `prefix`, empty
columns at the end, and ranks beyond the eighth, which no answer would get to. Distinct
answers are few, so a line costs one prefix and one number: a million lines take seconds and some
tens of megabytes.
"""

import csv
import socket
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from popsteer.errors import ConfigError, TableError
from popsteer.names import Prefix, pop_id
from popsteer.table import CANDIDATES_MAX, NO_POP, NO_RTT, SHARE_WHOLE, Table, TableMeta, build


def read(path: Path, meta: TableMeta) -> Table:
    """The table in a file.

    Raises:
        ConfigError: names the file, the line and the value.
    """
    try:
        with path.open(encoding="utf-8-sig") as lines:
            return compile_lines(lines, meta, str(path))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not UTF-8 text") from None


def compile_lines(lines: Iterable[str], meta: TableMeta, name: str) -> Table:
    """The table in lines of CSV; `name` is that of the file, for errors.

    Raises:
        ConfigError: names the file, the line and the value.
    """
    answers = _Answers()
    net, plen, answer = array("Q"), array("B"), array("I")
    for number, raw in enumerate(lines, 1):
        line = raw.partition("#")[0].strip()
        if not line or (not net and line.lower().startswith("prefix,")):
            continue
        if '"' in line:
            line = ",".join(next(csv.reader([line])))
        prefix, comma, ranked = line.partition(",")
        try:
            if not comma:
                raise ConfigError(f"{line!r}: expected prefix,pop")
            ranked = ranked.rstrip(", ")
            n, p = _parse(prefix)
            answer.append(answers.number(ranked))
        except ConfigError as error:
            raise ConfigError(f"{name}:{number}: {error}") from None
        net.append(n)
        plen.append(p)
    if not net:
        raise ConfigError(f"{name}: no prefix in it; expected lines of prefix,pop")
    rows = np.frombuffer(answer, np.uint32)
    pop, share = answers.columns()
    rtt = np.broadcast_to(np.uint16(NO_RTT), (len(rows), CANDIDATES_MAX))
    try:
        return build(
            meta,
            tuple(answers.pops),
            np.frombuffer(net, np.uint64),
            np.frombuffer(plen, np.uint8),
            pop[rows],
            share[rows],
            rtt,
        )
    except TableError as error:
        raise ConfigError(f"{name}: {error}") from None


def _parse(text: str) -> tuple[int, int]:
    """A prefix as `net`, `plen`; IPv4 by the C library, which is ten times faster."""
    address, slash, length = text.strip().partition("/")
    if slash and length.isdigit() and "." in address:
        bits = int(length)
        try:
            number = int.from_bytes(socket.inet_pton(socket.AF_INET, address), "big")
        except OSError:
            number = -1
        if number >= 0 and bits <= 32 and not number & (0xFFFFFFFF >> bits):
            return number << 32, bits
    prefix = Prefix.parse(text)  # says what is wrong, and reads the rest
    return prefix.net, prefix.plen


@dataclass(slots=True)
class _Answers:
    """Distinct answers by their text."""

    pops: dict[str, int] = field(default_factory=dict)
    """POP ids in the order of their first appearance."""
    _numbers: dict[str, int] = field(default_factory=dict)
    _ranked: list[tuple[list[int], list[int]]] = field(default_factory=list)

    def number(self, text: str) -> int:
        """Of the answer in the text.

        Raises:
            ConfigError: names the value.
        """
        known = self._numbers.get(text)
        if known is not None:
            return known
        names, weights = _shares(text) if "=" in text else _ranks(text)
        if twice := {name for name in names if names.count(name) > 1}:
            raise ConfigError(f"{text!r}: {min(twice)} stands twice")
        best = [pop_id(name) for name in names][:CANDIDATES_MAX]
        indices = [self.pops.setdefault(name, len(self.pops)) for name in best]
        self._ranked.append((indices, whole_shares(weights[:CANDIDATES_MAX])))
        self._numbers[text] = len(self._ranked) - 1
        return len(self._ranked) - 1

    def columns(self) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
        """`pop` and `share` by the number of an answer: [answers, 8] each."""
        pop = np.full((len(self._ranked), CANDIDATES_MAX), NO_POP, np.uint16)
        share = np.zeros((len(self._ranked), CANDIDATES_MAX), np.uint8)
        for row, (indices, shares) in enumerate(self._ranked):
            pop[row, : len(indices)] = indices
            share[row, : len(shares)] = shares
        return pop, share


def _ranks(text: str) -> tuple[list[str], list[float]]:
    names = [name.strip() for name in text.split(",")]
    return names, [1.0] + [0.0] * (len(names) - 1)


def _shares(text: str) -> tuple[list[str], list[float]]:
    names, weights = [], []
    for part in text.split(";"):
        name, equals, share = part.partition("=")
        try:
            weights.append(float(share))
        except ValueError:
            weights.append(-1.0)
        if not equals or not 0 <= weights[-1] < float("inf"):
            raise ConfigError(f"{part.strip()!r}: expected pop=share, as in fra1=70;lon1=30")
        names.append(name.strip())
    if len(names) > CANDIDATES_MAX:
        raise ConfigError(f"{text!r}: {len(names)} POPs; at most {CANDIDATES_MAX} may share")
    if not sum(weights):
        raise ConfigError(f"{text!r}: every share is 0")
    return names, weights


def whole_shares(weights: list[float]) -> list[int]:
    """Shares of 255 in the proportion of the weights, by the largest remainder."""
    exact = [weight * SHARE_WHOLE / sum(weights) for weight in weights]
    shares = [int(value) for value in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: shares[i] - exact[i])
    for i in by_remainder[: SHARE_WHOLE - sum(shares)]:
        shares[i] += 1
    return shares
