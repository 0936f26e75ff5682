"""CSV files that people write: one header, one kind of row, errors that name the line."""

import csv
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from popsteer.errors import ConfigError

Row = TypeVar("Row")


def rows(path: Path, header: tuple[str, ...], parse: Callable[[list[str]], Row]) -> list[Row]:
    """What `parse` makes of each row behind the header, in the order of the file.

    Raises:
        ConfigError: names the file, the line and what was expected, `parse`'s own among them.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return rows_of(file, str(path), header, parse)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None


def rows_of(
    lines: Iterable[str], name: str, header: tuple[str, ...], parse: Callable[[list[str]], Row]
) -> list[Row]:
    """The same of lines from anywhere, with their ends as they are; `name` is for errors."""
    found: list[Row] = []
    line = 1
    expected = ",".join(header)
    try:
        reader = csv.reader(lines)
        if tuple(next(reader, ())) != header:
            raise ConfigError(f"expected the header {expected}")
        for row in reader:
            line = reader.line_num
            if len(row) != len(header):
                raise ConfigError(f"expected {expected}, found {','.join(row)!r}")
            found.append(parse(row))
    except (ConfigError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{name}:{line}: {error}") from None
    return found
