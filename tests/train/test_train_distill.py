"""A student beside its teacher through the whole of training: any layout, one curve."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from safetensors.torch import load_file
from tiny_runs import (
    MODEL,
    STOP,
    build_work,
    commit_dataset,
    digests,
    losses,
    make_dataset,
    train_all,
    train_until,
    validation,
    weights_of,
)

from raymodel.data.columns import columns_of
from raymodel.data.mixture import mixture_of
from raymodel.data.prepare import Recipe
from raymodel.data.rows import RowKind
from raymodel.data.shard import open_dataset
from raymodel.data.spec import CleanSpec, SourceSpec
from raymodel.errors import ArtifactError, SpecError
from raymodel.model.load import load_for_use
from raymodel.storage.artifact import Artifact
from raymodel.storage.uri import Location
from raymodel.tasks import TASKS, get_task, make_task
from raymodel.tasks.base import Task
from raymodel.tasks.spec.language import CausalLMSpec
from raymodel.tasks.text_classification import TextClassification
from raymodel.testing.distributed import run_distributed
from raymodel.testing.tiny import build_tiny_bert, build_tiny_llama, train_tiny_tokenizer
from raymodel.train.base import check_teacher_classes
from raymodel.train.checkpoint.index import load_index
from raymodel.train.checkpoint.state import checkpoint_location, committed_steps
from raymodel.train.distill.rules import why_no_teacher, why_other_task
from raymodel.train.distill.spec import DistillSpec
from raymodel.train.distill.teacher import Teacher, open_teacher
from raymodel.train.network import build_network
from raymodel.train.session import TorchrunSession
from raymodel.train.spec import FinetuneSpec, PretrainSpec
from raymodel.train.step.engine import join_group
from raymodel.train.work import TrainWork
from raymodel.train.worker import _build_engine

WORDS = ["red", "blue", "green", "fish", "tree", "sea", "rose", "stone", "cloud", "river"]
DEPTH = 4


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Location:
    """Four layers, and logits that are far from those of any other model."""
    folder = tmp_path_factory.mktemp("teacher")
    model = build_tiny_llama(seed=1, num_hidden_layers=DEPTH, tie_word_embeddings=False)
    model.lm_head.weight.data *= 20
    model.save_pretrained(folder)
    train_tiny_tokenizer([" ".join(WORDS)]).save_pretrained(folder)
    return Location.parse(str(folder))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, teacher: Location) -> Artifact:
    folder = tmp_path_factory.mktemp("examples")
    lines = [{"q": f"{i}?", "a": " ".join(WORDS[: 1 + i % 9])} for i in range(40)]
    (folder / "lines.jsonl").write_text("\n".join(map(json.dumps, lines)))
    source = SourceSpec(
        path=str(folder / "lines.jsonl"),
        format="jsonl",
        fields={"prompt": "{q}", "response": "{a}"},
    )
    recipe = Recipe(
        sources=(source,),
        clean=CleanSpec(),
        holdout=0.2,
        seed=7,
        kind=RowKind(task=CausalLMSpec(), length=64),
        processor=teacher,
    )
    return commit_dataset(recipe, folder / "dataset", fingerprint="1" * 16)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory, teacher: Location) -> Artifact:
    return make_dataset(tmp_path_factory.mktemp("packed"), tokenizer=teacher)


TRAINING = {
    "global_batch": 6,
    "duration": "12 steps",
    "optimizer": {"learning_rate": 3e-3},
    "precision": "fp32",
    "log_every": "1 step",
    "validate_every": "6 steps",
    "validate_rows": 5,
    "checkpoint": {"every": "4 steps"},
}


def work_of(
    dataset: Artifact, teacher: Location, run: Path, *, export: bool = False, **spec: Any
) -> TrainWork:
    """A student of two of the teacher's layers, unless `spec` differs."""
    fields = {
        "task": "causal_lm",
        "sources": [{"path": "lines.jsonl"}],
        "distill": {"teacher": str(teacher), "student": {"layers": 2}},
        "max_length": 64,
    }
    parsed = FinetuneSpec.model_validate(fields | TRAINING | spec)
    return build_work(parsed, dataset, run, base=teacher, teacher=teacher, export=export)


def fresh_of(packed: Artifact, teacher: Location, run: Path, **spec: Any) -> TrainWork:
    """A fresh student that is pretrained on packed rows, whose documents are kept apart."""
    fields = {"model": MODEL, "distill": {"teacher": str(teacher), "weight": "80%"}}
    parsed = PretrainSpec.model_validate(fields | TRAINING | spec)
    return build_work(parsed, packed, run, teacher=teacher, export=False)


