"""Token classification: tags at first pieces, spans in answers, measures by hand, serving."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from served import call
from transformers import AutoModel, PreTrainedModel

from raymodel.data.columns import columns_of
from raymodel.errors import ArtifactError
from raymodel.modality.text import TextProcessor
from raymodel.model.build import build_model
from raymodel.model.initial import InitialWeights
from raymodel.model.load import check_folder, load_for_use, open_model
from raymodel.model.materialise import materialise
from raymodel.model.purpose import find_task
from raymodel.model.spec import ModelSpec
from raymodel.serve.prediction import PredictionService
from raymodel.serve.spec import ServeSpec
from raymodel.storage.uri import Location
from raymodel.tasks import TASKS, get_task
from raymodel.tasks.alignment import NO_PIECE
from raymodel.tasks.base import Example, LeftOut, Limits, Task
from raymodel.testing.tiny import build_tiny_bert, train_tiny_tokenizer

LABELS = ("B-LOC", "B-PER", "I-LOC", "I-PER", "O")
WORDS, TAGS = ["Ann", "Lee", "went", "to", "Rome"], ["B-PER", "I-PER", "O", "O", "B-LOC"]
PERSONS, PLACES = ["Ann", "Bo", "Ann Lee"], ["Rome", "Oslo", "New York", "Lee"]
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def processor() -> TextProcessor:
    return TextProcessor(train_tiny_tokenizer(["Ann Lee went to Rome"], vocab_size=300))


def task_of(processor: TextProcessor, labels: tuple[str, ...] = LABELS) -> Task:
    return get_task("token_classification")(labels=labels, processor=processor)


@pytest.fixture
def task(processor: TextProcessor) -> Task:
    return task_of(processor)


def build(task: Task, architecture: str = "bert") -> PreTrainedModel:
    config = SMALL | ({"num_key_value_heads": 2} if architecture == "llama" else {})
    needed = task.processor.model_fields(64)
    model = build_model(ModelSpec(architecture=architecture, config=config), task, needed)
    return materialise(model, InitialWeights(model, 1), torch.float32)


def columns(task: Task, *documents: dict[str, Any]) -> dict[str, Any]:
    """As a shard gives them."""
    import pyarrow as pa

    rows = []
    for document in documents:
        example = task.features(document, 64)
        assert isinstance(example, Example), example
        rows.append(example.features)
    return columns_of(pa.Table.from_pylist(rows, schema=task.schema()))


# ---- examples ------------------------------------------------------------------------------------


def test_a_tag_lies_at_the_first_piece_of_its_word(task: Task) -> None:
    example = task.features({"tokens": WORDS, "tags": TAGS}, 64)
    features, tokenizer = example.features, task.processor.tokenizer
    assert features["input_ids"] == tokenizer("Ann Lee went to Rome")["input_ids"]
    assert features["tokens"] == WORDS
    assert features["tags"] == [1, 3, 4, 4, 0]
    batch = task.collate(columns(task, {"tokens": WORDS, "tags": TAGS}))
    labelled = [i for i, label in enumerate(batch["labels"][0].tolist()) if label != -100]
    assert labelled == features["first_piece"]
    begins = [tokenizer.decode(batch["input_ids"][0, i]).strip()[:1] for i in labelled]
    assert begins == ["A", "L", "w", "t", "R"]
    assert batch["labels"][0, labelled].tolist() == features["tags"]
    assert task.num_targets(batch) == len(WORDS)


def test_a_text_that_is_too_long_ends_with_a_whole_word_and_its_tag(task: Task) -> None:
    whole = task.features({"tokens": WORDS, "tags": TAGS}, 64)
    length = len(whole.features["input_ids"])
    assert whole.cut == ()
    example = task.features({"tokens": WORDS, "tags": TAGS}, length - 1)
    assert example.cut == ("tokens",)
    assert (example.features["tokens"], example.features["tags"]) == (WORDS[:-1], [1, 3, 4, 4])


@pytest.mark.parametrize(
    ("words", "max_length", "reason"),
    [
        ([], 64, "record without words"),
        (["", ""], 64, "record whose words are nothing to the tokenizer"),
        (["Rome" * 20, "a"], 16, "record whose first word alone is too long"),
    ],
)
def test_what_holds_no_word_is_left_out(
    task: Task, words: list[str], max_length: int, reason: str
) -> None:
    values = {"tokens": words, "tags": ["O"] * len(words)}
    assert task.features(values, max_length) == LeftOut(reason)


def test_tags_that_are_not_known_or_of_no_scheme_end_the_data(processor: TextProcessor) -> None:
    document = {"tokens": ["a"], "tags": ["B-ORG"]}
    with pytest.raises(ValueError, match=r"'B-ORG'.*B-LOC, B-PER"):
        task_of(processor).features(document, 64)
    with pytest.raises(ValueError, match=r"'misc'.*where tags mark spans"):
        task_of(processor, ("B-ORG", "misc")).features(document, 64)


def test_a_word_without_a_piece_bears_no_loss_and_is_outside(task: Task) -> None:
    rows = columns(task, {"tokens": ["Ann", "", "Lee"], "tags": ["B-PER", "I-PER", "I-PER"]})
    assert rows["first_piece"][0][1] == NO_PIECE
    assert task.num_targets(task.collate(rows)) == 2
    [answer] = task.predict(build(task).eval(), rows, Limits())
    assert len(answer["tags"]) == 3
    assert answer["tags"][1] == "O"
    assert task.references(rows)[0]["tags"] == ["B-PER", "I-PER", "I-PER"]


# ---- loss and learning ---------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["bert", "llama"])
def test_the_loss_is_the_sum_over_words_whatever_the_padding(task: Task, architecture: str) -> None:
    model = build(task, architecture).eval()
    documents = [
        {"tokens": ["Rome"], "tags": ["B-LOC"]},
        {"tokens": WORDS * 2, "tags": TAGS * 2},
    ]
    batch = task.collate(columns(task, *documents))
    assert batch["input_ids"].shape[1] % 8 == 0
    assert (batch["attention_mask"].sum(1) < batch["input_ids"].shape[1]).any()
    expected = torch.tensor(0.0)
    for document in documents:
        features = task.features(document, 64).features
        logits = model(torch.tensor([features["input_ids"]])).logits[0]
        numbers = torch.tensor(features["tags"])
        expected += F.cross_entropy(logits[features["first_piece"]], numbers, reduction="sum")
    torch.testing.assert_close(task.loss(model, batch), expected, rtol=1e-5, atol=1e-5)


def test_a_small_encoder_learns_twenty_sentences_by_heart(task: Task) -> None:
    documents = []
    for index in range(20):
        person, place = PERSONS[index % 3], PLACES[index % 4]
        parts = [(person, "PER"), (("met in", "saw")[index % 2], ""), (place, "LOC")]
        document: dict[str, Any] = {"tokens": [], "tags": []}
        for text, kind in parts if index % 5 else reversed(parts):
            for number, word in enumerate(text.split()):
                document["tokens"].append(word)
                document["tags"].append(f"{'I' if number else 'B'}-{kind}" if kind else "O")
        documents.append(document)
    rows = columns(task, *documents)
    batch, model = task.collate(rows), build(task)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model.train()
    before = scores(task, model, rows)
    for _ in range(150):
        (task.loss(model, batch) / task.num_targets(batch)).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert before["f1"] < 0.5 < 0.9 < scores(task, model, rows)["f1"]


def scores(task: Task, model: PreTrainedModel, rows: dict[str, Any]) -> dict[str, float]:
    model.eval()
    answers = task.predict(model, rows, Limits())
    model.train()
    return task.measure(answers, task.references(rows), ["f1"])


# ---- answers -------------------------------------------------------------------------------------


class Says(torch.nn.Module):
    """A model whose tag of a piece is what `tag_of` says of its id."""

    device = torch.device("cpu")

    def __init__(self, model: PreTrainedModel, number_of_id: dict[int, int]) -> None:
        super().__init__()
        self.config, self._numbers = model.config, number_of_id

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        numbers = torch.tensor([[self._numbers.get(int(i), 4) for i in row] for row in input_ids])
        return type("Output", (), {"logits": F.one_hot(numbers, 5).float()})


def test_answers_are_tags_and_the_spans_that_they_mark(task: Task) -> None:
    rows = columns(
        task, {"tokens": WORDS, "tags": TAGS}, {"tokens": ["Rome", "went"], "tags": ["O", "O"]}
    )
    first = dict(zip(WORDS, (rows["input_ids"][0][i] for i in rows["first_piece"][0]), strict=True))
    said = {"Ann": 1, "Lee": 3, "to": 1}
    begin = rows["input_ids"][1][0]  # "Rome" without a space before it
    numbers = {int(first[word]): number for word, number in said.items()} | {int(begin): 0}
    answers = task.predict(Says(build(task), numbers), rows, Limits())  # type: ignore[arg-type]
    assert answers == [
        {
            "tags": ["B-PER", "I-PER", "O", "B-PER", "O"],
            "entities": [
                {"label": "PER", "start": 0, "end": 2, "text": "Ann Lee"},
                {"label": "PER", "start": 3, "end": 4, "text": "to"},
            ],
        },
        {
            "tags": ["B-LOC", "O"],
            "entities": [{"label": "LOC", "start": 0, "end": 1, "text": "Rome"}],
        },
    ]
    references = task.references(rows)
    assert references[0] == {"tags": TAGS, "scheme": "BIO"}
    # True are 2 spans, given 3, right 1; of 7 tags 4 are.
    assert task.measure(answers, references, []) == pytest.approx(
        {"precision": 1 / 3, "recall": 1 / 2, "f1": 2 / 5, "accuracy": 4 / 7}
    )
    sample = task.sample(rows, 0, answers[0], references[0])
    assert sample.prompt == "Ann Lee went to Rome"
    assert sample.answer == "[Ann Lee: PER] went [to: PER] Rome"
    assert sample.reference == "[Ann Lee: PER] went to [Rome: LOC]"
    assert sample.request == {"tokens": WORDS}
    assert task.answer_text(answers[0]) == "Ann Lee (PER), to (PER)"
    assert task.answer_text({"tags": ["O"], "entities": []}) == "nothing marked"


def test_plain_tags_are_a_span_a_word_but_what_is_outside(processor: TextProcessor) -> None:
    task = task_of(processor, ("NOUN", "O", "VERB"))
    rows = columns(task, {"tokens": ["Ann", "went", "."], "tags": ["NOUN", "VERB", "O"]})
    [reference] = task.references(rows)
    assert reference["scheme"] == "plain"
    sample = task.sample(rows, 0, {"tags": ["NOUN", "NOUN", "O"]}, reference)
    assert (sample.answer, sample.reference) == (
        "[Ann: NOUN] [went: NOUN] .",
        "[Ann: NOUN] [went: VERB] .",
    )


def test_texts_without_a_span_are_scored_by_the_scheme_of_all(task: Task) -> None:
    rows = columns(task, {"tokens": ["went", "to"], "tags": ["O", "O"]})
    score = task.measure([{"tags": ["O", "O"]}], task.references(rows), [])
    assert score == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "accuracy": 1.0}


# ---- the model -----------------------------------------------------------------------------------


def save(model: PreTrainedModel, processor: TextProcessor, folder: Path) -> Location:
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return Location.parse(str(folder))


def test_a_base_may_bring_a_pooler_and_lacks_the_head_alone(task: Task, tmp_path: Path) -> None:
    classifier = build_tiny_bert(vocab_size=task.processor.num_ids)
    save(classifier.bert, task.processor, tmp_path)
    assert AutoModel.from_pretrained(tmp_path).pooler is not None
    model, stored = open_model(Location.parse(str(tmp_path)), task)
    assert set(stored.missing) == {"classifier.weight", "classifier.bias"}
    assert stored.extra == ()
    assert not any("pooler" in name for name in model.state_dict())


def test_the_head_of_a_text_classifier_is_passed_over(task: Task, tmp_path: Path) -> None:
    place = save(build_tiny_bert(vocab_size=task.processor.num_ids), task.processor, tmp_path)
    _, stored = open_model(place, task)
    assert set(stored.missing) == {"classifier.weight", "classifier.bias"}
    assert find_task(place) == "text_classification"


def test_a_model_is_found_and_used_by_the_names_that_it_carries(task: Task, tmp_path: Path) -> None:
    model = build(task).eval()
    place = save(model, task.processor, tmp_path)
    assert find_task(place) == "token_classification"
    loaded, used = load_for_use(tmp_path, "token_classification")
    rows = columns(task, {"tokens": WORDS, "tags": TAGS})
    assert used.predict(loaded, rows, Limits()) == task.predict(model, rows, Limits())


def test_a_model_whose_tags_are_of_no_scheme_is_refused(task: Task, tmp_path: Path) -> None:
    place = save(build(task), task.processor, tmp_path)
    check_folder(place, TASKS["token_classification"]())
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace("I-LOC", "misc"))
    with pytest.raises(ArtifactError, match=r"'misc'.*where tags mark spans"):
        check_folder(place, TASKS["token_classification"]())


# ---- serving -------------------------------------------------------------------------------------


@pytest.fixture
def service(task: Task) -> Any:
    task = get_task("token_classification")(processor=task.processor)
    model = build(task_of(task.processor)).eval()
    service = PredictionService(model, task, name="tiny", spec=ServeSpec(batch=4, queue=4))
    yield service
    service.close()


def test_words_are_served_with_their_tags(service: PredictionService, task: Task) -> None:
    texts = [WORDS, ["Rome"], ["", "Lee"]]
    body = {"model": "tiny", "inputs": [{"tokens": words} for words in texts]}
    told = call(service, "POST", "/predict", json=body).json()["data"]
    for index, words in enumerate(texts):
        features = task.features({"tokens": words}, None).features
        assert "tags" not in features
        alone = task.predict(service.model, {k: [v] for k, v in features.items()}, Limits())
        assert told[index] == {"index": index, **alone[0]}
    assert [len(result["tags"]) for result in told] == [5, 1, 2]
    health = call(service, "GET", "/health").json()
    assert (health["fields"], health["answers"]) == ({"tokens": "words"}, "spans")
    assert health["labels"] == list(LABELS)


def test_what_the_service_asks_it_answers(service: PredictionService) -> None:
    path, body = service.question(TASKS["token_classification"].example_request(), "tiny")
    answer = service.answer(call(service, "POST", path, json=body).json())
    assert len(answer["tags"]) == 1
    assert service.task.answer_text(answer)


@pytest.mark.parametrize(
    ("inputs", "told"),
    [
        ({"tokens": []}, "nothing to answer: record without words"),
        ({"tokens": [" "]}, "nothing to answer: record whose words are nothing"),
        ({"tokens": "Ann"}, "tokens is not a list of texts"),
        ({"tokens": ["Ann"], "tags": ["O"]}, "is given tokens"),
        ({"tokens": ["Rome"] * 100}, "at most 64"),
    ],
)
def test_requests_without_words_are_refused(
    service: PredictionService, inputs: dict[str, Any], told: str
) -> None:
    response = call(service, "POST", "/predict", json={"model": "tiny", "inputs": inputs})
    assert response.status_code == 400
    assert told in response.json()["error"]["message"]
