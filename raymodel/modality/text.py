"""Text: a tokenizer that is loaded, or trained on the corpus; here as a byte-level BPE."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Collection, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from raymodel.errors import ArtifactError
from raymodel.modality.base import ModelFields, Processor, as_local
from raymodel.spec.show import show
from raymodel.storage.uri import Location

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from raymodel.modality.chat import ChatFormat

END_OF_TEXT = "<|endoftext|>"
PADDING = "<|padding|>"
MASK = "<|mask|>"
SENTINEL = "<extra_id_{}>"
"""Stands for the run of tokens of that number, from 0, that was taken out of a text: T5's name."""
# Roles of a conversation for whatever template is laid over the model later. Named after no one's
# chat format, and there from the start, because a vocabulary cannot grow without new weights.
ROLES = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")


def other_specials(sentinels: int) -> list[str]:
    """The special tokens of a tokenizer beside the end of a text, padding and what hides a token.

    Args:
        sentinels: so many of them stand for runs of hidden ones.
    """
    return [*ROLES, *(SENTINEL.format(number) for number in range(sentinels))]


def hidden_tokens(mask: bool) -> list[AddedToken]:
    """The token that stands for a hidden one, where there is to be one. A token comes with the
    space before it, so what hides one stands for that space too."""
    from tokenizers import AddedToken

    return [AddedToken(MASK, lstrip=True, normalized=False, special=True)] if mask else []


def with_specials(
    tokenizer: Tokenizer, *, mask: bool, sentinels: int, **named: str
) -> PreTrainedTokenizerFast:
    """A trained tokenizer that knows what its special tokens are for.

    Args:
        mask: see `hidden_tokens`.
        sentinels: see `other_specials`.
        named: further ones, by transformers' names.
    """
    from transformers import PreTrainedTokenizerFast

    hidden = hidden_tokens(mask)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,  # a text begins where another ended
        eos_token=END_OF_TEXT,
        pad_token=PADDING,
        **named,
        additional_special_tokens=other_specials(sentinels),
        **({"mask_token": hidden[0]} if hidden else {}),
        clean_up_tokenization_spaces=False,
    )


def train_tokenizer(
    texts: Collection[str], vocab_size: int, *, mask: bool = False, sentinels: int = 0
) -> PreTrainedTokenizerFast:
    """`learn_bytes`, as transformers has it."""
    tokenizer = learn_bytes(texts, vocab_size, mask=mask, sentinels=sentinels)
    return with_specials(tokenizer, mask=mask, sentinels=sentinels)


