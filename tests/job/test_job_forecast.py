"""`raymodel plan`: what it computes, what it finds complete, what it refuses."""

import resource
import subprocess
import sys
import types
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from raymodel import cli
from raymodel.cluster.devices import parse_fleet
from raymodel.data.prepare import Recipe, prepare_dataset
from raymodel.data.rows import RowKind
from raymodel.data.step import complete_item, missing_items
from raymodel.errors import ArtifactError, SpecError
from raymodel.job import preflight
from raymodel.job.forecast import plan_job, stage_states
from raymodel.job.forecast_text import plan_text
from raymodel.job.pipeline import Pipeline
from raymodel.job.preflight import check_inputs
from raymodel.job.progress import find_progress
from raymodel.job.run import _run_stages
from raymodel.job.spec import Job
from raymodel.observe.story import Story
from raymodel.storage.registry import Run
from raymodel.storage.uri import Location
from raymodel.testing.tiny import write_tiny_corpus
from raymodel.train.forecast.memory import plan_memory
from raymodel.train.work import open_plan

HEAVY = ("torch", "ray", "transformers", "deepspeed", "peft")
MODEL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


@pytest.fixture
def job(tmp_path):
    write_tiny_corpus(tmp_path / "corpus")
    return Job.model_validate(
        {
            "name": "tiny",
            "storage": str(tmp_path / "runs"),
            "prepare": {
                "sources": [{"path": "corpus"}],
                "tokenizer": {"vocab_size": 300},
                "sequence_length": 16,
                "holdout": 0.1,
            },
            "pretrain": {
                "model": {"architecture": "llama", "config": MODEL},
                "global_batch": 8,
                "duration": "2 epochs",
            },
            "finetune": {
                "task": "causal_lm",
                "sources": [
                    {"path": "corpus", "fields": {"prompt": "{text}", "response": "{text}"}}
                ],
                "max_length": 16,
                "global_batch": 8,
                "duration": "3 steps",
            },
            "evaluate": {"metrics": ["perplexity"]},
        }
    )


def with_stage(job, stage, **changes):
    data = job.to_dict()
    data[stage] = data[stage] | changes
    return Job.model_validate(data)


def states(plan):
    return {name: state.partition(" ")[0] for name, state in stage_states(plan)}


# ---- complete stages -----------------------------------------------------------------------------


@pytest.fixture
def work_here(monkeypatch):
    """Stand-ins for what runs on Ray; rows are prepared for real."""

    def prepare(spec, execution, story, base_dir):
        recipe = Recipe(
            sources=spec.sources,
            clean=spec.clean,
            holdout=spec.holdout,
            seed=execution.seed,
            kind=RowKind(length=spec.sequence_length),
            processor=spec.tokenizer,
        )

        def execute(step):
            for item in missing_items(step):
                complete_item(step, item)

        return prepare_dataset(recipe, execution.location, execute, lambda text: None, base_dir)

    def train(spec, execution, *_):
        config = MODEL | {"model_type": "llama", "vocab_size": 300}
        (execution.location / "model/config.json").write_json(config)
        return {"tokens": 1}

    def evaluate(spec, execution, story, data, teacher):
        (execution.location / "report/metrics.json").write_json({"samples": []})
        gates = [
            {"name": name, "value": 2, "condition": "< 1", "passed": False} for name in spec.gates
        ]
        return {"passed": not gates, "gates": gates}

    @contextmanager
    def serve(spec, model, **_):
        yield types.SimpleNamespace(
            url="",
            name="tiny",
            task="causal_lm",
            ask=lambda values: values["prompt"],
            health=lambda: {"slow_paths": []},
        )

    modules = {
        "data": {"run_prepare": prepare, "run_examples": lambda *_: {"splits": {}, "labels": []}},
        "train": {"run_pretrain": train, "run_finetune": train},
        "evaluate": {"run_evaluate": evaluate},
        "serve": {"run_serve": serve},
    }
    for folder, functions in modules.items():
        name = f"raymodel.{folder}.run"
        stand_in = types.ModuleType(name)
        stand_in.__dict__.update(functions)
        monkeypatch.setitem(sys.modules, name, stand_in)
    monkeypatch.setattr("raymodel.train.fault.places.await_places", lambda *_: None)
    monkeypatch.setattr("raymodel.cluster.places.holds_the_places", lambda *_: False)


