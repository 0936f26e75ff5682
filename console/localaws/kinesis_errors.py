"""The errors that the Kinesis of this package answers with, by their names in the API reference.

All are the caller's: they travel as HTTP 400 with `__type` and `message`.
"""


class KinesisError(Exception):
    """One error answer, named by `code`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def not_found(message: str) -> KinesisError:
    """A stream or shard that is not there."""
    return KinesisError("ResourceNotFoundException", message)


def in_use(message: str) -> KinesisError:
    """A stream that is there already."""
    return KinesisError("ResourceInUseException", message)


def invalid(message: str) -> KinesisError:
    """An argument that cannot be."""
    return KinesisError("InvalidArgumentException", message)


def refused(message: str) -> KinesisError:
    """An argument outside the limits of the API."""
    return KinesisError("ValidationException", message)


def throttled(shard_id: str, stream: str, account: str) -> KinesisError:
    """A shard asked for more than its limits."""
    return KinesisError(THROTTLED, throttle_message(shard_id, stream, account))


THROTTLED = "ProvisionedThroughputExceededException"


def throttle_message(shard_id: str, stream: str, account: str) -> str:
    """The words of AWS for a throttled record."""
    return f"Rate exceeded for shard {shard_id} in stream {stream} under account {account}."
