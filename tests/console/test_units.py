import pytest

from console.units import duration_ms, duration_text, rate_bps, rate_text
from popsteer.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("30m", 1_800), ("2h", 7_200), ("1d", 86_400), ("1h30m", 5_400)],
)
def test_durations_are_read(text: str, seconds: int) -> None:
    assert duration_ms(text, "--for") == seconds * 1_000


@pytest.mark.parametrize("text", ["", "30", "m", "30 m", "-5m", "0s", "1h30"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^--since .*30m"):
        duration_ms(text, "--since")


@pytest.mark.parametrize(
    ("text", "bps"), [("40e9", 40e9), ("40G", 40e9), ("2.5Gbps", 2.5e9), ("400M", 400e6), ("7", 7)]
)
def test_rates_are_read(text: str, bps: float) -> None:
    assert rate_bps(text) == bps


@pytest.mark.parametrize("text", ["", "G", "40X", "-1", "1e9e9"])
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="bits/s"):
        rate_bps(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (4.24, "4.2 s"),
        (38.4, "38 s"),
        (720, "12 min"),
        (12_000, "3 h 20 min"),
        (187_200, "2 d 4 h"),
    ],
)
def test_durations_are_written(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


@pytest.mark.parametrize(
    ("bps", "text"),
    [(0, "0 bit/s"), (999.6e6, "1.00 Gbit/s"), (41.25e9, "41.2 Gbit/s"), (6.1e12, "6.10 Tbit/s")],
)
def test_rates_are_written_with_three_digits(bps: float, text: str) -> None:
    assert rate_text(bps) == text
