"""Cleaning, the holdout, duplicates and packing."""

import numpy as np
import pyarrow as pa
import pytest

from raymodel.data.clean import (
    TOO_SHORT,
    clean_text,
    compare_documents,
    cut_text,
    is_held_out,
    key_table,
    reason_to_drop,
    values_digest,
)
from raymodel.data.pack import pack_rows
from raymodel.data.plan import BLOCK_BYTES, SHARD_BYTES, plan_shards
from raymodel.data.record import digest_of
from raymodel.data.spec import CleanSpec
from raymodel.data.step import bucket_of
from raymodel.modality.encode import Encoded

DOCUMENTS = [digest_of(str(index).encode()) for index in range(4000)]


def test_short_and_empty_documents_are_dropped_for_reasons_of_their_own() -> None:
    spec = CleanSpec(min_chars=3)
    assert reason_to_drop(["ab"], spec) == TOO_SHORT
    assert reason_to_drop(["   \n ", ""], spec) == "empty document"
    assert reason_to_drop(["ab", "c"], spec) is None, "all texts of a document count together"


def test_a_long_text_keeps_the_end_that_its_reader_needs() -> None:
    assert cut_text("abcdefg", 5, "start") == "abcde"
    assert cut_text("abcdefg", 5, "end") == "cdefg"
    assert cut_text("abc", 5, "end") == "abc"


def test_line_ends_become_one_and_a_lone_surrogate_does_not_stop_the_corpus() -> None:
    assert clean_text("a\r\nb\rc") == "a\nb\nc"
    assert clean_text("a\ud800b") == "a?b"


def test_a_digest_of_texts_knows_where_one_ends() -> None:
    digests = {values_digest(texts) for texts in (["ab", "c"], ["a", "bc"], ["abc"], ["abc", ""])}
    assert len(digests) == 4


def test_the_holdout_has_the_asked_share_and_grows_with_it() -> None:
    small = {d for d in DOCUMENTS if is_held_out(d, 7, 0.05)}
    large = {d for d in DOCUMENTS if is_held_out(d, 7, 0.2)}
    assert small < large
    assert len(small) == pytest.approx(200, rel=0.25)
    assert {d for d in DOCUMENTS if is_held_out(d, 8, 0.05)} != small


@pytest.mark.parametrize(("fraction", "expected"), [(0.0, 0), (1.0, 4000)])
def test_the_ends_of_the_holdout_are_exact(fraction: float, expected: int) -> None:
    assert sum(is_held_out(d, 7, fraction) for d in DOCUMENTS) == expected


def compared(parts: list[list[tuple[str, str | None]]], num_buckets: int) -> list[list[tuple]]:
    """Places of the duplicates and of the conflicts among documents (text, label)."""
    keys = pa.concat_tables(
        key_table([digest_of(t.encode()) for t, _ in part], [label for _, label in part], index)
        for index, part in enumerate(parts)
    )
    found: list[list[tuple]] = [[], []]
    for bucket in range(num_buckets):
        own = keys.filter(pa.array(bucket_of(keys["high"].to_numpy(), num_buckets) == bucket))
        for kind, table in zip(found, compare_documents(own), strict=True):
            places = [tuple(row.values()) for row in table.to_pylist()]
            assert places == sorted(places)
            kind += places
    return [sorted(kind) for kind in found]


@pytest.mark.parametrize("num_buckets", [1, 3])
def test_the_first_of_each_text_is_kept(num_buckets: int) -> None:
    parts = [["a", "b", "a"], ["c", "b", "d"], ["a", "d", "e"]]
    duplicates, conflicts = compared(
        [[(text, None) for text in part] for part in parts], num_buckets
    )
    assert duplicates == [(0, 2), (1, 1), (2, 0), (2, 1)]
    assert conflicts == []


@pytest.mark.parametrize("num_buckets", [1, 3])
def test_one_text_with_two_labels_is_a_conflict_and_no_duplicate(num_buckets: int) -> None:
    parts = [[("z", "x"), ("a", "y")], [("a", "x"), ("a", "y"), ("z", "x")], [("a", "x")]]
    duplicates, conflicts = compared(parts, num_buckets)
    assert duplicates == [(1, 1), (1, 2), (2, 0)]
    assert conflicts == [(0, 1)], "the first of its documents stands for the text"


def unpack(table: pa.Table) -> list[int]:
    rows = zip(table["tokens"].to_pylist(), table["length"].to_pylist(), strict=True)
    return [token for tokens, length in rows for token in tokens[:length]]


@pytest.mark.parametrize("sequence_length", [2, 3, 7, 100])
def test_packing_loses_no_token_and_knows_where_documents_begin(sequence_length: int) -> None:
    documents = [[5, 6, 7], [], [8], [9] * 20]
    table = pack_rows(
        Encoded.of(documents),
        sequence_length=sequence_length,
        end_of_text=0,
        padding=1,
        vocab_size=100,
    )
    flat = [token for document in documents for token in [*document, 0]]
    assert unpack(table) == flat
    assert table["length"].to_pylist()[:-1] == [sequence_length] * (table.num_rows - 1)
    starts = [
        row * sequence_length + start
        for row, places in enumerate(table["document_starts"].to_pylist())
        for start in places
    ]
    assert starts == [0, 4, 5, 7]


def test_token_ids_take_two_bytes_while_they_fit() -> None:
    types = [
        pack_rows(Encoded.of([[1]]), sequence_length=2, end_of_text=0, padding=1, vocab_size=size)
        .schema.field("tokens")
        .type.value_type
        for size in (2**16, 2**16 + 1)
    ]
    assert types == [pa.uint16(), pa.int32()]


def test_no_documents_are_no_rows() -> None:
    table = pack_rows(Encoded.of([]), sequence_length=4, end_of_text=0, padding=1, vocab_size=9)
    assert table.num_rows == 0


@pytest.mark.parametrize("rows", [1, 15, 1000, 10**9])
@pytest.mark.parametrize("row_bytes", [12.5, 520, 10**6])
def test_shards_are_uniform_and_within_their_sizes(rows: int, row_bytes: float) -> None:
    plan = plan_shards(rows, row_bytes)
    assert plan.rows_per_shard % plan.rows_per_block == 0
    assert plan.rows_per_block * row_bytes <= max(BLOCK_BYTES, row_bytes)
    assert plan.rows_per_shard * row_bytes <= SHARD_BYTES * 1.01
    assert plan.shard_rows(plan.num_shards - 1)[1] == rows
    if rows >= 16:
        assert -(-rows // plan.rows_per_block) >= 15


def test_a_tokenizer_does_not_depend_on_the_order_of_texts() -> None:
    from raymodel.modality.text import train_tokenizer

    texts = [f"def function_{i}(x): return x + {i}  # größer\n" for i in range(200)]
    shuffled = [texts[i] for i in np.random.default_rng(0).permutation(200)]
    first, second = train_tokenizer(texts, 300), train_tokenizer(shuffled, 300)
    assert first.backend_tokenizer.to_str() == second.backend_tokenizer.to_str()
    assert len(first) == 300
    assert first.decode(first(texts[7])["input_ids"]) == texts[7]
