"""Durations, rates and ages as people write and read them."""

import re

from popsteer.errors import ConfigError

_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_POWERS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_RATE = re.compile(r"(\d+(?:\.\d+)?(?:e\d+)?)\s*([kmgt]?)(?:bps|bit/s)?", re.IGNORECASE)


def duration_ms(text: str, option: str) -> int:
    """`90s`, `30m`, `2h`, `1d` or `1h30m`, in milliseconds.

    Raises:
        ConfigError: not of that form, or nothing; names the option that it was given for.
    """
    parts = _DURATION.findall(text)
    total_ms = int(sum(float(n) * _SECONDS[unit] for n, unit in parts) * 1_000)
    if "".join(n + unit for n, unit in parts) != text or total_ms <= 0:
        raise ConfigError(f"{option} {text!r}: write a duration as 90s, 30m, 2h or 1d")
    return total_ms


def duration_text(seconds: float) -> str:
    """Rounded to what matters: `4.2 s`, `38 s`, `12 min`, `3 h 20 min`, `2 d 4 h`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{hours // 24} d {hours % 24} h"


def rate_bps(text: str) -> float:
    """`40e9`, `40G`, `40Gbps` or `400M`, in bits/s.

    Raises:
        ConfigError: not of that form.
    """
    match = _RATE.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"rate {text!r}: write bits/s, as 40e9, 40G or 400M")
    return float(match[1]) * _POWERS[match[2].lower()]


def rate_text(bps: float) -> str:
    """Three digits and a unit: `41.2 Gbit/s`."""
    for power, unit in ((1e12, "Tbit/s"), (1e9, "Gbit/s"), (1e6, "Mbit/s"), (1e3, "kbit/s")):
        if bps >= power * 0.9995:
            value = bps / power
            return f"{value:.{0 if value >= 99.95 else 1 if value >= 9.995 else 2}f} {unit}"
    return f"{bps:.0f} bit/s"
