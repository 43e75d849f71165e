"""GGUF files: what is in them, against the model that they were written from.

That the order of the rows is right is shown by tests/serve/test_serve_openvino.py, where OpenVINO
says the tokens of transformers.
"""

import errno
import shutil
from collections import namedtuple

import gguf
import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from raymodel.errors import ArtifactError, StorageError
from raymodel.modality.text import train_tokenizer
from raymodel.model.gguf import GGUF_TYPES, write_gguf
from raymodel.model.gguf_tokenizer import GgufTokenizer
from raymodel.testing.tiny import ModelWeights, build_tiny_bert, build_tiny_llama

TEXTS = ["def read_file(items): return items", "naïve café – 東京 🙂"] * 3
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@pytest.fixture(scope="module")
def tokenizer():
    tokenizer = train_tokenizer(TEXTS, 300)
    tokenizer.chat_template = "{{ messages }}"
    return tokenizer


@pytest.fixture(scope="module")
def llama():
    model = build_tiny_llama(vocab_size=310, seed=3, initializer_range=0.4)
    model.generation_config.eos_token_id = [0, 5]
    return model


def write(path, model, tokenizer, type="f16"):
    write_gguf(path, model, ModelWeights(model), tokenizer, type, name="tiny")
    return gguf.GGUFReader(path)


def field(reader, name):
    return reader.fields[name].contents()


@pytest.mark.parametrize("type", GGUF_TYPES)
def test_every_weight_is_there_up_to_the_rounding_of_its_type(type, llama, tokenizer, tmp_path):
    reader = write(tmp_path / "m.gguf", llama, tokenizer, type)
    found = {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in reader.tensors}
    weights = llama.state_dict()
    assert len(found) == len(weights)
    rounding = {"f32": 0, "f16": 2**-11, "q8_0": 1 / 254, "q4_0": 1 / 8, "q4_1": 1 / 15}[type]
    for name, source in [
        ("token_embd.weight", "model.embed_tokens.weight"),
        ("output.weight", "lm_head.weight"),
        ("blk.1.ffn_down.weight", "model.layers.1.mlp.down_proj.weight"),
        ("blk.0.attn_v.weight", "model.layers.0.self_attn.v_proj.weight"),
    ]:
        expected = weights[source].numpy()
        allowed = rounding * (2 if type == "q4_1" else 1) * np.abs(expected).max() + 1e-8
        assert np.abs(found[name] - expected).max() <= allowed, name
    norm = weights["model.layers.0.input_layernorm.weight"].numpy()
    assert np.array_equal(found["blk.0.attn_norm.weight"], norm)


def test_the_rows_of_queries_and_keys_are_in_the_order_of_llama_cpp(llama, tokenizer, tmp_path):
    reader = write(tmp_path / "m.gguf", llama, tokenizer, "f32")
    [found] = [t.data for t in reader.tensors if t.name == "blk.0.attn_k.weight"]
    rows = llama.state_dict()["model.layers.0.self_attn.k_proj.weight"].numpy()
    # Two heads of eight rows: of each head 0, 4, 1, 5, 2, 6, 3, 7.
    order = [head + row for head in (0, 8) for pair in range(4) for row in (pair, pair + 4)]
    assert np.array_equal(found, rows[order])


def test_the_fields_are_those_of_the_configuration_and_the_tokenizer(llama, tokenizer, tmp_path):
    reader = write(tmp_path / "m.gguf", llama, tokenizer)
    assert field(reader, "general.architecture") == "llama"
    assert field(reader, "general.name") == "tiny"
    for name, value in {
        "block_count": 2, "embedding_length": 32, "feed_forward_length": 64,
        "attention.head_count": 4, "attention.head_count_kv": 2, "attention.key_length": 8,
        "context_length": 64, "vocab_size": 310, "rope.freq_base": 10000.0,
    }.items():  # fmt: skip
        assert field(reader, f"llama.{name}") == value, name
    tokens = field(reader, "tokenizer.ggml.tokens")
    kinds = field(reader, "tokenizer.ggml.token_type")
    assert len(tokens) == len(kinds) == 310, "as many as the embedding has rows"
    vocab = tokenizer.get_vocab()
    assert all(tokens[token_id] == text for text, token_id in vocab.items())
    assert kinds[0] == gguf.TokenType.CONTROL
    assert kinds[100] == gguf.TokenType.NORMAL
    assert (tokens[305], kinds[305]) == ("[PAD305]", gguf.TokenType.UNUSED)
    assert field(reader, "tokenizer.ggml.pre") == "gpt-2"
    assert field(reader, "tokenizer.ggml.eos_token_id") == 0
    assert field(reader, "tokenizer.ggml.eot_token_id") == 5
    assert field(reader, "tokenizer.ggml.add_bos_token") is False
    assert field(reader, "tokenizer.chat_template") == "{{ messages }}"


def test_tied_weights_are_written_once(tokenizer, tmp_path):
    model = build_tiny_llama(tie_word_embeddings=True)
    names = [t.name for t in write(tmp_path / "m.gguf", model, tokenizer).tensors]
    assert "output.weight" not in names


def test_the_scaled_positions_of_llama_3_are_told(tokenizer, tmp_path):
    """The factors of Llama 3.2: 1 for what turns fast, 32 for what turns slowly, smooth between."""
    rope = {
        "rope_type": "llama3", "rope_theta": 5e5, "factor": 32.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
    }  # fmt: skip
    model = build_tiny_llama(head_dim=64, rope_parameters=rope, max_positions=16384)
    reader = write(tmp_path / "m.gguf", model, tokenizer, "q8_0")
    [found] = [t.data for t in reader.tensors if t.name == "rope_freqs.weight"]
    assert found.dtype == np.float32
    assert found[:15] == pytest.approx(1.0)
    assert found[-13:] == pytest.approx(32.0)
    assert (np.diff(found) > -1e-5).all()
    wavelengths = 2 * np.pi * 5e5 ** (np.arange(32) / 32)
    place = 16  # between a quarter of the old context and all of it
    assert 8192 / 4 < wavelengths[place] < 8192
    smooth = (8192 / wavelengths[place] - 1) / 3
    assert found[place] == pytest.approx(1 / ((1 - smooth) / 32 + smooth), rel=1e-4)


