"""What is computed slowly is said; the models that the tests train and serve are not."""

import pytest
import torch

from raymodel.errors import SlowPathError
from raymodel.modality.text import TextProcessor
from raymodel.model import kernels
from raymodel.observe.slow_paths import slow_paths
from raymodel.testing.tiny import build_tiny_bert, build_tiny_llama, train_tiny_tokenizer


def test_a_model_with_fused_attention_says_nothing() -> None:
    for model in (build_tiny_llama(), build_tiny_bert()):
        kernels.note_attention(model)
    assert slow_paths() == []


def test_attention_as_plain_matrices_is_refused_in_tests_and_told_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = build_tiny_llama()
    model.set_attn_implementation("eager")
    with pytest.raises(SlowPathError, match="attention as plain matrices"):
        kernels.note_attention(model)
    monkeypatch.delenv("RAYMODEL_SLOW_PATHS")
    kernels.note_attention(model)
    assert "LlamaForCausalLM" in slow_paths()[0].why


def test_an_architecture_without_fused_attention_is_told_and_not_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = build_tiny_llama()
    model.set_attn_implementation("eager")
    monkeypatch.setattr(type(model), "_supports_sdpa", False)
    kernels.note_attention(model)
    assert [path.what for path in slow_paths()] == ["computes attention as plain matrices"]


def test_a_gpu_that_was_asked_for_and_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert kernels.find_device(wants_gpu=False) == "cpu"
    assert slow_paths() == []
    assert kernels.find_device(wants_gpu=True) == "cpu"
    assert [path.what for path in slow_paths()] == ["computes on the CPU"]


def test_a_fast_tokenizer_says_nothing_and_one_in_python_is_refused() -> None:
    tokenizer = train_tiny_tokenizer(["some text"])
    kernels.note_processor(TextProcessor(tokenizer))
    slow = type("BertTokenizer", (), {"is_fast": False})()
    with pytest.raises(SlowPathError, match=r"BertTokenizer has no tokenizer\.json"):
        kernels.note_processor(TextProcessor(slow))


def test_a_tokenizer_that_has_no_fast_form_is_told_and_not_refused() -> None:
    slow = type("Wav2Vec2CTCTokenizer", (), {"is_fast": False})()
    kernels.note_processor(TextProcessor(slow))
    assert [path.why for path in slow_paths()] == ["Wav2Vec2CTCTokenizer has no fast form"]


def test_this_cpu_can_be_asked_whether_it_computes_in_bf16() -> None:
    assert kernels.has_fast_bf16("cpu") in (True, False)
