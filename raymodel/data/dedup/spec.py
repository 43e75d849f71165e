"""`clean.dedup:` what of a corpus is a duplicate."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import Field, ValidatorFunctionWrapHandler, WrapValidator

from raymodel.data.dedup.plan import MAX_DISTANCE, MIN_THRESHOLD
from raymodel.spec.base import Spec
from raymodel.spec.fields import WrittenByName, by_name
from raymodel.spec.quantity import Count, Fraction

MAX_NGRAM = 100
"""Words; texts that share so long a run of them share nearly all."""


class ExactDedup(Spec):
    """The first of all documents with the same text (prompt and response, text and label) is kept,
    as it was before it was cut. One text with several labels is kept with each."""

    name: Literal["exact"] = "exact"
    """Which it is."""

    def identity(self) -> Any:
        """As it was before there were others with settings."""
        return self.name


class DecodedDedup(Spec):
    """As `exact`, but of images and sounds what is in their files is compared: the pixels, upright
    and in red, green and blue, or the samples to 16 bits, with their rate and channels. So the same
    image as PNG and BMP, or the same clip as WAV and FLAC, is there once, and falls on one side of
    the holdout where it is kept with several labels. Each file is decoded for it when it is read,
    once for all cleaning steps too."""

    name: Literal["decoded"] = "decoded"
    """Which it is."""


class NoDedup(Spec):
    """All documents are kept."""

    name: Literal["none"] = "none"
    """Which it is."""

    def identity(self) -> Any:
        """As it was before there were others with settings."""
        return self.name


class NearDedup(Spec):
    """After `exact`, of documents that are nearly alike the first is kept too: across all sources
    and both sides of the holdout. Of images what they look like is compared, and nothing that goes
    with them. Of texts runs of words are, by MinHash, so case, punctuation and white space are
    nothing; in scripts without spaces a character is a word. A text that has
    fewer words than `ngram` is near to one of the same words only. Of documents of several texts
    each must be near; of a conversation the answers are one text and all else is another. One that
    is near to a document of another label is kept, and counted, unless the two fall on different
    sides of the holdout: then it is left out."""

    name: Literal["near"] = "near"
    """Which it is."""
    threshold: Fraction = Field(default=0.8, ge=MIN_THRESHOLD)
    """Share that two documents have in common of all runs of words in either (Jaccard): from here
    on they are near. It is estimated, at 0.8 with a standard deviation of 0.03, by which one may
    fall short: most of those at the threshold are found, and some below it. 0.8 decides that 91
    numbers of each document are looked up in 13 bands of 7: 95% of the pairs at 0.8 are then
    compared, and 10% of those at 0.5. The manifest says it of other thresholds. By default 0.8; the
    field takes 0.7 to 0.85."""
    ngram: Count = Field(default=5, ge=1, le=MAX_NGRAM)
    """Words of a run. Each word that is changed changes as many runs: with 5 and a threshold of 0.8
    one word in 43 may be another, with 2 and 0.4 one in 4, so that copies are found of which 5 to
    20 % of the words were changed. By default 5, as in FineWeb (arXiv:2406.17557). With 1 or 2,
    short texts of one form, such as questions, are near too."""
    distance: Count = Field(default=4, le=MAX_DISTANCE)
    """Of images, in place of `threshold` and `ngram`: in how many of 64 bits two may differ and are
    near (a perceptual hash of the lowest frequencies, Zauner 2010). All pairs within it are
    compared. 4, the default, finds nearly all copies in another size, format or compression, and
    frames of one scene of a video. Of digits, icons and drawings, which have little to tell them
    apart, it takes others away: look at the pictures on the data card, and lower it. What was cut,
    turned or mirrored is not found, and an image of one shade is near to none."""

    def identity(self) -> dict[str, Any]:
        """Of texts as it was before images could be near."""
        known = super().identity()
        default = type(self).model_fields["distance"].default
        return {k: v for k, v in known.items() if k != "distance" or v != default}


class RepeatedSpec(Spec):
    """Lines or paragraphs that stand in many documents, such as menus and notices, are taken out of
    all of them: after equal documents were dropped, and before all else that documents have in
    common is looked for. For text that is pretrained on. A tokenizer that is trained sees the texts
    as they were."""

    unit: Literal["line", "paragraph"] = "line"
    """What is counted. Paragraphs are parted by blank lines."""
    max_documents: Count = Field(ge=1)
    """In more documents than this one may not stand. Case, punctuation and white space are
    nothing."""
    min_chars: Count = 20
    """Shorter ones stay, such as a brace, a date or a heading."""


_AnyDedup = ExactDedup | DecodedDedup | NearDedup | NoDedup


def _read_dedup(value: Any, read: ValidatorFunctionWrapHandler) -> Any:
    return read(by_name(value, get_args(_AnyDedup), "a way to find duplicates"))


DedupSpec = Annotated[
    _AnyDedup, Field(discriminator="name"), WrapValidator(_read_dedup), WrittenByName()
]
"""A name, or a section with `name` and what it takes."""
