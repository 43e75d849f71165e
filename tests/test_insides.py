"""What relies on the insides of libraries: private names, modules that no documentation promises,
functions that are replaced. A new version of a library is this list, row by row.

That a name is still there is asked here, in milliseconds. What it does is held by the tests beside
the file that uses it; what falls back when it changes says so (`observe/slow_paths.py`), and the
tests refuse that.
"""

import ast
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import raymodel

ROOT = Path(raymodel.__file__).parent
SCALING = "ray.train.v2._internal.execution.scaling_policy"
ZERO_3 = "deepspeed.runtime.zero.stage3:DeepSpeedZeroOptimizer_Stage3"
ZERO_1_2 = "deepspeed.runtime.zero.stage_1_and_2:DeepSpeedZeroOptimizer"
UNFUSED = "deepspeed.runtime.fp16.unfused_optimizer:FP16_UnfusedOptimizer"
ENGINE = "deepspeed.runtime.engine:DeepSpeedEngine"

# File → what it uses. `module:name.name` is looked up; `module:Class~name` is an attribute that the
# class gives its instances, looked for in its source.
INSIDES: dict[str, tuple[str, ...]] = {
    "cluster/connect.py": ("ray._raylet:GcsClient",),
    "cluster/head.py": ("ray.job_submission:JobSubmissionClient._do_request",),
    "cluster/holders.py": (
        "ray._private.state:state",
        "ray._private.state:GlobalState._connect_and_get_accessor",
        "ray.core.generated.gcs_pb2:ActorTableData",
        "ray.core.generated.gcs_pb2:JobTableData",
        "ray.core.generated.gcs_pb2:PlacementGroupTableData",
    ),
    "cluster/local_nodes.py": ("ray.autoscaler.node_provider:NodeProvider",),
    "cluster/nodes.py": ("ray._private.worker:global_worker",),
    "cluster/package.py": (
        "ray._private.runtime_env.packaging:_dir_travel",
        "ray._private.runtime_env.packaging:_get_excludes",
    ),
    "cluster/placement.py": (
        f"{SCALING}:ElasticScalingPolicy",
        f"{SCALING}:ElasticScalingPolicy._get_reserved_resources",
        f"{SCALING}:ElasticScalingPolicy._count_possible_workers",
        f"{SCALING}:ElasticScalingPolicy.GET_RESERVED_RESOURCES_INTERVAL_S",
        f"{SCALING}:ElasticScalingPolicy~_latest_reserved_resources_query_time",
        f"{SCALING}:ElasticScalingPolicy~_autoscaling_coordinator",
        f"{SCALING}:ElasticScalingPolicy~_requester_id",
        "ray.train.v2.api.config:ScalingConfig",
    ),
    "cluster/process_group.py": ("ray.train._internal.utils:get_address_and_port",),
    "cluster/places.py": (
        "ray._private.state:state",
        "ray._private.worker:global_worker",
        "ray.core.generated.autoscaler_pb2:GetClusterStatusReply",
    ),
    "cluster/trainer.py": (
        "ray._common.constants:RAY_WARN_BLOCKING_GET_INSIDE_ASYNC_ENV_VAR",
        "ray.train.v2._internal.callbacks.datasets:DatasetsCallback",
        "ray.train.v2._internal.callbacks.placement_group_callback:PlacementGroupCleanerCallback",
        "ray.train.v2._internal.constants:get_env_vars_to_propagate",
        f"{SCALING}:ElasticScalingPolicy",
        "ray.train.v2.api.data_parallel_trainer:DataParallelTrainer._create_default_callbacks",
        "ray.train.v2.api.data_parallel_trainer:DataParallelTrainer._initialize_and_run_controller",
    ),
    "data/spec.py": ("codecs:CodecInfo._is_text_encoding",),
    "data/stream.py": (
        "ray._raylet:RAY_NODE_ID_KEY",
        "ray.data._internal.execution.execution_callback:ExecutionCallback",
        "ray.data._internal.stats:get_or_create_stats_actor",
        "ray.data._internal.usage.actor:get_or_create_usage_collection_actor",
        "ray.data._internal.usage.collector:usage_collection_disabled",
    ),
    "model/adapters.py": (
        "peft.tuners.lora.layer:LoraLayer.reset_lora_parameters",
        "peft.tuners.lora.layer:Linear.get_delta_weight",
    ),
    "model/attention.py": ("transformers:PreTrainedConfig._attn_implementation",),
    "model/bfloat16.py": (
        "torch:ops.mkldnn._is_mkldnn_bf16_supported",
        "torch.library:get_kernel",
    ),
    "model/export.py": ("transformers:PreTrainedModel._keys_to_ignore_on_save",),
    "model/initial.py": (
        "transformers.models.vit_mae.modeling_vit_mae:ViTMAEDecoder.initialize_weights",
        "transformers.models.vit_mae.modeling_vit_mae:ViTMAEDecoder~decoder_pos_embed",
        "transformers:PreTrainedModel._init_weights",
        "transformers.initialization:guard_torch_init_functions",
        "transformers.initialization:_is_hf_initialized?",
        "torch.nn:Module~_parameters",
        "torch.nn:Module~_buffers",
    ),
    "compress/prune.py": ("transformers.pytorch_utils:Conv1D",),
    "model/int8.py": (
        "torch.nn:Module._apply",
        "torch:_make_per_channel_quantized_tensor",
    ),
    "model/compressed_linear.py": ("torch.nn:Module._apply",),
    "model/kernels.py": (
        "transformers.convert_slow_tokenizer:SLOW_TO_FAST_CONVERTERS",
        "transformers:PreTrainedConfig._attn_implementation",
        "transformers:PreTrainedModel._supports_sdpa",
        "torch._dynamo.utils:counters",
    ),
    "model/gguf.py": ("transformers.modeling_rope_utils:ROPE_INIT_FUNCTIONS",),
    "model/materialise.py": ("torch.nn:Module~_parameters", "torch.nn:Module~_buffers"),
    "model/meta_count.py": (
        "torch.utils._python_dispatch:TorchDispatchMode",
        "torch:ops.aten._grouped_mm",
        "torch:ops.aten._local_scalar_dense",
    ),
    "model/meta_saved.py": (
        "transformers.modeling_layers:GradientCheckpointingLayer",
        "torch:UntypedStorage._cdata",
    ),
    "model/own.py": ("torch.nn:Module~_parameters", "transformers.utils.generic:ModelOutput"),
    "model/own_module.py": ("inspect:signature",),  # of a user's constructor and forward
    "model/stored.py": (
        "transformers:PreTrainedModel._keys_to_ignore_on_load_missing",
        "transformers:PreTrainedModel._keys_to_ignore_on_load_unexpected",
        "transformers.conversion_mapping:get_model_conversion_mapping",
        "transformers.core_model_loading:WeightConverter",
        "transformers.core_model_loading:WeightRenaming",
        "transformers.core_model_loading:dot_natural_key",
        "transformers.core_model_loading:rename_source_key",
    ),
    "observe/trackers.py": (
        "tensorboard.compat.proto.event_pb2:Event",
        "tensorboard.compat.proto.event_pb2:SessionLog",
        "tensorboard.compat.proto.summary_pb2:Summary",
        "tensorboard.summary.writer.record_writer:RecordWriter",
    ),
    "serve/decoder.py": (
        "transformers:PreTrainedConfig._attn_implementation",
        "transformers.cache_utils:DynamicLayer",
    ),
    "serve/deployment.py": ("ray.serve.handle:DeploymentHandle._init",),
    # Reads the names of a forward pass: the one place that does.
    "serve/forward.py": ("inspect:signature",),
    "serve/openvino_pass.py": (
        "openvino.frontend:FrontEndManager",
        "openvino.frontend.pytorch.ts_decoder:TorchScriptPythonDecoder",
    ),
    "serve/run.py": (
        "ray.serve._private.constants:SERVE_CONTROLLER_NAME",
        "ray.serve._private.constants:SERVE_NAMESPACE",
        "ray.serve.context:_get_global_client",
        "ray.serve.handle:DeploymentHandle._init",
    ),
    "serve/slots.py": ("transformers.cache_utils:CacheLayerMixin",),
    "tasks/autoencoder.py": (
        "transformers.models.vit_mae.modeling_vit_mae:ViTMAEEmbeddings.random_masking",
    ),
    "tasks/own.py": ("inspect:signature",),  # of a user's function
    "tasks/speech_ctc.py": (
        "transformers:Wav2Vec2PreTrainedModel._get_feat_extract_output_lengths",
    ),
    "train/forecast/counts.py": ("transformers:PreTrainedConfig._attn_implementation",),
    "train/checkpoint/buffers.py": ("torch.nn:Module~_non_persistent_buffers_set",),
    "train/step/norms.py": ("torch.nn:Module~_modules",),
    "train/step/engine.py": (
        "deepspeed.accelerator:get_accelerator",
        # Replaced while one module is imported.
        "deepspeed.runtime:compiler.compile",
        "deepspeed.runtime:compiler.dummy_decorator",
        "deepspeed.ops:__compatible_ops__",
    ),
    "train/update/guard.py": (
        "torch:_foreach_norm",
        "torch:_foreach_mul_",
        # Replaced in each optimizer.
        "torch.optim:Optimizer.step",
    ),
    "train/step/sequence.py": (
        "deepspeed.runtime.sequence_parallel.ulysses_sp:UlyssesSPAttentionHF",
        "deepspeed.sequence.layer:register_all_to_all_group",
        "transformers.modeling_utils:ALL_ATTENTION_FUNCTIONS",
    ),
    "train/step/zero.py": (
        "deepspeed.checkpoint.affine:AffinePiece",
        "deepspeed.checkpoint.affine:ParamAffineMap",
        # Replaced while an engine is built.
        f"{ENGINE}._configure_tensor_parallel",
        "deepspeed.runtime.zero.partition_parameters:Init._convert_to_zero_parameters",
        # Added to.
        "deepspeed.runtime.zero.utils:ZERO_SUPPORTED_OPTIMIZERS",
        f"{ZERO_3}._get_param_partition_rank",
        f"{ZERO_3}~grad_position",
        f"{ZERO_3}~fp32_partitioned_groups_flat",
        f"{ZERO_1_2}._lazy_init_hp_params_optimizer_state",
        f"{ZERO_1_2}.update_lp_params",
        f"{ZERO_1_2}~single_partition_of_fp32_groups",
        f"{UNFUSED}.refresh_fp32_params",
        f"{UNFUSED}~fp32_groups",
    ),
}
# Ours look like theirs.
NOT_INSIDES = {"_SubParsersAction", "_exit", "_private"}
# Whose submodules are insides, beside those that the documentation tells to import from.
INNER = ("transformers", "deepspeed", "peft", "optuna", "tensorboard")
ROWS = [(file, row) for file, rows in INSIDES.items() for row in rows]


