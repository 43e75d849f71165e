"""What is counted on the meta device is what real tensors do, and what the formulas say."""

import inspect

import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from raymodel.errors import NotPlannedError
from raymodel.model.activations import count_activations
from raymodel.model.adapters import attach_adapter
from raymodel.model.build import build_config
from raymodel.model.count import count_model
from raymodel.model.counted import CountedShape, Counting, Input, text_row, text_rows
from raymodel.model.groups import HIDDEN, parameter_groups
from raymodel.model.meta_count import count_forward_flops, count_on_meta
from raymodel.model.shape import Adapter, ModelShape
from raymodel.model.spec import AdapterSpec, LoraSpec
from raymodel.tasks import get_task

TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
TOKENS = 48
IMAGE = {"pixel_values": Input(shape=(3, 32, 32), kind="numbers")}
DECODED = {"decoder_input_ids": Input(shape=(24,))}
AUDIO = {"input_features": Input(shape=(8, 100), kind="numbers")}
BERT = {
    "vocab_size": 200,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
VIT = BERT | {"image_size": 32, "patch_size": 8}
VIT.pop("vocab_size")
WHISPER = {
    "vocab_size": 200,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_source_positions": 50,
    "num_mel_bins": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
T5 = {"vocab_size": 200, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
GPT2 = {"vocab_size": 200, "n_embd": 32, "n_layer": 2, "n_head": 4}
SEGFORMER = {
    "hidden_sizes": [32, 64],
    "num_encoder_blocks": 2,
    "depths": [1, 1],
    "sr_ratios": [2, 1],
    "patch_sizes": [7, 3],
    "strides": [4, 2],
    "num_attention_heads": [1, 2],
    "mlp_ratios": [2, 2],
    "decoder_hidden_size": 32,
    "drop_path_rate": 0.0,
    "classifier_dropout_prob": 0.0,
}
MODELS = {
    "bert": ("SequenceClassification", BERT, text_row(TOKENS)),
    "gpt2": ("CausalLM", GPT2, text_row(TOKENS)),
    "vit": ("ImageClassification", VIT, IMAGE),
    "segformer": ("SemanticSegmentation", SEGFORMER, IMAGE),
    "resnet": (
        "ImageClassification",
        {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 2]},
        IMAGE,
    ),
    "t5": ("Seq2SeqLM", T5, text_row(TOKENS) | DECODED),
    "whisper": ("SpeechSeq2Seq", WHISPER, AUDIO | DECODED),
}


def built(architecture, head, fields, dtype=torch.float32):
    config = build_config(architecture, fields)
    auto = getattr(transformers, f"AutoModelFor{head}")
    return auto.from_config(config, dtype=dtype).train()


def outlined(*which):
    with torch.device("meta"):
        return built(*which)


def batch(model, row, rows):
    dtype = next(model.parameters()).dtype
    inputs = {
        name: torch.ones((rows, *each.shape), dtype=torch.long if each.kind == "ids" else dtype)
        for name, each in row.items()
    }
    has_cache = "use_cache" in inspect.signature(model.forward).parameters
    return inputs | ({"use_cache": False} if has_cache else {})


def saved_bytes(model, row, rows):
    """Of all distinct storages that autograd saves, parameters and buffers left out."""
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    storages = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage  # held, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(**batch(model, row, rows))
    return sum(storage.nbytes() for storage in storages.values())


# ---- against real tensors ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attention", "precision"), [("sdpa", "fp32"), ("eager", "fp32"), ("sdpa", "bf16")]
)
@pytest.mark.parametrize("architecture", MODELS)
def test_the_bytes_that_autograd_saves_are_those_of_real_tensors(
    architecture, attention, precision
):
    head, fields, row = MODELS[architecture]
    counting = Counting(rows=((1, row),), precision=precision, attention=attention)
    kept = count_on_meta(outlined(architecture, head, fields), counting).row_bytes
    model = built(architecture, head, fields, TYPES[precision])
    if attention == "eager":
        model.set_attn_implementation("eager")
    for rows in (2, 5):
        counted = rows * (kept.layers + kept.ends) + kept.once
        # On a CPU the deviations of a norm are kept in bf16, which else are in fp32.
        rel = 0.0 if precision == "fp32" else 0.011
        assert counted == pytest.approx(saved_bytes(model, row, rows), rel=rel)


@pytest.mark.parametrize("architecture", MODELS)
def test_the_arithmetic_is_that_of_real_tensors(architecture):
    head, fields, row = MODELS[architecture]
    outline = outlined(architecture, head, fields)
    model = built(architecture, head, fields)
    model.set_attn_implementation("eager")  # torch has no count for the fused kernel of the CPU
    with FlopCounterMode(display=False) as counter:
        output = model(**batch(model, row, 1))
        forward = counter.get_total_flops()
        output.logits.sum().backward()
    assert count_on_meta(outline, Counting(rows=((1, row),))).forward_flops == ((1, forward),)
    assert count_forward_flops(outline, row) == forward
    # Twice the forward, less the gradient of an input that is no activation: a pixel, a sound.
    if architecture == "segformer":
        return  # torch 2.13 counts the backward of a depthwise convolution as that of a full one
    missing = 3 - counter.get_total_flops() / forward
    assert missing == 0 if "input_ids" in row else 0 < missing < 1


@pytest.mark.parametrize("architecture", MODELS)
def test_all_parameters_are_counted(architecture):
    head, fields, row = MODELS[architecture]
    model = built(architecture, head, fields)
    count = count_on_meta(outlined(architecture, head, fields), Counting(rows=((1, row),)))
    groups = parameter_groups(model, 0.0, apart=True)
    assert count.trained == sum(p.numel() for p in model.parameters() if p.requires_grad)
    # The encoder of Whisper has sines as positions, which are not trained.
    assert count.frozen == (50 * 32 if architecture == "whisper" else 0)
    assert count.largest == max(p.numel() for p in model.parameters())
    assert count.sides == sum(sum(p.shape) for p in model.parameters() if p.requires_grad)
    assert count.hidden == sum(
        p.numel() for group in groups if group.get(HIDDEN) for p in group["params"]
    )
    assert count.buffer_bytes >= sum(
        b.numel() * 2 for b in model.buffers() if b.is_floating_point()
    )


def test_recomputation_keeps_what_goes_into_the_layers():
    head, fields, row = MODELS["gpt2"]
    kept = count_on_meta(outlined("gpt2", head, fields), Counting(rows=((1, row),))).row_bytes
    state = 2 * TOKENS * 32
    ids, mask = 8 * TOKENS, 2 * TOKENS * 32  # and the mask of the dropout before the layers
    assert kept.layer_inputs == pytest.approx(2 * state + ids + mask, abs=ids)
    assert kept.layers > 2 * kept.layer > 8 * kept.layer_inputs
    assert kept.logits == 2 * TOKENS * 200
    head, fields, row = MODELS["resnet"]
    kept = count_on_meta(outlined("resnet", head, fields), Counting(rows=((1, row),))).row_bytes
    assert kept.layer_inputs == kept.layers, "nothing of it can be recomputed"


# ---- against the formulas ------------------------------------------------------------------------

FIELDS = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
}
FAMILIES = [
    ("llama", {"num_key_value_heads": 2}),
    ("llama", {"tie_word_embeddings": True}),
    ("mistral", {"num_key_value_heads": 2}),
    ("qwen2", {"num_key_value_heads": 2}),
    ("qwen3", {"num_key_value_heads": 2, "head_dim": 32}),
    ("bert", {}),
]


