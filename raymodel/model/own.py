"""A user's own `torch.nn.Module` as a model that trains, is saved and is loaded like any other.

`OwnModel` stands between: transformers and DeepSpeed see a `PreTrainedModel` with a configuration,
and the user's module is called as plain PyTorch would. Its constructor is given the arguments of
the job and what else it asks for by name of what data and task offer; its forward the inputs of the
task by name, the first whatever it is called, and gives logits.

Shapes: B rows, T tokens, C classes, V ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils.generic import ModelOutput

from raymodel.errors import ArtifactError, SpecError
from raymodel.model.initial import InitialWeights, Weights, seeded
from raymodel.model.own_module import build_module, logits_of, named_inputs
from raymodel.model.presets import OWN
from raymodel.spec.own import own_digest, own_files
from raymodel.spec.show import show

if TYPE_CHECKING:
    from raymodel.modality.base import ModelFields
    from raymodel.model.stored import StoredWeights
    from raymodel.tasks.base import Task

_MULTIPLE = 8
"""Rows are padded to one of tokens, and each of these has a position."""


class OwnConfig(PretrainedConfig):  # type: ignore[no-untyped-call]
    """`config.json` of a user's own module: where its class is, and what it was made with."""

    model_type = OWN
    own_mask = True
    """Its forward is offered the mask of what fills a batch up, and heeds it or need not."""

    def __init__(
        self,
        module: str = "",
        arguments: Mapping[str, Any] | None = None,
        offered: Mapping[str, Any] | None = None,
        source: str = "",
        **kwargs: Any,
    ) -> None:
        self.module = module
        self.arguments = dict(arguments or {})
        self.offered = dict(offered or {})
        self.source = source
        # Said too where models of transformers say it, and where it is looked for.
        kwargs = {"pad_token_id": None, **self.offered, **kwargs}
        super().__init__(**kwargs)


class OwnModel(PreTrainedModel):  # type: ignore[no-untyped-call]
    """Holds a user's module as `own`. In the files its weights have the names that they have in the
    module, so that `module.load_state_dict(load_file("model.safetensors"))` reads them too."""

    config: OwnConfig
    config_class = OwnConfig
    base_model_prefix = "own"
    main_input_name = ""
    """Whatever its module calls it."""

    def __init__(self, config: OwnConfig) -> None:
        super().__init__(config)
        self.own = build_module(config)
        self._inputs = named_inputs(self.own)
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(self, **inputs: Any) -> ModelOutput:
        """`logits`, of the inputs that the module's forward names; the first of them whatever it is
        called there."""
        given = {name: value for name, value in inputs.items() if value is not None}
        first = next(iter(given))
        names, takes_any = self._inputs
        by_position: tuple[Any, ...] = ()
        if first not in names and any(name not in given for name in names[:1]):
            by_position = (given.pop(first),)
        by_name = given if takes_any else {name: given[name] for name in names if name in given}
        logits = logits_of(self.own(*by_position, **by_name), self.own)
        return ModelOutput(logits=logits)  # type: ignore[no-untyped-call]

    def get_input_embeddings(self) -> Any:
        """The table with a row for each id; None where the module has none."""
        tables = [m for m in self.own.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)]
        return max(tables, key=lambda table: table.num_embeddings, default=None)

    def get_output_embeddings(self) -> None:
        """Not known of a plain module."""
        return

    def init_weights(self) -> None:
        """The module's constructor does."""

    def get_expanded_tied_weights_keys(self, all_submodels: bool = False) -> dict[str, str]:
        """Name → the first name of the same parameter."""
        first: dict[nn.Parameter, str] = {}
        tied = {}
        for name, parameter in self.named_parameters(remove_duplicate=False):
            known = first.setdefault(parameter, name)
            if known != name:
                tied[name] = known
        return tied

    def set_attn_implementation(self, *args: Any, **kwargs: Any) -> None:
        """The module's own code decides how it attends."""

    def name_in_files(self, name: str) -> str:
        """What a parameter or buffer is called in the files: what the module calls it."""
        return name.removeprefix(f"{self.base_model_prefix}.")


transformers.AutoConfig.register(OWN, OwnConfig)


