"""One loader: what training refuses of a folder, evaluation and the server refuse in its words."""

import json
import re
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from raymodel.errors import ArtifactError
from raymodel.modality.text import TextProcessor
from raymodel.model.load import fit, load_for_use, open_model
from raymodel.serve.load import load_service, service_of
from raymodel.serve.spec import ServeSpec
from raymodel.storage.uri import Location
from raymodel.tasks import TASKS, get_task
from raymodel.tasks.base import Task
from raymodel.testing.tiny import build_tiny_bert, build_tiny_llama, train_tiny_tokenizer

HEAD = ("classifier.weight", "classifier.bias")
BODY = "bert.encoder.layer.1.output.dense.weight"


@pytest.fixture(scope="module")
def tokenizer():
    return train_tiny_tokenizer(["def read(line): return line"] * 3, vocab_size=300)


@pytest.fixture
def bert(tmp_path, tokenizer):
    build_tiny_bert(vocab_size=len(tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


def train(folder: Path, task: str) -> None:
    place = Location.parse(str(folder))
    kind = get_task(task)
    labels = ("no", "yes") if kind.draws_head else ()
    model, _ = open_model(place, kind(labels=labels))
    fit(place, model, kind(labels=labels, processor=kind.processor_class().load(place)))


def evaluate(folder: Path, task: str) -> None:
    load_for_use(folder, task)


def classification_of(folder: Path) -> Task:
    """With the processor of a folder."""
    processor = TextProcessor.load(Location.parse(str(folder)))
    return get_task("text_classification")(labels=("no", "yes"), processor=processor)


def serve(folder: Path, task: str) -> None:
    load_service(folder, task, name="tiny", spec=ServeSpec()).close()


USES = (train, evaluate, serve)


def change_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    weights = {key: tensor.contiguous() for key, tensor in weights.items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def change_config(folder, **fields):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))


def cut(folder):
    with open(folder / "model.safetensors", "r+b") as file:
        file.truncate(9000)


def lose_a_file(folder):
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="40KB")
    next(folder.glob("model-00002-*")).unlink()


@pytest.mark.parametrize(
    ("breaking", "told"),
    [
        (lambda f: change_weights(f, lambda w: w.pop(BODY)), f"lacks 1 weights .*{BODY}"),
        (lambda f: change_weights(f, lambda w: w.update({BODY: w[BODY][:8]})), "8 × 64, and .* 32"),
        (lambda f: change_config(f, num_hidden_layers=1), "no place for .*layer.1"),
        (lambda f: change_config(f, hidden_size=48), "of other shapes than its config"),
        (lambda f: change_config(f, num_attention_heads=5), "cannot be loaded"),
        (lambda f: change_config(f, vocab_size=100), "of other shapes"),
        (lambda f: (f / "config.json").write_text("{"), "cannot be loaded"),
        (lambda f: (f / "config.json").unlink(), "has no config.json"),
        (lambda f: (f / "tokenizer.json").write_text("{"), "no tokenizer that can be loaded"),
        (lambda f: (f / "model.safetensors").unlink(), "no weights as safetensors"),
        (cut, "not a whole safetensors file"),
        (lose_a_file, "lacks 1 of the . files"),
    ],
)
def test_a_broken_folder_is_refused_in_the_same_words_whoever_reads_it(bert, breaking, told):
    breaking(bert)
    said = set()
    for use in USES:
        with pytest.raises(ArtifactError, match=told) as caught:
            use(bert, "text_classification")
        said.add(re.sub(r"holds \d+", "holds", str(caught.value)))  # less one new head
    assert len(said) == 1


@pytest.mark.parametrize("use", [evaluate, serve])
def test_a_head_may_lack_only_where_it_is_trained(bert, use):
    change_weights(bert, lambda weights: [weights.pop(key) for key in HEAD])
    train(bert, "text_classification")
    with pytest.raises(ArtifactError, match=r"lacks 2 weights .*classifier\.bias"):
        use(bert, "text_classification")


