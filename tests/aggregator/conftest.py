"""What tests of record processors share."""

import pytest


@pytest.fixture
def exits_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    """os._exit would end the tests; the processor's own rim is replaced, nothing of a library."""

    def leave(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr("aggregator.consumer.os._exit", leave)
