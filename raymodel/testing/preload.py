"""What the processes of `run_distributed` are forked from: everything heavy is imported once.

Importing torch, DeepSpeed and transformers takes seconds of CPU in each process. The fork server
imports them here and runs nothing of them, so a forked rank finds no thread pool that was lost.
"""

import gc
import os

os.environ["DS_ACCELERATOR"] = "cpu"  # read by DeepSpeed when it is imported
os.environ["OMP_NUM_THREADS"] = "1"

import deepspeed  # noqa: F401
import peft  # noqa: F401
import transformers.models.llama.modeling_llama  # noqa: F401

import raymodel.train.worker  # noqa: F401

# What was imported stays for ever: no collection looks at it again, which takes half a second.
gc.freeze()