def run_stages(job, base_dir):
    """Which gates were not met."""
    run = Run(Location.parse(job.storage) / job.name)
    with ExitStack() as stack:
        connected = types.SimpleNamespace(started_here=True)  # nothing of this needs a Ray
        p = Pipeline(job, run, Story(), stack, None, base_dir, connected)
        return _run_stages(p, keep_serving=False)


def test_a_stage_is_complete_when_the_pipeline_would_skip_it(job, tmp_path, work_here):
    pretraining = job.model_copy(update={"finetune": None})
    assert set(states(plan_job(pretraining, tmp_path)).values()) == {"to"}
    assert not run_stages(pretraining, tmp_path)
    assert set(states(plan_job(pretraining, tmp_path)).values()) == {"complete"}

    longer = with_stage(pretraining, "pretrain", duration="3 epochs")
    expected = {"prepare": "complete", "pretrain": "to", "evaluate": "to"}
    assert states(plan_job(longer, tmp_path)) == expected
    reseeded = pretraining.model_copy(update={"seed": 1})
    assert set(states(plan_job(reseeded, tmp_path)).values()) == {"to"}
    elsewhere = with_stage(pretraining, "pretrain", parallel={"zero": 3})
    assert states(plan_job(elsewhere, tmp_path))["pretrain"] == "complete", "the curve is the same"


def test_prepared_data_of_another_run_is_taken_over_and_made_again_once_that_is_gone(
    job, tmp_path, work_here
):
    first = Job.model_validate(job.to_dict() | {"name": "first"})
    assert not run_stages(first, tmp_path)
    known = dict(stage_states(plan_job(job, tmp_path)))
    assert "made by the run first" in known["prepare"]
    assert known["pretrain"] == "to do", "a model is trained by its own run"
    assert not run_stages(job, tmp_path)
    runs = {name: Run(Location.parse(job.storage) / name) for name in ("first", "tiny")}
    for stage in ("prepare", "examples"):
        assert not runs["tiny"].executions(stage)
        assert runs["tiny"].latest(stage) == runs["first"].latest(stage)
    assert set(states(plan_job(job, tmp_path)).values()) == {"complete"}

    runs["first"].location.delete_tree()
    assert states(plan_job(job, tmp_path))["prepare"] == "to"
    with pytest.raises(ArtifactError, match="run the job 'tiny' again"):
        runs["tiny"].latest("prepare")
    assert not run_stages(job, tmp_path)
    assert runs["tiny"].latest("prepare").location == runs["tiny"].executions("prepare")[0]
    assert len(runs["tiny"].executions("pretrain")) == 1, "it is the same data: nothing is trained"


def test_serving_is_complete_for_the_model_that_would_be_served(
    job, tmp_path, work_here, monkeypatch
):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    serving = Job.model_validate(job.to_dict() | {"finetune": None, "serve": {}})
    assert states(plan_job(serving, tmp_path))["serve"] == "to"
    assert not run_stages(serving, tmp_path)
    assert set(states(plan_job(serving, tmp_path)).values()) == {"complete"}

    longer = with_stage(serving, "pretrain", duration="3 epochs")
    assert states(plan_job(longer, tmp_path))["serve"] == "to", "the longer one is not served yet"
    gated = with_stage(serving, "evaluate", gates={"perplexity": "< 1"})
    assert "perplexity is 2" in run_stages(gated, tmp_path)
    assert states(plan_job(gated, tmp_path))["evaluate"] == "complete"
    assert states(plan_job(gated, tmp_path))["serve"] == "to", "it does not meet its gate"
    absent = Job.model_validate(
        {"name": "other", "storage": job.storage, "serve": {"model": "tiny/finetune"}}
    )
    assert states(plan_job(absent, tmp_path))["serve"] == "not"


