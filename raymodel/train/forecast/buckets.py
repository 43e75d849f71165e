"""How many elements ZeRO communicates, or gathers ahead, at a time.

DeepSpeed's defaults are 5e8 elements for gradients and 1e9 for gathered weights: gigabytes of every
GPU, whatever the model, and more than ZeRO saves of a small one.
"""

from __future__ import annotations

BUCKET_ELEMENTS = 2**24
"""What Hugging Face's integration sets for a hidden size of 4,096, its square
(https://huggingface.co/docs/transformers/deepspeed): 32 MiB in 16 bits, beyond which a collective
gains little."""

LIVE_ELEMENTS = 2 * BUCKET_ELEMENTS
"""Weights that stage 3 keeps gathered: what is computed with, and what was fetched ahead."""
