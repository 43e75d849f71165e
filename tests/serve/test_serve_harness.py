"""lm-evaluation-harness scores a served model, with the numbers that transformers has."""

import importlib.util
import json
import math
import os
import subprocess
import sys
from contextlib import closing

import pytest
import torch
import yaml
from listening import listening

from raymodel.serve.app import build_app
from raymodel.serve.generation import GenerationService
from raymodel.serve.spec import ServeSpec

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("lm_eval") is None, reason="needs `pip install lm_eval[api]`"
    ),
]
CHOICES = [
    {"question": "def read", "choices": [" items", "_file", " hello"], "answer": 1},
    {"question": "user:", "choices": [" hi", " café", " return"], "answer": 0},
    {"question": "naïve", "choices": [" 東京", " café", " def"], "answer": 1},
    {"question": "items): return", "choices": [" items", " 🙂"], "answer": 1},
]
TEXTS = ["def read_file(items): return items", "naïve café – 東京 🙂", "user: hi\nassistant: hello"]
TASKS = {
    "chosen": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "answer",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}],
    },
    "read": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "bits_per_byte"}],
    },
    "written": {
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{choices[answer]}}",
        "generation_kwargs": {"until": ["\n\n"], "max_gen_toks": 8},
        "metric_list": [{"metric": "exact_match"}],
    },
}


def write_tasks(folder):
    for name, task in TASKS.items():
        records = [{"text": text} for text in TEXTS] if name == "read" else CHOICES
        data = folder / f"{name}.jsonl"
        data.write_text("".join(json.dumps(record) + "\n" for record in records))
        source = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}}}
        task = {"task": name, "test_split": "test", **source, **task}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(task))


def evaluate(url, tokenizer, tmp_path):
    """The harness' results by task, and its samples."""
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    write_tasks(tasks)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    model = (
        f"model=tiny,base_url={url}/v1/completions,tokenizer={tmp_path / 'tokenizer'},"
        "tokenizer_backend=huggingface,num_concurrent=2,max_length=512,max_retries=1"
    )
    command = [
        sys.executable, "-m", "lm_eval", "run", "--model", "local-completions", "--model_args",
        model, "--tasks", ",".join(TASKS), "--include_path", str(tasks), "--output_path",
        str(tmp_path / "out"), "--log_samples",
    ]  # fmt: skip
    quiet = {
        "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "OPENAI_API_KEY": "none",
        "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false",
    }  # fmt: skip
    done = subprocess.run(
        command, env=os.environ | quiet, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-3000:]
    [results] = (tmp_path / "out").rglob("results_*.json")
    samples = {
        name: [json.loads(line) for line in next(results.parent.glob(f"samples_{name}_*")).open()]
        for name in TASKS
    }
    return json.loads(results.read_text())["results"], samples


@torch.inference_mode()
def logprob(model, tokenizer, before, after):
    """Of a text behind another; as the harness cuts them, which tokenises both together."""
    ids = tokenizer(before + after)["input_ids"]
    start = len(tokenizer(before)["input_ids"])
    table = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    return sum(float(table[i - 1, ids[i]]) for i in range(start, len(ids)))


@pytest.mark.parametrize("engine", ["transformers", "openvino"])
def test_the_harness_scores_a_served_model_as_transformers_does(
    engine, llama, causal_lm, tokenizer, tmp_path
):
    spec = ServeSpec(engine=engine, batch=2, queue=8, max_tokens=60)
    service = GenerationService(llama, causal_lm, name="tiny", spec=spec)
    with closing(service), listening(build_app(service)) as url:
        results, samples = evaluate(url, tokenizer, tmp_path)
    right = 0
    for sample in samples["chosen"]:
        doc = sample["doc"]
        expected = [logprob(llama, tokenizer, doc["question"], each) for each in doc["choices"]]
        found = [float(each[0]) for each in sample["filtered_resps"]]
        assert found == pytest.approx(expected, abs=1e-3)
        right += max(range(len(expected)), key=expected.__getitem__) == doc["answer"]
    assert results["chosen"]["acc,none"] == pytest.approx(right / len(CHOICES))
    first = tokenizer.decode([tokenizer.eos_token_id])  # stands before what is read
    total = sum(logprob(llama, tokenizer, first, text) for text in TEXTS)
    num_bytes = sum(len(text.encode()) for text in TEXTS)
    found = results["read"]["bits_per_byte,none"]
    assert found == pytest.approx(-total / num_bytes / math.log(2), rel=1e-4)
    for sample in samples["written"]:
        ids = tokenizer(sample["doc"]["question"], return_tensors="pt")["input_ids"]
        made = llama.generate(ids, max_new_tokens=8, do_sample=False, pad_token_id=1)
        text = tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True)
        assert sample["resps"][0][0] == text.partition("\n\n")[0]