@pytest.mark.parametrize("use", USES)
def test_a_language_model_has_no_head_that_may_be_new(tmp_path, tokenizer, use):
    build_tiny_llama(vocab_size=len(tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    use(tmp_path, "causal_lm")
    change_weights(tmp_path, lambda weights: weights.pop("lm_head.weight"))
    with pytest.raises(ArtifactError, match=r"lacks 1 weights .*lm_head"):
        use(tmp_path, "causal_lm")


def test_heads_of_other_tasks_and_old_buffers_are_no_weights_too_many(bert):
    def add(weights):
        weights["cls.predictions.bias"] = torch.zeros(3)
        weights["bert.embeddings.position_ids"] = torch.arange(64)[None]

    change_weights(bert, add)
    for use in USES:
        use(bert, "text_classification")


def test_a_bias_that_the_configuration_has_no_place_for_is_refused(tmp_path, tokenizer):
    build_tiny_llama(vocab_size=len(tokenizer), attention_bias=True).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    train(tmp_path, "causal_lm")
    change_config(tmp_path, attention_bias=False)
    for use in USES:
        with pytest.raises(ArtifactError, match=r"8 weights .* has no place for .*bias"):
            use(tmp_path, "causal_lm")


@pytest.mark.parametrize("name", TASKS)
def test_every_task_is_served(name):
    service = service_of(name)
    values = get_task(name).example_request()
    path, body = service.question(values, "tiny")
    assert path.startswith("/")
    assert body["model"] == "tiny"


# ---- the tokenizer -------------------------------------------------------------------------------


def test_ids_without_a_row_are_refused_but_special_ones_that_no_text_becomes(bert, tokenizer):
    here = TextProcessor.load(Location.parse(str(bert))).tokenizer
    here.add_tokens(["<image>"], special_tokens=True)
    here.save_pretrained(bert)
    for use in USES:
        use(bert, "text_classification")
    here.add_tokens(["new"])
    here.save_pretrained(bert)
    rows = len(tokenizer)
    told = f"the tokenizer has {rows + 2} ids and its model {rows} rows"
    for use in USES:
        with pytest.raises(ArtifactError, match=told):
            use(bert, "text_classification")


@pytest.fixture
def decoder(tmp_path, tokenizer):
    """A classifier from a decoder whose folder names no padding, as most of them do."""
    torch.manual_seed(0)
    config = build_tiny_llama(vocab_size=len(tokenizer), initializer_range=0.4).config
    config.pad_token_id = None
    transformers.LlamaForSequenceClassification(config).save_pretrained(tmp_path)
    bare = train_tiny_tokenizer(["def read(line): return line"] * 3, vocab_size=300)
    bare.pad_token = None
    bare.save_pretrained(tmp_path)
    return tmp_path


def test_a_decoder_without_padding_reads_the_last_token_of_each_text(decoder):
    model, task = load_for_use(decoder, "text_classification", labels=("no", "yes"))
    end_of_text = task.processor.tokenizer.eos_token_id
    assert model.config.pad_token_id == task.processor.padding == end_of_text
    texts = ("def", "def read(line): return line")
    rows = [task.features({"text": text, "label": "no"}, 64).features for text in texts]
    columns = {name: [row[name] for row in rows] for name in ("input_ids", "label")}
    batch = task.collate(columns)
    with torch.no_grad():
        together = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        for i, row in enumerate(rows):
            alone = model(torch.tensor([row["input_ids"]])).logits[0]
            torch.testing.assert_close(together[i], alone)


def test_what_pads_the_rows_is_what_the_trained_model_takes_for_padding(decoder):
    """Another id would read the class off the padding: `config.json` here says one, and the
    tokenizer has none."""
    change_config(decoder, pad_token_id=7)
    place = Location.parse(str(decoder))
    task = classification_of(decoder)
    model, _ = open_model(place, task)
    note = fit(place, model, task)
    assert "(it was 7)" in note
    assert model.config.pad_token_id == 0


@pytest.mark.parametrize(
    ("classes", "is_lent"),
    [(("no", "yes"), True), (("yes", "no"), False), (("cat", "dog"), False)],
)
def test_a_base_lends_its_head_to_the_same_classes_alone(bert, classes, is_lent):
    """As many classes do not make them the same."""
    names = dict(enumerate(classes))
    change_config(bert, id2label=names, label2id={name: index for index, name in names.items()})
    task = classification_of(bert)
    _, stored = open_model(Location.parse(str(bert)), task)
    assert set(stored.missing) == (set() if is_lent else set(HEAD))
    assert all((name in stored) is is_lent for name in HEAD)
    assert "bert.pooler.dense.weight" in stored


def test_a_trained_classifier_keeps_what_its_rows_were_padded_with(decoder):
    from types import SimpleNamespace

    from raymodel.train.network import build_network
    from raymodel.train.spec import FinetuneSpec

    spec = FinetuneSpec.model_validate(
        {
            "task": "text_classification",
            "sources": [{"path": "a", "fields": {"label": "label"}}],
            "global_batch": 2,
            "duration": "1 step",
        }
    )
    place = Location.parse(str(decoder))
    work = SimpleNamespace(spec=spec, base=place, seed=0)
    network = build_network(work, classification_of(decoder), SimpleNamespace(processor=place))
    assert network.plain.config.pad_token_id == 0
    assert network.module.config.pad_token_id == 0


def test_a_classifier_that_nothing_can_pad_is_refused_by_all(decoder):
    tokenizer = TextProcessor.load(Location.parse(str(decoder))).tokenizer
    tokenizer.eos_token = None
    tokenizer.save_pretrained(decoder)
    for use in USES:
        with pytest.raises(ArtifactError, match="neither a padding nor an end-of-text token"):
            use(decoder, "text_classification")
