"""A tiny service of every kind of answer, which says nothing that makes sense."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raymodel.testing.scenes import SMALL_DETR, SMALL_SEGFORMER
from raymodel.testing.tiny import (
    build_tiny_llama,
    round_weights,
    train_pair_tokenizer,
    train_tiny_tokenizer,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from raymodel.serve.gate import Gate
    from raymodel.serve.service import Service
    from raymodel.serve.spec import ServeSpec
    from raymodel.tasks.base import Task

TEXTS = ["def read_file(items): return items", "naïve café – 東京 🙂", "user: hi\nassistant: hi\n"]
NAME = "tiny"
"""What clients call each."""
_BERT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
_CLASSES, _TAGS = ("no", "maybe", "yes"), ("O", "B-PER", "I-PER")
# Task → labels, architecture and configuration.
_TEXT_MODELS: dict[str, tuple[tuple[str, ...], str, dict[str, Any]]] = {
    "text_classification": (_CLASSES, "bert", _BERT),
    "multi_label_classification": (_CLASSES, "bert", _BERT),
    "text_regression": ((), "bert", _BERT),
    "token_classification": (_TAGS, "bert", _BERT),
    "question_answering": ((), "bert", _BERT | {"type_vocab_size": 2}),
    "ranking": ((), "bert", _BERT | {"type_vocab_size": 2}),
    "masked_lm": ((), "bert", _BERT),
    "embedding": ((), "bert", _BERT),
    "seq2seq_lm": (
        (),
        "t5",
        {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4},
    ),
}
_IMAGE_MODELS: dict[str, tuple[tuple[str, ...], str, dict[str, Any]]] = {
    "image_classification": (
        _CLASSES,
        "resnet",
        {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1], "layer_type": "basic"},
    ),
    "object_detection": (_CLASSES, "detr", SMALL_DETR),
    "image_segmentation": (
        _CLASSES,
        "segformer",
        SMALL_SEGFORMER,
    ),
}
GENERATORS = ("causal_lm", "tools")
"""The second has a chat template that shows functions."""
SERVICES = (*GENERATORS, *_TEXT_MODELS, *_IMAGE_MODELS, "speech_ctc")
"""Names of tasks, but for `tools`."""


def tiny_service(name: str, spec: ServeSpec) -> Service:
    """One of `SERVICES`."""
    if name in GENERATORS:
        return _generator(spec, with_tools=name == "tools")
    from raymodel.serve.prediction import PredictionService

    labels, architecture, config = _model_of(name)
    task = _task_of(name, labels)
    model = _build(task, architecture, config)
    plain = type(task)(labels=labels, processor=task.processor)  # knows nothing of a job
    return PredictionService(model, plain, name=NAME, spec=spec)


def tiny_app(*services: Service) -> Gate:
    """The application of a service; of a generator and an embedder, one that answers from
    documents, and finds the same in each question."""
    from raymodel.serve.app import build_app, build_inner
    from raymodel.serve.flow import Flow
    from raymodel.serve.gate import Gate
    from raymodel.serve.grounded import Grounded
    from raymodel.serve.library import Found

    if len(services) == 1:
        return build_app(services[0])
    chat, embedder = services

    async def find(questions: Sequence[str]) -> Sequence[Found]:
        return [Found("names.md", TEXTS[1], 0.5)]

    async def health() -> dict[str, Any]:
        return chat.health()

    async def documents() -> dict[str, Any]:
        return {"files": 1}

    inner, finder = build_inner(chat), build_inner(embedder)
    grounded = Grounded(inner, finder, find, 20, (health, documents))
    return Gate(grounded, grounded.health, Flow(4, 20), name=NAME)


def _generator(spec: ServeSpec, *, with_tools: bool) -> Service:
    from raymodel.modality.text import TextProcessor
    from raymodel.serve.generation import GenerationService
    from raymodel.tasks import get_task
    from raymodel.testing.families import build_tokenizer
    from raymodel.testing.tool_families import PARAMETERS

    tokenizer = build_tokenizer(PARAMETERS) if with_tools else train_tiny_tokenizer(TEXTS * 3)
    # Large initial weights: a random model then prefers different tokens in different places.
    model = build_tiny_llama(
        vocab_size=len(tokenizer), max_positions=2048, seed=10, initializer_range=0.4
    )
    task = get_task("causal_lm")(processor=TextProcessor(tokenizer))
    if with_tools:
        closing = tokenizer.convert_tokens_to_ids(PARAMETERS.closing)
        model.generation_config.eos_token_id = closing
    model.train(False)
    return GenerationService(round_weights(model), task, name=NAME, spec=spec)


def _model_of(name: str) -> tuple[tuple[str, ...], str, dict[str, Any]]:
    from raymodel.testing.sounds import SMALL_WAVE

    return {**_TEXT_MODELS, **_IMAGE_MODELS, "speech_ctc": ((), "wav2vec2", SMALL_WAVE)}[name]


def _task_of(name: str, labels: tuple[str, ...]) -> Task:
    from raymodel.modality.embedding import EmbeddingProcessor
    from raymodel.modality.image import ImageProcessor
    from raymodel.modality.text import TextProcessor, train_tokenizer
    from raymodel.tasks import get_task
    from raymodel.tasks.spec.audio import SpeechCTCSpec

    kind = get_task(name)
    if name == "speech_ctc":
        said = SpeechCTCSpec.model_validate({"audio": {"max_seconds": 2}, "alphabet": "abc"})
        return kind(said, processor=kind(said).fresh_processor())
    if name in _IMAGE_MODELS:
        half = (0.5,) * 3
        reads = ImageProcessor(size=(16, 24), channels=3, mean=half, std=half)
        return kind(labels=labels, processor=reads)
    if name in ("question_answering", "ranking"):
        return kind(processor=TextProcessor(train_pair_tokenizer(TEXTS)))
    if name == "masked_lm":
        return kind(processor=TextProcessor(train_tokenizer(TEXTS * 3, 320, mask=True)))
    of_texts = EmbeddingProcessor if name == "embedding" else TextProcessor
    return kind(labels=labels, processor=of_texts(train_tiny_tokenizer(TEXTS * 3)))


def _build(task: Task, architecture: str, config: dict[str, Any]) -> Any:
    import torch

    from raymodel.model.build import build_model
    from raymodel.model.initial import InitialWeights
    from raymodel.model.materialise import materialise
    from raymodel.model.spec import ModelSpec

    length = 64 if architecture == "bert" else None
    needed = task.processor.model_fields(length)
    outline = build_model(ModelSpec(architecture=architecture, config=config), task, needed)
    model = materialise(outline, InitialWeights(outline, 1), torch.float32)
    model.train(False)
    return model
