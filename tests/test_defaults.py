"""Defaults of libraries that decide a result: each is written by us, or known and pinned here.

A version that changes one, or brings a new one, fails here. It is then written where the library is
called, or its new value is taken over into this table: a decision, never an accident.
"""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import pytest

WRITTEN = object()
"""Said by us at the call, so the library's own value does not matter."""
OURS = object()
"""Has no part in the result, or comes from the job file."""


def arguments_of(function: Callable[..., Any]) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters.items()
    return {n: p.default for n, p in parameters if p.default is not inspect.Parameter.empty}


def fields_of(model: Any) -> dict[str, Any]:
    """Of a dataclass or of a pydantic model."""
    if dataclasses.is_dataclass(model):
        missing = dataclasses.MISSING
        return {
            f.name: f.default_factory() if f.default is missing else f.default
            for f in dataclasses.fields(model)
            if not (f.default is missing and f.default_factory is missing)
        }
    fields = model.model_fields.items()
    return {name: field.get_default(call_default_factory=True) for name, field in fields}


def check(found: dict[str, Any], known: dict[str, Any]) -> None:
    assert set(found) <= set(known), "a new one: does it decide a result?"
    changed = {
        name: value
        for name, value in found.items()
        if known[name] not in (WRITTEN, OURS) and value != known[name]
    }
    assert not changed, f"were { ({name: known[name] for name in changed}) }"


def test_optunas_sampler() -> None:
    import optuna

    check(
        arguments_of(optuna.samplers.TPESampler),
        {
            "seed": WRITTEN, "n_startup_trials": WRITTEN, "n_ei_candidates": WRITTEN,
            "multivariate": WRITTEN, "group": WRITTEN, "constant_liar": WRITTEN,
            # Deprecated, with a warning when given; what they do is held by the trials that
            # tests/tune/test_tune_sampler.py has written down.
            "consider_prior": OURS, "prior_weight": OURS, "consider_magic_clip": OURS,
            "consider_endpoints": OURS, "gamma": OURS, "weights": OURS,
            "warn_independent_sampling": OURS, "constraints_func": None,
            "categorical_distance_func": None,  # until 4.9
        },
    )  # fmt: skip


def test_rays_early_stopping() -> None:
    from ray.tune.schedulers import ASHAScheduler

    check(
        arguments_of(ASHAScheduler),
        {
            "time_attr": WRITTEN, "metric": OURS, "mode": OURS, "max_t": WRITTEN,
            "grace_period": WRITTEN, "reduction_factor": WRITTEN, "brackets": WRITTEN,
            "stop_last_trials": True,
        },
    )  # fmt: skip


def test_the_adapter_of_peft() -> None:
    import peft

    ours = ("peft_version", "task_type", "peft_type", "auto_mapping", "base_model_name_or_path",
            "revision", "runtime_config", "megatron_core", "qalora_group_size")  # fmt: skip
    written = ("r", "lora_alpha", "lora_dropout", "target_modules", "bias", "init_lora_weights",
               "use_rslora", "use_dora", "lora_bias")  # fmt: skip
    off = ("exclude_modules", "modules_to_save", "layers_to_transform", "layers_pattern",
           "megatron_config", "trainable_token_indices", "eva_config", "corda_config",
           "lora_ga_config", "velora_config", "alora_invocation_tokens", "monteclora_config",
           "layer_replication", "target_parameters", "use_bdlora", "arrow_config",
           "kasa_config")  # fmt: skip
    check(
        fields_of(peft.LoraConfig),
        dict.fromkeys(ours, OURS)
        | dict.fromkeys(written, WRITTEN)
        | dict.fromkeys(off)
        | dict.fromkeys(
            ("inference_mode", "fan_in_fan_out", "use_qalora", "ensure_weight_tying"), False
        )
        | {"rank_pattern": {}, "alpha_pattern": {}, "loftq_config": {}},
    )


def test_the_measures_of_texts() -> None:
    import sacrebleu
    from rouge_score.rouge_scorer import RougeScorer

    bleu = ("smooth_method", "tokenize", "lowercase", "effective_order", "force")
    chrf = ("char_order", "word_order", "beta", "lowercase", "whitespace", "eps_smoothing")
    none = {"references": None}
    check(
        arguments_of(sacrebleu.BLEU),
        dict.fromkeys(bleu, WRITTEN)
        | none
        | {"smooth_value": None, "max_ngram_order": 4, "trg_lang": ""},
    )
    check(arguments_of(sacrebleu.CHRF), dict.fromkeys(chrf, WRITTEN) | none)
    rouge = ("use_stemmer", "split_summaries")
    check(arguments_of(RougeScorer), dict.fromkeys(rouge, WRITTEN) | {"tokenizer": None})


