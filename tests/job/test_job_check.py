from pathlib import Path

import pytest

from raymodel.errors import SpecError
from raymodel.job.check import check_draft, check_job
from raymodel.job.spec import Job
from raymodel.spec.load import load_job

JOB = """\
name: first
prepare:
  sources: [{path: "python:stdlib"}]
  tokenizer: {vocab_size: 4096}
  sequence_length: 256
pretrain:
  model: {preset: llama-tiny}
  global_batch: 32
  duration: 100 steps
finetune:
  task: causal_lm
  sources:
    - {path: a, fields: {prompt: "{code}", response: "{docstring}"}}
  global_batch: 32
  duration: 1 epoch
  adapter: {lora: {rank: 8}}
  sweep:
    trials: 2
    search:
      optimizer.learning_rate: {loguniform: [1e-5, 1e-3]}
evaluate:
  metrics: [perplexity, bleu]
  gates: {perplexity: "< 40"}
"""


@pytest.fixture
def refusal(tmp_path: Path):
    def refuse(old: str, new: str, *overrides: str) -> str:
        assert old in JOB
        path = tmp_path / "job.yaml"
        path.write_text(JOB.replace(old, new), encoding="utf-8")
        with pytest.raises(SpecError) as caught:
            check_job(load_job(path, overrides))
        return str(caught.value).replace(str(path), "job.yaml")

    return refuse


