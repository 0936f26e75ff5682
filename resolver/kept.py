"""Small files that survive the process: written whole or not at all."""

import os
from pathlib import Path

from popsteer.errors import SetupError


def keep(path: Path, body: bytes) -> None:
    """Replace a file by these bytes; a reader sees the old or the new, never a part.

    Raises:
        OSError: the disk refuses.
    """
    fresh = path.with_name(path.name + ".new")
    with fresh.open("wb") as file:
        file.write(body)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def read_kept(path: Path) -> bytes | None:
    """The bytes; None where there is no such file or it cannot be read."""
    try:
        return path.read_bytes()
    except OSError:
        return None


def make_folder(path: Path) -> Path:
    """The folder, made where it is missing.

    Raises:
        SetupError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SetupError(f"data = {path}: {error.strerror}") from None
    return path