LORA = {"adapter": {"lora": {"rank": 4}}, "distill": {"teacher": "t", "temperature": 1.0}}


@pytest.fixture(scope="module")
def alone(
    tmp_path_factory: pytest.TempPathFactory,
    dataset: Artifact,
    packed: Artifact,
    teacher: Location,
) -> dict[str, TrainWork]:
    """By one worker: what all layouts are held to."""
    folder = tmp_path_factory.mktemp("alone")
    works = {
        "student": work_of(dataset, teacher, folder / "student", export=True),
        "pieces": work_of(dataset, teacher, folder / "pieces", micro_batch=2),
        "fresh": fresh_of(packed, teacher, folder / "fresh"),
    }
    run_distributed(train_all, 1, [*works.values()], init=False)
    return works


def check_same(work: TrainWork, other: TrainWork) -> None:
    assert digests(work) == digests(other)
    np.testing.assert_allclose(losses(work), losses(other), rtol=1e-5)
    np.testing.assert_allclose(validation(work), validation(other), rtol=1e-5)


def test_any_layout_trains_a_student_to_one_curve(
    alone: dict[str, TrainWork],
    dataset: Artifact,
    packed: Artifact,
    teacher: Location,
    tmp_path: Path,
) -> None:
    check_same(alone["pieces"], alone["student"])
    # A global batch of 6 on 2 workers in micro batches of 2: the second of each has one row.
    layouts = [
        work_of(dataset, teacher, tmp_path / f"{zero}", parallel={"zero": zero}, micro_batch=2)
        for zero in (0, 3)
    ]
    fresh = fresh_of(packed, teacher, tmp_path / "fresh", parallel={"zero": 3})
    run_distributed(train_all, 2, [*layouts, fresh], init=False)
    for work in layouts:
        check_same(work, alone["student"])
    check_same(fresh, alone["fresh"])
    for work in alone.values():
        assert losses(work)[-1] < 0.9 * losses(work)[0]


@pytest.mark.slow
def test_the_stages_between_and_an_adapter_train_to_one_curve_too(
    alone: dict[str, TrainWork], dataset: Artifact, teacher: Location, tmp_path: Path
) -> None:
    lora = [
        work_of(dataset, teacher, tmp_path / name, parallel={"zero": 2}, **LORA)
        for name in ("lora", "lora of two")
    ]
    layouts = [
        work_of(dataset, teacher, tmp_path / f"{zero}", parallel={"zero": zero}, micro_batch=2)
        for zero in (1, 2)
    ]
    run_distributed(train_all, 1, lora[:1], init=False)
    run_distributed(train_all, 2, [*layouts, *lora[1:]], init=False)
    for work in layouts:
        check_same(work, alone["student"])
    check_same(lora[1], lora[0])
    assert losses(lora[0])[-1] < 0.9 * losses(lora[0])[0]


def test_a_student_goes_on_at_another_layout_and_becomes_a_model_like_any_other(
    alone: dict[str, TrainWork], dataset: Artifact, teacher: Location, tmp_path: Path
) -> None:
    broken = work_of(dataset, teacher, tmp_path / "run", parallel={"zero": 3})
    run_distributed(train_until, 2, [broken], STOP, init=False)
    spec = broken.spec.model_copy(update={"parallel": alone["student"].spec.parallel})
    resumed = replace(broken, spec=spec, export=True)
    run_distributed(train_all, 1, [resumed], init=False)
    check_same(resumed, alone["student"])

    step = max(committed_steps(resumed.run))
    kept = load_index(checkpoint_location(resumed.run, step)).parameters
    assert {name.split(".")[2] for name in kept if ".layers." in name} == {"0", "1"}
    weights, whole = weights_of(resumed), weights_of(alone["student"])
    assert weights.keys() == whole.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(weight, whole[name], rtol=1e-3, atol=1e-5)
    folder = resumed.run.local_path / "model"
    model, _ = load_for_use(folder, "causal_lm")
    assert model.config.num_hidden_layers == 2
    card = (folder / "README.md").read_text()
    assert f"- Teacher: {teacher.name} (" in card
    assert "- Layers of teacher: 2" in card


def teachers_of(
    rank: int, world_size: int, works: list[TrainWork]
) -> list[tuple[int, float, bool]]:
    """Of each: the numbers of the teacher that this rank holds, the loss of its first rows before
    any update, and whether all of the teacher is as it came."""
    join_group(use_gpu=False)
    found = []
    for work in works:
        data = open_dataset(work.dataset, "train")
        task = make_task(work.task, labels=work.labels).reading_as(data.processor)
        engine = _build_engine(work, task, data, TorchrunSession())
        assert engine.teacher is not None
        network = getattr(engine.teacher._model, "module", engine.teacher._model)
        held = sum(getattr(p, "ds_tensor", p).numel() for p in network.parameters())
        frozen = not network.training and not any(p.requires_grad for p in network.parameters())
        own = slice(3 * rank, 3 * rank + 3)
        batch = engine.task.collate(columns_of(data.read(np.arange(6)[own])))
        loss = engine.forward_backward(batch, torch.tensor(60.0))
        dist.all_reduce(loss)
        engine.update(1e-3)
        found.append((held, float(loss), frozen))
        engine.close()
    return found


