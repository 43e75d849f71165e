"""Gives a Whisper a shorter window: what it computes for a clip grows with that, not the clip.

python docs/audio/shorten.py whisper-tiny.en whisper-6s 6
"""

import json
import shutil
import sys
from pathlib import Path

from safetensors.torch import load_file, save_file

POSITIONS = "model.encoder.embed_positions.weight"
PER_SECOND, RATE, FRAMES = 50, 16_000, 100  # positions, samples, frames of the spectrogram


def main(base: Path, result: Path, seconds: int) -> None:
    shutil.copytree(base, result)
    changes = {
        "config.json": {"max_source_positions": seconds * PER_SECOND},
        "preprocessor_config.json": {
            "chunk_length": seconds,
            "n_samples": seconds * RATE,
            "nb_max_frames": seconds * FRAMES,
        },
    }
    for name, fields in changes.items():
        said = json.loads((base / name).read_text(encoding="utf-8"))
        (result / name).write_text(json.dumps(said | fields, indent=1), encoding="utf-8")
    weights = load_file(base / "model.safetensors")
    weights[POSITIONS] = weights[POSITIONS][: seconds * PER_SECOND].clone()
    save_file(weights, result / "model.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
