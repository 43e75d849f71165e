"""Low-rank adapters (arXiv:2106.09685) through `peft`: attach, list, merge."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from raymodel.errors import SpecError
from raymodel.model.precision import cast_parameters
from raymodel.model.spec import AdapterSpec

if TYPE_CHECKING:
    import peft
    from transformers import PreTrainedModel

    from raymodel.tasks.base import Task


def attach_adapter(
    model: PreTrainedModel, spec: AdapterSpec, task: Task, *, seed: int
) -> peft.PeftModel:
    """Freezes `model` and adds trainable low-rank updates, the same on every rank.

    A classification head is new and therefore trained in full.

    Raises:
        SpecError: `target` names no module of the model.
    """
    import peft  # seconds, which a run without an adapter need not wait for

    lora = spec.lora
    target = lora.target if isinstance(lora.target, str) else list(lora.target)
    config = peft.LoraConfig(
        task_type=task.peft_task,
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # a float works: it is only divided
        lora_dropout=lora.dropout,
        target_modules=target,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return peft.get_peft_model(model, config)
        except ValueError as error:
            linear = sorted(
                {n.rpartition(".")[2] for n, m in model.named_modules() if _is_linear(m)}
            )
            raise SpecError(
                f"adapter.lora.target is {target!r}, which fits no module; "
                f"the linear layers are {', '.join(linear)} (or write all-linear)"
            ) from error


def _is_linear(module: torch.nn.Module) -> bool:
    return isinstance(module, torch.nn.Linear)


def trainable_names(model: torch.nn.Module) -> tuple[str, ...]:
    """Names of the parameters that training changes, in the model's order."""
    return tuple(name for name, value in model.named_parameters() if value.requires_grad)


def merge_adapter(model: peft.PeftModel) -> PreTrainedModel:
    """The plain model with the updates added to its weights, in fp32 so that they round once.

    The adapter's modules are taken out of `model`, which must not be used afterwards.
    """
    merged: PreTrainedModel = cast_parameters(model, torch.float32).merge_and_unload()
    return merged
