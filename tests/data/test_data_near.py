"""Near-duplicates: words, MinHash, bands, and which of the documents that meet are dropped."""

import re

import numpy as np
import pytest
from near_texts import cut_end, edited, jaccard, text_of

from raymodel.data.dedup import near, words
from raymodel.data.dedup.likeness import TextLikeness
from raymodel.data.dedup.minhash import (
    SKETCH_WORDS,
    band_keys,
    has_words,
    signatures,
    similarity,
    sketches,
)
from raymodel.data.dedup.near import find_near, record_type
from raymodel.data.dedup.plan import MAX_BAND_SLOTS, MIN_THRESHOLD, SLOTS, BandPlan, plan_bands
from raymodel.data.dedup.spec import NearDedup
from raymodel.data.dedup.spill import read_spill, read_spills, write_spill
from raymodel.data.dedup.words import runs_of, whole_of, words_of
from raymodel.storage.uri import Location
from raymodel.tasks.fields import PLAIN_TEXT

RECORD = record_type(SKETCH_WORDS, is_labelled=False)


def near_at(threshold: float):
    """Whether texts are near, from that threshold on."""
    return TextLikeness(fields=PLAIN_TEXT, threshold=threshold, ngram=3).are_near


# ---- words ---------------------------------------------------------------------------------------


def hashes_of(text: str) -> list[int]:
    return words_of([text]).hashes.tolist()


@pytest.mark.parametrize(
    "other",
    ["hello world it is 5", " HELLO,\n\tworld!! (It is) — 5.", "Ｈｅｌｌｏ world it is ５"],
)
def test_case_punctuation_and_forms_of_a_character_are_nothing(other: str) -> None:
    assert hashes_of("Hello world it is 5") == hashes_of(other)


@pytest.mark.parametrize("other", ["world hello", "hello worlds", "hell oworld", "helloworld", ""])
def test_other_words_are_other_numbers(other: str) -> None:
    assert hashes_of("hello world") != hashes_of(other)
    assert not set(hashes_of("ab ba abc cba")) & set(hashes_of("bac cab a b aab"))


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("中国人民。", 4),
        ("ภาษาไทย", 7),
        ("日本 is 日本", 5),
        ("한국어 문장", 2),
        ("नमस्ते दुनिया", 2),
        ("…!?", 0),
    ],
)
def test_a_character_is_a_word_where_no_spaces_are(text: str, count: int) -> None:
    assert len(hashes_of(text)) == count


def test_texts_that_are_read_together_are_read_as_each_by_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    texts = [text_of(i, words=i) for i in range(30)] + ["", "中国", "\n"]
    together, alone = words_of(texts), [hashes_of(text) for text in texts]
    assert together.hashes.tolist() == [word for each in alone for word in each]
    assert np.diff(together.bounds).tolist() == [len(each) for each in alone]
    monkeypatch.setattr(words, "BATCH_CHARS", 64)
    in_parts = words_of([text[:64] for text in texts])
    assert in_parts.hashes.tolist() == [w for t in texts for w in hashes_of(t[:64])]
    assert len(hashes_of("a " * 500)) == 500, "a long text goes in parts"


@pytest.mark.parametrize("ngram", [1, 3, 5])
def test_runs_of_words_stay_within_a_text(ngram: int) -> None:
    texts = ["a b c d e f", "", "a b", "e f g h", "b a"]
    counts = [len(text.split()) for text in texts]
    whole = runs_of(words_of(texts), ngram, short=False)
    assert np.diff(whole.bounds).tolist() == [max(0, count - ngram + 1) for count in counts]
    some = runs_of(words_of(texts), ngram, short=True)
    expected = [max(min(count, 1), count - ngram + 1) for count in counts]
    assert np.diff(some.bounds).tolist() == expected
    alone = [runs_of(words_of([text]), ngram, short=True).hashes.tolist() for text in texts]
    assert some.hashes.tolist() == [run for each in alone for run in each]
    assert (alone[2] == alone[4]) is False, "the order of words counts"


def test_a_line_is_its_words_in_their_order() -> None:
    lines = ["Home | about us", "home about, us", "us about home", "home about", "", "--"]
    hashes, has_any = whole_of(words_of(lines))
    assert has_any.tolist() == [True] * 4 + [False] * 2
    assert hashes[0] == hashes[1]
    assert len(set(hashes[:4].tolist())) == 3


# ---- MinHash -------------------------------------------------------------------------------------


