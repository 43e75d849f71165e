"""A model's forward pass compiled by OpenVINO for this CPU, from the model as torch has it.

The model is traced once for each set of names that its task calls it with. Its shapes stay open:
the first batch of a new one costs some milliseconds more, so batches are padded no further for it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from raymodel.serve.calls import Call
from raymodel.serve.passes import Pass, Tensors

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_HINTS = {"float32": "f32", "bfloat16": "bf16"}


class Graph(NamedTuple):
    """OpenVINO's model, and the names of what it takes and gives, in order."""

    model: Any
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class OpenVinoPass(Pass):
    """What `convert` gives, compiled.

    Args:
        graphs: of a model in fp32.
        dtype: `float32`, or `bfloat16` for what is multiplied.
        num_threads: that it computes with.
    """

    engine = "openvino"

    def __init__(self, graphs: Iterable[Graph], dtype: str, num_threads: int) -> None:
        import openvino

        self.dtype = dtype
        properties = {
            "INFERENCE_PRECISION_HINT": _HINTS[dtype],
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,  # one batch at a time, by all threads
            "INFERENCE_NUM_THREADS": num_threads,
            "ENABLE_CPU_PINNING": False,  # replicas would be pinned to the same cores
        }
        core = openvino.Core()
        self._requests = {
            frozenset(graph.inputs): (
                core.compile_model(graph.model, "CPU", properties).create_infer_request(),
                graph.inputs,
                graph.outputs,
            )
            for graph in graphs
        }

    def takes(self, inputs: Tensors) -> bool:
        return frozenset(inputs) in self._requests

    def __call__(self, inputs: Tensors) -> dict[str, torch.Tensor]:
        request, names, outputs = self._requests[frozenset(inputs)]
        given = [inputs[name].contiguous().numpy() for name in names]
        # Of the results it gives copies; its own memory is written over by the next batch.
        found = request.infer(given, share_inputs=True).to_tuple()
        return {name: torch.from_numpy(value) for name, value in zip(outputs, found, strict=True)}


def convert(model: PreTrainedModel, calls: Iterable[Call]) -> list[Graph]:
    """OpenVINO's models of a model in fp32, whose weights they share, one for each set of names.

    Args:
        calls: that can be converted; see `find_obstacle`.

    Raises:
        RuntimeError: it computes with something that OpenVINO does not know.
    """
    by_names = {frozenset(call.inputs): call for call in calls}
    return [_convert(model, call) for call in by_names.values()]


def _convert(model: PreTrainedModel, call: Call) -> Graph:
    # What `openvino.convert_model` does; that sends its maker a message of each model.
    from openvino import PartialShape, Type
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    # Those of a pass were made in inference mode, where nothing can be traced.
    examples = tuple(value.clone() for value in call.inputs.values())
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sizes that become constants: trials have several
        decoder = TorchScriptPythonDecoder(
            ByPosition(model, call), example_input=examples, trace_kwargs={"check_trace": False}
        )
        frontend = FrontEndManager().load_by_framework("pytorch")
        graph = frontend.convert(frontend.load(decoder))
    for port, value in zip(graph.inputs, examples, strict=True):
        port.get_node().set_element_type(Type(value.numpy().dtype))
        port.get_node().set_partial_shape(PartialShape([-1] * value.ndim))
    graph.validate_nodes_and_infer_types()
    return Graph(graph, tuple(call.inputs), tuple(call.outputs))


class ByPosition(nn.Module):
    """Takes and gives tensors alone, in an order."""

    def __init__(self, model: PreTrainedModel, call: Call) -> None:
        super().__init__()
        self.model = model
        self._names, self._outputs = tuple(call.inputs), tuple(call.outputs)

    def forward(self, *given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        output = self.model(**dict(zip(self._names, given, strict=True)))
        return tuple(output[name] for name in self._outputs)