def test_a_job_whose_stages_fit_passes(tmp_path: Path):
    path = tmp_path / "job.yaml"
    path.write_text(JOB, encoding="utf-8")
    check_job(load_job(path))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "  adapter: {lora: {rank: 8}}",
            "  adapter: {lora: {rank: 8}}\n  distill: {teacher: 'hf://datasets/a/b'}",
            "job.yaml:17: finetune.distill.teacher: 'hf://datasets/a/b' names no model of the",
        ),
        (
            "  adapter: {lora: {rank: 8}}",
            "  adapter: {lora: {rank: 8}}\n  mixture: {max_visits_of: {stdlib: 3}}",
            "job.yaml:17: finetune.mixture.max_visits_of.stdlib: 'stdlib' is the `path` of no",
        ),
        (
            "      optimizer.learning_rate: {loguniform: [1e-5, 1e-3]}",
            "      distill.temperature: {choice: [1.0, 2.0]}",
            "job.yaml:20: finetune.sweep.search.distill.temperature: there is no teacher",
        ),
        (
            "      optimizer.learning_rate: {loguniform: [1e-5, 1e-3]}",
            "      distill.teacher: {choice: [a, b]}",
            "job.yaml:20: finetune.sweep.search.distill.teacher: 'distill.teacher' cannot make",
        ),
        (
            "evaluate:",
            "serve: {engine: openvino, draft: {model: small/finetune}}\nevaluate:",
            "job.yaml:21: serve: draft is for the engine transformers: OpenVINO ends beside one",
        ),
        (
            '{path: "python:stdlib"}',
            '{path: a, fields: {text: "{body"}}',
            "job.yaml:3: prepare.sources.0.fields.text: template '{body': expected '}'",
        ),
        (
            '{path: "python:stdlib"}',
            "{path: a, fields: {text: body}}",
            "job.yaml:3: prepare.sources.0.fields.text: the template 'body' names no field",
        ),
        (
            "sequence_length: 256",
            "sequence_length: 256\n  clean: {dedup: nera}",
            "job.yaml:6: prepare.clean.dedup: 'nera' is not a way to find duplicates; did you "
            "mean 'near'? (known are exact, decoded, near, none)",
        ),
        (
            "sequence_length: 256",
            "sequence_length: 256\n  clean: {dedup: {name: near, threshold: 10%}}",
            "job.yaml:6: prepare.clean.dedup.threshold: '10%' must be at least 0.3",
        ),
        (
            "sequence_length: 256",
            "sequence_length: 256\n  clean: {decontaminate: {sets: {quiz: {path: a, "
            "fields: {q: b}}}}}",
            "job.yaml:6: prepare.clean.decontaminate.sets.quiz.fields.q: an evaluation set has no "
            "role 'q', it has text",
        ),
        (
            "sequence_length: 256",
            "sequence_length: 256\n  clean: {decontaminate: {sets: {quiz: {path: a, weight: 2}}}}",
            "job.yaml:6: prepare.clean.decontaminate.sets: `weight` of the set 'quiz' would say",
        ),
        (
            "sequence_length: 256",
            "sequence_length: 256\n  clean: {decontaminate: {sets: {quiz: {path: 'ftp://a/b'}}}}",
            "job.yaml:6: prepare.clean.decontaminate.sets.quiz.path: 'ftp://a/b': the scheme 'ftp'",
        ),
        (
            "  task: causal_lm",
            "  task: causal_lm\n  clean: {repeated: {max_documents: 9}}",
            "job.yaml:12: finetune.clean.repeated: what is repeated is taken out of texts that are",
        ),
        (
            "sequence_length: 256",
            "sequence_length: 256\n  clean:\n    steps:\n    - unicode\n    - gofer",
            "job.yaml:9: prepare.clean.steps.1: 'gofer' is not a cleaning step, nor a module.path",
        ),
        (
            "sequence_length: 256",
            "sequence_length: 256\n  clean:\n    steps:\n    - {name: gopher, min_word: 2}",
            "job.yaml:8: prepare.clean.steps.0.min_word: unknown key 'min_word'; did you mean "
            "'min_words'?",
        ),
        (
            "sequence_length: 256",
            "sequence_length: 256\n  clean:\n    steps: [{name: pii, regions: [UX]}]",
            "job.yaml:7: prepare.clean.steps.0: 'UX' is no country in two letters of ISO 3166",
        ),
        (
            "sequence_length: 256",
            "sequence_length: 256\n  clean:\n    steps: [{name: words, words_file: none}]",
            "job.yaml:7: prepare.clean.steps.0: the list 'none' cannot be read",
        ),
        (
            "preset: llama-tiny",
            "preset: lama-tiny",
            "job.yaml:7: pretrain.model.preset: there is no model preset 'lama-tiny'",
        ),
        (
            "preset: llama-tiny}",
            "preset: bert-tiny}\n  objective: text_classification",
            "job.yaml:8: pretrain.objective: text_classification needs labelled examples",
        ),
        (
            'prompt: "{code}", ',
            "",
            "job.yaml:13: finetune.sources.0: source 'a' says nothing of the role `prompt`",
        ),
        (
            '{path: "python:stdlib"}',
            "{path: a, label: b}",
            "job.yaml:3: prepare.sources.0: what stands for `label` of a record is said in",
        ),
        (
            "task: causal_lm",
            "task: {name: causal_lm, mask: 1}",
            "job.yaml:11: finetune.task.mask: unknown key 'mask'",
        ),
        (
            "task: causal_lm",
            "task: casual_lm",
            "job.yaml:11: finetune.task: 'casual_lm' is not a task; did you mean 'causal_lm'?",
        ),
        (
            "[perplexity, bleu]",
            "[perplexity, blue]",
            "job.yaml:22: evaluate.metrics.1: 'blue' is not a measure of causal_lm, which has "
            "perplexity, bits_per_byte, bleu, chrf, exact_match; did you mean 'bleu'?",
        ),
        (
            "[perplexity, bleu]",
            "[perplexity, accuracy]",
            "job.yaml:22: evaluate.metrics.1: 'accuracy' is not a measure of causal_lm",
        ),
        (
            '{perplexity: "< 40"}',
            '{perplexty: "< 40"}',
            "job.yaml:23: evaluate.gates.perplexty: the gate is on 'perplexty', which is not "
            "measured; did you mean 'perplexity'?",
        ),
        (
            "  duration: 1 epoch",
            "  max_length: 2048\n  duration: 1 epoch",
            "job.yaml:15: finetune.max_length: 2048 tokens is more than prepare.sequence_length, "
            "256: the base never saw so many",
        ),
        (
            '{perplexity: "< 40"}',
            '{chrf: "> 4"}',
            "job.yaml:23: evaluate.gates.chrf: the gate is on 'chrf', which is not measured; add",
        ),
        (
            "      optimizer.learning_rate:",
            "      optimizer.learning_rat:",
            "job.yaml:20: finetune.sweep.search.optimizer.learning_rat: 'optimizer.learning_rat' "
            "is not a field of finetune; did you mean 'optimizer.learning_rate'?",
        ),
        (
            "      optimizer.learning_rate:",
            "      learning_rate:",
            "job.yaml:20: finetune.sweep.search.learning_rate: 'learning_rate' is not a field of "
            "finetune; did you mean 'optimizer.learning_rate'?",
        ),
        (
            "      optimizer.learning_rate:",
            "      optimizer:",
            "job.yaml:20: finetune.sweep.search.optimizer: 'optimizer' is a section; search one",
        ),
        (
            "      optimizer.learning_rate:",
            "      parallel.zero:",
            "job.yaml:20: finetune.sweep.search.parallel.zero: 'parallel.zero' cannot make one "
            "trial better",
        ),
        (
            "optimizer.learning_rate: {loguniform: [1e-5, 1e-3]}",
            "schedule.warmup: {uniform: [0.5, 1.5]}",
            "job.yaml:20: finetune.sweep.search.schedule.warmup: 1.5 is not a fraction",
        ),
        (
            "optimizer.learning_rate: {loguniform: [1e-5, 1e-3]}",
            "optimizer.name: {choice: [adamw, lions]}",
            "job.yaml:20: finetune.sweep.search.optimizer.name: unknown value 'lions'; did you "
            "mean 'lion'?",
        ),
        (
            "optimizer.learning_rate: {loguniform: [1e-5, 1e-3]}",
            "adapter.lora.rank: {uniform: [4, 16]}",
            "job.yaml:20: finetune.sweep.search.adapter.lora.rank: 4.0 is not a whole number, "
            "from 1 to 100,000; a field of whole numbers takes `choice`",
        ),
        (
            "trials: 2",
            "trials: 2\n    workers_per_trial: 3",
            "job.yaml:19: finetune.sweep.workers_per_trial: finetune.global_batch of 32 cannot be "
            "divided by 3 workers",
        ),
    ],
)
def test_what_does_not_fit_across_stages_is_refused_with_its_line(refusal, old, new, message):
    assert refusal(old, new).startswith(message)


