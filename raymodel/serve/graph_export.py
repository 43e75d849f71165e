"""A model's forward pass as a graph that OpenVINO or ONNX Runtime runs without raymodel and torch.

It takes and gives what the task calls the model with: tensors by the names that transformers has
for them, of any number of rows and any length. Before anything stays on the disk the graph that was
written is run on batches as requests would bring them, and held against torch (`serve/trial.py`).
"""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from raymodel.errors import ArtifactError, RequestError
from raymodel.model.load import load_for_use
from raymodel.serve.calls import Call, find_obstacle
from raymodel.serve.spec import ServeSpec
from raymodel.storage.local import local_folder
from raymodel.storage.uri import Location
from raymodel.tasks import get_task

if TYPE_CHECKING:
    import torch

    from raymodel.serve.passes import Tensors
    from raymodel.serve.prediction import PredictionService
    from raymodel.serve.trial import Computes

GraphFormat = Literal["openvino", "onnx"]
OPENVINO_FILE, ONNX_FILE = "openvino_model.xml", "model.onnx"
"""As optimum names them, and whatever looks for them."""
_PACKAGES = {"openvino": ("openvino",), "onnx": ("onnx", "onnxscript", "onnxruntime")}
_HOW_TO_GET = {"openvino": "pip install openvino", "onnx": "pip install 'raymodel[onnx]'"}
_MOST_IN_ONE_FILE = 1_900_000_000  # protobuf's 2 GiB, less the graph


def write_graph(folder: Location, task_name: str, target: Path, to: GraphFormat) -> None:
    """Writes the graph, in fp32, and the model's configuration and processor beside.

    Args:
        folder: the model.
        target: a folder, which is made.

    Raises:
        RequestError: the library that writes it is not installed.
        ArtifactError: the model is not called as a whole, cannot be converted, or the graph does
            not compute what the model does.
    """
    if missing := [name for name in _PACKAGES[to] if importlib.util.find_spec(name) is None]:
        raise RequestError(
            f"--to {to} needs {', '.join(missing)}, which is not installed; {_HOW_TO_GET[to]}"
        )
    if get_task(task_name).answers == "stream":
        raise ArtifactError(
            f"a model of {task_name} writes token by token, with a cache that a graph of one pass "
            "has no place for; export it with --to gguf, which OpenVINO reads, or --to folder"
        )
    with local_folder(folder) as local:
        service = _load(local, task_name)
    try:
        calls = service.rehearse() or []
        if obstacle := find_obstacle(calls):
            raise ArtifactError(
                f"{folder} cannot be one graph: {obstacle}; export it with --to folder"
            )
        target.mkdir(parents=True)
        _check(_WRITERS[to](service, calls, target), calls, folder, to)
        service.model.config.save_pretrained(target)
        service.task.processor.save_pretrained(target)
    finally:
        service.close()


def _load(folder: Path, task_name: str) -> PredictionService:
    import torch

    from raymodel.serve.prediction import PredictionService
    from raymodel.serve.probe import check_model

    model, task = load_for_use(folder, task_name, dtype=torch.float32)
    check_model(model, task, folder)
    spec = ServeSpec(engine="transformers", dtype="float32")
    return PredictionService(model, task, name=task_name, spec=spec)


def _check(written: Computes, calls: Sequence[Call], folder: Location, to: str) -> None:
    """Raises ArtifactError where the graph computes something else."""
    from raymodel.serve.trial import Case, find_fault

    names = set(_widest(calls).inputs)
    cases = [Case.of(call) for call in calls if set(call.inputs) == names]
    if fault := find_fault(written, cases):
        raise ArtifactError(
            f"as {to}, {folder} does not compute what it computes in torch: {fault}; nothing was "
            "written. Export it with --to folder, or in the other format"
        )


def _widest(calls: Sequence[Call]) -> Call:
    """The call with the most inputs, and of those the one of the most rows: what a task may leave
    out of a call, such as a second text, the graph is always given."""
    return max(calls, key=lambda call: (len(call.inputs), call.first.shape[0], call.first.numel()))


# ---- formats -------------------------------------------------------------------------------------


def _write_openvino(service: PredictionService, calls: Sequence[Call], target: Path) -> Computes:
    import openvino
    import torch

    from raymodel.serve.openvino_pass import Graph, OpenVinoPass, convert

    [graph] = _converted("openvino", service, lambda: convert(service.model, [_widest(calls)]))
    for port, name in zip(graph.model.inputs, graph.inputs, strict=True):
        port.set_names({name})
    for port, name in zip(graph.model.outputs, graph.outputs, strict=True):
        port.set_names({name})
    file = target / OPENVINO_FILE
    openvino.save_model(graph.model, file, compress_to_fp16=False)
    read = Graph(openvino.Core().read_model(file), graph.inputs, graph.outputs)
    return OpenVinoPass([read], "float32", torch.get_num_threads())


def _write_onnx(service: PredictionService, calls: Sequence[Call], target: Path) -> Computes:
    import torch

    from raymodel.serve.openvino_pass import ByPosition

    call, file = _widest(calls), target / ONNX_FILE
    examples = tuple(value.clone() for value in call.inputs.values())
    open_sizes = tuple(dict.fromkeys(range(x.ndim), torch.export.Dim.AUTO) for x in examples)
    numbers = sum(weight.numel() for weight in service.model.parameters())

    def convert() -> Any:
        return torch.onnx.export(
            ByPosition(service.model, call).eval(),
            examples,
            file,
            input_names=list(call.inputs),
            output_names=list(call.outputs),
            dynamic_shapes=(open_sizes,),
            external_data=4 * numbers > _MOST_IN_ONE_FILE,
            dynamo=True,
            verbose=False,
        )

    _converted("onnx", service, convert)
    return _OnnxPass(file, tuple(call.outputs))


_WRITERS = {"openvino": _write_openvino, "onnx": _write_onnx}


def _converted(to: str, service: PredictionService, convert: Any) -> Any:
    import torch

    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    try:
        exporter.setLevel(logging.ERROR)  # which operators of torchvision are not there
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return convert()
    except Exception as error:
        said = " ".join(str(error).split())[:300]
        raise ArtifactError(
            f"a {type(service.model).__name__} cannot be converted to {to}: "
            f"{type(error).__name__}: {said}; export it with --to folder"
        ) from error
    finally:
        exporter.setLevel(level)


class _OnnxPass:
    """A graph of ONNX on this CPU."""

    dtype = "float32"

    def __init__(self, file: Path, outputs: tuple[str, ...]) -> None:
        import onnxruntime

        self._session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        self._outputs = outputs

    def __call__(self, inputs: Tensors) -> Mapping[str, torch.Tensor]:
        import torch

        given = {name: value.contiguous().numpy() for name, value in inputs.items()}
        found = self._session.run(list(self._outputs), given)
        return {
            name: torch.from_numpy(value) for name, value in zip(self._outputs, found, strict=True)
        }
