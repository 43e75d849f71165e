"""What tests of engines share: who listens, what is asked, and what transformers answers."""

import queue
import random
import threading
import time
from contextlib import contextmanager

import torch

from raymodel.serve.choice import build_engine
from raymodel.serve.sampling import Sampling
from raymodel.serve.streams import AnswerStream

WAIT_S = 120  # only a guard against hanging


class Listener:
    """Collects the chunks of some answers."""

    def __init__(self):
        self.chunks = queue.Queue()

    def __call__(self, index, chunk):
        self.chunks.put((index, chunk))

    def wait(self, count=1):
        """Returns index → (text, last chunk) once `count` answers are finished."""
        texts, last = {}, {}
        while len(last) < count:
            index, chunk = self.chunks.get(timeout=WAIT_S)
            texts[index] = texts.get(index, "") + chunk.text
            if chunk.finish_reason or chunk.error:
                last[index] = (texts[index], chunk)
        return last


def torch_engine(model, tokenizer, *, batch, queue):
    return build_engine(model, tokenizer, batch=batch, queue=queue, asked="transformers").engine


def pace(service, monkeypatch, step_s=0.02):
    """Has the engine of a service take its time, as larger models do: who reads keeps up with it,
    and gets each token by itself."""
    step = service.engine.runner.step

    def slow():
        time.sleep(step_s)
        return step()

    monkeypatch.setattr(service.engine.runner, "step", slow)


@contextmanager
def steps_when(engine, may_step):
    """Has an engine make no step before `may_step()`, as on a machine that has no time for it.

    After the block it is free. In torch the first token of an answer comes without a step.
    """
    runner, is_over = engine.runner, threading.Event()
    step = runner.step

    def held():
        while not (is_over.is_set() or may_step()):
            time.sleep(0.001)
        return step()

    runner.step = held
    try:
        yield
    finally:
        is_over.set()


def first_steps(count):
    """For `steps_when`: so many, and no more."""
    steps = iter(range(count))
    return lambda: next(steps, None) is not None


def time_from_first_token(monkeypatch):
    """Has `serve.timeout` count from the first token on: on a busy machine that alone may take
    longer than a test waits."""
    wait_for_first = AnswerStream.wait_for_first

    async def wait(self):
        self._deadline_s = time.monotonic() + WAIT_S
        await wait_for_first(self)
        self._deadline_s = time.monotonic() + self._timeout_s

    monkeypatch.setattr(AnswerStream, "wait_for_first", wait)


def greedy(max_tokens=24, **kwargs):
    return Sampling(max_tokens=max_tokens, temperature=0, **kwargs)


def random_prompts(count, seed=0, longest=40):
    draw = random.Random(seed)
    return [[draw.randrange(2, 290) for _ in range(draw.randint(1, longest))] for _ in range(count)]


def generate(model, prompt, max_tokens, **options):
    given = torch.tensor([prompt])
    ids = model.generate(
        given, max_new_tokens=max_tokens, do_sample=False, pad_token_id=1, **options
    )
    return ids[0, len(prompt) :].tolist()


def wait_until(condition):
    """Returns once it holds."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.002)
