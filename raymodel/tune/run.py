"""The Ray wiring of a sweep: each trial is a training run of its own, Ray Tune decides which go on.

A trial is a function that runs Ray Train's `fit` on its own workers; what its rank 0 reports at
each validation reaches Tune through a callback. An interrupted sweep is restored by Tune, and each
trial's run goes on from its own checkpoints.
"""

from __future__ import annotations

import pickle
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

from ray import tune
from ray.tune import Callback, FailureConfig, RunConfig, Stopper, TuneConfig, Tuner
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search.optuna import OptunaSearch

from raymodel.cluster.ray_errors import unwrap
from raymodel.cluster.spec import ClusterSpec
from raymodel.data.mixture import mixture_of
from raymodel.data.stream import start_helpers
from raymodel.errors import LastingError, NonFiniteLossError, TrainingError, UserError
from raymodel.observe.measures import find_best, is_measured, measured
from raymodel.observe.story import Story
from raymodel.observe.watch import watch_trials
from raymodel.storage.execution import Execution
from raymodel.storage.uri import Location
from raymodel.train.base import BaseModel
from raymodel.train.fault.places import await_places
from raymodel.train.fault.policy import classify
from raymodel.train.plan import TrainPlan
from raymodel.train.run import fit
from raymodel.train.spec import FinetuneSpec
from raymodel.train.work import (
    TrainWork,
    open_plan,
    summary,
    told_of_base,
    told_of_task,
    told_of_teacher,
    work_for,
)
from raymodel.tune.sampler import build_sampler
from raymodel.tune.space import Setting, apply_setting, setting_text
from raymodel.tune.spec import SearchSpec, SweepSpec

TRIALS = "trials"
_TUNE, _NAME = "tune", "sweep"
_STEP = "step"
# Tune pickles its callbacks and brings them back in a restored sweep; a story, which holds the
# terminal, must not go with them, nor which trials run.
_story: ContextVar[Story] = ContextVar("story")
_running: ContextVar[dict[str, int]] = ContextVar("running")
"""Id → number for people, of the trials that run now."""


def run_sweep(
    spec: FinetuneSpec,
    execution: Execution,
    story: Story,
    base: Location | None,
    teacher: BaseModel | None = None,
) -> dict[str, Any]:
    """Tries settings of `spec`; the model of the best trial becomes the result.

    Returns:
        The manifest's content: the best trial's figures, its setting, and all trials.

    Raises:
        UserError: a trial failed for a reason that the user must mend.
        TrainingError: no trial came to its end.
    """
    sweep = spec.sweep
    assert sweep is not None, "the caller looked"
    work = work_for(
        spec,
        execution,
        task=spec.task,
        dataset=mixture_of(execution.inputs["examples"]),
        base=base,
        teacher=teacher,
    )
    plan = open_plan(work, story.warn)
    _story.set(story)
    start_helpers()
    what = "places for the workers of a trial"
    await_places(_trial_cluster(execution, sweep), story, what, work.run)
    running: dict[str, int] = {}
    _running.set(running)
    with watch_trials(work.run / TRIALS, story, plan.total_steps, lambda: running):
        # A ResultGrid, untyped upstream.
        trials: Any = _tuner(work, execution, sweep, plan).fit()
    best = _best(trials, sweep, plan)
    chosen = work.run / TRIALS / best.metrics["trial_id"]
    story.say(f"          best: {setting_text(best.config)}")
    _copy_folder(chosen / "model", work.run / "model")
    return {
        **told_of_task(spec.task),
        **told_of_base(work),
        **told_of_teacher(replace(work, spec=apply_setting(spec, best.config))),
        **summary(chosen, work.spec),
        "setting": best.config,
        "trials": [_trial_row(trial) for trial in trials],
    }


def _tuner(work: TrainWork, execution: Execution, sweep: SweepSpec, plan: TrainPlan) -> Tuner:
    cluster = _trial_cluster(execution, sweep)

    def trial(setting: Setting) -> None:
        _run_trial(work, cluster, setting)

    # The trial itself only waits for its workers. Nought is refused by Ray.
    trainable = tune.with_resources(trial, {"CPU": 0.01})
    restored = _restore(work.run / _TUNE, trainable)
    if restored is not None:
        return restored
    return Tuner(
        trainable,
        param_space={path: _domain(search) for path, search in sweep.search.items()},
        tune_config=TuneConfig(
            metric=sweep.metric,
            mode="min",
            num_samples=sweep.trials,
            max_concurrent_trials=sweep.concurrent,
            search_alg=OptunaSearch(sampler=build_sampler(execution.seed)),
            scheduler=_scheduler(sweep, plan),
        ),
        run_config=RunConfig(
            name=_NAME,
            storage_path=(work.run / _TUNE).uri,
            failure_config=FailureConfig(max_failures=0),  # each run has its own retries
            stop=_Diverged(sweep.metric),
            callbacks=[_Teller(sweep)],
            verbose=0,
        ),
    )


def _trial_cluster(execution: Execution, sweep: SweepSpec) -> ClusterSpec:
    return ClusterSpec(**execution.cluster.to_dict() | {"workers": sweep.workers_per_trial})


