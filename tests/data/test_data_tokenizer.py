"""What a tokenizer is trained on: of every source the same share, whatever its place."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow as pa
import pytest

from raymodel.data.spec import TokenizerSpec
from raymodel.data.step import item_file, write_table
from raymodel.data.tokenizer_step import Sample, TokenizerStep, lost_text
from raymodel.storage.uri import Location

NUM_PARTITIONS = 4


def text_of(partition: int, number: int) -> str:
    letters = hashlib.sha256(f"{partition} {number}".encode()).hexdigest()
    return f"partition{partition} " + " ".join(letters[i : i + 4] for i in range(0, 48, 4))


@pytest.fixture
def work(tmp_path: Path) -> Location:
    place = Location.parse(str(tmp_path / "work"))
    for partition in range(NUM_PARTITIONS):
        texts = [text_of(partition, number) for number in range(300 * (partition + 1))]
        texts += texts[:50]  # twice
        table = pa.table({"text": pa.array(texts, pa.large_string())})
        write_table(item_file(place, "sample", partition), table)
    return place


def step(work: Location, sample_chars: int, **said: object) -> TokenizerStep:
    spec = TokenizerSpec.model_validate({"vocab_size": 300, "sample_chars": sample_chars, **said})
    output = work.parent / "processor"
    return TokenizerStep(work=work, output=output, num_partitions=NUM_PARTITIONS, spec=spec)


def chosen(work: Location, most_chars: int) -> list[str]:
    sample = Sample(work, NUM_PARTITIONS, most_chars)
    texts = [*sample]
    assert [*sample] == texts, "they are read again"
    assert (len(sample), sample.characters) == (len(texts), sum(map(len, texts)))
    return texts


def test_a_sample_that_fits_is_taken_whole_and_each_text_once(work: Location) -> None:
    texts = chosen(work, 10**6)
    assert len(texts) == len(set(texts)) == 3000
    assert texts[0] == text_of(0, 0)
    assert texts[-1].startswith("partition3")


def test_one_that_does_not_fit_is_spread_over_the_partitions_by_their_sizes(work: Location) -> None:
    texts = chosen(work, 50_000)
    assert sum(map(len, texts)) == 50_000
    counts = [sum(f"partition{p} " in text for text in texts) for p in range(NUM_PARTITIONS)]
    for partition, count in enumerate(counts):
        assert count / len(texts) == pytest.approx((partition + 1) / 10, rel=0.25)
    assert chosen(work, 50_000) == texts
    more = chosen(work, 60_000)
    assert len(set(texts) - set(more)) <= 1, "a larger sample holds a smaller one, but for its end"


def test_it_is_said_how_many_texts_do_not_come_back(work: Location) -> None:
    assert not lost_text(step(work, 10**6).run(0))
    summary = step(work, 10**6, tokens="unigram").run(0)
    assert summary["tried"] == summary["came_back"] == 1000
    summary = step(work, 10**6, tokens="unigram", lowercase=True).run(0)
    assert not lost_text(summary), "there are no capitals to lose"
    summary = step(work, 10**6, tokens="wordpiece", vocab_size=12).run(0)
    assert summary["came_back"] == 0
    assert "of 1,000 texts of its sample 1,000 do not come back" in lost_text(summary)
