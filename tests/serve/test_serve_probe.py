"""What is not the model is not served, though its files have the right names and shapes."""

import json

import pytest
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast

from raymodel.errors import ArtifactError
from raymodel.serve.load import load_service
from raymodel.serve.probe import check_outputs, check_tokenizer
from raymodel.serve.spec import ServeSpec
from raymodel.testing.tiny import train_tiny_tokenizer

TASKS = {"llama": "causal_lm", "bert": "text_classification"}


@pytest.fixture(params=TASKS)
def folder(request, tokenizer, tmp_path):
    request.getfixturevalue(request.param).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path, TASKS[request.param]


def load(folder, task):
    load_service(folder, task, name="tiny", spec=ServeSpec()).close()


def change(folder, name, change_data):
    data = json.loads((folder / name).read_text())
    change_data(data)
    (folder / name).write_text(json.dumps(data))


def test_a_whole_folder_is_served(folder):
    load(*folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(folder, value):
    path, task = folder
    weights = load_file(path / "model.safetensors")
    name = next(name for name in sorted(weights) if "word_emb" in name or "embed_t" in name)
    weights[name][7, 3] = value  # of one token, which no probe need meet
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ArtifactError, match=r"holds NaN or infinity.*earlier checkpoint"):
        load(path, task)


def test_a_tokenizer_without_its_vocabulary_is_refused(folder):
    path, task = folder

    def forget(data):
        data["model"]["vocab"] = {}
        data["model"]["merges"] = []

    change(path, "tokenizer.json", forget)
    with pytest.raises(ArtifactError, match=r"the tokenizer|no tokenizer"):
        load(path, task)


def test_a_tokenizer_without_its_merges_is_refused(folder):
    path, task = folder
    change(path, "tokenizer.json", lambda data: data["model"].update(merges=[]))
    with pytest.raises(ArtifactError, match=r"finds 0 as one token.*Copy all files"):
        load(path, task)


def test_a_folder_without_tokenizer_is_refused(folder):
    path, task = folder
    for file in path.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ArtifactError):
        load(path, task)


def test_outputs_that_are_not_finite_are_refused(generation, classification, translation, tmp_path):
    for service in (generation, classification, translation):
        check_outputs(service, tmp_path)
        head = list(service.model.modules())[-1]
        hook = head.register_forward_hook(lambda module, given, output: output * float("nan"))
        try:
            with pytest.raises(ArtifactError, match=r"first question with NaN or infinity"):
                check_outputs(service, tmp_path)
        finally:
            hook.remove()


def test_a_model_that_fails_at_once_is_refused_with_its_words(classification, tmp_path):
    def fail(module, given):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied\nmore")

    hook = classification.model.register_forward_pre_hook(fail)
    try:
        with pytest.raises(ArtifactError, match=r"first question \(RuntimeError: mat1 and mat2"):
            check_outputs(classification, tmp_path)
    finally:
        hook.remove()


def tokenizers():
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    words = {"[UNK]": 0, "the": 1, "##s": 2, "cat": 3, "a": 4, "##b": 5}
    pieces = Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
    pieces.normalizer = normalizers.Lowercase()
    pieces.pre_tokenizer = pre_tokenizers.Whitespace()
    letters = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1, "b": 2, "|": 3}, unk_token="[UNK]"))
    letters.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    vocab = [("<unk>", 0.0), ("▁the", -1.0), ("▁", -2.0), ("s", -2.5), ("▁cat", -3.0)]
    unigram = Tokenizer(models.Unigram(vocab, unk_id=0))
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    for backend, unknown in ((pieces, "[UNK]"), (letters, "[UNK]"), (unigram, "<unk>")):
        yield PreTrainedTokenizerFast(tokenizer_object=backend, unk_token=unknown)


def test_tokenizers_of_every_kind_pass(tmp_path):
    for tokenizer in tokenizers():
        check_tokenizer(tokenizer, tmp_path)
    check_tokenizer(train_tiny_tokenizer(["東京 café 🙂 def"] * 5, vocab_size=280), tmp_path)
