"""How shares are counted over time, and when a rise of one is told."""

import json
import random

import pytest
from pydantic import ValidationError

from raymodel.monitor.rule import Rule, decide, z_of
from raymodel.monitor.spec import AlertSpec
from raymodel.monitor.windows import Counts, Windows

SPEC = AlertSpec(labels=("bad",), window="100s", baseline="1000s", min_count=20, rise="10%", z=3.0)


def told(spec, texts):
    """What is told of texts of (time, whether it is of the class), as they come."""
    rule, events = Rule(spec), []
    for time_s, is_hit in texts:
        made = rule.add(time_s, "bad" if is_hit else "good")
        events += [(made[0], time_s)] if made else []
    return events


def stream(shares, per_s=1, seed=0):
    """Texts of (seconds, share) one after the other."""
    draw, now = random.Random(seed), 0.0
    for seconds, share in shares:
        for _ in range(int(seconds * per_s)):
            yield now, draw.random() < share
            now += 1 / per_s


def test_counts_are_those_of_the_texts_in_each_stretch_of_time():
    draw, texts, windows, now = random.Random(3), [], Windows(SPEC), 0.0
    for _ in range(3000):
        now += draw.expovariate(0.7)
        late = now - draw.choice([0, 0, 0, 40, 250])
        texts.append((late, draw.random() < 0.3))
        windows.add(*texts[-1][:1], is_hit=texts[-1][1])
        if draw.random() < 0.02:
            windows = Windows(SPEC, json.loads(json.dumps(windows.save())))
    end = max(int(t // 10) for t, _ in texts) + 1
    seen = [(int(t // 10), hit) for t, hit in texts]
    in_window = [hit for i, hit in seen if end - 10 <= i]
    in_baseline = [hit for i, hit in seen if end - 110 <= i < end - 10]
    assert windows.now == Counts(len(in_window), sum(in_window))
    assert windows.before == Counts(len(in_baseline), sum(in_baseline))
    assert len(windows.save()["buckets"]) <= 110


def test_a_text_from_before_the_baseline_is_not_counted():
    windows = Windows(SPEC)
    windows.add(5000.0, is_hit=True)
    assert windows.is_old(3000.0)
    assert not windows.is_old(4200.0)
    rule = Rule(SPEC)
    rule.add(5000.0, "bad")
    rule.add(3000.0, "bad")
    assert rule.save()["windows"]["buckets"] == [[500, 1, 1]]


def test_a_rise_is_told_once_and_again_after_it_was_over():
    events = told(SPEC, stream([(1500, 0.2), (300, 0.6), (1500, 0.2), (300, 0.6), (500, 0.2)]))
    assert [event for event, _ in events] == ["rise", "over", "rise", "over"]
    assert 1500 < events[0][1] < 1560
    assert 1800 < events[1][1] < 1950
    assert 3300 < events[2][1] < 3360


def test_what_stays_high_becomes_usual_and_is_told_once():
    events = told(SPEC, stream([(1500, 0.2), (3000, 0.6), (1500, 0.2)]))
    assert [event for event, _ in events] == ["rise", "usual"]
    assert 1500 + 1100 <= events[1][1] < 1560 + 1110


def test_a_share_about_the_threshold_does_not_flap():
    """Between the two thresholds nothing is told, however often the share goes to and fro."""
    before = Counts(1000, 200)
    spec = SPEC.model_copy(update={"clear": 0.5})
    raised, events = False, 0
    for hits in [31, 29, 31, 28, 30, 27, 31, 26] * 20:
        event = decide(spec, Counts(100, hits), before, is_raised=raised)
        raised = raised if event is None else event == "rise"
        events += event is not None
    assert events == 0  # z of 31 % is 2.6
    for hits in [36, 29, 36, 28, 30, 27, 36, 26] * 20:
        event = decide(spec, Counts(100, hits), before, is_raised=raised)
        raised = raised if event is None else event == "rise"
        events += event is not None
    assert events == 1


def test_few_texts_decide_nothing():
    assert decide(SPEC, Counts(19, 19), Counts(1000, 0), is_raised=False) is None
    assert decide(SPEC, Counts(1000, 1000), Counts(19, 0), is_raised=False) is None
    assert decide(SPEC, Counts(19, 0), Counts(1000, 500), is_raised=True) is None


def test_a_small_rise_needs_to_be_large_enough_however_certain():
    assert z_of(Counts(100_000, 25_000), Counts(1_000_000, 200_000)) > 30
    assert (
        decide(SPEC, Counts(100_000, 25_000), Counts(1_000_000, 200_000), is_raised=False) is None
    )


@pytest.mark.parametrize(
    ("now", "before", "z"),
    [
        (Counts(100, 30), Counts(1000, 200), 2.3452),  # statsmodels' proportions_ztest
        (Counts(50, 25), Counts(50, 10), 3.1449),
        (Counts(50, 50), Counts(50, 50), 0.0),
        (Counts(50, 0), Counts(50, 0), 0.0),
    ],
)
def test_z_is_that_of_two_proportions(now, before, z):
    assert z_of(now, before) == pytest.approx(z, abs=1e-3)


def test_by_default_chance_alone_is_hardly_ever_told():
    """100 texts a window of ten minutes, each of which is a look: 200 windows, two seeds."""
    spec = AlertSpec(labels=("bad",))
    day = 86_400 / 600
    events = []
    for seed in range(2):
        texts = stream([(600 * (day + 200), 0.2)], per_s=100 / 600, seed=seed)
        events += [event for event, _ in told(spec, texts)]
    assert events.count("rise") <= 1


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"window": "1h", "baseline": "10min"}, "baseline"),
        ({"window": "1s", "baseline": "1h"}, "200"),
        ({"labels": ()}, "labels"),
        ({"labels": ("a", "a")}, "twice"),
    ],
)
def test_a_rule_that_cannot_be_is_refused(fields, word):
    with pytest.raises(ValidationError, match=word):
        AlertSpec(**{"labels": ("bad",)} | fields)
