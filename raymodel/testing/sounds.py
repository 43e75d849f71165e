"""Sounds and models of them small enough for a test: a tone is a word, a clip a few of them."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel

    from raymodel.tasks.base import Task

RATE = 16_000
SMALL_WAVE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": [16, 16, 16],
    "conv_kernel": [10, 8, 4],
    "conv_stride": [5, 8, 8],
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "feat_proj_dropout": 0.0,
    "final_dropout": 0.0,
}
"""Of wav2vec2 and its like: frames of 320 samples, no dropout."""


def tones(text: str, seconds: float = 0.15, *, seed: int = 0, rate: int = RATE) -> Any:
    """A tone for each character, a pause for a space, with a little noise. (N,) float32"""
    each = np.arange(int(seconds * rate)) / rate
    heights = [0 if character == " " else 200 + 60 * (ord(character) % 32) for character in text]
    wave = np.concatenate([0.3 * np.sin(2 * np.pi * height * each) for height in heights])
    noise = np.random.default_rng(seed).standard_normal(len(wave))
    return (wave + 0.01 * noise).astype(np.float32)


def encoded(
    samples: Any, rate: int = RATE, format: str = "WAV", subtype: str | None = None
) -> bytes:
    """The bytes of a file."""
    import soundfile

    stream = io.BytesIO()
    soundfile.write(stream, samples, rate, format=format, subtype=subtype)
    return stream.getvalue()


def clip(text: str, seconds: float = 0.15, *, seed: int = 0) -> bytes:
    """`tones` as a file."""
    return encoded(tones(text, seconds, seed=seed))


def build_sound_model(task: Task, architecture: str, config: dict[str, Any]) -> PreTrainedModel:
    """A fresh model for the processor of a task, as a job makes it."""
    import torch

    from raymodel.model.build import build_model
    from raymodel.model.initial import InitialWeights
    from raymodel.model.materialise import materialise
    from raymodel.model.spec import ModelSpec

    spec = ModelSpec(architecture=architecture, config=config)
    model = build_model(spec, task, task.processor.model_fields(None))
    model = materialise(model, InitialWeights(model, 3), torch.float32)
    model.train(False)
    return model


def write_tiny_whisper(folder: Path, **larger: Any) -> Path:
    """A base for `speech_recognition`: windows of a second, a tokenizer of bytes.

    Args:
        larger: what its configuration has in place of the tiny sizes.
    """
    import torch
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

    from raymodel.modality.text import train_tokenizer

    tokenizer = train_tokenizer(["a few words"], 270)
    special = ["<|startoftranscript|>", "<|notimestamps|>", "<|transcribe|>", "<|en|>", "<|de|>"]
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    end = tokenizer.eos_token_id
    sizes = {
        "d_model": 16,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 16,
        "decoder_ffn_dim": 16,
    }
    config = WhisperConfig(
        **(sizes | larger),
        vocab_size=len(tokenizer),
        num_mel_bins=20,
        max_source_positions=50,
        max_target_positions=32,
        decoder_start_token_id=tokenizer.get_vocab()["<|startoftranscript|>"],
        pad_token_id=end,
        bos_token_id=end,
        eos_token_id=end,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = WhisperForConditionalGeneration(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    extractor = WhisperFeatureExtractor(feature_size=20, chunk_length=1)  # type: ignore[no-untyped-call]
    extractor.save_pretrained(folder)
    return folder