def own_config(fields: Mapping[str, Any], task: Task, needed: ModelFields | None) -> OwnConfig:
    """The configuration of a user's own module.

    Args:
        fields: `module` and `arguments`, and what else is known of the data.
        needed: what the processor asks of a model; None where it is not known yet: then sizes
            stand in that any data could have.

    Raises:
        SpecError: it cannot be imported, or its arguments are smaller than the data needs.
    """
    known = {name: v for name, v in fields.items() if name not in ("module", "arguments")}
    offered = {**(_STAND_INS.get(task.modality, {}) if needed is None else {}), **known}
    if needed is not None:
        offered |= {**needed.at_least, **needed.given}
    if (positions := offered.get("max_position_embeddings")) is not None:
        offered["max_position_embeddings"] = -(-positions // _MULTIPLE) * _MULTIPLE
    arguments = fields["arguments"]
    for name, least in (needed.at_least if needed else {}).items():
        if isinstance(arguments.get(name, least), int) and arguments.get(name, least) < least:
            raise SpecError(
                f"model.config.{name} is {arguments[name]}, but the data needs {least}; leave it "
                "out, or give at least that"
            )
    return OwnConfig(
        module=fields["module"],
        arguments=arguments,
        offered=offered,
        source=own_digest(fields["module"]),
        **task.model_arguments(),
    )


_STAND_INS: dict[str, dict[str, Any]] = {
    "text": {"vocab_size": 1024, "max_position_embeddings": 512, "pad_token_id": 0},
    "image": {"num_channels": 3, "image_size": 32},
    "audio": {"num_mel_bins": 128, "max_length": 1024},
}


def outline_own(config: OwnConfig, task: Task) -> OwnModel:
    """On the meta device, in training mode; its class is called after the user's and the task.

    Raises:
        SpecError: the task cannot be done so, or the class cannot be made with the arguments.
    """
    if task.answers == "stream":
        raise SpecError(
            f"model.module: {task.name} needs a model of transformers, since its answers are "
            f"written with the keys and values of earlier tokens, which {config.module} does not "
            "keep; take a preset or an architecture"
        )
    kind = _class_for(config, task)
    try:
        with torch.device("meta"):
            model: OwnModel = kind(config)
    except SpecError:
        # Some constructors ask for values, which the meta device has none of.
        with torch.random.fork_rng(devices=[]):
            model = kind(config)
        _put_on_meta(model)
    model.train()
    return model


def _put_on_meta(model: nn.Module) -> None:
    """Module by module: `to` would untie what is tied."""
    outlines: dict[torch.Tensor, Any] = {}
    for module in model.modules():
        for key, parameter in module._parameters.items():
            if parameter is not None and parameter not in outlines:
                outline = nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)
                outlines[parameter] = outline
            module._parameters[key] = None if parameter is None else outlines[parameter]
        for key, buffer in module._buffers.items():
            module._buffers[key] = None if buffer is None else buffer.to("meta")


def load_own_model(
    config: OwnConfig, task: Task, stored: StoredWeights, dtype: torch.dtype | str
) -> OwnModel:
    """With the weights of a folder, on the CPU, to be used as it is."""
    with torch.random.fork_rng(devices=[]):
        model = _class_for(config, task)(config)
    wanted = (config.dtype or torch.float32) if dtype == "auto" else dtype
    assert isinstance(wanted, torch.dtype), "only `auto` is no type"
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(wanted)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name not in model.all_tied_weights_keys:
                tensor.copy_(stored.read(name))
    model.train(False)
    return model


def check_source(folder: object, config: OwnConfig) -> None:
    """Raises ArtifactError where a folder's module is not here as it was, so that it would compute
    something else than what was trained."""
    try:
        found = own_digest(config.module)
    except SpecError as error:
        raise ArtifactError(
            f"{folder} is a model of the module {error}. Its text as it was trained lies in the "
            "folder, from where nothing is imported: copy it to the working directory"
        ) from error
    if config.source and found != config.source:
        files = ", ".join(str(file) for file in own_files(config.module).values())
        raise ArtifactError(
            f"{folder} was trained with another text of {show(config.module)} ({config.source}) "
            f"than that of {files} ({found}), which may compute something else; bring back the "
            "text that lies in the folder, or train again"
        )


def save_source(config: OwnConfig, folder: Path) -> None:
    """Keeps the text of the module beside its weights, for people: it is never imported there."""
    for name, file in own_files(config.module).items():
        (folder / f"{name}.py").write_bytes(file.read_bytes())


def first_weights(
    model: PreTrainedModel, seed: int, stored: StoredWeights | None = None
) -> Weights:
    """Those that a run starts from, of any model on the meta device."""
    if isinstance(model, OwnModel):
        return OwnWeights(model, seed, stored)
    return InitialWeights(model, seed, stored)


class OwnWeights:
    """The first weights of a user's module: those of a folder, else what its constructor draws.

    Drawn with torch's numbers of the seed, they are the same on every rank. The whole module is
    made for it, in the memory of the process, and given away tensor by tensor.
    """

    def __init__(self, model: OwnModel, seed: int, stored: StoredWeights | None) -> None:
        self._config, self._seed, self._stored = model.config, seed, stored
        self._sources = model.all_tied_weights_keys
        self._made: dict[str, torch.Tensor] = {}

    def read(self, name: str) -> torch.Tensor:
        """A parameter or buffer, on the CPU."""
        name = self._sources.get(name, name)
        if self._stored is not None and name in self._stored:
            return self._stored.read(name)
        if name not in self._made:
            with seeded(self._seed, ""):
                module = build_module(self._config)
            tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
            self._made = {f"own.{key}": tensor.detach() for key, tensor in tensors.items()}
        return self._made.pop(name)


def _class_for(config: OwnConfig, task: Task) -> type[OwnModel]:
    """Called `SmallCNNForImageClassification`: by the end of it others know what it is for."""
    name = config.module.partition(":")[2]
    end = next((each for each in task.architectures if each.startswith("For")), "")
    return type(f"{name}{end}", (OwnModel,), {"__module__": OwnModel.__module__})