@pytest.mark.parametrize("ngram", [1, 2, 5])
def test_the_estimate_is_the_share_of_runs_in_common(ngram: int) -> None:
    texts = [text_of(i) for i in range(360)]
    others = [cut_end(text, 1 + i // 2) for i, text in enumerate(texts)]
    minima = [signatures([[text] for text in each], ngram) for each in (texts, others)]
    found = similarity(*(sketches(each, 1) for each in minima), 1)
    exact = np.array([jaccard(a, b, ngram) for a, b in zip(texts, others, strict=True)])
    assert exact.min() < 0.1 < 0.9 < exact.max()
    assert abs((found - exact).mean()) < 0.01, "in the mean it is exact, but for words in common"
    # As of slots that know nothing of each other: of two bits, and of whole minima.
    chance = exact + (1 - exact) / 4
    expected = (4 / 3) ** 2 * (chance * (1 - chance)).mean() / SLOTS
    assert ((found - exact) ** 2).mean() == pytest.approx(expected, rel=0.25)
    slots = (minima[0] == minima[1]).mean(axis=1)
    expected = (exact * (1 - exact)).mean() / SLOTS
    assert ((slots - exact) ** 2).mean() == pytest.approx(expected, rel=0.25)


def test_of_several_texts_the_least_alike_counts() -> None:
    prompt, answer = text_of(1), text_of(2)
    documents = [
        [prompt, answer],
        [prompt, text_of(3)],
        [prompt, answer],
        [cut_end(prompt, 20), ""],
    ]
    found = sketches(signatures(documents, 3), 2)
    likeness = similarity(found[[0, 0, 0]], found[[1, 2, 3]], 2)
    assert likeness[1] == 1.0
    assert likeness[0] == pytest.approx(0, abs=0.15)
    assert likeness[2] < 0.15


def test_texts_without_words_are_like_nothing() -> None:
    assert has_words(signatures([["!"], ["a"], [""]], 5)).tolist() == [False, True, False]


def test_short_texts_are_near_to_the_same_words_only() -> None:
    found = sketches(signatures([["one two"], ["One, two!"], ["one three"], ["two one"]], 5), 1)
    likeness = similarity(found[[0, 0, 0]], found[[1, 2, 3]], 1)
    assert likeness[0] == 1.0
    assert likeness[1:].max() < 0.2


# ---- bands ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [MIN_THRESHOLD, 0.4, 0.5, 0.7, 0.8, 0.9, 0.99, 1.0])
def test_bands_find_the_pairs_at_the_threshold(threshold: float) -> None:
    plan = plan_bands(threshold)
    assert plan.recall(threshold) >= 0.95
    assert plan.bands * plan.rows <= MAX_BAND_SLOTS <= SLOTS
    assert plan.recall(0.05) < 0.1, "what is unlike is hardly looked at"


def test_the_description_tells_the_bands_of_the_default() -> None:
    plan, text = plan_bands(0.8), " ".join(NearDedup.model_fields["threshold"].description.split())
    assert f"{plan.bands * plan.rows} numbers" in text
    assert f"{plan.bands} bands of {plan.rows}: {plan.recall(0.8):.0%} of the pairs at 0.8" in text
    assert f"{plan.recall(0.5):.0%} of those at 0.5" in text
    about = " ".join(NearDedup.model_fields["ngram"].description.split())
    told = re.findall(r"with (\d) and (?:a threshold of )?([\d.]+) one(?: word)? in (\d+)", about)
    assert len(told) == 2
    for ngram, threshold, one_in in told:
        stays = 2 * float(threshold) / (1 + float(threshold))
        assert round(1 / (1 - stays ** (1 / int(ngram)))) == int(one_in)


def test_pairs_meet_in_a_band_as_often_as_is_said() -> None:
    plan, texts = BandPlan(13, 7), [text_of(i, words=104) for i in range(300)]
    others = [cut_end(text, 20) for text in texts]  # 80 of 120 runs
    keys = [band_keys(signatures([[t] for t in each], 5), plan) for each in (texts, others)]
    assert (keys[0] == keys[1]).any(axis=1).mean() == pytest.approx(plan.recall(2 / 3), abs=0.08)
    assert len(np.unique(keys[0])) == keys[0].size, "nothing else meets, in no band"


# ---- who is dropped ------------------------------------------------------------------------------


def records_of(texts: list[str], partition_of: int = 7, **labelled: list) -> np.ndarray:
    """All in one group, as if they had a band in common."""
    records = np.zeros(len(texts), record_type(SKETCH_WORDS, is_labelled=bool(labelled)))
    records["partition"], records["index"] = np.divmod(np.arange(len(texts)), partition_of)
    records["sketch"] = sketches(signatures([[text] for text in texts], 3), 1)
    for name, values in labelled.items():
        records[name] = values
    return records


def places(found: np.ndarray, partition_of: int = 7) -> list[int]:
    return (found["partition"] * partition_of + found["index"]).tolist()


def test_the_first_of_those_that_are_near_stays_whatever_the_order() -> None:
    base, other = text_of(1), text_of(2)
    texts = [base, other, cut_end(base, 5), text_of(3), cut_end(base, 2), cut_end(other, 3)]
    records = records_of(texts)
    for seed in range(5):
        found = find_near(np.random.default_rng(seed).permutation(records), near_at(0.8))
        assert places(found.duplicates) == [2, 4, 5]
        assert not len(found.conflicts)
        assert found.unseen == 0


def test_a_chain_loses_what_is_near_to_one_that_stays() -> None:
    texts = [" ".join(f"w{i}" for i in range(start, start + 100)) for start in (0, 8, 16)]
    assert jaccard(texts[0], texts[1], 3) > 0.8 > jaccard(texts[0], texts[2], 3) + 0.05
    assert places(find_near(records_of(texts), near_at(0.8)).duplicates) == [1]


def test_other_keys_are_other_groups() -> None:
    records = records_of([text_of(1)] * 4)
    records["key"] = [5, 6, 5, 6]
    assert places(find_near(records, near_at(0.8)).duplicates) == [2, 3]


def test_one_of_another_label_contradicts_and_stays() -> None:
    base = text_of(1)
    texts = [base, cut_end(base, 2), cut_end(base, 4), cut_end(base, 3), text_of(2)]
    records = records_of(texts, label=[1, 2, 1, 2, 2], split=[1, 0, 0, 0, 0])
    found = find_near(records, near_at(0.8))
    assert places(found.duplicates) == [2, 3]
    assert sorted(set(places(found.conflicts))) == [1, 3]
    assert found.conflicts["split"].tolist() == [1, 1], "that of the document before"


def test_too_many_that_are_unlike_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near, "MAX_LEADERS", 3)
    found = find_near(records_of([text_of(i) for i in range(8)]), near_at(0.8))
    assert (len(found.duplicates), found.unseen) == (0, 4)


def test_no_two_that_are_kept_are_near_in_any_bucket() -> None:
    """The rule looks at each bucket alone, and yet holds over all: in place of union-find."""
    bases = [text_of(i, words=150) for i in range(40)]
    texts = [edited(base, 0.01 * (i % 4), i) for i in range(6) for base in bases]
    minima, plan = signatures([[text] for text in texts], 3), plan_bands(0.7)
    records, keys = np.zeros(len(texts), RECORD), band_keys(minima, plan)
    records["index"], records["sketch"] = np.arange(len(texts)), sketches(minima, 1)
    dropped, met = set[int](), set[tuple[int, int]]()
    for band in range(plan.bands):
        records["key"] = keys[:, band]
        dropped |= set(find_near(records, near_at(0.7)).duplicates["index"].tolist())
        same = keys[:, band][:, None] == keys[:, band][None]
        met |= {(a, b) for a, b in zip(*np.nonzero(np.triu(same, 1)), strict=True)}
    likeness = {
        (a, b): similarity(records["sketch"][[a]], records["sketch"][[b]], 1)[0] for a, b in met
    }
    is_near = {pair for pair, value in likeness.items() if value >= 0.7}
    assert len(is_near) > 300
    assert not {(a, b) for a, b in is_near if a not in dropped and b not in dropped}
    assert all(any((a, b) in is_near for a in range(b)) for b in dropped), "near to an earlier one"
    exact = {(a, b) for a in range(240) for b in range(a + 1, 240) if a % 40 == b % 40
             and jaccard(texts[a], texts[b], 3) >= 0.7}  # fmt: skip
    assert len(exact & is_near) / len(exact) > 0.9, "recall at the threshold and above"


# ---- records that wait ---------------------------------------------------------------------------


def test_each_task_reads_its_own_records(tmp_path) -> None:
    records = np.zeros(100, RECORD)
    records["index"] = np.arange(100)
    parts = np.random.default_rng(0).integers(4, size=100)
    place = Location.parse(str(tmp_path / "spill.bin"))
    write_spill(place, records, parts, 6)
    for part in range(6):
        found = read_spill(place, part, 6, RECORD)
        assert found["index"].tolist() == np.flatnonzero(parts == part).tolist()
        assert read_spills([place, place], part, 6, RECORD)["index"].tolist() == [
            *found["index"],
            *found["index"],
        ]
