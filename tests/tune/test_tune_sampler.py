"""One seed, the same trials, with every version of Optuna that may be installed."""

import optuna
import pytest

from raymodel.tune.sampler import build_sampler

Setting = tuple[float, int, float]


def settings_of(seed: int, trials: int) -> list[Setting]:
    """Of a sweep whose trials run two at a time; lower is better."""
    study = optuna.create_study(sampler=build_sampler(seed), direction="minimize")
    running: list[tuple[optuna.Trial, float]] = []
    found = []
    for _ in range(trials):
        trial = study.ask()
        rate = trial.suggest_float("learning_rate", 1e-5, 1e-2, log=True)
        rank = trial.suggest_categorical("rank", [4, 8, 16])
        dropout = trial.suggest_float("dropout", 0.0, 0.5)
        found.append((rate, rank, dropout))
        running.append((trial, (rate - 1e-3) ** 2 + dropout + rank / 100))
        if len(running) == 2:
            study.tell(*running.pop(0))
    return found


def test_a_seed_gives_the_trials_that_it_has_always_given() -> None:
    """Written down from Optuna 4.9.0 and 5.0.0. The first ten are random, the others estimated."""
    found = settings_of(7, trials=16)
    for number, setting in (
        (0, (1.6940447095242732e-05, 4, 0.48899475599830133)),
        (11, (0.005791369387154451, 16, 0.014468075098002468)),
        (15, (0.008691596311884403, 16, 0.07234192991769028)),
    ):
        assert found[number] == pytest.approx(setting, rel=1e-9)


def test_another_seed_gives_other_trials() -> None:
    assert settings_of(0, trials=2) != settings_of(1, trials=2)


def test_a_sweep_is_searched_with_this_sampler(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.tune.search.optuna import OptunaSearch

    search = OptunaSearch(sampler=build_sampler(3), metric="validation_loss", mode="min")
    sampler = search._sampler
    assert isinstance(sampler, optuna.samplers.TPESampler)
    assert not search._seed, "Ray would otherwise make a sampler of its own"
