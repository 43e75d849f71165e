"""What a worker says of its own model: by formula, else counted, else nothing; never an error."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_engines import Case, engine_of, join_tiny_group
from tiny_runs import events, losses, make_dataset, make_work, records, train_all

from raymodel.errors import SpecError
from raymodel.model.build import build_config
from raymodel.model.count import count_model
from raymodel.model.counted import CountedShape
from raymodel.model.shape import ModelShape
from raymodel.model.spec import AdapterSpec
from raymodel.tasks import get_task
from raymodel.testing.distributed import run_distributed
from raymodel.train import worker
from raymodel.train.fault.policy import memory_record, out_of_memory_error
from raymodel.train.forecast.counts import NOT_COUNTED, find_shape, flops_per_token
from raymodel.train.forecast.memory import Setup
from raymodel.train.work import TrainWork

GPT2 = {
    "vocab_size": 300,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 64,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
LLAMA = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
SETUP = Setup(workers=2, global_batch=8, micro_batch=4)
CAUSAL = get_task("causal_lm")()


def test_the_arithmetic_of_a_family_is_its_formula_and_of_another_is_counted():
    llama = build_config("llama", LLAMA)
    expected = count_model("llama", llama.to_dict()).train_flops_per_token(16)
    assert flops_per_token(llama, CAUSAL, row_tokens=16) == expected
    matrices = 2 * 12 * 32 * 32 + 300 * 32
    assert flops_per_token(build_config("gpt2", GPT2), CAUSAL, row_tokens=16) == pytest.approx(
        6 * matrices + 12 * 2 * 32 * 16
    )


@pytest.mark.parametrize("lora", [None, {"rank": 2, "target": ["c_attn"]}])
def test_the_advice_on_memory_is_there_for_a_counted_model(lora):
    adapter = AdapterSpec.model_validate({"lora": lora}) if lora else None
    config = build_config("gpt2", GPT2)
    state = torch.get_rng_state()
    shape = find_shape(config, CAUSAL, SETUP, adapter=adapter, row_tokens=64)
    assert torch.equal(torch.get_rng_state(), state), "training draws what it would have drawn"
    assert isinstance(shape, CountedShape)
    assert (shape.frozen > 0) == (adapter is not None)
    record = json.loads(json.dumps(memory_record(shape, SETUP, row_tokens=64)))
    text = str(out_of_memory_error(MemoryError(), {"memory": record}))
    for knob in ("micro_batch: 2", "activation_checkpointing: true", "workers: 4"):
        assert f"`{knob}` saves" in text
    assert "parallel.tensor" not in text, "AutoTP cannot cut it"


def test_what_cannot_be_counted_says_so_and_what_has_a_formula_needs_no_counting():
    vit = build_config("vit", {})
    with pytest.raises(NOT_COUNTED):
        flops_per_token(vit, CAUSAL, row_tokens=16)
    assert find_shape(vit, CAUSAL, SETUP, adapter=None, row_tokens=16) is None
    sharing = replace(SETUP, sequence=2)
    gpt2, llama = build_config("gpt2", GPT2), build_config("llama", LLAMA)
    assert find_shape(gpt2, CAUSAL, sharing, adapter=None, row_tokens=16) is None
    shape = find_shape(llama, CAUSAL, sharing, adapter=None, row_tokens=16)
    assert isinstance(shape, ModelShape)


def count_beside_an_engine(rank, world_size):
    join_tiny_group()
    config = build_config("gpt2", GPT2)

    def count():
        shape = find_shape(config, CAUSAL, SETUP, adapter=None, row_tokens=32)
        return flops_per_token(config, CAUSAL, row_tokens=32), shape

    before = count()
    with engine_of(Case(zero=3, precision="bf16", model="llama")):
        return before == count(), before[0]


def test_deepspeed_changes_nothing_of_what_is_counted():
    (found,) = run_distributed(count_beside_an_engine, 1, init=False)
    assert found[0]
    assert found[1] > 0


def test_a_run_of_a_model_without_a_formula_says_its_utilisation(tmp_path: Path) -> None:
    fields = {name: size for name, size in GPT2.items() if name.startswith("n_")}
    model = {"architecture": "gpt2", "config": fields}
    work = make_work(make_dataset(tmp_path), tmp_path / "run", duration="3 steps", model=model)
    run_distributed(train_all, 2, [work], init=False)
    logged = [record for record in records(work, "metrics") if "loss" in record]
    assert len(losses(work)) == 3
    assert all(0 < record["mfu"] < math.inf for record in logged)
    [attempt] = events(work, "attempt")
    assert attempt["memory"]["shape"]["count"]["trained"] == attempt["parameters"]


def train_uncounted(rank: int, world_size: int, works: list[TrainWork]) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise SpecError("it has no end")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "flops_per_token", fail)
        train_all(rank, world_size, works)


def test_a_run_whose_arithmetic_is_not_known_says_so_and_trains(tmp_path: Path) -> None:
    work = make_work(make_dataset(tmp_path), tmp_path / "run", duration="2 steps")
    run_distributed(train_uncounted, 1, [work], init=False)
    assert len(losses(work)) == 2
    [told] = events(work, "not_counted")
    assert told["level"] == "warning"
    assert told["message"].endswith("so its records have no mfu (it has no end)")
