"""Every task with a model of two layers and thirty records: whole trainings in seconds."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tiny_runs import MODEL as LLAMA
from tiny_runs import build_work, commit_dataset

from raymodel.data.prepare import Recipe
from raymodel.data.rows import RowKind
from raymodel.data.spec import CleanSpec, SourceSpec, TokenizerSpec
from raymodel.modality.image import ImageProcessor
from raymodel.modality.text import train_tokenizer
from raymodel.storage.artifact import Artifact
from raymodel.storage.uri import Location
from raymodel.tasks import make_task
from raymodel.testing.scenes import (
    CLASSES,
    SMALL_DETR,
    STEADY_SEGFORMER,
    write_coco,
    write_masked,
)
from raymodel.testing.sounds import SMALL_WAVE, clip, write_tiny_whisper
from raymodel.testing.tiny import train_pair_tokenizer
from raymodel.train.spec import FinetuneSpec, PretrainSpec, TrainSpec
from raymodel.train.work import TrainWork

Fields = dict[str, Any]
RECORDS = 30
WORDS = ["red", "blue", "green", "fish", "tree", "sea", "rose", "stone", "cloud", "river"]
# What is dropped depends on the worker.
BERT = {
    "architecture": "bert",
    "config": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    },
}
T5 = {
    "architecture": "t5",
    "config": {
        **{"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4},
        "dropout_rate": 0.0,
    },
}
VIT = {
    "architecture": "vit",
    "config": {
        "patch_size": 4,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    },
}
MAE = {
    "architecture": "vit_mae",
    "config": {
        **VIT["config"],
        **{f"decoder_{name}": VIT["config"][name] for name in VIT["config"] if name[0] != "p"},
    },
}
SEGFORMER = {"architecture": "segformer", "config": STEADY_SEGFORMER}
DETR = {"architecture": "detr", "config": SMALL_DETR}
WAVE = {"architecture": "wav2vec2", "config": SMALL_WAVE}
SMALL = {"size": 16}
GREY = {"size": 8, "channels": 1}


@dataclass(frozen=True, kw_only=True)
class Tiny:
    """One task."""

    model: Fields | None
    """A fresh one; None where it needs a base."""
    task: Fields
    """What the job says of it besides its name."""
    source: Fields
    """In the folder of `write_sources`."""
    tokens: str = "bytes"
    """What a tokenizer that the job trains is of."""


def _of_text(model: Fields, fields: Fields, tokens: str = "bytes", **task: Any) -> Tiny:
    source = {"path": "texts.jsonl", "format": "jsonl", "fields": fields}
    return Tiny(model=model, task=task, source=source, tokens=tokens)


_CLIPS = {"path": "clips.csv", "format": "csv"}
TINY: dict[str, Tiny] = {
    "causal_lm": _of_text(LLAMA, {"prompt": "{a}", "response": "{b}"}),
    "chat": _of_text(LLAMA, {"messages": "good"}, chat_template="roles"),
    "preference": _of_text(
        LLAMA, {"prompt": "{c}", "chosen": "{a}", "rejected": "{b}"}, reference="none"
    ),
    "chat_preference": _of_text(
        LLAMA,
        {"messages": "good", "rejected": "bad"},
        chat_template="roles",
        reference="none",
    ),
    "masked_lm": _of_text(BERT, {"text": "{a}"}, "wordpiece"),
    "seq2seq_lm": _of_text(T5, {"source": "{a}", "target": "{b}"}),
    "text_classification": _of_text(LLAMA, {"text": "{a} {b}", "label": "label"}),
    "multi_label_classification": _of_text(LLAMA, {"text": "{a} {b}", "label": "labels"}),
    "text_regression": _of_text(LLAMA, {"text": "{a} {b}", "label": "number"}),
    "token_classification": _of_text(BERT, {"tokens": "tokens", "tags": "tags"}),
    "question_answering": _of_text(
        BERT, {"context": "{a}", "question": "{c}", "answers": "answers"}, "wordpiece"
    ),
    "image_classification": Tiny(
        model=VIT,
        task={"image": GREY},
        source={"path": "images", "format": "class_folders"},
    ),
    "masked_image": Tiny(model=MAE, task={}, source={"path": "images", "format": "class_folders"}),
    "image_segmentation": Tiny(
        model=SEGFORMER,
        task={"classes": CLASSES, "image": SMALL},
        source={"path": "masked", "format": "mask_folders"},
    ),
    "object_detection": Tiny(
        model=DETR, task={"image": SMALL}, source={"path": "boxed", "format": "coco"}
    ),
    "audio_classification": Tiny(model=WAVE, task={"audio": {"max_seconds": 2}}, source=_CLIPS),
    "speech_recognition": Tiny(model=None, task={}, source=_CLIPS),
    "speech_ctc": Tiny(
        model=WAVE, task={"audio": {"max_seconds": 2}, "alphabet": "abcdef"}, source=_CLIPS
    ),
    "ranking": _of_text(
        BERT,
        {"query": "{c}", "document": "{a}", "negatives": "negatives"},
        "wordpiece",
        negatives=1,
    ),
    "embedding": _of_text(BERT, {"query": "{c}", "positive": "{a}"}),
}
"""By the name of the task."""


def write_sources(folder: Path) -> None:
    """What all tasks are taught."""
    lines = ["audio,text,label"]
    for index in range(RECORDS):
        text = "ab" + "".join("abcdef"[(index * step) % 6] for step in range(1, 2 + index % 4))
        (folder / f"{index}.wav").write_bytes(clip(text, seed=index))
        lines.append(f"{index}.wav,{text},{'ab'[index % 2]}")
        place = folder / "images" / ("bright" if index % 2 else "dark")
        place.mkdir(parents=True, exist_ok=True)
        chance = np.random.default_rng(index)
        pixels = chance.integers(0, 60, (8, 8), dtype=np.uint8) + 150 * (index % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(place / f"{index}.png")
    (folder / "clips.csv").write_text("\n".join(lines))
    write_texts(folder)
    write_masked(folder / "masked", RECORDS, side=32)
    write_coco(folder / "boxed", RECORDS, side=32)
    train_pair_tokenizer([" ".join(WORDS)]).save_pretrained(folder / "pairs")
    train_tokenizer([" ".join(WORDS)], 300).save_pretrained(folder / "words")
    write_tiny_whisper(folder / "whisper")


def write_texts(folder: Path) -> None:
    """The records of all tasks of text."""
    (folder / "texts.jsonl").write_text("\n".join(json.dumps(_record(i)) for i in range(RECORDS)))


def _record(index: int) -> Fields:
    a = [WORDS[(index * step) % 10] for step in range(1, 4 + index % 4)]
    b = [WORDS[(index + step) % 10] for step in range(2 + index % 3)]
    asked = {"role": "user", "content": f"{index}?"}
    return {
        "a": " ".join(a),
        "b": f"{index} {' '.join(b)}",
        "c": f"what of {index}",
        "label": "even" if index % 2 == 0 else "odd",
        "labels": [name for name, each in (("two", 2), ("three", 3)) if index % each == 0],
        "number": index / RECORDS,
        "tokens": a,
        "tags": ["B-FISH" if word == "fish" else "O" for word in a],
        "answers": {"text": [a[0]], "answer_start": [0]},
        "negatives": [WORDS[index % 7], "no such thing"],
        "good": [asked, {"role": "assistant", "content": " ".join(a)}],
        "bad": [asked, {"role": "assistant", "content": " ".join(b)}],
    }


def make_rows(name: str, folder: Path) -> Artifact:
    """The dataset of a task, of what `write_sources` wrote."""
    tiny, spec = TINY[name], spec_of(name, folder)
    source = SourceSpec.model_validate(tiny.source | {"path": f"{folder}/{tiny.source['path']}"})
    if isinstance(spec, PretrainSpec):
        kind, reads = RowKind(modality="image", length=None), ImageProcessor
        processor: Any = ImageProcessor(size=(8, 8), channels=1, mean=(0.5,), std=(0.5,))
    else:
        task = make_task(spec.task)
        reads, processor = task.processor_class(), task.fresh_processor()
        length = 48 if task.modality == "text" else None
        kind = RowKind(task=spec.task, length=length)
        if tiny.model is None:
            processor = Location.parse(str(folder / "whisper"))
        elif name == "masked_lm":
            processor = TokenizerSpec(vocab_size=300, mask=True)
        elif processor is None:
            is_bert = tiny.model["architecture"] == "bert"
            place = folder / ("pairs" if is_bert else "words")
            task = task.reading_as(Location.parse(str(place)))
            task.adapt_processor({})
            processor = task.processor
    recipe = Recipe(
        sources=(source,),
        clean=CleanSpec(),
        holdout=0.2,
        seed=7,
        kind=kind,
        reads=reads,
        processor=processor,
    )
    return commit_dataset(recipe, folder / "rows" / name, fingerprint="1" * 16)


def spec_of(name: str, folder: Path, **fields: Any) -> TrainSpec:
    """A short training."""
    tiny = TINY[name]
    run = {
        "global_batch": 4,
        "duration": "4 steps",
        "optimizer": {"name": "sgd", "learning_rate": 0.05, "weight_decay": 0.0},
        "precision": "fp32",
        "log_every": "1 step",
        "validate_every": "4 steps",
        "validate_rows": 4,
        **fields,
    }
    if name == "masked_image":
        return PretrainSpec.model_validate({"objective": name, "model": tiny.model} | run)
    source = tiny.source | {"path": f"{folder}/{tiny.source['path']}"}
    start: Fields = {"model": tiny.model} if tiny.model else {"base": str(folder / "whisper")}
    if tiny.source["format"] == "jsonl":
        start["tokenizer"] = {"vocab_size": 300}
    given = {"task": {"name": name, **tiny.task}, "sources": [source], **start}
    return FinetuneSpec.model_validate(given | run)


def work_of(
    name: str,
    rows: Artifact,
    folder: Path,
    run: Path,
    *,
    base: Location | None = None,
    **fields: Any,
) -> TrainWork:
    """A training from a base, else of a fresh model."""
    if base is None and TINY[name].model is None:
        base = Location.parse(str(folder / "whisper"))
    start = {"base": str(base), "model": None, "tokenizer": None} if base else {}
    return build_work(spec_of(name, folder, **start, **fields), rows, run, base=base)
