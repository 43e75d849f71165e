"""The search for a layout that fits."""

from dataclasses import replace

from raymodel.model.shape import Adapter, ModelShape
from raymodel.train.forecast.fit import Room, changes_text, find_fitting, list_savings
from raymodel.train.forecast.memory import Setup, plan_memory

LLAMA_8B = ModelShape.of(
    "llama",
    {
        "vocab_size": 128_256,
        "hidden_size": 4096,
        "intermediate_size": 14_336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
)
SETUP = Setup(workers=8, global_batch=64, micro_batch=8, zero=1, on_gpu=True)
ROOM = Room(max_workers=32, workers_per_node=8)
TOKENS = 4096


def search(limit_gib, setup=SETUP, shape=LLAMA_8B, room=ROOM):
    return find_fitting(
        shape,
        setup,
        row_tokens=TOKENS,
        room=room,
        fits=lambda memory, _: memory.peak.total <= limit_gib * 2**30,
    )


def test_nothing_changes_when_everything_fits():
    assert search(10_000).changes == {}


def test_a_smaller_micro_batch_is_tried_before_anything_else():
    now = plan_memory(LLAMA_8B, SETUP, row_tokens=TOKENS).peak.total
    assert search(now / 2**30 - 1).changes == {"micro_batch": 4}


def test_what_is_found_fits_and_no_smaller_change_does():
    found = search(40)
    assert found.memory.peak.total <= 40 * 2**30
    assert found.memory == plan_memory(LLAMA_8B, found.setup, row_tokens=TOKENS)
    assert len(found.changes) > 1
    for knob in found.changes:
        back = {
            "micro_batch": {"micro_batch": SETUP.micro_batch},
            "parallel.zero": {"zero": SETUP.zero},
            "activation_checkpointing": {"activation_checkpointing": False},
            "parallel.tensor": {"tensor": 1},
            "parallel.offload": {"offload": False},
            "workers": {"workers": SETUP.workers},
        }[knob]
        less = plan_memory(LLAMA_8B, replace(found.setup, **back), row_tokens=TOKENS)
        assert less.peak.total > 40 * 2**30, f"{knob} need not have been turned"


def test_a_layout_stays_what_the_workers_can_do():
    found = search(12)
    assert found.setup.tensor <= 8, "one machine"
    assert 8 % found.setup.tensor == 0, "the heads of keys and values divide"
    assert found.setup.workers <= 32
    assert found.setup.workers % found.setup.tensor == 0


def test_no_layout_is_found_where_none_fits():
    assert search(0.1) is None


def test_an_adapter_is_never_cut():
    adapted = replace(LLAMA_8B, adapter=Adapter(rank=8, target="all-linear"))
    found = search(8, shape=adapted)
    assert found is not None
    assert found.setup.tensor == 1


def test_every_knob_says_what_it_saves_alone():
    savings = list_savings(LLAMA_8B, SETUP, row_tokens=TOKENS, room=ROOM)
    texts = [changes_text(changes) for changes, _ in savings]
    assert "micro_batch: 4" in texts
    assert "activation_checkpointing: true" in texts
    assert "parallel.zero: 3" in texts
    assert "parallel.offload: cpu" in texts
    assert "workers: 16" in texts
    now = plan_memory(LLAMA_8B, SETUP, row_tokens=TOKENS).peak.total
    for changes, saved in savings:
        if changes == {"micro_batch": 4}:
            less = plan_memory(LLAMA_8B, replace(SETUP, micro_batch=4), row_tokens=TOKENS)
            assert saved == now - less.peak.total


def test_matrices_are_not_cut_at_stage_0_in_16_bits():
    replicated = replace(SETUP, zero=0, micro_batch=1)
    savings = list_savings(LLAMA_8B, replicated, row_tokens=TOKENS, room=ROOM)
    assert not [changes for changes, _ in savings if "parallel.tensor" in changes]
    in_fp32 = list_savings(
        LLAMA_8B, replace(replicated, precision="fp32"), row_tokens=TOKENS, room=ROOM
    )
    assert [changes for changes, _ in in_fp32 if changes == {"parallel.tensor": 2}]


def test_no_layout_is_found_that_the_optimizer_cannot_work_under():
    def knobs(**changes):
        setup = replace(SETUP, **changes)
        savings = list_savings(LLAMA_8B, setup, row_tokens=TOKENS, room=ROOM)
        return {knob for change, _ in savings for knob in change}

    assert knobs(optimizer="lion", moments=1) == knobs() - {"parallel.offload"}
    whole = knobs(optimizer="adafactor", moments=0, zero=0, precision="fp32")
    assert not whole & {"parallel.offload", "parallel.zero", "parallel.tensor"}
