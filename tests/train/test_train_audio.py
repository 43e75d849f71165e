"""Speech through the whole of training: the same curve for any number of workers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import build_work, losses, make_examples, records, train_here

from raymodel.data.spec import SourceSpec
from raymodel.model.load import load_for_use
from raymodel.testing.distributed import run_distributed
from raymodel.testing.sounds import SMALL_WAVE, clip
from raymodel.train.spec import FinetuneSpec
from raymodel.train.work import TrainWork

SPEC = {
    "task": {
        "name": "speech_ctc",
        "audio": {"max_seconds": 2},
        "alphabet": "abcdef",
        "augment": {"speed": 0.1, "noise": 0.1, "time_mask": 0.1},
    },
    "model": {"architecture": "wav2vec2", "config": SMALL_WAVE},
    "sources": [{"path": "manifest.csv", "format": "csv"}],
    "global_batch": 5,
    "duration": "4 steps",
    "optimizer": {"learning_rate": 0.003},
    "precision": "fp32",
    "log_every": "1 step",
    "validate_every": "4 steps",
    "validate_rows": 4,
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("speech")
    lines = ["audio,text"]
    for index in range(24):
        text = "".join("abcdef"[(index * step) % 6] for step in range(1, 2 + index % 5))
        (folder / f"{index}.wav").write_bytes(clip(text + "ab", seed=index))
        lines.append(f"{index}.wav,{text}")
    (folder / "manifest.csv").write_text("\n".join(lines))
    source = SourceSpec(path=str(folder / "manifest.csv"), format="csv")
    spec = FinetuneSpec.model_validate(SPEC)
    return make_examples(folder / "dataset", spec, source, holdout=0.2)


def work_of(dataset, run: Path, **spec) -> TrainWork:
    return build_work(FinetuneSpec.model_validate(SPEC | spec), dataset, run)


def test_workers_micro_batches_and_stages_train_the_same(dataset, tmp_path):
    alone = work_of(dataset, tmp_path / "1")
    shared = work_of(dataset, tmp_path / "2", micro_batch=1, parallel={"zero": 3})
    run_distributed(train_here, 1, alone, init=False)
    run_distributed(train_here, 2, shared, init=False)
    np.testing.assert_allclose(losses(shared), losses(alone), rtol=2e-4)
    expected = load_file((alone.run / "model/model.safetensors").local_path)
    found = load_file((shared.run / "model/model.safetensors").local_path)
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], rtol=2e-3, atol=2e-4, msg=name)
    assert records(alone, "metrics")[-1]["tokens"] == 4 * 5, "a clip counts as one"
    model, task = load_for_use(alone.run.local_path / "model", "speech_ctc")
    assert task.processor.audio.max_seconds == 2
    assert type(model).__name__ == "Wav2Vec2ForCTC"
