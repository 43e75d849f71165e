"""Tiny models that behave like large ones, and services around them."""

import pytest
import torch

from raymodel.modality.text import TextProcessor
from raymodel.serve.spec import ServeSpec
from raymodel.tasks import get_task
from raymodel.testing.tiny import (
    build_tiny_bert,
    build_tiny_llama,
    round_weights,
    train_tiny_tokenizer,
)

TEXTS = [
    "def read_file(items): return items",
    "naïve café – 東京 🙂 🙂",
    "user: hi\nassistant: hello\n",
]


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer():
    return train_tiny_tokenizer(TEXTS * 3, vocab_size=300)


@pytest.fixture(scope="session")
def llama(tokenizer):
    # Large initial weights: a random model then prefers different tokens in different places.
    model = build_tiny_llama(
        vocab_size=len(tokenizer), max_positions=512, seed=10, initializer_range=0.4
    )
    return round_weights(model).eval()


@pytest.fixture(scope="session")
def bert(tokenizer):
    return build_tiny_bert(("no", "maybe", "yes"), vocab_size=len(tokenizer)).eval()


@pytest.fixture(scope="session")
def causal_lm(tokenizer):
    return get_task("causal_lm")(processor=TextProcessor(tokenizer))


@pytest.fixture(scope="session")
def text_classification(tokenizer):
    return get_task("text_classification")(processor=TextProcessor(tokenizer))


@pytest.fixture
def generation(llama, causal_lm):
    from raymodel.serve.generation import GenerationService

    spec = ServeSpec(engine="transformers", batch=2, queue=2, max_tokens=400, timeout="5min")
    service = GenerationService(llama, causal_lm, name="tiny", spec=spec)
    yield service
    service.close()


@pytest.fixture
def classification(bert, text_classification):
    from raymodel.serve.prediction import PredictionService

    spec = ServeSpec(batch=2, queue=2)
    service = PredictionService(bert, text_classification, name="tiny", spec=spec)
    yield service
    service.close()


@pytest.fixture(scope="session")
def t5(tokenizer):
    from raymodel.model.build import build_model
    from raymodel.model.initial import InitialWeights
    from raymodel.model.materialise import materialise
    from raymodel.model.spec import ModelSpec

    fields = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    task = get_task("seq2seq_lm")()
    needed = TextProcessor(tokenizer).model_fields(None)
    outline = build_model(ModelSpec(architecture="t5", config=fields), task, needed)
    return materialise(outline, InitialWeights(outline, 0), torch.float32).eval()


@pytest.fixture
def translation(t5, tokenizer):
    from raymodel.serve.prediction import PredictionService

    spec = ServeSpec(batch=2, queue=2, max_tokens=5, beams=2)
    task = get_task("seq2seq_lm")(processor=TextProcessor(tokenizer))
    service = PredictionService(t5, task, name="tiny", spec=spec)
    yield service
    service.close()
