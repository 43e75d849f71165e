"""What a tokenizer is trained on: of every source the same share, whatever its place."""

from __future__ import annotations

import hashlib
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pytest

from raymodel.data.spec import TokenizerSpec
from raymodel.data.step import item_file, write_table
from raymodel.data.tokenizer_step import Sample, TokenizerStep, learn, lost_text
from raymodel.modality.characters import train_character_tokenizer
from raymodel.modality.subwords import train_unigram, train_wordpiece
from raymodel.modality.text import TextProcessor, train_tokenizer
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


@pytest.mark.parametrize("tokens", ["bytes", "wordpiece", "unigram", "characters"])
def test_what_is_read_again_trains_what_texts_in_memory_do(work: Location, tokens: str) -> None:
    sample, spec = Sample(work, NUM_PARTITIONS, 20_000), step(work, 1, tokens=tokens).spec
    assert learn(spec, sample).to_str() == learn(spec, [*sample]).to_str()


@pytest.mark.parametrize("tokens", ["bytes", "wordpiece", "unigram", "characters"])
def test_what_a_step_leaves_becomes_what_is_trained_in_one_go(work: Location, tokens: str) -> None:
    said = {"mask": True, "sentinels": 2} if tokens in ("bytes", "unigram") else {}
    done = step(work, 20_000, tokens=tokens, **said)
    summary = done.run(0)
    done.processor().save(done.output)
    texts = [*Sample(work, NUM_PARTITIONS, 20_000)]
    train = {
        "bytes": train_tokenizer,
        "wordpiece": train_wordpiece,
        "unigram": train_unigram,
        "characters": train_character_tokenizer,
    }[tokens]
    expected = train(texts, 300, **said)
    assert summary["vocab_size"] == len(expected)
    found = TextProcessor.load(done.output)
    assert found.tokenizer.special_tokens_map == expected.special_tokens_map
    assert found.tokenizer.backend_tokenizer.to_str() == expected.backend_tokenizer.to_str()
    for again in range(2):  # as an interrupted run does it
        before = {file.name: file.read_bytes() for file in done.output.local_path.iterdir()}
        done.processor().save(done.output)
        after = {file.name: file.read_bytes() for file in done.output.local_path.iterdir()}
        assert after == before, again


def test_a_sample_is_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    place, text = Location.parse(str(tmp_path)), "abcdefgh" * 1000
    for partition in range(20):
        texts = [f"{partition} {number} {text}" for number in range(100)]
        table = pa.table({"text": pa.array(texts, pa.large_string())})
        write_table(item_file(place, "sample", partition), table)
    tracemalloc.start()
    try:
        sample = Sample(place, 20, 10**9)
        assert sum(map(len, sample)) == sample.characters > 16_000_000
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()
