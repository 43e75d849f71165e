"""The arithmetic of a run: steps, batches, the learning rate, DeepSpeed's configuration."""

import itertools
import math
import re
from typing import get_args

import pytest

from raymodel.errors import SpecError
from raymodel.spec.base import Spec
from raymodel.train.plan import BatchPlan, check_rows, cut, plan_batch, plan_training, stage_to_run
from raymodel.train.spec import FinetuneSpec, PretrainSpec
from raymodel.train.step.deepspeed_config import deepspeed_config
from raymodel.train.update.schedule import learning_rate_at
from raymodel.train.update.schedule_spec import ScheduleSpec


def spec_with(**fields) -> PretrainSpec:
    base = {"model": {"preset": "llama-tiny"}, "global_batch": 8, "duration": "100 steps"}
    return PretrainSpec.model_validate(base | fields)


# ---- cut and batches -----------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "pieces"), itertools.product(range(9), range(1, 6)))
def test_pieces_cover_the_rows_in_order_and_differ_by_one_at_most(rows, pieces):
    bounds = cut(rows, pieces)
    assert len(bounds) == pieces
    assert [row for start, stop in bounds for row in range(start, stop)] == list(range(rows))
    sizes = [stop - start for start, stop in bounds]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(
    ("global_batch", "micro_batch", "workers", "expected"),
    [
        (8, None, 2, BatchPlan(micro_batch=4, accumulation=1)),
        (8, 2, 2, BatchPlan(micro_batch=2, accumulation=2)),
        (8, None, 3, BatchPlan(micro_batch=3, accumulation=1)),  # 3, 3 and 2 rows
        (8, 2, 3, BatchPlan(micro_batch=2, accumulation=2)),
        (10, 4, 1, BatchPlan(micro_batch=4, accumulation=3)),  # 4, 3 and 3 rows
        (9, 4, 1, BatchPlan(micro_batch=3, accumulation=3)),  # even pieces, not 4, 4 and 1
        (8, 100, 2, BatchPlan(micro_batch=4, accumulation=1)),
    ],
)
def test_micro_batch_and_accumulation_follow_from_the_workers(
    global_batch, micro_batch, workers, expected
):
    assert plan_batch(global_batch, micro_batch, workers) == expected


def test_a_micro_batch_is_never_larger_than_asked_for_and_all_rows_find_room():
    for global_batch, micro, workers in itertools.product(range(1, 20), range(1, 8), range(1, 6)):
        plan = plan_batch(global_batch, micro, workers)
        assert plan.micro_batch <= micro
        assert plan.micro_batch * plan.accumulation * workers >= global_batch


# ---- steps ---------------------------------------------------------------------------------------


def test_durations_in_every_unit_become_steps():
    def total(duration):
        return plan_training(
            spec_with(duration=duration), rows_per_epoch=100, tokens_per_row=10.0
        ).total_steps

    assert total("7 steps") == 7
    assert total("80 tokens") == 1
    assert total("81 tokens") == 2, "a step more rather than less"
    assert total("1 epoch") == 13  # 100 rows in steps of 8
    assert total("16 rows") == 2


def test_intervals_left_out_follow_from_the_length_of_the_run():
    plan = plan_training(spec_with(duration="1000 steps"), rows_per_epoch=100, tokens_per_row=10.0)
    assert (plan.log_every_steps, plan.validate_every_steps) == (5, 200)
    assert plan.checkpoint_every_steps == 100
    assert plan.total_tokens == 1000 * 8 * 10
    short = plan_training(spec_with(duration="3 steps"), rows_per_epoch=100, tokens_per_row=10.0)
    assert (short.log_every_steps, short.checkpoint_every_steps) == (1, 1)


def test_intervals_given_in_tokens_become_steps():
    spec = spec_with(log_every="160 tokens", checkpoint={"every": "2 epochs"})
    plan = plan_training(spec, rows_per_epoch=100, tokens_per_row=10.0)
    assert (plan.log_every_steps, plan.checkpoint_every_steps) == (2, 25)


def test_epochs_without_a_whole_step_are_refused_with_the_ways_out():
    check_rows(spec_with(duration="3 epochs"), 8)
    with pytest.raises(SpecError, match=r"no epoch has a whole step; lower `global_batch` to 7"):
        check_rows(spec_with(duration="3 epochs"), 7)
    check_rows(spec_with(duration="3 steps"), 1)