def test_another_family_is_refused_and_nothing_is_written(llama, tokenizer, tmp_path, monkeypatch):
    bert = build_tiny_bert(vocab_size=310)
    with pytest.raises(ArtifactError, match=r"BertForSeq\w+ is not of a family .*--to folder"):
        write(tmp_path / "m.gguf", bert, tokenizer)
    monkeypatch.setattr(llama.config, "rope_parameters", {"rope_type": "yarn", "rope_theta": 1e4})
    with pytest.raises(ArtifactError, match=r"rotary positions are scaled \(yarn\)"):
        write(tmp_path / "m.gguf", llama, tokenizer)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [1e5, float("nan"), float("inf")])
def test_a_weight_that_the_type_cannot_hold_is_refused(number, tokenizer, tmp_path):
    model = build_tiny_llama()
    model.lm_head.weight.data[3, 3] = number
    with pytest.raises(ArtifactError, match=r"lm_head\.weight holds .*, which F16 cannot hold"):
        write(tmp_path / "m.gguf", model, tokenizer)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_before_and_while_it_is_written(
    llama, tokenizer, tmp_path, monkeypatch
):
    path = tmp_path / "m.gguf"
    path.write_bytes(b"the file that was there")
    usage = namedtuple("usage", "total used free")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda folder: usage(10**9, 10**9, 1000))
        with pytest.raises(StorageError, match=r"bytes are needed and 1,000 are free"):
            write(path, llama, tokenizer)

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensor_data", full)
    with pytest.raises(StorageError, match=r"m\.gguf cannot be written: No space left on device"):
        write(path, llama, tokenizer)
    assert [file.name for file in tmp_path.iterdir()] == ["m.gguf"]
    assert path.read_bytes() == b"the file that was there"


# ---- tokenizers ----------------------------------------------------------------------------------


def fast(pre_tokenizer, model=None, normalizer=None, **special):
    backend = Tokenizer(model or models.BPE(vocab={"a": 0, "b": 1, "ab": 2}, merges=[("a", "b")]))
    backend.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        backend.normalizer = normalizer
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


def split(pattern):
    return pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip


def whole_words():
    return models.BPE(vocab={"a": 0, "b": 1, "ab": 2}, merges=[("a", "b")], ignore_merges=True)


@pytest.mark.parametrize(
    ("tokenizer", "name"),
    [
        (fast(pre_tokenizers.ByteLevel(add_prefix_space=False)), "gpt-2"),
        (
            fast(
                pre_tokenizers.Sequence([
                    pre_tokenizers.Digits(individual_digits=True),
                    pre_tokenizers.ByteLevel(add_prefix_space=False),
                ])
            ),
            "smollm",
        ),
        (fast(split(WORDS), whole_words()), "llama-bpe"),
        (fast(split(WORDS.replace("{1,3}", "")), normalizer=normalizers.NFC()), "qwen2"),
    ],
)  # fmt: skip
def test_the_way_of_cutting_text_has_the_name_of_llama_cpp(tokenizer, name):
    assert GgufTokenizer(tokenizer, 3, frozenset()).pre == name


@pytest.mark.parametrize(
    ("tokenizer", "why"),
    [
        (fast(pre_tokenizers.Whitespace()), "cuts text in a way that has no name"),
        (fast(pre_tokenizers.ByteLevel(add_prefix_space=True)), "has no name there"),
        (fast(split(r"\w+")), "has no name there"),
        (fast(split(WORDS)), "ignore_merges is not that of llama-bpe"),
        (
            fast(pre_tokenizers.ByteLevel(add_prefix_space=False), normalizer=normalizers.NFKC()),
            r"changes text before it cuts it \(NFKC\)",
        ),
        (
            fast(pre_tokenizers.Whitespace(), models.WordPiece({"a": 0, "[UNK]": 1})),
            "it is a WordPiece model",
        ),
    ],
)
def test_a_tokenizer_that_gguf_cannot_say_is_refused(tokenizer, why):
    with pytest.raises(ArtifactError, match=why):
        GgufTokenizer(tokenizer, 3, frozenset())


def test_a_tokenizer_of_a_larger_model_is_refused(tokenizer):
    with pytest.raises(ArtifactError, match="and its model 20 rows of embeddings"):
        GgufTokenizer(tokenizer, 20, frozenset())


def test_a_token_at_the_beginning_of_a_text_is_told(tmp_path):
    from tokenizers.processors import TemplateProcessing

    tokenizer = fast(pre_tokenizers.ByteLevel(add_prefix_space=False), bos_token="<s>")
    tokenizer.add_tokens([AddedToken("<tool>", special=False)])
    start = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", start)]
    )
    model = build_tiny_llama(vocab_size=8)
    reader = write(tmp_path / "m.gguf", model, tokenizer)
    assert field(reader, "tokenizer.ggml.add_bos_token") is True
    assert field(reader, "tokenizer.ggml.bos_token_id") == start
    kinds = field(reader, "tokenizer.ggml.token_type")
    tool = tokenizer.convert_tokens_to_ids("<tool>")
    assert kinds[tool] == gguf.TokenType.USER_DEFINED
    assert torch.tensor(kinds).unique().numel() >= 3