def learn_bytes(
    texts: Collection[str], vocab_size: int, *, mask: bool = False, sentinels: int = 0
) -> Tokenizer:
    """Trains a byte-level BPE (arXiv:1508.07909, GPT-2's pre-tokenisation by bytes).

    Every byte is in the vocabulary, so every text is represented and decodes to itself. The same
    texts give the same tokenizer, in whatever order and on however many threads.

    Args:
        texts: what to train on; gone through several times and never held. What is held is each
            distinct word.
        vocab_size: tokens in all, specials included; fewer when the text does not hold as many.
        mask: one of the special tokens stands for a hidden one.
        sentinels: so many of them stand for runs of hidden ones.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    from raymodel.modality.unspaced import cut_runs  # imports numpy
    from raymodel.modality.words import byte_words

    # What decides the vocabulary, and how it is applied, is written though it is the default.
    tokenizer = Tokenizer(models.BPE(dropout=None, byte_fallback=False, ignore_merges=False))
    by_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=0,
        special_tokens=[END_OF_TEXT, PADDING, *other_specials(sentinels), *hidden_tokens(mask)],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    marked = cut_runs(texts, vocab_size)
    # They are words already, in its alphabet.
    tokenizer.pre_tokenizer = pre_tokenizers.CharDelimiterSplit(" ")
    tokenizer.train_from_iterator(byte_words(texts if marked is None else marked), trainer)
    tokenizer.pre_tokenizer = by_bytes
    return tokenizer


class EncodedPair(NamedTuple):
    """Two texts as a model reads them."""

    input_ids: list[int]
    token_type_ids: list[int] | None
    """The number of the text of each token; None where the tokenizer does not tell it."""
    pair_start: int
    """The place of the first token of the second text."""
    is_cut: tuple[bool, bool]
    """Whether each lost its end."""


class TextProcessor(Processor):
    """A tokenizer of transformers."""

    modality = "text"
    file = "tokenizer.json"

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    @classmethod
    def load(cls, place: Location) -> Self:
        """The tokenizer of a Hugging Face folder."""
        from transformers import AutoTokenizer

        try:
            with as_local(place) as folder:
                return cls(AutoTokenizer.from_pretrained(folder, local_files_only=True))
        except Exception as error:  # transformers and its Rust half end in errors of every kind
            seen = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise ArtifactError(
                f"{place} holds no tokenizer that can be loaded: {seen}; copy tokenizer.json and "
                "tokenizer_config.json to it from where the model comes from"
            ) from error

    def save_pretrained(self, folder: Path) -> None:
        """`tokenizer.json` and what belongs to it."""
        self.tokenizer.save_pretrained(folder)

    @functools.cached_property
    def chat(self) -> ChatFormat:
        """How it writes conversations."""
        from raymodel.modality.chat import ChatFormat

        return ChatFormat(self.tokenizer)

    @property
    def num_ids(self) -> int:
        """Rows that an embedding needs for it: the ids of a tokenizer may have gaps."""
        return max(self.tokenizer.get_vocab().values(), default=-1) + 1

    @property
    def end_of_text(self) -> int | None:
        """The id that closes a document; None where the tokenizer has none. Encoders call it
        `sep_token`."""
        token_id: int | None = self.tokenizer.eos_token_id
        return self.tokenizer.sep_token_id if token_id is None else token_id

    @property
    def padding(self) -> int:
        """The id that fills rows up: of the padding token, else of the end of text, else 0.

        It bears no loss and is masked, so any id serves.
        """
        for token_id in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id):
            if token_id is not None:
                return int(token_id)
        return 0

    @property
    def unknown(self) -> int | None:
        """Where the tokenizer calls one so that is nothing else besides, as GPT-2's is."""
        token_id: int | None = self.tokenizer.unk_token_id
        return None if token_id in (self.end_of_text, self.padding) else token_id

    @functools.cached_property
    def sentinels(self) -> tuple[int, ...]:
        """The ids that stand for runs of hidden tokens, in their order."""
        vocab = self.tokenizer.get_vocab()
        names = map(SENTINEL.format, itertools.count())
        return tuple(vocab[name] for name in itertools.takewhile(vocab.__contains__, names))

    def encode(self, text: str, max_length: int | None) -> tuple[list[int], bool]:
        """Ids with the special tokens, and whether a text that is too long lost its end."""
        ids: list[int] = self.tokenizer(text, verbose=False)["input_ids"]
        if max_length is None or len(ids) <= max_length:
            return ids, False
        return self.tokenizer(text, truncation=True, max_length=max_length)["input_ids"], True

    @property
    def makes_token_types(self) -> bool:
        """Whether it numbers the two texts of a pair, for models that were made to see that."""
        return "token_type_ids" in self.tokenizer.model_input_names

    def encode_pair(self, text: str, text_pair: str, max_length: int | None) -> EncodedPair:
        """Two texts in the form that the tokenizer has for pairs; of those that are too long
        together the longer one loses its end first.

        Raises:
            ValueError: it has no form for pairs, it is a slow one, or `max_length` leaves no room
                for text.
        """
        self.check_pairs()
        whole = self.tokenizer(text, text_pair, verbose=False)
        kept = whole
        if max_length is not None and len(whole["input_ids"]) > max_length:
            special = self.tokenizer.num_special_tokens_to_add(pair=True)
            if max_length < special + 2:
                raise ValueError(
                    f"max_length {max_length}: the tokenizer adds {special} special tokens to a "
                    "pair, and each text needs room for a token beside them; raise it"
                )
            kept = self.tokenizer(
                text, text_pair, truncation="longest_first", max_length=max_length
            )
        before, after = whole.sequence_ids(), kept.sequence_ids()
        ids = kept["input_ids"]
        return EncodedPair(
            input_ids=ids,
            token_type_ids=kept["token_type_ids"] if self.makes_token_types else None,
            pair_start=after.index(1) if 1 in after else len(ids),
            is_cut=(before.count(0) > after.count(0), before.count(1) > after.count(1)),
        )

    def check_pairs(self) -> None:
        """Raises ValueError where the tokenizer has no form for two texts."""
        _ = self._has_pairs  # asked once, and not for every pair

    @cached_property
    def _has_pairs(self) -> bool:
        if not self.tokenizer.is_fast:
            raise ValueError(
                f"{type(self.tokenizer).__name__} is a slow tokenizer, which does not tell where "
                "the second text of a pair begins; pairs need a fast one. Save it with a "
                "tokenizer.json"
            )
        parts = self.tokenizer("a", "b").sequence_ids()
        if None not in parts[parts.index(0) : parts.index(1)] and not self.makes_token_types:
            raise ValueError(
                "the tokenizer has no form for pairs: it puts nothing between two texts; write "
                'both into one, with what parts them, such as text: "{text}\\n{text_pair}", and '
                "leave the role text_pair out"
            )
        return True

    def decode(self, ids: Sequence[int]) -> str:
        """The text of one sequence, exactly as it was, without special tokens."""
        return str(
            self.tokenizer.decode(
                list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )

    def facts(self) -> dict[str, Any]:
        """`vocab_size`, `padding`, and where there are none None: `end_of_text`, `mask`; how many
        `sentinels` there are."""
        return {
            "vocab_size": self.num_ids,
            "end_of_text": self.end_of_text,
            "padding": self.padding,
            "mask": self.tokenizer.mask_token_id,
            "sentinels": len(self.sentinels),
        }

    def find_difference(self, other: Processor) -> str | None:
        """None where an id is the same piece of text to both, and a text is cut into the same ones.
        What is put around a text, and what its special tokens are for, may differ."""
        if not isinstance(other, TextProcessor):
            return super().find_difference(other)
        own, others = self.tokenizer.get_vocab(), other.tokenizer.get_vocab()
        if len(own) != len(others):
            return f"one has {len(own):,} tokens and the other {len(others):,}"
        for token, token_id in own.items():
            if others.get(token) != token_id:
                told = "no token" if token not in others else str(others[token])
                return f"{show(token)} is {token_id} to one and {told} to the other"
        parts, others_parts = self._parts(), other._parts()
        names = [name for name, part in parts.items() if part != others_parts[name]]
        return f"they cut texts in another way ({', '.join(names)})" if names else None

    def _parts(self) -> dict[str, Any]:
        """Of what cuts a text into tokens."""
        whole = json.loads(self.tokenizer.backend_tokenizer.to_str())
        return {name: whole.get(name) for name in ("model", "normalizer", "pre_tokenizer")}

    def model_fields(self, max_length: int | None) -> ModelFields:
        """A row of the embedding for each id, a position for each token, and the special ids."""
        at_least = {"vocab_size": self.num_ids}
        if max_length is not None:
            at_least["max_position_embeddings"] = max_length
        special = {
            "pad_token_id": self.padding,
            "eos_token_id": self.tokenizer.eos_token_id,
            # Prompts start without a special token; the default of 1 would be an ordinary token.
            "bos_token_id": None,
            "cls_token_id": self.tokenizer.cls_token_id,
            "sep_token_id": self.tokenizer.sep_token_id,
            "mask_token_id": self.tokenizer.mask_token_id,
            # As T5 does: what is written begins after padding, and may end anywhere.
            "decoder_start_token_id": self.padding,
            "forced_eos_token_id": None,
        }
        return ModelFields(at_least=at_least, given=special)

    def check_fits(self, model: PreTrainedModel) -> None:
        """Every id that a text can become has a row in the model's embedding."""
        embedding: Any = model.get_input_embeddings()
        if embedding is None:
            return  # of a plain module that looks ids up in another way
        rows, ids = embedding.weight.shape[0], self._usable_ids()
        if ids > rows:
            raise ValueError(
                f"the tokenizer has {ids:,} ids and its model {rows:,} rows of embeddings; each id "
                "needs one. Take the tokenizer that the model was trained with, or add rows with "
                "model.resize_token_embeddings(len(tokenizer)) and save both again"
            )

    def _usable_ids(self) -> int:
        """The highest id that a text can become, and one.

        Published text models have ids without a row for what only their siblings read (Gemma 3 of
        a billion parameters: a soft token of images). Those are special and play no part in text.
        """
        tokenizer = self.tokenizer
        in_text = {str(token) for token in tokenizer.special_tokens_map.values()}
        special = set(tokenizer.all_special_tokens) - in_text
        for token_id, token in getattr(tokenizer, "added_tokens_decoder", {}).items():
            if token.special and str(token) not in in_text:
                special.add(str(tokenizer.convert_ids_to_tokens(token_id)))
        return max((i + 1 for t, i in tokenizer.get_vocab().items() if t not in special), default=0)


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


def unknown_id(encoder: Tokenizer) -> int | None:
    """The id that an encoder gives to what it has no token for; None where it has one for all."""
    if encoder.model.__class__.__name__ == "Unigram":  # which tells it nowhere else
        token_id: int | None = json.loads(encoder.to_str())["model"]["unk_id"]
        return token_id
    name: str | None = getattr(encoder.model, "unk_token", None)
    return None if name is None else encoder.token_to_id(name)
