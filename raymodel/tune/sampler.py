"""What chooses the settings of a sweep: Optuna's TPE, with every choice of its own written here.

Optuna's defaults change: version 5 made `multivariate` and `constant_liar` true, and the same seed
then gave other trials. With all of them said, versions 4 and 5 draw the same.
"""

from __future__ import annotations

import optuna


def build_sampler(seed: int) -> optuna.samplers.BaseSampler:
    """A tree-structured Parzen estimator (Bergstra et al., NIPS 2011).

    Args:
        seed: the job's; with it, and with results that come in the same order, settings repeat.
    """
    return optuna.samplers.TPESampler(
        seed=seed,
        n_startup_trials=10,  # random ones, before there is anything to estimate from
        n_ei_candidates=24,
        multivariate=False,  # each setting by itself: a joint estimate needs far more trials
        group=False,
        # A trial that runs counts as poor for now, so that two at a time do not try the same.
        constant_liar=True,
    )