def test_a_teacher_is_frozen_and_shared_out_where_weights_are(
    dataset: Artifact, teacher: Location, tmp_path: Path
) -> None:
    works = [
        work_of(dataset, teacher, tmp_path, precision="bf16", parallel={"zero": zero})
        for zero in (2, 3)
    ]
    first, second = run_distributed(teachers_of, 2, works, init=False)
    whole = sum(w.numel() for w in load_file(teacher.local_path / "model.safetensors").values())
    for (held, loss, frozen), (other_held, other_loss, _) in zip(first, second, strict=True):
        assert frozen
        assert (held, loss) == (other_held, other_loss)
    assert first[0][0] == whole
    assert first[1][0] == pytest.approx(whole / 2, rel=0.01)
    # The same numbers in the same format, whoever holds them.
    assert first[0][1] == pytest.approx(first[1][1], rel=1e-3)


def test_a_student_begins_as_the_first_and_the_last_of_its_teachers_layers(
    dataset: Artifact, teacher: Location, tmp_path: Path
) -> None:
    work = work_of(dataset, teacher, tmp_path / "run")
    data = open_dataset(work.dataset, "train")
    network = build_network(work, causal_lm(teacher), data)
    whole = load_file(teacher.local_path / "model.safetensors")
    for name in network.plain.state_dict():
        before = name.replace(".layers.1.", f".layers.{DEPTH - 1}.")
        assert torch.equal(network.weights.read(name), whole[before])
    assert network.plain.config.num_hidden_layers == 2
    distill = {"teacher": str(teacher), "student": {"layers": 4}}
    whole_depth = work_of(dataset, teacher, tmp_path / "all", distill=distill)
    with pytest.raises(SpecError, match="layers is 4, and the teacher has 4 layers; give fewer"):
        build_network(whole_depth, causal_lm(teacher), data)


# ---- one batch -----------------------------------------------------------------------------------


def causal_lm(folder: Location) -> Task:
    return get_task("causal_lm")(CausalLMSpec()).reading_as(folder)


def reference(task: Task, student: Any, teacher: Any, batch: Any, spec: DistillSpec) -> float:
    """By torch, on whole tensors."""
    with torch.no_grad():
        said, told = task.scores(student, batch), task.scores(teacher, batch)
        bears = said.targets_N != -100
        t = spec.temperature
        soft = F.kl_div(
            (said.logits_NV[bears] / t).log_softmax(-1),
            (told.logits_NV[bears] / t).log_softmax(-1),
            reduction="sum",
            log_target=True,
        )
        hard = F.cross_entropy(said.logits_NV, said.targets_N, reduction="sum")
    return float((1 - spec.weight) * hard + spec.weight * t**2 * soft)


def test_the_loss_of_a_batch_is_that_of_the_task_and_that_of_what_the_teacher_says(
    dataset: Artifact, teacher: Location
) -> None:
    data = open_dataset(mixture_of(dataset), "train")
    task = causal_lm(teacher)
    model, _ = load_for_use(teacher.local_path, "causal_lm")
    student = build_tiny_llama(seed=5)
    batch = task.collate(columns_of(data.read(np.arange(4))))
    for temperature, weight in ((1.0, 1.0), (2.0, 0.5), (4.0, 0.25)):
        spec = DistillSpec(teacher="t", temperature=temperature, weight=weight)
        loss = Teacher(model, task, spec).loss(student, batch)
        assert loss.item() == pytest.approx(reference(task, student, model, batch, spec), rel=1e-5)
        loss.backward()
        assert all(weight.grad is None for weight in model.parameters())
    assert float(student.model.embed_tokens.weight.grad.abs().sum()) > 0


def test_a_teacher_may_have_more_ids_than_the_tokenizer_and_not_fewer_than_its_student(
    dataset: Artifact, teacher: Location
) -> None:
    data = open_dataset(mixture_of(dataset), "train")
    task, spec = causal_lm(teacher), DistillSpec(teacher="t")
    batch = task.collate(columns_of(data.read(np.arange(2))))
    wide, narrow = build_tiny_llama(vocab_size=320), build_tiny_llama(vocab_size=300)
    loss = Teacher(wide, task, spec).loss(narrow, batch)
    assert torch.isfinite(loss)
    with pytest.raises(SpecError, match=r"\(\d+, 300\) and the student of \(\d+, 320\)"):
        Teacher(narrow, task, spec).loss(wide, batch)


