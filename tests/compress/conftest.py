"""A tiny model that writes, and its tokenizer."""

import pytest

from raymodel.modality.text import TextProcessor
from raymodel.testing.tiny import build_tiny_llama, train_tiny_tokenizer


@pytest.fixture(scope="module")
def processor():
    return TextProcessor(train_tiny_tokenizer(["some text to learn merges from"]))


@pytest.fixture(scope="module")
def llama():
    return build_tiny_llama(initializer_range=0.3, max_positions=128).eval()
