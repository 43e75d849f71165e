"""`compress:` a model made cheaper, or one made of several, and held to what it was made from."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from raymodel.model.fields import MAX_LAYERS
from raymodel.spec.base import DISTINCT, Many, Spec, Text
from raymodel.spec.quantity import Fraction

MAX_MODELS = 100
MAX_HEADS = 1024  # of a layer; far above any
METHODS = ("merge", "prune", "quantize")
Bits = Literal["int8", "int4", "fp8"]
Format = Literal["gguf", "compressed-tensors"]
CALIBRATION_ROWS = 128  # as in arXiv:2210.17323


class MergeSpec(Spec):
    """One model out of several that were tuned from one base; as large and as fast as one."""

    models: Annotated[Many[Text], DISTINCT] = Field(min_length=2, max_length=MAX_MODELS)
    """What is merged, as `RUN/finetune`. The first is what the result is compared with, on the rows
    that were held out from it."""
    weights: Many[Annotated[float, Field(gt=0, le=1e6)]] | None = None
    """Of each model, relative to their sum; by default all weigh the same."""
    method: Literal["linear", "slerp", "ties"] = "linear"
    """`linear` is the weighted mean of the weights, a model soup (arXiv:2203.05482). `slerp` goes
    on the arc between two, matrix by matrix. `ties` adds to the base what most models changed in
    the same direction (arXiv:2306.01708)."""
    base: Text | None = None
    """Of `ties`: what all were tuned from, a Hugging Face folder, `hf://OWNER/NAME[@REVISION]`,
    `python:PACKAGE/path`, or `RUN/STAGE`."""
    density: Fraction = Field(default=0.2, gt=0)
    """Of `ties`: the share of each matrix, those changed most, that is kept of a model's changes.
    The default is the paper's."""
    scale: float = Field(default=1.0, gt=0, le=100)
    """Of `ties`: the changes are multiplied by this before they are added to the base."""

    @model_validator(mode="after")
    def _of_its_method(self) -> MergeSpec:
        count = len(self.models)
        if self.weights is not None and len(self.weights) != count:
            raise ValueError(f"there are {len(self.weights)} weights of {count} models; give each")
        if self.method == "slerp" and count != 2:
            raise ValueError(f"slerp goes from one model to another, and here are {count}; use two")
        if self.method == "ties" and self.base is None:
            raise ValueError("ties needs `base`, what all models were tuned from")
        others = [n for n in ("base", "density", "scale") if n in self.model_fields_set]
        if self.method != "ties" and others:
            raise ValueError(f"{' and '.join(others)} belong to ties, not to {self.method}")
        return self

    @property
    def shares(self) -> tuple[float, ...]:
        """The weight of each model; they add up to 1."""
        weights = self.weights or (1.0,) * len(self.models)
        return tuple(weight / sum(weights) for weight in weights)


class PruneSpec(Spec):
    """A model with fewer layers, which is smaller and faster, or one with fewer weights, whose
    zeros take as much room and time as other numbers unless what runs it can skip them."""

    keep: int | None = Field(default=None, ge=1, le=MAX_LAYERS)
    """So many layers, the first, the last, and those evenly between (as DistilBERT begins,
    arXiv:1910.01108)."""
    drop: Annotated[Many[Annotated[int, Field(ge=0, le=MAX_LAYERS)]], DISTINCT] | None = Field(
        default=None, min_length=1
    )
    """These layers go, counted from 0; of decoders a run of deep ones, short of the last, loses
    least (arXiv:2403.17887)."""
    heads: int | None = Field(default=None, ge=1, le=MAX_HEADS)
    """So many attention heads of each layer, those without which the loss of rows of training
    would change most (arXiv:1905.10650). Where several share keys and values, as many of each
    group stay, or whole groups go."""
    magnitude: Fraction | None = Field(default=None, gt=0, lt=1)
    """This share of the weights of each matrix in the layers, the smallest, becomes zero."""
    pattern: Literal["2:4"] | None = None
    """Of each four weights that are beside each other in a row, the two smallest become zero: the
    form that GPUs multiply faster (arXiv:2104.08378)."""

    @model_validator(mode="after")
    def _one_way(self) -> PruneSpec:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            written = f"; this has {' and '.join(f'`{name}`' for name in given)}" if given else ""
            names = "`keep`, `drop`, `heads`, `magnitude` and `pattern`"
            raise ValueError(f"give one of {names}{written}")
        return self

    def identity(self) -> dict[str, Any]:
        """Without `heads` where there is none: what was made before it came keeps its name."""
        return {n: v for n, v in super().identity().items() if n != "heads" or v is not None}