def test_a_classifier_learns_from_a_teacher_of_its_classes() -> None:
    task = get_task("text_classification")(labels=("no", "yes"))
    batch = {
        "input_ids": torch.tensor([[5, 6, 7], [8, 9, 1]]),
        "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]]),
        "labels": torch.tensor([1, 0]),
    }
    teacher, student = build_tiny_bert(seed=1).eval(), build_tiny_bert(seed=2).eval()
    spec = DistillSpec(teacher="t", temperature=3.0, weight=0.7)
    loss = Teacher(teacher, task, spec).loss(student, batch)
    assert loss.item() == pytest.approx(reference(task, student, teacher, batch, spec), rel=1e-5)


# ---- what is refused -----------------------------------------------------------------------------


def test_a_teacher_that_speaks_of_other_things_is_refused(
    teacher: Location, tmp_path: Path
) -> None:
    task = causal_lm(teacher)
    open_teacher(teacher, task, 64)
    with pytest.raises(ArtifactError, match="takes 64 tokens, and rows have up to 65"):
        open_teacher(teacher, task, 65)
    build_tiny_llama().save_pretrained(tmp_path)
    train_tiny_tokenizer(["quite another text, of other words"]).save_pretrained(tmp_path)
    with pytest.raises(ArtifactError, match="reads with another tokenizer than the student"):
        open_teacher(Location.parse(str(tmp_path)), task, 64)
    build_tiny_bert(("yes", "no")).save_pretrained(tmp_path)
    with pytest.raises(ArtifactError, match="the classes yes, no apart, and the data has no, yes"):
        check_teacher_classes(Location.parse(str(tmp_path)), ("no", "yes"))


def test_special_tokens_may_mean_something_else_to_a_teacher(
    teacher: Location, tmp_path: Path
) -> None:
    """As of a model that was tuned to chat: the ids are the same, and what ends a turn is not."""
    model, _ = load_for_use(teacher.local_path, "causal_lm")
    model.save_pretrained(tmp_path)
    tokenizer = train_tiny_tokenizer([" ".join(WORDS)])
    tokenizer.eos_token = "<|pad|>"
    tokenizer.save_pretrained(tmp_path)
    assert open_teacher(Location.parse(str(tmp_path)), causal_lm(teacher), 64)


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ({"parallel": {"tensor": 2}}, "not cut among workers, and parallel.tensor is 2"),
        ({"parallel": {"sequence": 2}}, "not cut among workers, and parallel.sequence is 2"),
        ({"base": "b"}, "leave `base` and `model` out"),
        ({"model": MODEL}, "leave `base` and `model` out"),
        ({"tokenizer": {"vocab_size": 300}}, "a student reads with its teacher's"),
        ({"distill": {"teacher": "t", "weight": 0.0}}, "greater than 0"),
        ({"distill": {"teacher": "t", "temperature": 0.0}}, "0.1"),
    ],
)
def test_what_cannot_be_is_refused_in_the_job_file(spec: dict[str, Any], told: str) -> None:
    fields = {"task": "causal_lm", "sources": [{"path": "x"}], **TRAINING}
    fields["distill"] = {"teacher": "t", "student": {"layers": 2}}
    FinetuneSpec.model_validate(fields)
    with pytest.raises(ValueError, match=told):
        FinetuneSpec.model_validate(fields | spec)


def test_what_is_pretrained_is_no_part_of_a_teacher() -> None:
    fields = {"model": MODEL, **TRAINING, "distill": {"teacher": "t", "student": {"layers": 2}}}
    with pytest.raises(ValueError, match="pretraining has a `model` or a `base`"):
        PretrainSpec.model_validate(fields)


class Smoothed(TextClassification):
    """Of a user, with another loss than that of what it is derived from."""

    name = "mine:Smoothed"


def test_only_tasks_whose_logits_say_their_loss_learn_from_a_teacher() -> None:
    able = {name for name, task in TASKS.items() if why_no_teacher(task) is None}
    assert able == {
        *("causal_lm", "chat", "masked_lm", "text_classification", "token_classification"),
        *("image_classification", "audio_classification"),
    }
    assert "give it a method `scores` of its own" in str(why_no_teacher(Smoothed))
    assert why_other_task("causal_lm", "chat") is why_other_task("chat", "causal_lm") is None
    assert "the student learns text_classification" in str(
        why_other_task("multi_label_classification", "text_classification")
    )
