"""How like a text is to another: BLEU, chrF, ROUGE, exact matches. Loads no torch."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata
from operator import eq
from typing import Any

import sacrebleu

# What is in sacrebleu's signature is written though it is the default: another one is another
# measure. `force` only silences a warning about text that looks tokenised, as code does.
_BLEU: dict[str, Any] = {
    "smooth_method": "exp",
    "tokenize": "13a",
    "lowercase": False,
    "effective_order": False,
    "force": True,
}
_CHRF: dict[str, Any] = {
    "char_order": 6,
    "word_order": 0,
    "beta": 2,
    "lowercase": False,
    "whitespace": False,
    "eps_smoothing": False,
}


def score_answers(answers: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Corpus BLEU and chrF (arXiv:1804.08771), each from 0 to 100, and the share of answers that
    are the reference, white space at their ends aside (EM of arXiv:1606.05250), from 0 to 1."""
    texts = list(answers), [list(references)]
    return {
        "bleu": float(sacrebleu.BLEU(**_BLEU).corpus_score(*texts).score),
        "chrf": float(sacrebleu.CHRF(**_CHRF).corpus_score(*texts).score),
        "exact_match": sum(map(eq, answers, references)) / len(references),
    }


def rouge_scores(
    answers: Sequence[str], references: Sequence[str], names: Sequence[str]
) -> dict[str, float]:
    """Mean F of ROUGE (https://aclanthology.org/W04-1013), each from 0 to 100.

    Args:
        names: of `rouge1` and `rouge2` (shared words and pairs of words), `rougeL` (the longest
            sequence of words that both have).
    """
    if not names:
        return {}
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(list(names), use_stemmer=False, split_summaries=False)
    scores = [scorer.score(*pair) for pair in zip(references, answers, strict=True)]
    return {
        name: 100.0 * sum(each[name].fmeasure for each in scores) / len(scores) for name in names
    }


def signatures() -> dict[str, str]:
    """How each is computed, in the words by which papers compare figures."""
    metrics = {"bleu": sacrebleu.BLEU(**_BLEU), "chrf": sacrebleu.CHRF(**_CHRF)}
    for metric in metrics.values():
        metric.corpus_score(["a"], [["a"]])  # before it, the number of references is not known
    rouge = f"F, mean, without a stemmer, rouge-score {metadata.version('rouge-score')}"
    return {
        **{name: str(metric.get_signature()) for name, metric in metrics.items()},
        **dict.fromkeys(("rouge1", "rouge2", "rougeL"), rouge),
    }
