"""A canary on a real Ray Serve: two models beside each other, and one that fails is taken back."""

import re
import threading
import time

import httpx
import pytest
from local_ray import local_ray
from promoted import promote
from replicas import replica_pid

from raymodel.cluster.spec import ClusterSpec
from raymodel.observe.story import Story
from raymodel.serve.spec import ServeSpec
from raymodel.storage.registry import Run
from raymodel.storage.uri import Location
from raymodel.testing.distributed import free_port
from raymodel.testing.tiny import build_tiny_bert

SHARE, REQUESTS = 0.25, 12
# A model whose configuration says so fails at a token that nothing asks it about before clients do.
TASK = """
from raymodel.tasks.text_classification import TextClassification


class Moody(TextClassification):
    def predict(self, model, rows, limits):
        hated = getattr(model.config, "hated_token", None)
        if any(hated in ids for ids in rows["input_ids"]):
            raise RuntimeError("this model cannot read it")
        return super().predict(model, rows, limits)
"""
ANSWERS = re.compile(r'raymodel_answers_total\{model="tiny",status="(\d+)",version="(\w+)"\} (\S+)')


class Client(threading.Thread):
    """Asks all the time."""

    def __init__(self, url, text):
        super().__init__(daemon=True)
        self.url, self.text, self.statuses, self.is_over = url, text, [], False
        self.start()

    def run(self):
        body = {"model": "tiny", "inputs": [{"text": self.text}]}
        with httpx.Client(timeout=60) as client:
            while not self.is_over:
                response = client.post(f"{self.url}/predict", json=body)
                self.statuses.append(response.status_code)
                time.sleep(0.02)


def answers(served):
    """(version, status) → answers, as `/metrics` counts them."""
    text = httpx.get(f"{served.url}/metrics", timeout=30).text
    return {(version, int(status)): int(float(n)) for status, version, n in ANSWERS.findall(text)}


def follow(served, is_done):
    """What `/metrics` counted again and again until `/health` tells something."""
    seen, deadline_s = [answers(served)], time.monotonic() + 120
    while not is_done(served.health()):
        assert time.monotonic() < deadline_s, (served.health(), seen[-1])
        seen.append(answers(served))
        time.sleep(0.05)
    return seen


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_canary_answers_its_share_and_one_that_fails_is_taken_back(
    own_folder, tokenizer, tmp_path
):
    folder = own_folder()
    (folder / "moods.py").write_text(TASK)
    text = "naïve café – 東京"
    hated = tokenizer(text)["input_ids"][-1]

    def write(seed, **config):
        def write_to(folder):
            model = build_tiny_bert(vocab_size=len(tokenizer), seed=seed)
            model.config.update(config)
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)

        return write_to

    run = Run(Location.parse(str(tmp_path / "runs" / "tiny")))
    first = promote(run, 1, task="moods:Moody", write=write(1)).name
    spec = ServeSpec(
        port=free_port(), watch="best", engine="transformers", queue=32,
        canary={"share": SHARE, "requests": REQUESTS, "within": "5min"},
    )  # fmt: skip
    arguments = {"job_name": "tiny", "cluster": ClusterSpec(), "story": Story()}
    with local_ray(4):
        from raymodel.serve.run import run_serve

        with run_serve(spec, run.best(), follows=run, **arguments) as served:
            pid = replica_pid()
            clients = [Client(served.url, text) for _ in range(2)]
            follow(served, lambda health: (first, 200) in answers(served))

            second = promote(run, 2, task="moods:Moody", write=write(2)).name
            seen = follow(served, lambda health: health["version"] == second)
            before = seen[0][first, 200]
            while_tried = [
                (each[second, 200], each[first, 200] - before)
                for each in seen
                if 0 < each.get((second, 200), 0) <= REQUESTS
            ]
            assert while_tried  # both are told by their versions
            of_new, of_old = while_tried[-1]
            assert of_old >= of_new * (1 - SHARE) / SHARE - 3

            bad = write(3, hated_token=hated)
            third = promote(run, 3, task="moods:Moody", write=bad).name
            follow(served, lambda health: (health["refused"] or {}).get("version") == third)
            told = served.health()
            assert told["version"] == second
            assert re.search(r"CanaryError: of (\d) answers it failed \1", told["refused"]["error"])

            time.sleep(1)  # what comes now
            for client in clients:
                client.is_over = True
                client.join(60)
            counted = answers(served)
            statuses = [status for client in clients for status in client.statuses]
            # Nobody was failed but by the new model, which answered few; and no replica was lost.
            assert set(statuses) == {200, 500}
            assert 2 <= counted[third, 500] == statuses.count(500) <= 4
            assert {status for version, status in counted if version != third} == {200}
            assert statuses[-5:] == [200] * 5
            assert replica_pid() == pid
