"""What cannot work is refused, with the reason and the nearest layout that does."""

import pytest

from raymodel.errors import SpecError
from raymodel.model.presets import load_presets
from raymodel.tasks.documents import DECODERS
from raymodel.train.forecast.support import Trained, check_support, find_unsupported
from raymodel.train.plan import plan_batch
from raymodel.train.spec import FinetuneSpec, PretrainSpec, TrainSpec
from raymodel.train.step.deepspeed_config import deepspeed_config

LLAMA = {"num_attention_heads": 12, "num_key_value_heads": 4}
COMMON = {"global_batch": 8, "duration": "1 step"}


def pretrain(**fields: object) -> TrainSpec:
    return PretrainSpec.model_validate({"model": {"preset": "llama-tiny"}} | COMMON | fields)


def reasons(spec: TrainSpec, architecture: str = "llama", **known: object) -> str:
    config = LLAMA | known.pop("config", {})
    model = Trained(
        architecture, config, known.get("cuts_rows", True), known.get("row_tokens"), DECODERS
    )
    return "; ".join(f"{field}: {reason}" for field, reason in find_unsupported(spec, model))


def tensor(workers: int, **fields: object) -> TrainSpec:
    return pretrain(parallel={"zero": 1, "tensor": workers}, **fields)


def sequence(workers: int, **fields: object) -> TrainSpec:
    return pretrain(parallel={"sequence": workers}, **fields)


@pytest.mark.parametrize(
    "spec",
    [
        pretrain(),
        tensor(2),
        tensor(4),
        sequence(2),
        sequence(12),
        pretrain(parallel={"tensor": 2, "sequence": 6}),
    ],
)
def test_what_works_is_not_refused(spec):
    assert reasons(spec) == ""


@pytest.mark.parametrize(
    ("spec", "model", "told"),
    [
        (tensor(3), {}, "12 heads with 4 of keys and values evenly; use tensor: 2"),
        (tensor(8), {}, "use tensor: 4"),
        (tensor(2), {"architecture": "t5"}, "cannot put its parts together"),
        (tensor(2), {"architecture": "gpt2"}, "Use zero: 3"),
        (tensor(2), {"architecture": "bloom"}, "not tried"),
        (sequence(8), {}, "use sequence: 4"),
        (
            pretrain(parallel={"zero": 0, "tensor": 2}, precision="bf16"),
            {},
            "DeepSpeed clips by the gradient of a part",
        ),
        (sequence(2), {"architecture": "bert"}, "both directions"),
        (sequence(2), {"cuts_rows": False}, "the task needs whole rows"),
        (sequence(2, attention="eager"), {}, "does not go with attention: eager; use sdpa"),
        (pretrain(parallel={"tensor": 4, "sequence": 2}), {}, "exchange 3 heads with 1"),
    ],
)
def test_what_cannot_work_says_why_and_what_does(spec, model, told):
    assert told in reasons(spec, **model)


def test_a_window_shorter_than_the_rows_is_refused_where_rows_are_shared():
    window = {"sliding_window": 4096}
    assert "at most 4096 tokens" in reasons(sequence(2), config=window, row_tokens=8192)
    assert reasons(sequence(2), config=window, row_tokens=4096) == ""
    unused = window | {"use_sliding_window": False}
    assert reasons(sequence(2), config=unused, row_tokens=8192) == ""


@pytest.mark.parametrize("parallel", [{"tensor": 2}, {"sequence": 2}])
def test_an_adapter_is_trained_by_whole_workers(parallel):
    spec = FinetuneSpec.model_validate(
        COMMON
        | {
            "task": "causal_lm",
            "sources": [{"path": "a"}],
            "adapter": {"lora": {"rank": 2}},
            "parallel": parallel,
        }
    )
    assert "an adapter" in reasons(spec)


def test_a_worker_raises_the_first_reason():
    model = Trained("llama", LLAMA, True, None, DECODERS)
    with pytest.raises(SpecError, match=r"parallel\.tensor is 3: 3 workers cannot share 12 heads"):
        check_support(tensor(3), model)


@pytest.mark.parametrize("preset", [name for name in load_presets() if not name.startswith("bert")])
def test_the_presets_take_two_workers_of_each_kind(preset):
    made = load_presets()[preset]
    model = Trained(made["architecture"], made["config"], True, None, DECODERS)
    for spec in (tensor(2), sequence(2)):
        assert list(find_unsupported(spec, model)) == []


def test_deepspeed_is_told_no_batch_of_the_world_and_keeps_logits_whole():
    """It would count tensor neighbours as data parallel, and cut a tied head by the vocabulary."""
    config = deepspeed_config(tensor(2), plan_batch(8, 2, 2), 2)
    assert "train_batch_size" not in config
    assert config["tensor_parallel"] == {"autotp_size": 2, "vocab_parallel_lm_head": False}
    assert "tensor_parallel" not in deepspeed_config(sequence(2), plan_batch(8, 2, 2), 2)


def test_offload_takes_deepspeeds_own_optimizer():
    spec = pretrain(parallel={"zero": 2, "offload": "cpu"})
    config = deepspeed_config(spec, plan_batch(8, 2, 2), 2)
    assert config["zero_optimization"]["offload_optimizer"]["device"] == "cpu"
    assert "torch_adam" not in config["optimizer"]["params"]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"parallel": {"zero": 0, "offload": "cpu"}}, "use zero: 1, 2 or 3"),
        ({"attention": "flash", "precision": "fp32"}, "use precision: bf16, or attention: sdpa"),
        ({"parallel": {"pipeline": 2}}, "pipeline parallelism is not offered"),
        ({"parallel": {"zero": 3, "offload": "nvme"}}, "use offload: cpu, and more workers"),
    ],
)
def test_settings_that_exclude_each_other_are_refused(fields, told):
    with pytest.raises(ValueError, match=told):
        pretrain(**fields)


@pytest.mark.parametrize(
    "config",
    [{}, {"num_attention_heads": "abc"}, {"num_attention_heads": 0}, {"num_key_value_heads": -1}],
    ids=str,
)
def test_heads_that_the_job_does_not_tell_are_not_judged(config):
    """A configuration that is wrong is refused where it is built, by its own name."""
    model = Trained("llama", config, True, None, DECODERS)
    for layout in ({"tensor": 3}, {"sequence": 5}, {"tensor": 2, "sequence": 2}):
        assert list(find_unsupported(pretrain(parallel=layout), model)) == []
    both = pretrain(parallel={"tensor": 3, "zero": 0})
    assert [field for field, _ in find_unsupported(both, model)] == ["parallel.tensor"]


def test_documents_cross_only_where_the_job_says_so():
    told = reasons(pretrain(), "mamba")
    assert told.startswith("objective.cross_documents: mamba is not known to keep")
    assert "objective: {name: causal_lm, cross_documents: true}" in told
    assert (
        reasons(pretrain(objective={"name": "causal_lm", "cross_documents": True}), "mamba") == ""
    )