def test_the_optimizers_of_torch() -> None:
    import torch

    adam = ("lr", "betas", "eps", "weight_decay", "amsgrad", "fused")
    sgd = ("lr", "momentum", "dampening", "weight_decay", "nesterov", "fused")
    known = {"maximize": False, "foreach": None, "differentiable": False}
    check(
        arguments_of(torch.optim.AdamW),
        dict.fromkeys(adam, WRITTEN) | known | {"capturable": False},
    )
    check(
        arguments_of(torch.optim.Adam),
        dict.fromkeys((*adam, "decoupled_weight_decay"), WRITTEN) | known | {"capturable": False},
    )
    check(arguments_of(torch.optim.SGD), dict.fromkeys(sgd, WRITTEN) | known)
    adafactor = ("lr", "beta2_decay", "eps", "d", "weight_decay")
    check(
        arguments_of(torch.optim.Adafactor),
        dict.fromkeys(adafactor, WRITTEN) | {"foreach": None, "maximize": False},
    )
    muon = ("lr", "weight_decay", "momentum", "nesterov", "ns_coefficients", "eps", "ns_steps",
            "adjust_lr_fn")  # fmt: skip
    check(arguments_of(torch.optim.Muon), dict.fromkeys(muon, WRITTEN))


def test_the_vocabulary_of_tokenizers() -> None:
    from tokenizers import trainers

    trainer = trainers.BpeTrainer()
    assert trainer.limit_alphabet is None
    assert trainer.continuing_subword_prefix is None
    assert trainer.end_of_word_suffix is None


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_the_precisions_of_deepspeed(precision: str) -> None:
    from deepspeed.runtime import precision_config as deepspeed

    from raymodel.train.plan import BatchPlan
    from raymodel.train.spec import PretrainSpec
    from raymodel.train.step.deepspeed_config import deepspeed_config

    spec = PretrainSpec.model_validate(
        {"model": {"preset": "llama-tiny"}, "global_batch": 8, "duration": "1 step",
         "precision": precision}
    )  # fmt: skip
    config = deepspeed_config(spec, BatchPlan(micro_batch=1, accumulation=1), 2)
    models = {"fp16": deepspeed.DeepSpeedFP16Config, "bf16": deepspeed.DeepSpeedBF16Config}
    unwritten = {"immediate_grad_update": False, "bf16_optimizer_states": False}
    check(fields_of(models[precision]), dict.fromkeys(config[precision], WRITTEN) | unwritten)


def test_the_partitions_of_deepspeed() -> None:
    """Most decide only when something is sent; those that alter numbers must stay off."""
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    found = fields_of(DeepSpeedZeroConfig)
    for name in ("zero_quantized_weights", "zero_quantized_nontrainable_weights",
                 "zero_quantized_gradients", "round_robin_gradients", "legacy_stage1"):  # fmt: skip
        assert found[name] is False, name
    assert found["zero_hpz_partition_size"] == 1
    assert found["zenflow"] is None


def test_the_files_of_pyarrow() -> None:
    import pyarrow.parquet as pq

    from raymodel.data.shard_format import _WRITTEN_AS

    written = (*_WRITTEN_AS, "row_group_size", "use_dictionary", "write_statistics",
               "write_page_checksum", "column_encoding")  # fmt: skip
    off = ("use_deprecated_int96_timestamps", "coerce_timestamps", "flavor", "filesystem",
           "encryption_properties", "dictionary_pagesize_limit", "sorting_columns",
           "bloom_filter_options")  # fmt: skip
    false = ("allow_truncated_timestamps", "use_byte_stream_split", "write_page_index",
             "store_decimal_as_integer", "write_time_adjusted_to_utc",
             "use_content_defined_chunking")  # fmt: skip
    check(
        arguments_of(pq.write_table),
        dict.fromkeys(written, WRITTEN)
        | dict.fromkeys(off)
        | dict.fromkeys(false, False)
        | {"use_compliant_nested_type": True, "store_schema": True, "max_rows_per_page": None},
    )