def test_rows_that_do_not_fill_a_step_are_said_with_their_visits():
    def repeats(rows):
        spec = spec_with(duration="50 steps")
        return plan_training(spec, rows_per_epoch=rows, tokens_per_row=10.0).repeats

    assert repeats(8) is None
    assert "2 rows and `global_batch` is 8: each row is in every step 4 times" in repeats(2)
    assert "visited 200 times in 50 steps" in repeats(2)
    assert "the data has 1 row and" in repeats(1)


# ---- the learning rate ---------------------------------------------------------------------------


def rates(name, total=100, **fields):
    schedule = ScheduleSpec(name=name, **fields)
    return [learning_rate_at(step, total, 2.0, schedule) for step in range(1, total + 1)]


SCHEDULES = get_args(ScheduleSpec.model_fields["name"].annotation)


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_rate_is_never_zero_rises_in_the_warmup_and_falls_after_it(name):
    values = rates(name, warmup=0.1, final=0.1)
    assert values[0] == pytest.approx(2.0 / 11), "the first update does something"
    rising, rest = values[:10], values[10:]
    assert rising == sorted(rising)
    assert rising[-1] < 2.0
    assert rest == sorted(rest, reverse=True)
    assert max(values) <= 2.0


def test_the_rate_ends_where_the_spec_says():
    assert rates("cosine", final=0.1)[-1] == pytest.approx(0.2)
    assert rates("linear", final=0.0)[-1] == 0.0
    assert rates("wsd", final=0.0)[-1] == 0.0
    assert rates("constant", final=0.1)[-1] == 2.0
    assert rates("inverse_sqrt", warmup=0.24, final=0.1)[-1] == pytest.approx(1.0)


def test_half_way_the_cosine_and_the_line_are_at_the_middle():
    for name in ("cosine", "linear"):
        assert rates(name, warmup=0.0, final=0.0)[49] == pytest.approx(1.0)
    quarter = (1 + math.cos(math.pi / 4)) / 2
    assert rates("cosine", warmup=0.0, final=0.0)[24] == pytest.approx(2.0 * quarter)


def test_a_run_of_one_step_has_a_rate():
    for name in SCHEDULES:
        assert rates(name, total=1, warmup=1.0) == [1.0]
        assert 0 < rates(name, total=1, warmup=0.0)[0] <= 2.0


def test_the_inverse_root_needs_no_warmup_and_goes_on_from_it():
    assert rates("inverse_sqrt", warmup=0.0)[:4] == pytest.approx([2, 2 / 2**0.5, 2 / 3**0.5, 1])
    values = rates("inverse_sqrt", warmup="15 steps")
    assert values[15] == 2.0, "the peak, a step after the warm-up"
    assert values[63] == 1.0


def test_the_rate_of_wsd_stays_at_the_peak_and_falls_in_a_line_over_the_decay():
    values = rates("wsd", warmup="10 steps", decay="20%", final=0.0)
    assert values[10:80] == [2.0] * 70
    assert values[80:] == pytest.approx([2.0 * (19 - i) / 20 for i in range(20)])
    assert rates("wsd", decay="20 steps") == rates("wsd", decay=0.2)
    assert rates("wsd") == rates("wsd", decay=0.1)
    assert rates("wsd", warmup=0.0, decay=0.0) == [2.0] * 100
    assert rates("wsd", warmup=0.0, decay=1.0, final=0.0) == rates("linear", warmup=0.0, final=0.0)