@pytest.mark.parametrize(
    ("task", "fields", "found"),
    [
        ("causal_lm", {"prompt": "p", "response": "r"}, []),
        (
            "text_classification",
            {"text": "t", "label": "l"},
            [
                "the model that is served is for text_classification, which does not write text "
                "token by token, as a model and its draft do; leave draft out"
            ],
        ),
    ],
)
def test_a_draft_is_for_a_model_that_writes(task: str, fields: dict[str, str], found: list[str]):
    finetune = {
        "task": task, "base": "b", "sources": [{"path": "a", "fields": fields}],
        "global_batch": 8, "duration": "1 epoch",
    }  # fmt: skip
    job = Job.model_validate(
        {"name": "n", "finetune": finetune, "serve": {"draft": {"model": "d"}}}
    )
    assert [problem.message for problem in check_draft(job)] == found


def test_searching_an_adapter_that_is_not_trained_is_refused(refusal):
    text = refusal("optimizer.learning_rate", "adapter.lora.rank", "finetune.adapter=null")
    assert "no adapter is trained; add `finetune.adapter`" in text


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "adapter: {lora: {rank: 8}}",
            "parallel: {sequence: 4}",
            "job.yaml:16: finetune.parallel.sequence: 4 workers cannot exchange 6 heads with 2 of "
            "keys and values evenly; use sequence: 2",
        ),
        (
            "{preset: llama-tiny}",
            "{preset: bert-tiny}\n  parallel: {tensor: 2}",
            "job.yaml:8: pretrain.parallel.tensor: bert cannot share its matrices",
        ),
    ],
)
def test_a_layout_that_the_model_cannot_take_is_refused(refusal, old, new, message):
    four = ("cluster.workers=4", "finetune.sweep.workers_per_trial=4")
    assert refusal(old, new, *four).startswith(message)


def test_the_workers_of_a_trial_make_whole_replicas(refusal):
    text = refusal("adapter: {lora: {rank: 8}}", "parallel: {sequence: 2}", "cluster.workers=4")
    assert "finetune.parallel needs a multiple of tensor x sequence = 1 x 2 = 2 workers" in text


def test_a_gate_may_be_on_plain_text_where_the_base_is_pretrained(refusal, tmp_path: Path) -> None:
    path, on_text = tmp_path / "job.yaml", 'evaluate.gates={text_perplexity: "< 40"}'
    path.write_text(JOB, "utf-8")
    check_job(load_job(path, [on_text]))
    for without in ("finetune=null", "finetune.base=other/pretrain"):
        text = refusal("first", "first", without, on_text)
        assert "the gate is on 'text_perplexity', which is not measured" in text


def test_all_problems_come_at_once(refusal):
    text = refusal("preset: llama-tiny", "preset: x", "evaluate.metrics=[f1, accuracy]")
    assert text.startswith("4 problems\n")  # the preset, two measures, and a gate without measure
