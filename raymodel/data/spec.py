"""`prepare:` raw records become shards of token rows. Also the sources of `finetune:`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from raymodel.spec.base import OPERATIONAL, Many, Spec
from raymodel.spec.quantity import Count, Fraction


class SourceSpec(Spec):
    """Where raw records come from and how they are read."""

    path: str
    """A file, folder or glob; `s3:// gs:// abfs:// hdfs://`; `python:stdlib` for this machine's
    Python standard library; or `python:PACKAGE/path` for data inside an installed package, which
    is found without importing it."""
    format: Literal["text", "jsonl", "csv", "parquet", "folder", "python_functions"] = "text"
    """`text`: each file is one document, field `text`. `jsonl`, `csv`, `parquet`: a record a row.
    `folder`: text files whose folder name is the field `label`. `python_functions`: each documented
    function of a Python file, fields `code` (its source without the docstring), `docstring`, `name`
    and `parameters` (as its signature has them, without annotations)."""
    encoding: str = "utf-8"
    """Text encoding. Files that do not decode are counted, reported and left out."""
    text: str = "{text}"
    """How a record becomes a document: a template over the record's fields."""
    prompt: str | None = None
    """Causal fine-tuning: the template of what the model is given, e.g. `"{code}"`."""
    response: str | None = None
    """Causal fine-tuning: the template of what the model must answer; only this bears loss."""
    label: str | None = None
    """Classification: the field that holds the label."""
    weight: float = Field(default=1.0, gt=0)
    """How often this source's documents appear relative to their natural share."""


class DatasetSpec(Spec):
    """One dataset of a mixture."""

    # Which dataset it is, its fingerprint says, which does not change when the storage moves.
    path: Annotated[str, OPERATIONAL]
    """A dataset artifact: `RUN/prepare` or its folder's URI. All of a mixture need the same
    tokenizer and sequence_length."""
    weight: float = Field(default=1.0, gt=0)
    """Visits of each of its rows in one epoch of the mixture, times the weight of the row's source.
    An epoch is all datasets by their weights."""


class CleanSpec(Spec):
    """What a document must be to be kept."""

    min_chars: Count = 1
    """Documents shorter than this are dropped."""
    max_chars: Count = 10_000_000
    """Documents longer than this are cut here, so that one file cannot fill a worker's memory."""
    dedup: Literal["exact", "none"] = "exact"
    """`exact` keeps the first of all documents with the same text."""


class TokenizerSpec(Spec):
    """Train a byte-level BPE on the prepared text, or load a tokenizer. Exactly one of the two."""

    vocab_size: Count | None = None
    """Train a byte-level BPE with this many tokens, special tokens included."""
    load: str | None = None
    """A Hugging Face folder with a `tokenizer.json`, or `python:PACKAGE/path`."""
    sample_chars: Count = 50_000_000
    """At most this many characters of text are used to train."""

    @model_validator(mode="after")
    def _one_way(self) -> TokenizerSpec:
        if (self.vocab_size is None) == (self.load is None):
            raise ValueError("give either `vocab_size` (train a tokenizer) or `load` (use one)")
        if self.vocab_size is not None and self.vocab_size < 264:
            raise ValueError(
                f"a vocab_size of {self.vocab_size} is too small; a byte-level BPE needs 256 bytes "
                "and its special tokens, so at least 264"
            )
        return self


class PrepareSpec(Spec):
    """Reads, cleans, drops duplicates, splits, trains the tokenizer, packs, writes shards."""

    sources: Many[SourceSpec] = Field(min_length=1)
    """What to read."""
    clean: CleanSpec = CleanSpec()
    """What to keep."""
    tokenizer: TokenizerSpec
    """The tokenizer."""
    sequence_length: Count = Field(gt=1)
    """Tokens in a row. Documents are packed end to end, each closed by an end-of-text token."""
    holdout: Fraction = 0.01
    """Share of the documents that training never sees, chosen by a hash of the document."""
