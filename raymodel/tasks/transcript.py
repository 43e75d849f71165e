"""How far what was understood is from what was said. Loads neither torch nor transformers."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from raymodel.tasks.base import Measure

ERROR_RATES = {
    "wer": Measure(needs="answers", higher_is_better=False),
    "cer": Measure(needs="answers", higher_is_better=False),
}


def spoken(text: str) -> str:
    """What of a text can be heard: letters and digits, in lower case, words parted by a space.

    An apostrophe within a word is part of it. Numbers in digits stay so: "2" is not "two".
    """
    folded = unicodedata.normalize("NFKC", text).casefold().replace("’", "'")
    kept = [
        character if _is_heard(folded, place) else " " for place, character in enumerate(folded)
    ]
    return " ".join("".join(kept).split())


def _is_heard(text: str, place: int) -> bool:
    character = text[place]
    if character == "'":
        return 0 < place < len(text) - 1 and text[place - 1].isalpha() and text[place + 1].isalpha()
    # Letters, the marks on them, and digits.
    return unicodedata.category(character)[0] in "LMN"


def error_rates(answers: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """`wer` and `cer`: edits by words and by characters, over those of all references together, of
    what is `spoken`. Above 1 where more was understood than said."""
    import jiwer

    pairs = [(spoken(r), spoken(a)) for r, a in zip(references, answers, strict=True)]
    pairs = [(reference, answer) for reference, answer in pairs if reference]
    if not pairs:
        return {}
    said, understood = (list(texts) for texts in zip(*pairs, strict=True))
    return {"wer": float(jiwer.wer(said, understood)), "cer": float(jiwer.cer(said, understood))}
