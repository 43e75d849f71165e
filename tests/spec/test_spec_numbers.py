"""Every field of a job file takes a range that is written down, and refuses the rest in words."""

from typing import Any, get_args, get_origin

import annotated_types
import pytest
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from raymodel.errors import SpecError
from raymodel.job.spec import Job
from raymodel.spec.base import Spec
from raymodel.spec.document import dotted, parse_document
from raymodel.spec.fields import find_field, in_words, kinds, walk_fields
from raymodel.spec.override import apply_overrides
from raymodel.spec.problems import find_problems, spec_error
from raymodel.spec.quantity import Quantity

JOB = """\
name: x
cluster: {workers: 1}
prepare:
  sources: [{path: a}]
  tokenizer: {vocab_size: 4096}
  sequence_length: 256
pretrain:
  model: {preset: llama-tiny}
  data: [{path: a/prepare}]
  global_batch: 32
  duration: 100 steps
finetune:
  task: causal_lm
  sources: [{path: a, fields: {prompt: "{x}", response: "{y}"}}]
  global_batch: 32
  duration: 1 epoch
  adapter: {lora: {rank: 8}}
  sweep:
    trials: 2
    search: {seed: {uniform: [1, 2]}}
evaluate: {metrics: [perplexity], gates: {perplexity: "< 40"}}
serve: {port: 8000}
"""
NONSENSE = (
    *("-1", "9223372036854775807", "1e308", "-1e308", "1e-308", ".nan", ".inf", "true", '""'),
    *("[1, 2]", "{a: 1}", "[]", "{}", "'1000000T'", "'-5%'", "'1e999'", "999999999999999T steps"),
    *("'100000d'", "'0 steps'", "'1.00000000000000000001K'", "٣", "x" * 10_000),
)
ITEMS = (
    *("prepare.sources.0.weight", "pretrain.data.0.weight", "finetune.sources.0.weight"),
    *("pretrain.optimizer.betas", "cluster.workers.min", "cluster.workers.max"),
    "finetune.sweep.search.seed.uniform",
)
FIELDS = sorted({dotted(path) for path in walk_fields(Job)} | set(ITEMS))


@pytest.fixture(scope="module")
def document():
    return parse_document(JOB, "job.yaml")


def _load(document: Any, override: str) -> Job:
    """As `load_job` does, without reading the same file three thousand times."""
    changed = apply_overrides(document, [override])
    try:
        return Job(**changed.data)
    except ValidationError as error:
        raise spec_error(find_problems(error, Job, changed.data), changed.positions) from error


@pytest.mark.parametrize("field", FIELDS)
def test_nonsense_is_refused_in_words_or_is_a_value_that_reads_back(field, document):
    for value in NONSENSE:
        try:
            job = _load(document, f"{field}={value}")
        except SpecError as error:
            message = str(error)
            assert len(message) < 5000, (field, value)
            assert message.isprintable() or "problems\n" in message, (field, value)
        else:
            assert Job(**job.to_dict()) == job, (field, value)


# What is searched is held against the field that it is for.
@pytest.mark.parametrize("field", [field for field in FIELDS if ".search." not in field])
def test_a_number_has_a_lowest_and_a_highest_value(field):
    found = find_field(Job, tuple(int(p) if p.isdecimal() else p for p in field.split(".")))
    assert found is not None
    for number, bounds in _numbers(found.info.rebuild_annotation() if found.info else Any, []):
        assert {"low", "high"} <= bounds, f"{field}: {in_words(number)}"


def _numbers(annotation: Any, marks: list[Any]) -> list[tuple[Any, set[str]]]:
    """The number types inside a type, and which of their ends are bounded."""
    if hasattr(annotation, "__metadata__"):
        inner, *own = get_args(annotation)
        return _numbers(inner, [*marks, *own])
    if annotation in (int, float):
        return [(annotation, _bounds(marks))]
    if get_origin(annotation) is tuple:
        return _numbers(get_args(annotation)[0], [])
    if get_origin(annotation) is dict or (
        isinstance(annotation, type) and issubclass(annotation, Spec)
    ):
        return []
    members = kinds(annotation)
    if members == [annotation]:
        return []
    return [found for member in get_args(annotation) for found in _numbers(member, marks)]


def _bounds(marks: list[Any]) -> set[str]:
    found = set()
    for mark in marks:
        if isinstance(mark, FieldInfo):
            found |= _bounds(mark.metadata)
        elif isinstance(mark, Quantity):  # each parser holds its own bounds
            found |= {"low", "high"}
        elif isinstance(mark, annotated_types.Ge | annotated_types.Gt):
            found.add("low")
        elif isinstance(mark, annotated_types.Le | annotated_types.Lt):
            found.add("high")
    return found


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("prepare.tokenizer.vocab_size=1e29", "1e+29 is not a count"),
        ("prepare.tokenizer.vocab_size=20M", "must be at most 10,000,000"),
        ("pretrain.optimizer.betas=[0.9, 1.5]", "pretrain.optimizer.betas.1: 1.5 must be below 1"),
        ("pretrain.optimizer.learning_rate=1e30", "1e+30 must be at most 1,000"),
        ("seed=4294967296", "4294967296 must be at most 4,294,967,295"),
        ("cluster.workers=0", "0 must be at least 1"),
        ("cluster.threads_per_worker=0", "0 must be at least 1"),
        ("pretrain.validate_rows=0", "0 must be at least 1"),
        ("evaluate.max_rows=0", "0 must be at least 1"),
        ("pretrain.fault.hang_after=0s", "'0s' must be at least 1s"),
        ("pretrain.fault.hang_after=400d", "'400d' is too large; write at most 365d"),
        ("pretrain.duration=9999T steps", "is too large; write at most 1,000T steps"),
        ("prepare.clean.min_chars=1.5", "1.5 is not a count"),
        ("prepare.clean.min_chars='1.0005K'", "'1.0005K' is not a count"),
        ("prepare.clean={min_chars: 10, max_chars: 5}", "min_chars must not exceed max_chars"),
        ("evaluate.gates.perplexity='< 1e999'", "perplexity: '< 1e999' is not a condition"),
        ("evaluate.metrics=[perplexity, perplexity]", "'perplexity' is given twice; keep one"),
        ("trackers=[wandb, wandb]", "'wandb' is given twice; keep one"),
        ('storage=""', "'' is empty; write text"),
        ('finetune.base=""', "'' is empty; write text"),
    ],
)
def test_what_no_job_can_mean_is_refused_with_its_rule(document, override, message):
    with pytest.raises(SpecError) as caught:
        _load(document, override)
    assert message in str(caught.value)
