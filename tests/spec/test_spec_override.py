import pytest

from raymodel.spec.load import load_job
from raymodel.spec.override import put

JOB = """\
name: first
finetune:
  task: causal_lm
  base: somewhere
  sources:
    - {path: a, fields: {prompt: "{x}", response: "{y}"}}
  global_batch: 32
  duration: 1 epoch
  sweep:
    trials: 2
    search:
      optimizer.learning_rate: {uniform: [1e-5, 1e-3]}
"""


@pytest.mark.parametrize(
    ("override", "read", "value"),
    [
        ("seed=3", lambda job: job.seed, 3),
        ("storage=s3://bucket/runs", lambda job: job.storage, "s3://bucket/runs"),
        ("cluster.workers={min: 2, max: 4}", lambda job: job.cluster.max_workers, 4),
        ("finetune.sources.0.path=b=c", lambda job: job.finetune.sources[0].path, "b=c"),
        (
            "finetune.optimizer.learning_rate=1e-4",
            lambda job: job.finetune.optimizer.learning_rate,
            1e-4,
        ),
        ("finetune.sweep=null", lambda job: job.finetune.sweep, None),
        (
            "finetune.sweep.search.optimizer.learning_rate.uniform=[1, 2]",
            lambda job: job.finetune.sweep.search["optimizer.learning_rate"].uniform,
            (1.0, 2.0),
        ),
    ],
)
def test_an_override_replaces_a_value(write_job, override, read, value):
    assert read(load_job(write_job(JOB), [override]).job) == value


def test_the_last_of_two_overrides_wins(write_job):
    assert load_job(write_job(JOB), ["seed=1", "seed=2"]).job.seed == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "--set: 'seed' is not a setting; write FIELD=VALUE"),
        ("=3", "--set: '=3' is not a setting"),
        ("a..b=3", "--set: 'a..b=3' is not a setting"),
        ("seed=", '--set seed: no value after "="'),
        ("cluster=[1", "--set cluster: this is not YAML"),
        ("sed=1", "--set sed: unknown key 'sed'; did you mean 'seed'?"),
        (
            "pretrian.x=1",
            "--set pretrian.x: pretrian: unknown key 'pretrian'; did you mean 'pretrain'?",
        ),
        (
            "finetune.optimizer.learning_rat=1",
            "--set finetune.optimizer.learning_rat: unknown key "
            "'learning_rat'; did you mean 'learning_rate'?",
        ),
        ("finetune.global_batch=x", "--set finetune.global_batch: 'x' is not a whole number"),
        ("name.first=1", "--set name.first: name is 'first', not a section; it has no 'first'"),
        (
            "finetune.sources.1.path=b",
            "--set finetune.sources.1.path: finetune.sources is a list of 1; '1' is none",
        ),
        (
            "finetune.sources.path=b",
            "--set finetune.sources.path: finetune.sources is a list of 1; 'path' is none",
        ),
    ],
)
def test_a_bad_override_is_named_by_its_field(refusal, override, message):
    assert refusal(JOB, override).startswith(message)


def test_a_line_of_the_file_is_still_named_beside_an_override(refusal):
    text = refusal(JOB.replace("trials: 2", "trials: 0"), "seed=-1")
    assert text.splitlines()[1:] == [
        "job.yaml:10: finetune.sweep.trials: 0 must be at least 1",
        "--set seed: -1 must be at least 0",
    ]


def test_put_makes_the_sections_on_its_way():
    data = {"a": None}
    assert put(data, "a.b.c", 1, "test") == ("a", "b", "c")
    assert data == {"a": {"b": {"c": 1}}}
