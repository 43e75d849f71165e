"""Models and text small enough for a test, real enough to behave like the large ones."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raymodel.modality.base import ModelFields

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"
_SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
TINY_LLAMA: dict[str, Any] = {
    "architecture": "llama",
    "config": _SMALL | {"num_key_value_heads": 2},
}
"""`model` of a job."""
TINY_BATCH = 8
"""The global batch of `tiny_job`, in rows."""
_VERBS = ("read", "write", "open", "close", "count", "merge", "split", "sort", "find", "drop")
_NOUNS = ("file", "line", "row", "word", "key", "value", "block", "table", "queue", "node")


def build_tiny_llama(*, seed: int = 0, **fields: Any) -> PreTrainedModel:
    """A Llama of two layers and width 32, with grouped queries; weights from `seed` alone."""
    return _with_weights(outline_tiny_llama(**fields), seed)


def outline_tiny_llama(
    *, vocab_size: int = 300, max_positions: int = 64, **config: Any
) -> PreTrainedModel:
    """The same on the meta device."""
    from raymodel.model.build import build_model
    from raymodel.model.spec import ModelSpec
    from raymodel.tasks import get_task

    fields = TINY_LLAMA["config"] | config
    return build_model(
        ModelSpec(architecture="llama", config=fields),
        get_task("causal_lm")(),
        _needed(vocab_size, max_positions, eos_token_id=0),
    )


def build_tiny_bert(
    labels: Iterable[str] = ("no", "yes"), *, vocab_size: int = 300, seed: int = 0
) -> PreTrainedModel:
    """A BERT classifier of two layers and width 32; weights from `seed` alone."""
    return _with_weights(outline_tiny_bert(labels, vocab_size=vocab_size), seed)


def outline_tiny_bert(
    labels: Iterable[str] = ("no", "yes"), *, vocab_size: int = 300
) -> PreTrainedModel:
    """The same on the meta device."""
    from raymodel.model.build import build_model
    from raymodel.model.spec import ModelSpec
    from raymodel.tasks import get_task

    return build_model(
        ModelSpec(architecture="bert", config=_SMALL),
        get_task("text_classification")(labels=tuple(labels)),
        _needed(vocab_size, 64, eos_token_id=None),
    )


def _needed(vocab_size: int, max_positions: int, eos_token_id: int | None) -> ModelFields:
    """As `TextProcessor.model_fields` of such a tokenizer."""
    return ModelFields(
        at_least={"vocab_size": vocab_size, "max_position_embeddings": max_positions},
        given={"pad_token_id": 1, "eos_token_id": eos_token_id, "bos_token_id": None},
    )


def _with_weights(model: PreTrainedModel, seed: int) -> PreTrainedModel:
    import torch

    from raymodel.model.initial import InitialWeights
    from raymodel.model.materialise import materialise

    return materialise(model, InitialWeights(model, seed), torch.float32)


def write_tiny_corpus(folder: Path, *, num_documents: int = 40, seed: int = 0) -> list[Path]:
    """Writes small Python modules of documented functions, all different; returns their paths.

    They read as `text` (a document a file) and as `python_functions` (code and docstring).
    """
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(seed)
    paths = []
    for index in range(num_documents):
        functions = [
            _function(draw.choice(_VERBS), draw.choice(_NOUNS), draw.randint(1, 99))
            for _ in range(draw.randint(2, 5))
        ]
        path = folder / f"module_{index:03}.py"
        header = f'"""Module {index}."""\n\n\n'
        path.write_text(header + "\n\n".join(functions), encoding="utf-8")
        paths.append(path)
    return paths


def _function(verb: str, noun: str, number: int) -> str:
    return (
        f"def {verb}_{noun}(items):\n"
        f'    """{verb.capitalize()} each {noun} up to {number}."""\n'
        f"    return [{verb}({noun}) for {noun} in items[:{number}]]\n"
    )


def tiny_job(folder: Path, name: str = "tiny", **pretrain: Any) -> dict[str, Any]:
    """A job file's content: two workers train a tiny Llama on `folder`/corpus.

    Args:
        folder: holds `corpus`, from `write_tiny_corpus`.
        name: of the job.
        pretrain: fields of its `pretrain:` section, besides model and batch.
    """
    return {
        "name": name,
        "seed": 7,
        "cluster": {"workers": 2},
        "prepare": {
            "sources": [{"path": str(folder / "corpus")}],
            "tokenizer": {"vocab_size": 300},
            "sequence_length": 16,
            "holdout": "20%",
        },
        "pretrain": {
            "model": TINY_LLAMA,
            "global_batch": TINY_BATCH,
            "log_every": "1 step",
            **pretrain,
        },
    }


def train_tiny_tokenizer(texts: Iterable[str], vocab_size: int = 300) -> PreTrainedTokenizerFast:
    """A byte-level BPE; id 0 is the end-of-text token and id 1 the padding."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT, "<|pad|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, eos_token=END_OF_TEXT, pad_token="<|pad|>"
    )


def train_pair_tokenizer(texts: Iterable[str], vocab_size: int = 300) -> PreTrainedTokenizerFast:
    """The same with the form for pairs that BERT's has: `[CLS] a [SEP] b [SEP]`, and types."""
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    tokenizer = train_tiny_tokenizer(texts, vocab_size - 2).backend_tokenizer
    tokenizer.add_special_tokens(["[CLS]", "[SEP]"])
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="<|pad|>",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def round_weights(model: PreTrainedModel) -> PreTrainedModel:
    """Rounds the weights to what float16 holds, so that an engine with such weights says the same,
    token by token. Buffers stay: rounded rotary frequencies would be another model's."""
    for weight in model.parameters():
        weight.data = weight.data.half().float()
    return model


class ModelWeights:
    """The weights that a model in memory has."""

    def __init__(self, model: Any) -> None:
        self._weights: dict[str, Any] = model.state_dict()

    def read(self, name: str) -> Any:
        return self._weights[name]