def both(architecture, extra, head="CausalLM", adapter=None, **counting):
    """The shape by formula, and the one that is counted."""
    model = outlined(architecture, head, FIELDS | extra)
    task = get_task("causal_lm" if head == "CausalLM" else "text_classification")
    if adapter is not None:
        model = attach_adapter(
            model, adapter, task(labels=("no", "yes") if head != "CausalLM" else ())
        )
    config = FIELDS | extra
    counted = CountedShape(
        architecture=architecture,
        config=config,
        count=count_on_meta(model, Counting(rows=text_rows(128), **counting)),
        adapter=Adapter.of(adapter),
    )
    labels = 0 if head == "CausalLM" else 2
    return ModelShape.of(architecture, config, num_labels=labels, adapter=adapter), counted


@pytest.mark.parametrize("lora", [None, LoraSpec(rank=3, target="all-linear")])
@pytest.mark.parametrize("head", ["CausalLM", "SequenceClassification"])
@pytest.mark.parametrize(("architecture", "extra"), FAMILIES)
def test_what_is_counted_is_what_the_formulas_say(architecture, extra, head, lora):
    if architecture == "bert":
        extra = extra | {"is_decoder": head == "CausalLM"}
    adapter = AdapterSpec(lora=lora) if lora else None
    formula, counted = both(architecture, extra, head, adapter)
    names = ("trained", "frozen", "hidden", "sides")
    names += ("largest",) if adapter is None else ()
    for name in names:
        assert getattr(counted, name) == getattr(formula, name), name
    if adapter is None:
        assert counted.head_gradient() == formula.head_gradient()
        assert counted.tensor_share(2) == formula.tensor_share(2)


