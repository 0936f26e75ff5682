"""The errors of popsteer: one root, few leaves.

The message is for a person at 3 a.m.: it names the file, the key, the value and what to do.
The command prints it as one sentence and ends with `exit_code`; it never shows a traceback.
A malformed record or packet is data, not an error of ours: it is counted where it enters.
"""


class PopsteerError(Exception):
    """Root of everything that popsteer raises on purpose."""

    exit_code = 1


class ConfigError(PopsteerError):
    """A configuration, world or order that cannot be used as written."""

    exit_code = 2


class SetupError(PopsteerError):
    """The machine does not allow it: port in use, no permission, missing file."""

    exit_code = 3


class RecordError(PopsteerError):
    """Bytes from a stream that are no valid batch of samples; `reason` is a metric label."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


class TrustError(PopsteerError):
    """A signature that is missing, by an unknown key, or wrong."""


class TableError(PopsteerError):
    """Bytes that are no whole, valid table or POP state."""


class StoreError(PopsteerError):
    """The object store could not be reached or refused the call."""


class ConflictError(StoreError):
    """A conditional write lost: somebody else wrote first."""
