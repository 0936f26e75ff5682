"""Files that are whole or absent: written aside, then renamed over the old one.

No fsync: what must survive is a kill of this process, not a power cut.
"""

import hashlib
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

import msgspec

NAME_BYTES_MAX = 180
ASIDE = "+new"
"""`file_name` never gives a plus sign."""

T = TypeVar("T")


class UnreadableError(Exception):
    """A file of ours that is not as we wrote it."""


def replace(path: Path, *parts: bytes) -> None:
    """Write `parts` one after the other as the new content of `path`."""
    aside = path.with_name(path.name + ASIDE)
    with aside.open("wb", buffering=0) as file:
        for part in parts:
            file.write(part)
    aside.replace(path)


def decode(path: Path, content: bytes, kind: type[T]) -> T:
    """JSON that was read from `path`.

    Raises:
        UnreadableError: it is not what we write there.
    """
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.MsgspecError as error:
        raise UnreadableError(f"{path}: {error}") from None


def file_name(text: str) -> str:
    """A name for any text: readable where short, unique always, never `.` or with a slash."""
    name = quote(text, safe="").replace(".", "%2E") if text.startswith(".") else quote(text, "")
    if len(name) <= NAME_BYTES_MAX:
        return name
    return f"{name[:100]}~{hashlib.sha256(text.encode()).hexdigest()}"
