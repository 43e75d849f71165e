"""The tokenizer: a byte-level BPE trained on the corpus, or one that is loaded."""

from __future__ import annotations

import functools
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raymodel.data.sources import locate_in_package
from raymodel.errors import MissingSourceError, SourceError
from raymodel.storage.hub import check_no_hub_id
from raymodel.storage.uri import Location, sha256

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"
PADDING = "<|padding|>"
# Roles of a conversation for whatever template is laid over the model later. Named after no one's
# chat format, and there from the start, because a vocabulary cannot grow without new weights.
ROLES = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")


def train_tokenizer(texts: Sequence[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE (arXiv:1508.07909, GPT-2's pre-tokenisation by bytes).

    Every byte is in the vocabulary, so every text is represented and decodes to itself. The same
    texts give the same tokenizer, in whatever order and on however many threads.

    Args:
        texts: what to train on.
        vocab_size: tokens in all, specials included; fewer when the text does not hold as many.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    # What decides the vocabulary, and how it is applied, is written though it is the default.
    tokenizer = Tokenizer(models.BPE(dropout=None, byte_fallback=False, ignore_merges=False))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=0,
        special_tokens=[END_OF_TEXT, PADDING, *ROLES],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,  # a text begins where another ended
        eos_token=END_OF_TEXT,
        pad_token=PADDING,
        additional_special_tokens=list(ROLES),
        clean_up_tokenization_spaces=False,
    )


def find_tokenizer(path: str, base_dir: Path | None = None) -> Location:
    """The folder that `tokenizer.load` names.

    Raises:
        SourceError: it does not exist, or holds no `tokenizer.json`.
    """
    is_package = path.startswith("python:")
    check_no_hub_id("tokenizer.load", path, base_dir)
    place = locate_in_package(path) if is_package else Location.parse(path, base_dir)
    if not place.exists():
        raise MissingSourceError(
            f"tokenizer {path!r}: {place} does not exist; it must be a Hugging Face folder with a "
            "fast tokenizer. Check the path"
        )
    if not (place / "tokenizer.json").exists():
        raise SourceError(
            f"tokenizer {path!r}: {place} holds no tokenizer.json; it must be a Hugging Face "
            "folder with a fast tokenizer. Check the path, or save one there with save_pretrained"
        )
    return place


def load_tokenizer(place: Location) -> Any:
    """A tokenizer from a Hugging Face folder, on a disk or in a bucket."""
    from transformers import AutoTokenizer

    with _as_local(place) as folder:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def save_tokenizer(tokenizer: Any, place: Location) -> None:
    """Writes a tokenizer as a Hugging Face folder, on a disk or in a bucket."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        for file in sorted(Path(folder).rglob("*")):
            if file.is_file():
                (place / file.relative_to(folder).as_posix()).upload(file)


@dataclass(frozen=True)
class TokenizerContent:
    """What the manifest says of a dataset's tokenizer."""

    folder: str
    """Relative to the artifact."""
    vocab_size: int
    end_of_text: int | None
    padding: int
    sha256: str
    """Of its `tokenizer.json`."""


def describe_tokenizer(artifact: Location, folder: str) -> TokenizerContent:
    """Loads a saved tokenizer and says what it is."""
    tokenizer = load_tokenizer(artifact / folder)
    return TokenizerContent(
        folder=folder,
        vocab_size=num_ids(tokenizer),
        end_of_text=tokenizer.eos_token_id,
        padding=padding_id(tokenizer),
        sha256=sha256(artifact / folder / "tokenizer.json"),
    )


@functools.lru_cache(maxsize=2)
def load_encoder(place: Location) -> Tokenizer:
    """Text → ids, without the seconds that importing transformers takes in each process."""
    from tokenizers import Tokenizer

    encoder = Tokenizer.from_str((place / "tokenizer.json").read_text())
    encoder.no_truncation()
    encoder.no_padding()
    # A text that spells out "<|endoftext|>" is text: only we may end a document.
    encoder.encode_special_tokens = True
    return encoder


def num_ids(tokenizer: Any) -> int:
    """Rows that an embedding needs for it: the ids of a tokenizer may have gaps."""
    return max(tokenizer.get_vocab().values(), default=-1) + 1


def padding_id(tokenizer: Any) -> int:
    """The id that fills rows up: of the padding token, else of the end of text, else 0."""
    for token_id in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token_id is not None:
            return int(token_id)
    return 0


@contextmanager
def _as_local(place: Location) -> Iterator[Path]:
    if place.is_local:
        yield place.local_path
        return
    folder = Path(tempfile.mkdtemp())
    try:
        for entry in place.list():
            # A model's folder holds weights beside the tokenizer; those are not needed.
            if entry.name.endswith((".json", ".txt", ".model", ".jinja")):
                (folder / entry.name).write_bytes((place / entry.name).read_bytes())
        yield folder
    finally:
        shutil.rmtree(folder)
