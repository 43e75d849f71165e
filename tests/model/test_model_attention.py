"""Documents of one row that do not see each other: each is computed as if it were alone."""

import inspect
from itertools import accumulate, pairwise

import pytest
import torch
import transformers
from torch.nn.attention import varlen
from torch.nn.functional import scaled_dot_product_attention

from raymodel.model import attention
from raymodel.model.attention import documents_apart, keep_documents_apart
from raymodel.model.positions import positions_before
from raymodel.tasks import get_task
from raymodel.tasks.documents import BOUNDS, DECODERS, ENCODERS, joined, model_inputs
from raymodel.train.forecast.counts import flops_per_token

LENGTHS = (5, 20, 7, 3, 20, 9)
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "max_position_embeddings": 24,
    "pad_token_id": 1,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 24}
OF_ITS_OWN = {
    "gpt2": GPT,
    "gpt_bigcode": GPT,
    "gptj": GPT | {"rotary_dim": 8},
    "codegen": GPT | {"rotary_dim": 8},
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "distilbert": {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 4},
    "electra": {"embedding_size": 32},
    "modernbert": {"cls_token_id": 2, "sep_token_id": 3, "local_attention": 16},
    "deepseek_v3": {
        "num_key_value_heads": 4,
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_rope_head_dim": 4,
        "qk_nope_head_dim": 8,
        "v_head_dim": 8,
        "n_routed_experts": 4,
        "n_group": 2,
        "topk_group": 1,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "first_k_dense_replace": 1,
    },
}
EXPERTS = {
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
}
HEADS_OF_8 = ("gemma", "gemma2", "gemma3_text", "glm", "glm4", "helium", "qwen3", "seed_oss")
HEADS_OF_8 += ("qwen3_moe", "ernie4_5", "cohere2")


def tiny(architecture: str, **more: object) -> transformers.PreTrainedModel:
    """Of two layers, whose weights are large enough that attention matters."""
    fields = SMALL | OF_ITS_OWN.get(architecture, {})
    if "moe" in architecture or architecture == "mixtral":
        fields |= EXPERTS
    if architecture in HEADS_OF_8:
        fields |= {"head_dim": 8}
    fields["max_position_embeddings"] += positions_before(architecture, 1)
    fields |= more
    if architecture in DECODERS or architecture in GPT:
        kind = transformers.AutoModelForCausalLM
    else:
        kind = transformers.AutoModelForMaskedLM
    torch.manual_seed(0)
    model = kind.from_config(transformers.AutoConfig.for_model(architecture, **fields))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.train(False)


def documents() -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    return [torch.randint(4, 100, (length,), generator=draw) for length in LENGTHS]


def one_row(rows: int = 1) -> dict[str, torch.Tensor]:
    """The documents end to end, in rows that no document crosses."""
    ids = torch.nn.utils.rnn.pad_sequence(documents(), batch_first=True)
    batch = joined({"input_ids": ids}, LENGTHS, {"input_ids": 1})
    whole = {n: t.view(rows, -1) for n, t in batch.items() if n != BOUNDS}
    return whole | {BOUNDS: batch[BOUNDS]}


def alone(model: transformers.PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([model(input_ids=each[None]).logits[0] for each in documents()])


def largest_difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    scale = float(expected.abs().max())
    return float((found.flatten(0, 1)[: len(expected)] - expected).abs().max()) / scale


@pytest.mark.parametrize("architecture", [*DECODERS, *ENCODERS])
def test_each_document_is_computed_as_if_it_were_alone(architecture):
    model = tiny(architecture)
    expected = alone(model)
    with documents_apart(model), torch.no_grad():
        found = model(**model_inputs(one_row(rows=2))).logits
    assert largest_difference(found, expected) < 2e-6
    assert largest_difference(alone(model).unsqueeze(0), expected) == 0, "nothing is left behind"


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "opt", "gemma2", "bert", "roberta"])
def test_plain_matrices_compute_the_same(architecture):
    model = tiny(architecture)
    expected = alone(model)
    keep_documents_apart(model, "eager")
    with torch.no_grad():
        found = model(**model_inputs(one_row())).logits
    assert largest_difference(found, expected) < 2e-6


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(
    ("architecture", "field"), [("mistral", "sliding_window"), ("modernbert", "local_attention")]
)
def test_a_window_is_kept_within_each_document(architecture, field, attention):
    model, whole = tiny(architecture, **{field: 8}), tiny(architecture, **{field: 64})
    expected = alone(model)
    assert largest_difference(alone(whole)[None], expected) > 1e-3, "the window changes nothing"
    keep_documents_apart(model, attention)
    with torch.no_grad():
        found = model(**model_inputs(one_row())).logits
    assert largest_difference(found, expected) < 2e-6


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_gradient_is_that_of_the_documents_alone(checkpointing):
    def gradient(model, logits):
        logits.flatten(0, 1)[: sum(LENGTHS)].square().sum().backward()
        return {name: p.grad for name, p in model.named_parameters()}

    model, apart = tiny("llama").train(), tiny("llama").train()
    parts = [model(input_ids=each[None]).logits for each in documents()]
    expected = gradient(model, torch.cat(parts, 1))
    keep_documents_apart(apart, "sdpa")
    if checkpointing:
        apart.gradient_checkpointing_enable({"use_reentrant": False})
    found = gradient(apart, apart(**model_inputs(one_row())).logits)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5 * float(value.max()))


