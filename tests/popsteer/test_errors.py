import pytest

from popsteer import errors
from popsteer.errors import PopsteerError, RecordError

LEAVES = [
    errors.ConfigError,
    errors.SetupError,
    errors.TrustError,
    errors.TableError,
    errors.StoreError,
    errors.ConflictError,
]


@pytest.mark.parametrize("leaf", LEAVES)
def test_every_error_ends_the_command_with_its_sentence(leaf: type[PopsteerError]) -> None:
    assert str(leaf("one sentence")) == "one sentence"
    assert leaf.exit_code != 0


def test_a_record_error_carries_its_label() -> None:
    assert str(RecordError("arrow", "cut")) == "arrow: cut"
    assert str(RecordError("null")) == RecordError("null").reason == "null"


def test_a_lost_race_is_an_error_of_the_store() -> None:
    assert issubclass(errors.ConflictError, errors.StoreError)
