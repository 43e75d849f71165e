"""A tokenizer as the fields of a GGUF file: byte-level BPE, which is what GGUF can say exactly.

GGUF names a way of cutting text before the merges and does not describe it, so a tokenizer is taken
only where its own rules are those of a name that llama.cpp knows.
Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, "Tokenizer"; the regular
expressions are those of the published tokenizer.json files.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from raymodel.errors import ArtifactError

if TYPE_CHECKING:
    import gguf
    from transformers import PreTrainedTokenizerBase

_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5  # gguf.TokenType
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}"
    r"| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# What cuts the text, in the order of tokenizer.json → the name, and whether a piece that is a token
# is taken whole before any merge.
_CUTS: dict[tuple[tuple[str, Any], ...], tuple[str, bool]] = {
    (("ByteLevel", True),): ("gpt-2", False),
    (("Digits", True), ("ByteLevel", True)): ("smollm", False),
    (("Split", _WORDS.format(digits=r"\p{N}{1,3}")), ("ByteLevel", False)): ("llama-bpe", True),
    (("Split", _WORDS.format(digits=r"\p{N}")), ("ByteLevel", False)): ("qwen2", False),
}
_NORMALISERS = {"qwen2": "NFC"}  # which llama.cpp leaves out for this name
_SPECIAL = ("bos", "eos", "unk", "pad")
_WORDS_OF_SPECIAL = {"unk": "unknown", "pad": "padding"}


class GgufTokenizer:
    """What a GGUF file says of a tokenizer.

    Args:
        tokenizer: of the model's folder.
        rows: of the model's embedding; each is a token of the file.
        ends: the ids at which an answer ends.

    Raises:
        ArtifactError: GGUF cannot say it.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, rows: int, ends: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise _unsaid("it is a slow one, without a tokenizer.json")
        data = json.loads(backend.to_str())
        self.pre = _pre_tokenizer(data)
        self._merges = [
            each if isinstance(each, str) else " ".join(each) for each in data["model"]["merges"]
        ]
        self._tokens, self._types = _vocabulary(data, rows)
        self._ends = ends
        self._adds = _added_around(tokenizer)

    def add_to(self, writer: gguf.GGUFWriter) -> None:
        """Writes the fields."""
        writer.add_tokenizer_model("gpt2")  # which means BPE over bytes
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(self._tokens)
        writer.add_token_types(self._types)
        writer.add_token_merges(self._merges)
        for word in _SPECIAL:
            token_id = getattr(self._tokenizer, f"{word}_token_id")
            if token_id is not None:
                name = _WORDS_OF_SPECIAL.get(word, word)
                writer.add_uint32(f"tokenizer.ggml.{name}_token_id", int(token_id))
        if turn_ends := sorted(self._ends - {self._tokenizer.eos_token_id}):
            # The format has room for one besides; readers find the others by their usual names.
            writer.add_eot_token_id(turn_ends[0])
        writer.add_add_bos_token(self._adds[0])
        writer.add_add_eos_token(self._adds[1])
        template = getattr(self._tokenizer, "chat_template", None)
        if isinstance(template, str):
            writer.add_chat_template(template)


def _vocabulary(data: dict[str, Any], rows: int) -> tuple[list[str], list[int]]:
    """The text and the kind of every row of the embedding."""
    named: dict[int, tuple[str, int]] = {
        token_id: (text, _NORMAL) for text, token_id in data["model"]["vocab"].items()
    }
    for added in data["added_tokens"]:
        kind = _CONTROL if added["special"] else _USER_DEFINED
        named[added["id"]] = added["content"], kind
    if max(named) >= rows:
        raise ArtifactError(
            f"the tokenizer has the id {max(named)} and its model {rows} rows of embeddings; take "
            "the tokenizer that the model was trained with"
        )
    filled = [named.get(row, (f"[PAD{row}]", _UNUSED)) for row in range(rows)]
    return [text for text, _ in filled], [kind for _, kind in filled]


def _pre_tokenizer(data: dict[str, Any]) -> str:
    """llama.cpp's name for the way in which the text is cut."""
    model = data["model"]
    if model["type"] != "BPE":
        raise _unsaid(f"it is a {model['type']} model, and only BPE over bytes is written")
    if model.get("byte_fallback") or model.get("dropout"):
        raise _unsaid("it falls back to bytes, or drops merges: it is not BPE over bytes")
    if not model["merges"]:
        raise _unsaid("it has no merges, without which its readers find none")
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise _unsaid("its tokens carry a mark of where a word goes on or ends")
    cuts = tuple(_cuts(data.get("pre_tokenizer")))
    name, is_whole = _CUTS.get(cuts, ("", False))
    if not name:
        raise _unsaid(
            f"it cuts text in a way that has no name there ({_shown(cuts)}); known are those of "
            "GPT-2, Llama 3, Qwen 2 and SmolLM"
        )
    normaliser = (data.get("normalizer") or {}).get("type")
    if normaliser not in (None, _NORMALISERS.get(name)):
        raise _unsaid(f"it changes text before it cuts it ({normaliser})")
    if bool(model.get("ignore_merges")) != is_whole:
        raise _unsaid(f"its ignore_merges is not that of {name}")
    return name


def _cuts(stage: dict[str, Any] | None) -> Iterator[tuple[str, Any]]:
    """Each step that cuts text, with what decides how."""
    kind = None if stage is None else stage["type"]
    match kind:
        case "Sequence":
            for each in stage["pretokenizers"]:  # type: ignore[index]
                yield from _cuts(each)
        case "ByteLevel" if not stage["add_prefix_space"]:  # type: ignore[index]
            yield kind, stage["use_regex"]  # type: ignore[index]
        case "Digits":
            yield kind, stage["individual_digits"]  # type: ignore[index]
        case "Split" if stage["behavior"] == "Isolated" and not stage["invert"]:  # type: ignore[index]
            yield kind, stage["pattern"].get("Regex")  # type: ignore[index]
        case _:
            yield str(kind), stage and json.dumps(stage)[:60]


def _shown(cuts: tuple[tuple[str, Any], ...]) -> str:
    return ", ".join(f"{kind} {str(how)[:40]}" for kind, how in cuts)


def _added_around(tokenizer: PreTrainedTokenizerBase) -> tuple[bool, bool]:
    """Whether a text gets the token of its beginning, and of its end."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    starts = whole[:1] == [tokenizer.bos_token_id] and whole[1 : 1 + len(plain)] == plain
    ends = whole[-1:] == [tokenizer.eos_token_id] and len(whole) == starts + len(plain) + 1
    if len(whole) != starts + len(plain) + ends:
        raise _unsaid("it puts other special tokens around a text than those of its two ends")
    return starts, ends


def _unsaid(why: str) -> ArtifactError:
    return ArtifactError(
        f"the model's tokenizer cannot be written as GGUF: {why}. Export it as a folder instead "
        "(--to folder), which every tokenizer can be"
    )
