"""What the processes of `run_distributed` are forked from: everything heavy is imported once.

Importing torch, DeepSpeed and transformers takes seconds of CPU in each process. The fork server
imports them here and runs nothing of them, so a forked rank finds no thread pool that was lost.
"""

import gc
import os
from importlib import import_module

os.environ["DS_ACCELERATOR"] = "cpu"  # read by DeepSpeed when it is imported
os.environ["OMP_NUM_THREADS"] = "1"

import deepspeed
import peft  # noqa: F401
import transformers.models.llama.modeling_llama  # noqa: F401

import raymodel.train.worker  # noqa: F401

# What those import when they are used, and the modules of tests: half of the time of a short run.
for name in (
    "deepspeed.module_inject.auto_ep",
    "deepspeed.module_inject.auto_ep_layer",
    "pandas",  # pyarrow asks it whether a value is one of its own
    "pytest",
    "raymodel.data.prepare",
):
    import_module(name)
# The first collective of a process asks which of its kernels could be built, with a compiler.
_ = deepspeed.ops.__compatible_ops__

# What was imported stays for ever: no collection looks at it again, which takes half a second.
gc.freeze()