def test_on_a_gpu_one_kernel_is_asked_for_all_documents(monkeypatch):
    """As torch declares it; what it computes is checked by the test below, on a GPU."""
    asked = []

    def stand_in(*inputs, **options):
        call = inspect.signature(real).bind(*inputs, **options)
        asked.append(call.arguments)
        q, k, v, bounds = (call.arguments[n] for n in ("query", "key", "value", "cu_seq_q"))
        parts = [
            torch.nn.functional.scaled_dot_product_attention(
                *(each[start:end].transpose(0, 1)[None] for each in (q, k, v)),
                is_causal=call.arguments["window_size"] == (-1, 0),
                scale=call.arguments["scale"],
                enable_gqa=call.arguments["enable_gqa"],
            )[0].transpose(0, 1)
            for start, end in pairwise(bounds.tolist())
        ]
        return torch.cat(parts)

    real = varlen.varlen_attn
    monkeypatch.setattr(varlen, "varlen_attn", stand_in)
    monkeypatch.setattr(attention, "_why_not_at_once", lambda *inputs: None)
    model = tiny("llama")
    expected = alone(model)
    with documents_apart(model), torch.no_grad():
        found = model(**model_inputs(one_row(rows=2))).logits
    assert largest_difference(found, expected) < 2e-6
    assert len(asked) == 2, "once a layer"
    assert asked[0]["max_q"] == 32
    assert asked[0]["enable_gqa"]


def test_documents_of_one_length_share_a_call_and_not_a_bit_changes(monkeypatch):
    model = tiny("llama")
    calls = []

    def counted(query, *inputs, **rules):
        calls.append(len(query))
        return scaled_dot_product_attention(query, *inputs, **rules)

    def found(lengths):
        one = torch.arange(4, 4 + sum(lengths))
        batch = joined({"input_ids": one[None]}, [len(one)], {"input_ids": 1}, multiple=1)
        bounds = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
        places = torch.cat([torch.arange(length) for length in lengths])
        with torch.no_grad():
            return model(**model_inputs(batch | {BOUNDS: bounds, "position_ids": places[None]}))

    monkeypatch.setattr(attention, "scaled_dot_product_attention", counted)
    with documents_apart(model):
        together = found([3, 4, 3, 3, 4]).logits[0]
        assert calls == [3, 2] * 2, "of both layers, the shorter ones first"
        last = found([3, 4, 3, 3])
    assert torch.equal(together[:13], last.logits[0])


def test_what_a_model_computes_is_counted_as_before():
    model, task = tiny("gpt2"), get_task("causal_lm")()
    before = flops_per_token(model.config, task, row_tokens=16)
    keep_documents_apart(model, "sdpa")
    assert flops_per_token(model.config, task, row_tokens=16) == before


@pytest.mark.gpu
def test_the_kernel_of_a_gpu_computes_what_the_documents_are_alone():
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    model = tiny("llama").cuda().bfloat16()
    with torch.no_grad():
        expected = torch.cat([model(input_ids=d[None].cuda()).logits[0] for d in documents()])
        with documents_apart(model):
            batch = {name: value.cuda() for name, value in one_row(rows=2).items()}
            found = model(**model_inputs(batch)).logits
    assert largest_difference(found.float(), expected.float()) < 2e-2