@pytest.mark.parametrize(("file", "row"), ROWS, ids=[f"{file} {row}" for file, row in ROWS])
def test_what_is_relied_on_is_still_there(file: str, row: str) -> None:
    module, _, path = row.partition(":")
    name, _, attribute = path.partition("~")
    found: Any = importlib.import_module(module)
    for part in name.rstrip("?").split("."):
        if name.endswith("?"):
            assert part in inspect.getsource(found), f"{module} no longer knows {part}"
            return
        assert hasattr(found, part), f"{module} has no {name} any more, on which {file} relies"
        found = getattr(found, part)
    if attribute:
        sources = [inspect.getsource(kind) for kind in found.__mro__ if kind is not object]
        assert any(attribute in source for source in sources), (
            f"{name} of {module} no longer has {attribute}, on which {file} relies"
        )


@pytest.mark.parametrize("file", sorted(INSIDES))
def test_a_row_is_of_use(file: str) -> None:
    text = (ROOT / file).read_text(encoding="utf-8")
    for row in INSIDES[file]:
        name = row.rstrip("?").replace("~", ".").replace(":", ".").rpartition(".")[2]
        assert name in text, f"{file} no longer uses {row}; take the row out"


def test_every_inside_that_is_used_has_a_row() -> None:
    own = own_names()
    missing = {}
    for file in sorted(ROOT.rglob("*.py")):
        name = file.relative_to(ROOT).as_posix()
        rows = " ".join(INSIDES.get(name, ()))
        used = {found for found in insides_of(file, own) if found not in rows}
        if used - NOT_INSIDES and not name.startswith("testing/"):
            missing[name] = sorted(used - NOT_INSIDES)
    assert not missing, f"write a row in tests/test_insides.py for {missing}"


def insides_of(file: Path, own: set[str]) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and is_inner(node.module or ""):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Attribute) and is_private(node.attr):
            value = node.value
            is_super = isinstance(value, ast.Call) and getattr(value.func, "id", "") == "super"
            if is_super or node.attr not in own:
                yield node.attr
        elif isinstance(node, ast.Attribute) and node.attr == "signature":
            yield node.attr


def is_inner(module: str) -> bool:
    top, *rest = module.split(".")
    if top in ("raymodel", "__future__") or not rest:
        return False
    return top in INNER or any(part[0] == "_" for part in rest) or "generated" in rest


def is_private(name: str) -> bool:
    return name[0] == "_" and name[1] != "_" and name not in ("_replace", "_asdict", "_fields")


def own_names() -> set[str]:
    """Private names that this package gives itself."""
    names: set[str] = set()
    for file in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
                is_self = isinstance(node, ast.Attribute) and getattr(node.value, "id", "") in (
                    "self", "cls")  # fmt: skip
                if isinstance(node, ast.Name):
                    names.add(node.id)
                elif is_self:
                    names.add(node.attr)
    return names
