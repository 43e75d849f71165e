"""What tests of engines share: who listens, what is asked, and what transformers answers."""

import queue
import random
import time

import torch

from raymodel.serve.choice import build_engine
from raymodel.serve.sampling import Sampling

WAIT_S = 30


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
