"""Preference: pairs as rows, the loss by hand and by its cut, what the base makes of them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

from raymodel.data.columns import columns_of
from raymodel.data.references import add_readings, plan_batches
from raymodel.data.rows import row_tokens
from raymodel.errors import ArtifactError
from raymodel.evaluate.measure import combine, measure_part
from raymodel.evaluate.spec import EvaluateSpec
from raymodel.job.check import check_reference
from raymodel.job.spec import Job
from raymodel.modality.text import TextProcessor
from raymodel.storage.uri import Location
from raymodel.tasks import make_task
from raymodel.tasks.base import Example, LeftOut, Limits, Task
from raymodel.tasks.pairs import pair_losses
from raymodel.tasks.prompt import TOO_LONG
from raymodel.tasks.spec.language import PreferenceSpec
from raymodel.testing.tiny import build_tiny_llama, train_tiny_tokenizer
from raymodel.train.base import BaseModel, examples_identity

PAIRS = [
    ("What is red?", "A rose.", "The sea, for all I know."),
    ("Where do fish live?", "In the sea, as a rule.", "On a tree."),
    ("Count:", "one two three four five six seven", "one"),
    ("Say no.", "no", "yes yes yes"),
]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def processor() -> TextProcessor:
    texts = [" ".join(pair) for pair in PAIRS]
    return TextProcessor(train_tiny_tokenizer(texts, vocab_size=300))


@pytest.fixture(scope="module")
def base() -> PreTrainedModel:
    return build_tiny_llama(seed=1).eval()


def task_of(processor: TextProcessor, **fields: Any) -> Task:
    return make_task(PreferenceSpec(**fields), processor=processor)


@pytest.fixture
def task(processor: TextProcessor) -> Task:
    return task_of(processor)


def values(prompt: str, chosen: str, rejected: str) -> dict[str, str]:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def examples(task: Task, pairs: Any = PAIRS) -> pa.Table:
    """As the row step gives them: nobody has asked the base yet."""
    rows = []
    for pair in pairs:
        example = task.features(values(*pair), 64)
        assert isinstance(example, Example), example
        rows.append(example.features)
    return pa.Table.from_pylist(rows, schema=task.schema())


def by_hand(model: PreTrainedModel, ids: list[int], prompt_length: int) -> float:
    """log p(answer | prompt), a token at a time and without padding."""
    with torch.no_grad():
        log_probs = F.log_softmax(model(torch.tensor([ids])).logits[0].float(), dim=1)
    places = range(max(prompt_length, 1), len(ids))
    return sum(float(log_probs[place - 1, ids[place]]) for place in places)


# ---- examples ------------------------------------------------------------------------------------


def test_both_sides_are_told_after_the_same_prompt(task: Task) -> None:
    example = task.features(values(*PAIRS[0]), 64)
    assert isinstance(example, Example)
    row, decode = example.features, task.processor.tokenizer.decode
    length = row["prompt_length"]
    assert decode(row["chosen_ids"][:length]) == decode(row["rejected_ids"][:length]) == PAIRS[0][0]
    assert decode(row["chosen_ids"][length:]) == "A rose.<|endoftext|>"
    assert decode(row["rejected_ids"][length:]) == "The sea, for all I know.<|endoftext|>"
    assert example.cut == ()
    [tokens] = row_tokens(examples(task, PAIRS[:1]))
    assert tokens == len(row["chosen_ids"]) + len(row["rejected_ids"])


def test_what_is_too_long_is_cut_alike_on_both_sides(task: Task) -> None:
    example = task.features(values("a b c d e f g h i j", "one", "one two three four five six"), 16)
    assert isinstance(example, Example)
    row = example.features
    length = row["prompt_length"]
    assert row["chosen_ids"][:length] == row["rejected_ids"][:length]
    assert max(len(row["chosen_ids"]), len(row["rejected_ids"])) == 16
    assert set(example.cut) == {"prompt", "rejected"}
    drops = task_of(task.processor, too_long="drop")
    assert drops.features(values("a b c", "one", "two " * 20), 16) == LeftOut(TOO_LONG)


@pytest.mark.parametrize(
    ("chosen", "rejected", "reason"),
    [
        ("yes", "yes", "pair whose sides are equal"),
        ("yes ", " yes", "pair whose sides are equal"),
        (" ", "yes", "pair whose chosen side is empty"),
        ("yes", "", "pair whose rejected side is empty"),
        ("no" * 40 + "a", "no" * 40 + "b", "pair whose sides are equal up to where they are cut"),
    ],
)
def test_a_pair_that_teaches_nothing_is_left_out(
    task: Task, chosen: str, rejected: str, reason: str
) -> None:
    assert task.features(values("?", chosen, rejected), 8) == LeftOut(reason)


def test_a_request_has_a_prompt_alone_and_is_answered_as_by_a_causal_model(
    task: Task, base: PreTrainedModel
) -> None:
    example = task.features({"prompt": "What is red?"}, None)
    assert isinstance(example, Example)
    rows = {name: [value] for name, value in example.features.items()}
    columns = columns_of(examples(task, PAIRS[:1]))
    limits = Limits(max_new_tokens=4)
    [answer] = task.predict(base, rows, limits)
    assert task.predict(base, columns, limits) == [answer]
    assert task.references(columns) == ["A rose."]
    sample = task.sample(columns, 0, answer, "A rose.")
    assert (sample.request, sample.answer) == ({"prompt": "What is red?"}, answer["text"])


# ---- what the base makes of them -----------------------------------------------------------------


def test_the_reference_is_the_bases_log_probability_in_whatever_company(
    task: Task, base: PreTrainedModel
) -> None:
    table = add_readings(base, task, examples(task, PAIRS * 3))
    for row in table.to_pylist():
        for side in ("chosen", "rejected"):
            alone = by_hand(base, row[f"{side}_ids"], row["prompt_length"])
            assert row[f"{side}_reference"] == pytest.approx(alone, rel=1e-5)
    alone = [add_readings(base, task, examples(task, [pair])) for pair in PAIRS]
    for column in task.base_readings:
        apart = pa.concat_tables(alone)[column].to_pylist()
        assert table[column].to_pylist()[: len(PAIRS)] == pytest.approx(apart, rel=1e-5)


def test_batches_for_the_base_are_of_alike_length_and_bounded() -> None:
    tokens = [9000, 10, 4000, 12, 4100, 9]
    batches = [batch.tolist() for batch in plan_batches(tokens)]
    assert batches == [[5, 1, 3], [2], [4], [0]]


def test_a_base_that_is_not_finite_is_refused(task: Task) -> None:
    broken = build_tiny_llama(seed=1).eval()
    broken.lm_head.weight.data[3] = math.nan
    with pytest.raises(ArtifactError, match=r"the base gives nan for 4 of 4.*reference: none"):
        add_readings(broken, task, examples(task))


def test_without_a_reference_the_rows_have_no_place_for_one(
    processor: TextProcessor, base: PreTrainedModel
) -> None:
    task = task_of(processor, reference="none")
    assert not task.base_readings
    assert task.schema().names == ["chosen_ids", "rejected_ids", "prompt_length"]
    # An evaluation knows the rows, and not what the job said.
    rows = columns_of(examples(task, PAIRS[:1]))
    [reading] = make_task(PreferenceSpec(), processor=processor).readings(base, rows)
    assert set(reading) == {"chosen", "rejected", "chosen_tokens", "rejected_tokens"}


def test_only_the_reference_decides_the_examples() -> None:
    plain = PreferenceSpec().examples_identity()
    other = PreferenceSpec(loss="ipo", beta=0.5, by_token=True).examples_identity()
    assert plain == other == {"name": "preference", "reference": "base", "too_long": "cut"}
    assert PreferenceSpec(reference="none").examples_identity() != plain


# ---- the loss ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "advantage", "expected"),
    [
        ({"beta": 0.1}, 0.0, math.log(2)),
        ({"beta": 0.1}, 5.0, math.log(1 + math.exp(-0.5))),
        ({"beta": 0.1, "label_smoothing": 0.25}, 5.0,
         0.75 * math.log(1 + math.exp(-0.5)) + 0.25 * math.log(1 + math.exp(0.5))),
        ({"beta": 2.0, "margin": 1.5, "by_token": True, "reference": "none"}, 1.25,
         math.log(1 + math.exp(-1.0))),
        ({"beta": 0.1, "loss": "ipo"}, 5.0, 0.0),
        ({"beta": 0.1, "loss": "ipo"}, 3.0, 4.0),
    ],
)  # fmt: skip
def test_the_formulas_at_known_numbers(
    fields: dict[str, Any], advantage: float, expected: float
) -> None:
    losses = pair_losses(torch.tensor([advantage], dtype=torch.float64), PreferenceSpec(**fields))
    assert losses.tolist() == pytest.approx([expected], abs=1e-12)


def test_an_ipo_with_a_margin_is_refused() -> None:
    with pytest.raises(ValueError, match=r"margin is 1\.0 and loss is ipo"):
        PreferenceSpec(loss="ipo", margin=1.0)


@pytest.mark.parametrize(
    "fields",
    [
        {"beta": 0.3},
        {"loss": "ipo", "beta": 0.3},
        {"beta": 2.0, "margin": 0.5, "by_token": True, "reference": "none"},
        {"beta": 0.3, "chosen_weight": 0.5},
    ],
)
def test_the_loss_is_the_sum_over_pairs_by_hand(
    processor: TextProcessor, base: PreTrainedModel, fields: dict[str, Any]
) -> None:
    task, model = task_of(processor, **fields), build_tiny_llama(seed=2).eval()
    table = add_readings(base, task, examples(task))
    batch = task.collate(columns_of(table))
    assert batch["input_ids"].shape[:2] == (len(PAIRS), 2)
    assert task.num_targets(batch) == len(PAIRS)
    expected = 0.0
    for row in table.to_pylist():
        gains = []
        for side in ("chosen", "rejected"):
            ids, length = row[f"{side}_ids"], row["prompt_length"]
            gain = by_hand(model, ids, length)
            if fields.get("reference") != "none":
                gain -= by_hand(base, ids, length)
            gains.append(gain / (len(ids) - length) if fields.get("by_token") else gain)
        h, beta = gains[0] - gains[1], fields["beta"]
        if fields.get("loss") == "ipo":
            expected += (h - 1 / (2 * beta)) ** 2
        else:
            expected += math.log1p(math.exp(-(beta * h - fields.get("margin", 0.0))))
        chosen, length = row["chosen_ids"], row["prompt_length"]
        learnt = -by_hand(model, chosen, length) / (len(chosen) - length)
        expected += fields.get("chosen_weight", 0.0) * learnt
    assert task.loss(model, batch).item() == pytest.approx(expected, rel=1e-5)


def test_the_loss_starts_at_log_two_and_is_the_same_however_it_is_cut(
    task: Task, base: PreTrainedModel
) -> None:
    columns = columns_of(add_readings(base, task, examples(task)))
    whole = task.collate(columns)
    assert task.loss(base, whole).item() == pytest.approx(len(PAIRS) * math.log(2), rel=1e-5)
    model = build_tiny_llama(seed=2).eval()
    parts = [
        task.loss(model, task.collate({name: col[i : i + 1] for name, col in columns.items()}))
        for i in range(len(PAIRS))
    ]
    assert sum(parts).item() == pytest.approx(task.loss(model, whole).item(), rel=1e-5)


def test_a_blank_pair_bears_no_loss_and_no_gradient(task: Task, base: PreTrainedModel) -> None:
    batch = task.collate(columns_of(add_readings(base, task, examples(task))))
    blank = {name: tensor[:1] for name, tensor in batch.items()}
    blank |= {"labels": torch.full_like(blank["labels"], -100)}
    model = build_tiny_llama(seed=2)
    assert task.num_targets(blank) == 0
    loss = task.loss(model, blank)
    loss.backward()
    assert loss.item() == 0.0
    assert all(not p.grad.any() for p in model.parameters() if p.grad is not None)


def test_a_step_makes_the_chosen_side_likelier_than_the_rejected(
    task: Task, base: PreTrainedModel
) -> None:
    columns = columns_of(add_readings(base, task, examples(task)))
    batch, model = task.collate(columns), build_tiny_llama(seed=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        (task.loss(model, batch) / task.num_targets(batch)).backward()
        optimizer.step()
    before = task.measure_readings(task.readings(base, columns))
    after = task.measure_readings(task.readings(model.eval(), columns))
    assert abs(before["reward_margin"]) < 1e-4 < after["reward_margin"]
    assert before["chosen_loss_change"] == pytest.approx(0, abs=1e-5)
    assert after["preference_accuracy"] == 1.0


# ---- measures ------------------------------------------------------------------------------------


def test_the_measures_by_hand(task: Task) -> None:
    with_reference = {"chosen_reference": -10.0, "rejected_reference": -8.0}
    counts = {"chosen_tokens": 5, "rejected_tokens": 4}
    readings = [
        {"chosen": -8.0, "rejected": -9.0, **with_reference, **counts},  # 2 against -1
        {"chosen": -13.0, "rejected": -9.0, **with_reference, **counts},  # -3 against -1
        {"chosen": -10.0, "rejected": -8.0, **with_reference, **counts},  # a tie
    ]
    assert task.measure_readings(readings) == pytest.approx(
        {
            "preference_accuracy": 1.5 / 3,
            "reward_margin": 1 / 3,
            "chosen_loss": 31 / 15,
            "chosen_loss_change": 31 / 30 - 1,
        }
    )
    # Without a reference by the token: -2 against -2.5.
    [alone] = [{"chosen": -10.0, "rejected": -10.0, **counts}]
    assert task.measure_readings([alone]) == pytest.approx(
        {"preference_accuracy": 1.0, "reward_margin": 0.5, "chosen_loss": 2.0}
    )


def test_held_out_pairs_are_measured_in_parts_without_an_answer(
    task: Task, base: PreTrainedModel, processor: TextProcessor, tmp_path: Path
) -> None:
    table = add_readings(base, task, examples(task))
    held_out: Any = {"examples": _Rows(table)}
    build_tiny_llama(seed=2).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    names = ("preference_accuracy", "reward_margin", "chosen_loss", "chosen_loss_change")
    spec = EvaluateSpec(metrics=names)
    parts = [measure_part(tmp_path, PreferenceSpec(), held_out, spec, (i, 2)) for i in range(2)]
    assert [len(part.found["examples"].readings) for part in parts] == [2, 2]
    found = combine("preference", parts, held_out, spec).metrics
    model = build_tiny_llama(seed=2).eval()
    whole = task.measure_readings(task.readings(model, columns_of(table)))
    assert found == pytest.approx(whole, rel=1e-5)
    assert tuple(found) == names


class _Rows:
    """A dataset in memory."""

    labels = ()

    def __init__(self, table: pa.Table) -> None:
        self._table, self.num_rows = table, table.num_rows

    def spread(self, most: int) -> Any:
        return np.arange(min(most, self.num_rows))

    def read(self, row_ids: Any) -> pa.Table:
        return self._table.take(pa.array(row_ids))


# ---- the job -------------------------------------------------------------------------------------


def finetuning(**fields: Any) -> Job:
    source = {"path": "p", "fields": {"prompt": "{q}", "chosen": "{a}", "rejected": "{b}"}}
    tuned = {"sources": [source], "global_batch": 8, "duration": "1 step"}
    return Job.model_validate({"name": "j", "finetune": tuned | fields})


def test_a_fresh_model_has_no_base_to_be_asked() -> None:
    model = {"architecture": "llama"}
    [problem] = check_reference(finetuning(task="preference", model=model))
    assert "reference: none" in problem.message
    free = {"name": "preference", "reference": "none"}
    assert not [*check_reference(finetuning(task=free, model=model))]
    assert not [*check_reference(finetuning(task="preference", base="b"))]


def test_the_weights_of_the_base_decide_the_examples_and_the_formula_does_not(
    tmp_path: Path,
) -> None:
    (tmp_path / "p.txt").write_text("x")
    (tmp_path / "base").mkdir()
    weights = tmp_path / "base/model.safetensors"

    def identity(size: int, precision: str = "bf16", **task: Any) -> dict[str, Any]:
        weights.write_bytes(b"0" * size)
        base = BaseModel(location=Location.parse(str(tmp_path / "base")))
        source = {"path": str(tmp_path / "p.txt"), "fields": {}}
        whole = {"name": "preference"} | task
        job = finetuning(task=whole, base="b", sources=[source], precision=precision)
        assert job.finetune is not None
        return examples_identity(job.finetune, base, tmp_path)

    known = identity(8)
    assert known["base_readings"] == ["chosen_reference", "rejected_reference"]
    assert identity(8, beta=0.5, loss="ipo") == known
    assert identity(9) != known
    assert identity(8, "fp32") != known
    assert "base_readings" not in identity(8, reference="none")