def test_a_share_and_as_many_steps_are_the_same_warmup():
    for name in SCHEDULES:
        assert rates(name, warmup="2%") == rates(name, warmup=0.02)
        assert rates(name, warmup="2%") == rates(name, warmup="2 steps")
        assert all(0 < rate <= 2.0 for rate in rates(name, warmup="100 steps"))
        for total in range(1, 30):  # shares that are no whole steps
            assert len(rates(name, total=total, warmup=0.5)) == total
    assert len(rates("wsd", total=7, warmup="50%", decay="50%")) == 7


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ({"warmup": "101 steps"}, "schedule.warmup is 101 steps and the run has 100; give a share"),
        ({"name": "wsd", "warmup": 0.6, "decay": 0.5}, "schedule.decay of 0.5 are more than the"),
        ({"name": "wsd", "decay": "99 steps"}, "schedule.decay of 99 steps are more than the 100"),
        ({"decay": 0.1}, "leave decay out, or use name: wsd"),
        ({"warmup": "2 epochs"}, "'2 epochs' is not a fraction or a number of steps; write"),
        ({"warmup": 1.5}, "1.5 is not a fraction or a number of steps"),
        ({"warmup": "0 steps"}, "'0 steps' is not a fraction or a number of steps"),
    ],
)
def test_a_schedule_that_the_run_cannot_hold_is_refused(schedule, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        spec_with(schedule=schedule)


def test_a_warmup_longer_than_a_run_in_epochs_is_told_with_the_data():
    spec = spec_with(duration="1 epoch", schedule={"warmup": "14 steps"})
    with pytest.raises(SpecError, match=r"warmup is 14 steps and the run has 13"):
        plan_training(spec, rows_per_epoch=100, tokens_per_row=10.0)
    assert plan_training(spec, rows_per_epoch=200, tokens_per_row=10.0).total_steps == 25


def test_a_schedule_reads_back_and_those_of_before_keep_their_identity():
    spec = ScheduleSpec(name="wsd", warmup="200 steps", decay="10%")
    assert ScheduleSpec(**spec.to_dict()) == spec
    assert spec.identity()["warmup"] == "200 steps"
    assert ScheduleSpec().identity() == {"name": "cosine", "warmup": 0.02, "final": 0.1}


# ---- DeepSpeed -----------------------------------------------------------------------------------


def config_of(workers=2, **fields):
    return deepspeed_config(spec_with(**fields), BatchPlan(micro_batch=3, accumulation=2), workers)


def test_the_configuration_says_what_the_spec_says():
    config = config_of(
        optimizer={"learning_rate": 0.5, "gradient_clip": 0.0, "betas": [0.8, 0.9]},
        parallel={"zero": 2},
    )
    assert config["train_micro_batch_size_per_gpu"] == 3
    assert config["gradient_accumulation_steps"] == 2
    assert config["gradient_clipping"] == 0.0, "written, because left out it would be 1"
    assert config["zero_optimization"]["stage"] == 2
    assert config["optimizer"]["params"]["betas"] == [0.8, 0.9]
    assert config["optimizer"]["params"]["torch_adam"], "else it compiles an extension"
    assert "train_batch_size" not in config
    assert "scheduler" not in config, "its warm-up would make two updates with a rate of zero"


def test_what_nobody_shares_is_not_spread():
    def stage(zero=1, workers=1, precision="fp32", offload=False):
        return stage_to_run(zero, workers=workers, precision=precision, offload=offload)

    assert [stage(zero) for zero in range(4)] == [0, 0, 0, 0]
    assert [stage(zero, workers=2) for zero in range(4)] == [0, 1, 2, 3]
    assert stage(precision="bf16") == 1, "its fp32 copy is updated at once at stage 1 only"
    assert stage(offload=True) == 1


def test_the_gradient_is_clipped_by_one_of_two():
    def clip(precision="fp32", **parallel):
        return config_of(precision=precision, parallel=parallel)["gradient_clipping"]

    assert clip(zero=0) == 0.0, "the guard of the update does"
    assert clip(zero=1) == clip(zero=0, tensor=2) == clip(precision="bf16", zero=0) == 1.0


def test_the_precision_chooses_one_section():
    assert config_of(precision="bf16")["bf16"]["enabled"]
    assert config_of(precision="fp16")["fp16"]["enabled"]
    assert not {"bf16", "fp16"} & set(config_of(precision="fp32"))


def test_the_spec_is_frozen_data():
    assert isinstance(spec_with(), Spec)
    with pytest.raises(ValueError, match="frozen"):
        spec_with().global_batch = 9


def test_examples_are_as_long_as_the_base_can_take() -> None:
    task = {
        "task": "causal_lm",
        "sources": [{"path": "a", "fields": {"prompt": "{x}", "response": "{y}"}}],
    }
    training = {"global_batch": 8, "duration": "1 epoch"}
    left_open = FinetuneSpec(**task, **training)
    assert left_open.max_length_for(None) == left_open.max_length_for(4096) == 512
    assert left_open.max_length_for(256) == 256
    asked = FinetuneSpec(**task, **training, max_length=300)
    assert asked.max_length_for(512) == 300
    with pytest.raises(SpecError, match="max_length is 300, and the base has 256 positions"):
        asked.max_length_for(256)
