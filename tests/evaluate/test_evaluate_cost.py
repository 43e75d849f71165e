"""What is said of a difference in speed, and when none is."""

from typing import Any

from raymodel.evaluate.cost import Costs, _interval
from raymodel.evaluate.cost_text import cost_rows


def costs(faster: Any) -> Costs:
    before = {"size_bytes": 4 * 2**20, "latency_ms": 3.0, "rows_per_s": {"16": 100.0, "32": 120.0}}
    after = {"size_bytes": 2**20, "latency_ms": 2.0, "rows_per_s": {"16": 50.0, "32": 126.0}}
    told = {"before": before, "after": after, "machine": "m", "what": "an answer"}
    return Costs.of({**told, "faster": faster})


def test_a_difference_is_told_where_it_was_seen() -> None:
    rows = cost_rows(costs({"1": [1.4, 1.6], "16": [0.4, 0.6], "32": [0.9, 1.1]}))
    assert [row[3] for row in rows] == [
        "4.00 × smaller",
        "1.50 × faster (1.40–1.60 ×)",
        "2.00 × slower (0.40–0.60 ×)",
        "no difference seen (0.90–1.10 ×)",
    ]
    assert rows[0][:3] == ("size", "4.0 MiB", "1.0 MiB")


def test_the_interval_of_a_median_holds_one_where_both_are_as_fast() -> None:
    noisy = [1.0, 1.3, 0.9, 1.1, 1.0, 5.0, 0.8, 1.2, 1.0, 0.95]
    low, high = _interval(noisy, noisy[::-1])
    assert low < 1 < high
    low, high = _interval([2 * each for each in noisy], noisy)
    assert (low, high) == (2, 2)
    assert _interval([2.0, 4.0, 3.0], [1.0, 1.0, 1.0]) == (2.0, 4.0)