def _restore(folder: Location, trainable: Any) -> Tuner | None:
    """The interrupted sweep, or None when there is none that can be read."""
    path = (folder / _NAME).uri
    if not Tuner.can_restore(path):
        return None
    try:
        return Tuner.restore(path, trainable, resume_unfinished=True, resume_errored=True)
    except (EOFError, OSError, ValueError, pickle.UnpicklingError) as error:
        # Ray writes this state in place, so a kill can tear it.
        _story.get().warn(f"the sweep's state is torn ({error}); its trials begin again")
        folder.delete_tree()
        return None


def _run_trial(work: TrainWork, cluster: ClusterSpec, setting: Setting) -> None:
    """Runs in the trial's actor."""
    assert isinstance(work.spec, FinetuneSpec), "only fine-tuning is swept"
    trial_id = tune.get_context().get_trial_id()
    assert work.spec.sweep is not None, "a trial belongs to a sweep"
    one = replace(
        work,
        spec=apply_setting(work.spec, setting),
        run=work.run / TRIALS / trial_id,
        runs_at_a_time=work.spec.sweep.concurrent,
    )
    fit(one, cluster, callbacks=[TuneReportCallback()])


def _scheduler(sweep: SweepSpec, plan: TrainPlan) -> TrialScheduler:
    if sweep.scheduler == "none":
        return FIFOScheduler()
    return ASHAScheduler(
        time_attr=_STEP,
        max_t=plan.total_steps,
        grace_period=min(plan.validate_every_steps, plan.total_steps),
        reduction_factor=2,
        brackets=1,
    )


def _domain(search: SearchSpec) -> Any:
    if search.choice is not None:
        return tune.choice(list(search.choice))
    if search.uniform is not None:
        return tune.uniform(*search.uniform)
    assert search.loguniform is not None, "the spec has exactly one kind"
    return tune.loguniform(*search.loguniform)


def _best(trials: Any, sweep: SweepSpec, plan: TrainPlan) -> Any:
    """The trial with the best measure among those that came to their end.

    Raises:
        UserError: a trial failed for a reason that the user must mend, or diverged as all did.
        TrainingError: no trial came to its end.
    """
    whole = [trial for trial in trials if (trial.metrics or {}).get(_STEP) == plan.total_steps]
    best = find_best(whole, lambda trial: trial.metrics[sweep.metric], higher=False)
    if best is not None:
        return best
    diverged = [trial for trial in trials if _has_diverged(trial.metrics or {}, sweep.metric)]
    if diverged and not trials.errors:
        raise NonFiniteLossError(
            f"{sweep.metric} is not finite in {len(diverged)} of {len(trials)} trials, and no "
            "other came to its end, so none is the best; search lower values of "
            "`optimizer.learning_rate`"
        )
    errors = [unwrap(error) for error in trials.errors]
    failure = classify(errors) if errors else None
    if failure is not None and isinstance(failure.error, (UserError, LastingError)):
        raise failure.error
    way_on = "run the same command again to go on with them"
    if failure is not None and failure.kind == "program":
        way_on = "the same input gives the same error: mend the data, the model or the code first"
    raise TrainingError(
        f"none of {len(trials)} trials came to its end"
        + (f": {failure.cause}" if failure else "")
        + f"; {way_on}"
    )


def _trial_row(trial: Any) -> dict[str, Any]:
    metrics = trial.metrics or {}
    return {
        "setting": trial.config,
        "steps": metrics.get(_STEP, 0),
        "validation_loss": measured(metrics.get("validation_loss")),
        "failed": trial.error is not None,
    }


def _copy_folder(source: Location, target: Location) -> None:
    entries = source.walk()
    assert entries, f"{source} is empty: a trial reports its last step after it wrote its model"
    target.delete_tree()
    for entry in entries:
        (target / entry.name).write_bytes((source / entry.name).read_bytes())


def _has_diverged(metrics: dict[str, Any], metric: str) -> bool:
    return metric in metrics and not is_measured(metrics[metric])


class _Diverged(Stopper):
    """Ends a trial whose measure is NaN or infinite: schedulers compare, which NaN survives."""

    def __init__(self, metric: str) -> None:
        self._metric = metric

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return _has_diverged(result, self._metric)

    def stop_all(self) -> bool:
        """The other trials go on."""
        return False


class _Teller(Callback):
    """Tells the user what happens to each trial."""

    def __init__(self, sweep: SweepSpec) -> None:
        self._sweep = sweep
        self._number: dict[str, int] = {}

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        number = self._number.setdefault(trial.trial_id, len(self._number) + 1)
        _running.get()[trial.trial_id] = number
        _story.get().say(
            f"          trial {number}/{self._sweep.trials}: {setting_text(trial.config)}"
        )

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        _running.get().pop(trial.trial_id, None)
        last = trial.last_result or {}
        loss = last.get(self._sweep.metric)
        _story.get().say(
            f"          trial {self._number.get(trial.trial_id, 0)}: step {last.get(_STEP, 0)}, "
            f"{self._sweep.metric} {loss:.4f}"
            if loss is not None
            else "          trial ended"
        )

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        _running.get().pop(trial.trial_id, None)
        _story.get().warn(f"          trial {self._number.get(trial.trial_id, 0)} failed")
