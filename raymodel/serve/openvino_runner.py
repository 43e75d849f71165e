"""OpenVINO GenAI's continuous batching on a CPU, fed with a GGUF file of the model.

It pages keys and values, reads long prompts in pieces between the steps of running answers, and
keeps the keys and values of the beginnings that prompts share.
"""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from raymodel.errors import ArtifactError, ClusterError
from raymodel.model.gguf import GgufType, num_rows, write_gguf
from raymodel.model.openvino import cpu_properties, find_precision
from raymodel.serve.answer import Answer, Scored
from raymodel.serve.capacity import key_value_bytes
from raymodel.serve.runner import Made, Runner, Tokens
from raymodel.serve.sampling import Sampling
from raymodel.storage.model_files import GGUF_FILE

_PROCESS = Path(__file__).with_name("openvino_process.py")
_BLOCK_TOKENS = 32  # of the cache's blocks on a CPU
# Tokens of prompts that are read in one step, between those of running answers; its own default.
_STEP_TOKENS = 256
_CLOSE_TIMEOUT_S = 10.0
_SEED_BITS = 32  # of its random numbers
_ALL = 2**31  # tokens, as `top_k`
_MOST_MIN_P = 1 - 1e-6  # it takes less than 1, with which the likeliest alone is left too
# The trial at the start: short prompts, and how far below the best token of torch a chosen one may
# lie, as a share of the best one's distance from the mean. Rounding makes a hundredth; a model that
# is another one's misses by all of it.
_TRIAL_PROMPTS, _TRIAL_TOKENS = (5, 23), 4
_TRIAL_SHARE = {"f16": 0.15, "q8_0": 0.25}
_TRIAL_SHARE_OF_FILE = 0.15  # whose numbers torch has too, rounded and all