class CompressSpec(Spec):
    """A model made of others that were trained. It is measured as `evaluate` says, beside what it
    was made from, and becomes `best` when it meets the gates there."""

    model: Text | None = None
    """What is compressed, as `RUN/STAGE` of a finished run; by default this job's newest model. It
    is measured on the rows that were held out from it."""
    merge: MergeSpec | None = None
    """Several models become one."""
    prune: PruneSpec | None = None
    """Layers or weights are taken out."""
    quantize: Bits | None = None
    """Numbers of 8 or 4 bits take the place of the weights. Of models that write token by token,
    int8 and int4 are a GGUF file, and fp8 is for GPUs (see `format`). Of others the linear layers
    of the stack compute with int8 on a CPU: a quarter of fp32. Such a model is used and not
    trained."""
    format: Format | None = None
    """Of `quantize` for models that write token by token. `gguf`, the default of int8 and int4, is
    a file that the engine openvino computes with and llama.cpp, Ollama and LM Studio read (Q8_0,
    Q4_1): half of bf16, or a third. `compressed-tensors` is a folder that vLLM computes with on
    GPUs, and transformers reads: fp8 (a GPU of 2023 or later) and int8 round weights, by a scale
    for each output, and what goes into a layer, by one for each token; int4 rounds weights alone,
    in groups of 128 neighbours or of 64 or 32, the largest that fits. Embeddings and the layer over
    the vocabulary stay."""
    calibration_rows: int | None = Field(default=None, ge=1, le=100_000)
    """Of `quantize: int4` and `prune.heads`: so many rows of training, the first in its order, say
    which weights and heads count; 128 by default. The model is in memory, whole, while it reads
    them."""

    @model_validator(mode="after")
    def _one_method(self) -> CompressSpec:
        given = [name for name in METHODS if getattr(self, name) is not None]
        if len(given) != 1:
            names = "`merge`, `prune` and `quantize`"
            written = f"; this has {' and '.join(f'`{name}`' for name in given)}" if given else ""
            raise ValueError(
                f"give one of {names}{written}; a second method is a job of its own, whose "
                "`compress.model` is RUN/compress"
            )
        if self.calibration_rows is not None and not self._calibrates:
            raise ValueError(
                "calibration_rows belongs to `quantize: int4` and `prune.heads`; leave it out"
            )
        if self.format is not None and self.quantize is None:
            raise ValueError("format belongs to `quantize`; leave it out")
        if self.quantize == "fp8" and self.format == "gguf":
            raise ValueError("a GGUF file has no numbers in fp8; leave `format` out, or take int8")
        if self.merge is not None and self.model is not None:
            raise ValueError("`merge.models` says what is merged; leave `model` out")
        return self

    @property
    def _calibrates(self) -> bool:
        return self.quantize == "int4" or (self.prune is not None and self.prune.heads is not None)

    @property
    def _is_of_another_format(self) -> bool:
        """Than the one that is meant where none is given."""
        return self.quantize != "fp8" and self.format == "compressed-tensors"

    @property
    def max_calibration_rows(self) -> int:
        """Rows of training that say what counts, where the method asks them."""
        return self.calibration_rows or CALIBRATION_ROWS

    @property
    def named(self) -> tuple[str, ...]:
        """What it is made of, where the job says so; nothing stands for the job's newest model."""
        if self.merge is not None:
            return self.merge.models
        return () if self.model is None else (self.model,)

    @property
    def method(self) -> str:
        """In a few words."""
        if self.merge is not None:
            return f"{self.merge.method} merge of {len(self.merge.models)} models"
        if self.quantize is not None:
            return self._quantized
        assert self.prune is not None, "the spec has one of them"
        ways = {
            "keep": f"{self.prune.keep} layers kept",
            "heads": f"{self.prune.heads} attention heads of each layer kept",
            "drop": f"layers {', '.join(map(str, self.prune.drop or ()))} dropped",
            "magnitude": f"{self.prune.magnitude or 0:.0%} of the weights set to zero",
            "pattern": f"weights set to zero by {self.prune.pattern}",
        }
        return next(words for name, words in ways.items() if getattr(self.prune, name) is not None)

    @property
    def _quantized(self) -> str:
        if self.quantize != "fp8" and self.format != "compressed-tensors":
            return f"weights in {self.quantize}"
        what = "weights" if self.quantize == "int4" else "weights and inputs"
        return f"{what} in {self.quantize}, each to the nearest number, in compressed-tensors"

    def identity(self) -> dict[str, Any]:
        """Without the names of models, which are inputs."""
        merge = self.merge and self.merge.identity() | {"models": len(self.merge.models)}
        merge = merge and merge | {"weights": list(self.merge.shares), "base": None}  # type: ignore[union-attr]
        # A method that is added later must not rename what was made without it.
        prune = self.prune and self.prune.identity()
        rows = self.max_calibration_rows if self._calibrates else None
        known = {
            "merge": merge,
            "prune": prune,
            "quantize": self.quantize,
            "calibration_rows": rows,
            "format": self.format if self._is_of_another_format else None,
        }
        return {name: value for name, value in known.items() if value is not None}