def test_rows_and_steps_are_exact_once_the_data_is_complete(job, tmp_path, work_here):
    pretraining = job.model_copy(update={"finetune": None})
    (guess,) = plan_job(pretraining, tmp_path).stages
    assert "an estimate" in guess.data
    assert not run_stages(pretraining, tmp_path)
    plan = plan_job(pretraining, tmp_path)
    split = plan.progress.complete["prepare"].content["splits"]["train"]
    (stage,) = plan.stages
    assert f"{split['rows']:,} rows" in stage.data
    steps = -(-2 * split["rows"] // 8)
    assert stage.forecasts[0].plan.total_steps == steps
    assert stage.forecasts[0].plan.total_tokens == round(
        steps * 8 * split["tokens"] / split["rows"]
    )


@pytest.mark.parametrize(
    ("stage", "data"), [("pretrain", None), ("pretrain", "tiny/prepare"), ("finetune", None)]
)
def test_rows_that_do_not_fill_a_step_are_refused_and_said_by_plan_and_run_alike(
    job, tmp_path, work_here, monkeypatch, stage, data
):
    pretraining = job.model_copy(update={"finetune": None})
    assert not run_stages(pretraining, tmp_path)
    job = pretraining if stage == "pretrain" else job
    if stage == "finetune":  # whose examples stand for what was found
        found = find_progress(pretraining, tmp_path)
        found.complete["examples"] = found.complete["prepare"]
        monkeypatch.setattr(preflight, "find_progress", lambda *_: found)
    elif data:
        job = with_stage(job, "pretrain", data=data)
    wide = with_stage(job, stage, global_batch=100_000, duration="2 epochs")

    with pytest.raises(SpecError, match=rf"{stage}: .*no epoch has a whole step") as planned:
        plan_job(wide, tmp_path).check()
    with pytest.raises(SpecError) as run:
        check_inputs(wide, tmp_path, lambda note: None)
    assert str(planned.value) == str(run.value)

    in_steps, said = with_stage(wide, stage, duration="3 steps"), list[str]()
    check_inputs(in_steps, tmp_path, said.append)
    assert said == [], "training says it when it begins, and a run once"
    data = preflight.find_progress(in_steps, tmp_path).rows(stage)
    open_plan(types.SimpleNamespace(spec=getattr(in_steps, stage), dataset=data), said.append)
    (note,) = said
    assert "times in 3 steps" in note
    assert f"{stage}: {note}" in " ".join(plan_text(plan_job(in_steps, tmp_path)).split())


def test_a_plan_says_what_each_thousand_steps_will_see(job, tmp_path, work_here):
    job = job.model_copy(update={"finetune": None})
    stages = [{"until": "50%", "weights": {"corpus": 2}}, {}]
    mixed = with_stage(job, "pretrain", mixture={"stages": stages, "max_visits": 2.5})
    assert "thousand steps" not in plan_text(plan_job(mixed, tmp_path)), "not known yet"
    assert not run_stages(job, tmp_path)
    plan = plan_job(mixed, tmp_path)
    half = plan.stages[0].forecasts[0].plan.total_steps // 2
    text = plan_text(plan)
    assert "what each thousand steps will see" in text
    assert f"0 to {half}" in text
    limits = {"max_visits_of": {"corpus": 1.5}}
    plan_job(with_stage(job, "pretrain", mixture=limits), tmp_path).check()  # it is trained already
    often = with_stage(job, "pretrain", mixture=limits, duration="3 epochs")
    with pytest.raises(SpecError, match="of 'corpus' would be visited 3"):
        plan_job(often, tmp_path).check()


def test_an_estimate_of_too_few_rows_is_said_and_refuses_nothing(job, tmp_path):
    wide = with_stage(job, "pretrain", global_batch=100_000)
    plan = plan_job(wide, tmp_path)
    plan.check()
    assert "which would not fill a step of 100000" in plan.stages[0].data


def test_a_source_that_only_the_cluster_sees_does_not_stop_the_plan(job, tmp_path):
    away = with_stage(job, "prepare", sources=[{"path": str(tmp_path / "not-here")}]).model_copy(
        update={"finetune": None}
    )
    plan = plan_job(away, tmp_path)
    assert states(plan)["prepare"] == "not"
    (stage,) = plan.stages
    assert stage.forecasts[0].plan is None, "epochs of unknown length"
    assert "not known before the data is: 2 epochs" in plan_text(plan)


def test_a_base_that_is_not_there_leaves_the_other_stages_planned(job, tmp_path):
    plan = plan_job(with_stage(job, "finetune", base=str(tmp_path / "none")), tmp_path)
    assert [stage.name for stage in plan.stages] == ["pretrain"]
    assert "nothing is known of finetune.base" in plan.unplanned["finetune"]
    assert "finetune: cannot be planned" in plan_text(plan)


@pytest.mark.usefixtures("ask_here")
def test_a_pair_counts_as_the_two_sequences_that_it_is(job, tmp_path):
    """Twice the rows in memory, each no longer than the longest example."""

    def planned(task, **source):
        sources = [{"path": "corpus", "fields": source}]
        plan = plan_job(with_stage(job, "finetune", task=task, sources=sources), tmp_path)
        return plan.stages[1].forecasts[0]

    answers = planned("causal_lm", prompt="{text}", response="{text}")
    pairs = planned("preference", prompt="{text}", chosen="{text}", rejected="{text}")
    assert pairs.plan.tokens_per_row == 2 * answers.plan.tokens_per_row == 2 * 16
    assert pairs.plan.total_tokens == 2 * answers.plan.total_tokens
    assert pairs.flops_per_token == answers.flops_per_token
    assert pairs.setup.row_texts == 2
    setup = replace(pairs.setup, micro_batch=2 * pairs.setup.micro_batch, row_texts=1)
    assert pairs.memory == plan_memory(pairs.shape, setup, row_tokens=16)
    assert pairs.memory.peak.total > answers.memory.peak.total


# ---- machines ------------------------------------------------------------------------------------


def large_job(job, **pretrain):
    fields = {
        "model": {"preset": "llama-3-8b"},
        "global_batch": 64,
        "micro_batch": 1,
        "duration": "100 steps",
        "parallel": {"zero": 1},
    }
    data = job.to_dict()
    data["finetune"], data["evaluate"] = None, None
    data["prepare"]["sequence_length"] = 2048
    data["cluster"] = {"workers": 8, "gpus_per_worker": 1}
    data["pretrain"] = fields | pretrain
    return Job.model_validate(data)


def test_what_does_not_fit_is_refused_with_the_nearest_layout_that_does(job, tmp_path):
    fleet = parse_fleet("a100-40gb:8")
    plan = plan_job(large_job(job), tmp_path, fleet)
    with pytest.raises(SpecError) as refusal:
        plan.check()
    text = str(refusal.value)
    assert "pretrain does not fit" in text
    assert "The nearest layout that fits is parallel.zero: 3 (" in text
    assert "parallel.offload: cpu saves" in text
    plan_job(large_job(job, parallel={"zero": 3}), tmp_path, fleet).check()


@pytest.mark.parametrize(
    ("on", "parallel", "words"),
    [
        ("h100:4", {}, "8 workers need a GPU each, 1 × 4 h100 are 4"),
        ("h100:2x4", {"tensor": 4}, "must divide the 2 GPUs of a machine"),
        ("64GiBx2", {}, "have no GPU"),
    ],
)
def test_machines_that_cannot_hold_the_workers_are_refused(job, tmp_path, on, parallel, words):
    plan = plan_job(large_job(job, parallel=parallel), tmp_path, parse_fleet(on))
    with pytest.raises(SpecError, match=words):
        plan.check()


def test_the_time_says_what_it_assumes(job, tmp_path):
    plan = plan_job(large_job(job, parallel={"zero": 3}), tmp_path, parse_fleet("h100:8"))
    (stage,) = plan.stages
    (f,) = stage.forecasts
    tokens = 100 * 64 * 2048
    assert f.seconds == pytest.approx(tokens * f.flops_per_token / (8 * 989e12 * 0.4))
    assert "if 40% of the peak rate is reached" in plan_text(plan)
    on_cpus = plan_job(large_job(job), tmp_path)
    assert on_cpus.stages[0].forecasts[0].seconds is None, "no rate is known"


def test_an_elastic_run_is_planned_for_the_fewest_and_for_the_most_workers(job, tmp_path):
    data = large_job(job).to_dict()
    data["cluster"]["workers"] = {"min": 2, "max": 8}
    (stage,) = plan_job(Job.model_validate(data), tmp_path).stages
    fewest, most = stage.forecasts
    assert (fewest.setup.workers, most.setup.workers) == (2, 8)
    assert fewest.memory.peak.total > most.memory.peak.total


def test_a_plan_fits_a_terminal_of_80_columns(job, tmp_path):
    data = large_job(job, parallel={"zero": 3, "offload": "cpu"}).to_dict()
    data["name"] = "j" * 63
    data["cluster"]["workers"] = {"min": 512, "max": 1024}
    data["pretrain"] |= {"global_batch": 4096, "activation_checkpointing": True}
    data["finetune"] = job.to_dict()["finetune"] | {"global_batch": 1024}
    job = Job.model_validate(data)
    lines = plan_text(plan_job(job, tmp_path, parse_fleet("h100:8x128"))).splitlines()
    too_long = [line for line in lines if len(line) > 80 and len(line.split()) > 1]
    assert not too_long, "a path alone may be longer"
    assert any(line.split() == ["tokens", "839M", "(838,860,800)"] for line in lines)


# ---- the command ---------------------------------------------------------------------------------


@pytest.fixture
def job_file(tmp_path) -> Path:
    path = tmp_path / "job.yaml"
    assert cli.main(["init", str(path)]) == 0
    path.write_text(path.read_text().replace("storage: runs", f"storage: {tmp_path}/runs"))
    return path


def _cpu_s_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_plan_takes_under_two_seconds_and_loads_neither_torch_nor_ray(job_file):
    code = (
        "import sys; from raymodel.cli import main; "
        "code = main(['plan', sys.argv[1], '--on', '64GiBx2']); "
        f"print([name for name in {HEAVY} if name in sys.modules]); sys.exit(code)"
    )
    seconds = [2.0]
    while min(seconds) >= 2.0 and len(seconds) < 4:  # of a processor, since the machine may be busy
        before = _cpu_s_of_children()
        done = subprocess.run(
            [sys.executable, "-c", code, str(job_file)], capture_output=True, text=True, check=True
        )
        seconds.append(_cpu_s_of_children() - before)
    assert done.stdout.splitlines()[-1] == "[]"
    assert min(seconds) < 2.0


def test_the_command_shows_the_plan_and_ends_with_2_when_it_does_not_fit(job_file, capsys):
    assert cli.main(["plan", str(job_file)]) == 0
    out = capsys.readouterr().out
    for words in ("parameters", "FLOPs", "steps", "layout", "checkpoint", "asked of the cluster"):
        assert words in out
    assert cli.main(["plan", str(job_file), "--on", "100MiB"]) == 2
    captured = capsys.readouterr()
    assert "memory of one worker" in captured.out, "the plan is shown all the same"
    assert captured.err.startswith("error: pretrain does not fit")
    assert cli.main(["plan", str(job_file), "--on", "h10"]) == 2
    assert "did you mean 'h100'?" in capsys.readouterr().err
