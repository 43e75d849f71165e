"""How like a text is to another: BLEU, chrF, exact matches. Loads no torch."""

from __future__ import annotations

from collections.abc import Sequence
from operator import eq
from typing import Any

import sacrebleu

# sacrebleu's signature, written though it is the default: another one is another measure. `force`
# only silences a warning about text that looks tokenised, as code does.
_BLEU: dict[str, Any] = {
    "smooth_method": "exp",
    "tokenize": "13a",
    "lowercase": False,
    "use_effective_order": False,
    "force": True,
}
_CHRF: dict[str, Any] = {"char_order": 6, "word_order": 0, "beta": 2, "eps_smoothing": False}


def score_answers(answers: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Corpus BLEU and chrF (arXiv:1804.08771), each from 0 to 100, and the share of answers that
    are the reference, white space at their ends aside (EM of arXiv:1606.05250), from 0 to 1."""
    texts = list(answers), [list(references)]
    return {
        "bleu": float(sacrebleu.corpus_bleu(*texts, **_BLEU).score),
        "chrf": float(sacrebleu.corpus_chrf(*texts, **_CHRF).score),
        "exact_match": sum(map(eq, answers, references)) / len(references),
    }