class OpenVinoRunner(Runner):
    """The model in a process of OpenVINO GenAI.

    Args:
        model: whose weights are written for it, and which the trial at the start compares with.
            bf16 models are computed in bf16, all others in fp32.
        tokenizer: of the model.
        batch: answers at the same time.
        context_tokens: of prompt and answer together; fewer where the memory holds fewer.
        type: of the weights.
        cache_bytes: the most that keys and values may take.
        file: the model as GGUF, where it has such weights; else they are written.

    Raises:
        ArtifactError: the model cannot be written as GGUF, or OpenVINO does not start with it, or
            it is not the same there.
        StorageError: the temporary folder has no room for the file.
        ClusterError: the process of OpenVINO ended, or the memory holds no answer.
    """

    name = "openvino"
    mode = "continuous batching"
    needs_model = False

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch: int,
        context_tokens: int,
        type: GgufType,
        cache_bytes: int,
        file: Path | None = None,
    ) -> None:
        self.num_slots = batch
        self._precision = find_precision(model.dtype)
        self._type = type
        token_bytes = key_value_bytes(model.config, self._precision)
        blocks = _plan_blocks(batch * context_tokens, cache_bytes // token_bytes, context_tokens)
        self._cache_tokens = blocks * _BLOCK_TOKENS
        self._cache_bytes = self._cache_tokens * token_bytes
        self.context_tokens = min(context_tokens, self._cache_tokens)
        self._numbers = itertools.count()
        self._running: dict[int, Answer] = {}
        if file is not None:
            self._start(file, blocks)
        else:
            with tempfile.TemporaryDirectory(prefix="raymodel-") as folder:
                written = Path(folder) / GGUF_FILE
                write_gguf(written, model, _InMemory(model), tokenizer, type)
                self._start(written, blocks)
        try:
            self._check(model, _TRIAL_SHARE[type] if file is None else _TRIAL_SHARE_OF_FILE)
        except BaseException:
            self.close()
            raise

    # ---- what the engine calls -----------------------------------------------------------------

    @property
    def lacking(self) -> tuple[str, ...]:
        """What `find_lacking` may find."""
        return tuple(_LACKING)

    def find_lacking(self, sampling: Sampling) -> str | None:
        """The name of a field that it cannot do as asked; None when it can all."""
        return next((name for name, lacks in _LACKING.items() if lacks(sampling)), None)

    def join(self, answers: Sequence[Answer]) -> Tokens:
        for answer in answers:
            number = next(self._numbers)
            self._running[number] = answer
            self._send("join", number, answer.prompt, _generation(answer))
        return []

    def step(self) -> Tokens:
        self._send("step")
        tokens: Tokens = []
        for number, made, error in self._receive():
            if error:
                raise RuntimeError(f"OpenVINO refuses a request: {error}")
            answer = self._running[number]
            is_told = answer.sampling.logprobs is not None
            tokens += [
                Made(answer, token, Scored(token, logprob) if is_told else None)
                for token, logprob in made
            ]
        return tokens

    def leave(self, answers: Sequence[Answer]) -> None:
        ended = {id(answer) for answer in answers}
        numbers = [number for number, answer in self._running.items() if id(answer) in ended]
        for number in numbers:
            del self._running[number]
        self._send("leave", numbers)

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def facts(self) -> dict[str, Any]:
        return super().facts() | {
            "dtype": self._precision,
            "device": "cpu",
            "weights": self._type,
            "cache_tokens": self._cache_tokens,
            "cache_bytes": self._cache_bytes,
        }

    def close(self) -> None:
        self._pipe.close()
        try:
            self._process.wait(_CLOSE_TIMEOUT_S)
        except subprocess.TimeoutExpired:  # within a long step
            self._process.kill()
            self._process.wait()

    # ---- the process ---------------------------------------------------------------------------

    def _start(self, file: Path, blocks: int) -> None:
        self._pipe, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                # -P: modules beside the file must not stand in for others of their name.
                [sys.executable, "-P", str(_PROCESS), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
            )
        self._pipe.send({
            "file": str(file),
            "scheduler": {
                "num_kv_blocks": blocks,
                "cache_size": 0,  # blocks count instead
                "max_num_seqs": self.num_slots,
                "max_num_batched_tokens": max(_STEP_TOKENS, self.num_slots),
                "dynamic_split_fuse": True,
                "enable_prefix_caching": True,
            },
            "properties": cpu_properties(self._precision),
        })  # fmt: skip
        try:
            error = self._receive()
        except RuntimeError as ended:
            self.close()
            raise ClusterError(f"{ended}; set serve.engine: transformers") from ended
        if error is not None:
            self.close()
            raise ArtifactError(
                f"OpenVINO does not start with it: {error.strip()}; set serve.engine: transformers"
            )

    def _send(self, name: str, *arguments: Any) -> None:
        try:
            self._pipe.send((name, arguments))
        except OSError:
            raise self._gone() from None

    def _receive(self) -> Any:
        try:
            return self._pipe.recv()
        except (EOFError, OSError):
            raise self._gone() from None

    def _gone(self) -> RuntimeError:
        return RuntimeError(f"the process of OpenVINO has ended with {self._process.wait()}")

    # ---- the trial -----------------------------------------------------------------------------

    @torch.inference_mode()
    def _check(self, model: PreTrainedModel, allowed: float) -> None:
        """What OpenVINO says to a few prompts must be what torch may say to them."""
        draw = torch.Generator().manual_seed(0)
        rows = num_rows(model)
        longest = self.context_tokens - _TRIAL_TOKENS
        prompts = [
            torch.randint(rows, (min(length, longest),), generator=draw).tolist()
            for length in _TRIAL_PROMPTS
        ]
        sampling = Sampling(max_tokens=_TRIAL_TOKENS, temperature=0)
        answers = [Answer(prompt, sampling, str, lambda chunk: None) for prompt in prompts]
        self.join(answers)
        while any(len(answer.tokens) < _TRIAL_TOKENS for answer in answers):
            for answer, token, _ in self.step():
                answer.tokens.append(token)
        self.leave(answers)
        for answer in answers:
            ids = torch.tensor([answer.prompt + answer.tokens], device=model.device)
            logits_TV = model(input_ids=ids).logits[0, -_TRIAL_TOKENS - 1 : -1].float()
            best = logits_TV.max(-1).values
            chosen = logits_TV.gather(-1, ids[0, -_TRIAL_TOKENS:, None])[:, 0]
            missed = ((best - chosen) / (best - logits_TV.mean(-1)).clamp(min=1e-9)).max().item()
            if not missed <= allowed:
                raise ArtifactError(
                    f"in OpenVINO the model says something else than in transformers ({missed:.0%} "
                    "off in a trial); set serve.engine: transformers"
                )


class _InMemory:
    """The weights of a model that is loaded."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._weights: dict[str, torch.Tensor] = model.state_dict()

    def read(self, name: str) -> torch.Tensor:
        return self._weights[name]


def _plan_blocks(wanted_tokens: int, affordable_tokens: int, context_tokens: int) -> int:
    """Blocks of the cache: what all answers want, or what the memory holds.

    Raises:
        ClusterError: that is not even one block.
    """
    affordable = affordable_tokens // _BLOCK_TOKENS
    if affordable < 1:
        raise ClusterError(
            f"the memory that is left holds keys and values of {affordable_tokens} tokens; free "
            "some, or serve a smaller model"
        )
    # One more a request, since each begins a block of its own.
    wanted = math.ceil(wanted_tokens / _BLOCK_TOKENS) + wanted_tokens // context_tokens
    return min(affordable, wanted)


# What it cannot do as asked. Its penalties are added to a logit below zero, which makes what is
# there already likelier; of other tokens than the chosen one, and of the prompt's where the cache
# holds its beginning, it tells no log-probabilities; a form that its grammar library does not take
# ends all requests, and there is no way to ask it before. (2026.4)
_LACKING: dict[str, Callable[[Sampling], bool]] = {
    "logit_bias": lambda sampling: bool(sampling.logit_bias),
    "presence_penalty": lambda sampling: sampling.presence_penalty != 0,
    "frequency_penalty": lambda sampling: sampling.frequency_penalty != 0,
    "form": lambda sampling: sampling.form is not None,
    "prompt_logprobs": lambda sampling: sampling.prompt_logprobs,
    "top_logprobs": lambda sampling: bool(sampling.logprobs),
}


def _generation(answer: Answer) -> dict[str, Any]:
    """Fields of its `GenerationConfig`. The engine knows where an answer ends, not the library."""
    sampling = answer.sampling
    # Without an end in the file it takes -1 for one, and refuses that; any is ignored here, but for
    # `min_new_tokens`, which forbids it.
    ends = set(answer.ends) or {0}
    fields: dict[str, Any] = {
        "max_new_tokens": max(1, sampling.max_tokens),
        "ignore_eos": True,
        "repetition_penalty": sampling.repetition_penalty,
        "min_new_tokens": sampling.min_tokens if answer.ends else 0,
        "eos_token_id": min(ends),
        "stop_token_ids": ends,
        "logprobs": int(sampling.logprobs is not None),
    }
    if sampling.temperature == 0:
        return fields
    return fields | {
        "do_sample": True,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k or _ALL,
        "min_p": min(sampling.min_p, _MOST_MIN_P),
        "rng_seed": sampling.draws().getrandbits(_SEED_BITS),
    }
