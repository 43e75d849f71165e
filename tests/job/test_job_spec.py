import pytest
from pydantic import ValidationError

from raymodel.job.spec import Job

PREPARE = {
    "sources": [{"path": "a"}],
    "tokenizer": {"vocab_size": 4096},
    "sequence_length": 256,
}
PRETRAIN = {"model": {"preset": "llama-tiny"}, "global_batch": 32, "duration": "10 steps"}
FINETUNE = {
    "task": "text_classification",
    "sources": [{"path": "a", "fields": {"label": "label"}}],
    "global_batch": 32,
    "duration": "1 epoch",
}


def refusal(**sections) -> str:
    with pytest.raises(ValidationError) as caught:
        Job(name="x", **sections)
    (error,) = caught.value.errors()
    return str(error["ctx"]["error"])


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({}, "no stage given"),
        ({"pretrain": PRETRAIN}, "pretrain has no data"),
        ({"finetune": FINETUNE}, "finetune has no model"),
        ({"prepare": PREPARE, "evaluate": {"metrics": ["perplexity"]}}, "evaluate has no model"),
        ({"serve": {}}, "serve has no model"),
    ],
)
def test_a_stage_without_its_input_is_refused_with_the_way_to_give_it(sections, message):
    assert refusal(**sections).startswith(message)


def test_a_global_batch_that_the_workers_cannot_divide_names_the_nearest_that_they_can():
    message = refusal(
        prepare=PREPARE, pretrain=PRETRAIN | {"global_batch": 31}, cluster={"workers": 4}
    )
    assert "31 cannot be divided by 4 workers; use 28 or 32" in message


def test_an_elastic_cluster_needs_a_row_for_each_worker():
    message = refusal(
        prepare=PREPARE,
        pretrain=PRETRAIN | {"global_batch": 3},
        cluster={"workers": {"min": 1, "max": 4}},
    )
    assert "less than 4 workers" in message


@pytest.mark.parametrize(
    ("workers", "told"),
    [
        (
            6,
            "pretrain.parallel needs a multiple of tensor x sequence = 2 x 2 = 4 workers, and "
            "there are 6; use 4 or 8",
        ),
        ({"min": 4, "max": 10}, "there are 10; use 8 or 12"),
        ({"min": 2, "max": 8}, "there are 2; use 4"),
        ({"min": 4, "max": 16}, "global_batch of 3 is less than 4 replicas"),
    ],
)
def test_workers_make_whole_replicas_also_when_they_are_elastic(workers, told):
    parallel = {"tensor": 2, "sequence": 2}
    rows = 3 if told.startswith("global_batch") else 32
    message = refusal(
        prepare=PREPARE,
        pretrain=PRETRAIN | {"global_batch": rows, "parallel": parallel},
        cluster={"workers": workers},
    )
    assert told in message


def test_a_pipeline_is_refused_with_the_reason():
    message = refusal(prepare=PREPARE, pretrain=PRETRAIN | {"parallel": {"pipeline": 2}})
    assert "pipeline parallelism is not offered" in message
    assert "zero: 3" in message


def test_the_task_is_that_of_the_last_model():
    assert Job(name="x", prepare=PREPARE, pretrain=PRETRAIN).task == "causal_lm"
    job = Job(name="x", prepare=PREPARE, pretrain=PRETRAIN, finetune=FINETUNE)
    assert job.task == "text_classification"


def test_workers_and_layout_are_not_part_of_what_a_run_computes():
    few = Job(name="x", prepare=PREPARE, pretrain=PRETRAIN | {"parallel": {"zero": 0}})
    many = Job(
        name="x", prepare=PREPARE, pretrain=PRETRAIN | {"parallel": {"zero": 3}, "micro_batch": 2}
    )
    assert few.pretrain.identity() == many.pretrain.identity()