@pytest.mark.parametrize(("architecture", "extra"), FAMILIES)
def test_the_arithmetic_is_that_of_the_formulas_at_every_size(architecture, extra):
    is_bert = architecture == "bert"
    head = "SequenceClassification" if is_bert else "CausalLM"
    formula, counted = both(architecture, extra, head)
    for tokens in (128, 100, 64, 300):
        expected = formula.train_flops_per_token(tokens)
        if is_bert:  # its pooler and classifier see one token of a row; the formula lets all pay
            expected -= 6 * (64 * 64 + 2 * 64) * (tokens - 1) / tokens
        assert counted.train_flops_per_token(tokens) == pytest.approx(expected, rel=0.001)


@pytest.mark.parametrize(
    ("precision", "attention", "on_gpu"),
    [("bf16", "sdpa", False), ("fp32", "eager", False), ("bf16", "flash", True)],
)
@pytest.mark.parametrize(("architecture", "extra"), FAMILIES)
def test_activations_are_those_of_the_formulas(architecture, extra, precision, attention, on_gpu):
    head = "SequenceClassification" if architecture == "bert" else "CausalLM"
    rates = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    extra = extra | (rates if architecture == "bert" else {})
    how = {"precision": precision, "attention": attention, "on_gpu": on_gpu}
    formula, counted = both(architecture, extra, head, **how)
    expected = count_activations(
        formula,
        number_bytes=4 if precision == "fp32" else 2,
        attention=attention,
        context=128,
        on_gpu=on_gpu,
    )
    seen = counted.activations()
    assert seen.layer == pytest.approx(expected.layer, rel=0.02)
    assert seen.layers + seen.ends == pytest.approx(expected.layers + expected.ends, rel=0.05)
    assert seen.logits == pytest.approx(expected.logits, abs=0.1)


def test_a_gpu_keeps_a_byte_of_each_number_that_is_dropped():
    by_device = []
    for on_gpu in (False, True):
        formula, counted = both("bert", {}, "SequenceClassification", on_gpu=on_gpu)
        expected = count_activations(
            formula, number_bytes=2, attention="sdpa", context=128, on_gpu=on_gpu
        )
        assert counted.activations().layer == pytest.approx(expected.layer, rel=0.02)
        by_device.append(counted.activations().layer)
    assert by_device[0] > 4 * by_device[1], "torch has no fused attention with dropout on a CPU"


# ---- what else there is --------------------------------------------------------------------------


def test_experts_are_counted_too():
    fields = FIELDS | {"num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2}
    flops = count_forward_flops(outlined("mixtral", "CausalLM", fields), text_row(64)) / 64
    dense = count_model("llama", fields).forward_flops_per_token(64)
    one_mlp = 2 * 2 * 3 * 64 * 160  # layers; a multiplication and an addition
    router = 2 * 2 * 64 * 4
    assert flops == pytest.approx(dense + one_mlp + router)


def test_no_layer_is_left_out_by_chance():
    fields = WHISPER | {"encoder_layerdrop": 0.9, "decoder_layerdrop": 0.9}
    sure, unsure = (
        count_on_meta(
            outlined("whisper", "SpeechSeq2Seq", each), Counting(rows=((1, AUDIO | DECODED),))
        )
        for each in (WHISPER, fields)
    )
    assert sure == unsure


def test_counting_changes_neither_the_model_nor_the_stream_of_chance():
    model = outlined(*("gpt2", *MODELS["gpt2"][:2]))
    state = torch.get_rng_state()
    count_on_meta(model, Counting(rows=text_rows(8), attention="eager"))
    assert torch.equal(torch.get_rng_state(), state)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.config._attn_implementation == "sdpa"
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_model_that_needs_values_is_refused_in_one_line():
    fields = {
        **{k: v for k, v in WHISPER.items() if "source" not in k and "mel" not in k},
        "max_position_embeddings": 64,
    }
    model = outlined("bart", "SequenceClassification", fields)
    with pytest.raises(NotPlannedError, match=r"not run without its values.*unique_consecutive"):
        count_on_meta(model, Counting(rows=text_rows(16)))


def test_arguments_that_the_model_does_not_take_are_refused():
    model = outlined("vit", "ImageClassification", VIT)
    with pytest.raises(NotPlannedError, match="does not run without its values"):
        count_forward_flops(model, text_row(16))


def test_logits_of_places_are_counted_as_the_loss_takes_them():
    """Of all pixels and in fp32, which is most of the memory of many classes."""
    outline = outlined("segformer", "SemanticSegmentation", SEGFORMER)
    kept = count_on_meta(outline, Counting(rows=((1, IMAGE),), precision="bf16")).row_bytes
    assert kept.logits == 4 * outline.config.num_labels * 32 * 32
