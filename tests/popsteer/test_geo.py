import numpy as np
import pytest

from popsteer.cities import CITIES
from popsteer.geo import distance_km, floor_rtt_ms


def _between(a: tuple[float, float], b: tuple[float, float]) -> float:
    columns = [np.array([degrees]) for degrees in (*a, *b)]
    return float(distance_km(*columns)[0, 0])


@pytest.mark.parametrize(
    ("a", "b", "km"),
    [
        ((0.0, 0.0), (0.0, 0.0), 0.0),
        ((0.0, 0.0), (0.0, 180.0), 20_015.1),
        ((90.0, 0.0), (-90.0, 77.0), 20_015.1),
        ((0.0, 179.5), (0.0, -179.5), 111.2),
        ((50.03, 8.57), (40.64, -73.78), 6_184.0),  # FRA to JFK
    ],
)
def test_great_circles(a: tuple[float, float], b: tuple[float, float], km: float) -> None:
    assert _between(a, b) == pytest.approx(km, rel=2e-3, abs=1e-6)
    assert _between(b, a) == pytest.approx(_between(a, b))


def test_light_needs_a_millisecond_for_a_hundred_kilometres_and_back() -> None:
    assert floor_rtt_ms(np.array([0.0, 100.0, 6_184.0])).tolist() == [0.0, 1.0, 61.84]


def test_cities_are_places_of_their_own() -> None:
    assert len({city.code for city in CITIES}) == len({city.name for city in CITIES}) == len(CITIES)
    for city in CITIES:
        assert abs(city.lat) <= 90
        assert abs(city.lon) <= 180
        assert city.people_m > 0
