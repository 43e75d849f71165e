"""Texts that are nearly alike, and how alike they are."""

import random
import string

WORDS = [
    "".join(random.Random(i).choices(string.ascii_lowercase, k=2 + i % 9)) for i in range(3000)
]


def text_of(seed: int, words: int = 200) -> str:
    """A text of its own."""
    return " ".join(random.Random(seed).choices(WORDS, k=words))


def edited(text: str, share: float, seed: int) -> str:
    """The same with a share of its words replaced, dropped or doubled by others."""
    draw, words = random.Random(seed), list[str]()
    for word in text.split(" "):
        kind = draw.choice(["replace", "drop", "insert"]) if draw.random() < share else "keep"
        words += {"keep": [word], "drop": []}.get(kind, [draw.choice(WORDS)])
        words += [word] if kind == "insert" else []
    return " ".join(words)


def cut_end(text: str, words: int) -> str:
    """The same with so many words of its end replaced: of n runs as many change."""
    kept = text.split(" ")[:-words]
    return " ".join([*kept, *(f"other{i}" for i in range(words))])


def jaccard(one: str, other: str, ngram: int) -> float:
    """Share of the runs of words of either text that both have."""
    first, second = ({tuple(w[i : i + ngram]) for i in range(len(w) - ngram + 1)}
                     for w in (one.split(), other.split()))  # fmt: skip
    return len(first & second) / len(first | second)
