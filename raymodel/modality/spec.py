"""`image:` and `audio:` what a fresh model takes; `augment:` how training changes it, by chance."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from raymodel.spec.base import OPERATIONAL, Spec, Text
from raymodel.spec.quantity import Count, Fraction

TEMPLATES = ("chatml", "roles", "plain")
"""Chat templates that come with raymodel, by name, see `chat.py`. `chatml` and `roles` need their
special tokens in the vocabulary (`roles` those of the tokenizers that raymodel trains), `plain` an
end of text alone."""
FASTEST = 1.5
"""At which a clip may be played: a fifth higher, as a child speaks beside a man."""

IGNORED = 255
"""In a mask whose pixels are numbers of classes: a pixel of none, which bears no loss and is not
measured. So there are at most as many classes."""

Normalization = Literal["none", "nfc", "nfkc"]
"""Of Unicode, in a tokenizer: none, so that a text stays as it is; one way of writing each
character; or one for each meaning, full width and ligatures among them, which loses them."""

Pooling = Literal["mean", "cls", "last"]
"""How the vectors of a text's tokens become one: their mean, that of the first token (which
encoders call CLS), or that of the last, which alone has read all of the text in a decoder."""


class ImageSpec(Spec):
    """What images a fresh model takes; a base brings its own `preprocessor_config.json`."""

    size: int = Field(ge=1, le=4096)
    """Pixels of each side: every image is scaled to that square."""
    channels: Literal[1, 3] = 3
    """1 is grey, 3 are red, green and blue."""
    mean: float = Field(default=0.5, ge=0, le=1)
    """Subtracted from values between 0 and 1."""
    std: float = Field(default=0.5, gt=0, le=1)
    """By which they are divided then."""

    @property
    def facts(self) -> dict[str, int]:
        """As `ImageProcessor.facts` has them."""
        return {"num_channels": self.channels, "image_size": self.size}


class AugmentSpec(Spec):
    """Changes of images that leave what they show the same, and mixtures of two. Everything is off
    by default: which changes do, the data decides (a mirrored digit is another sign).

    Applied in the order of the fields, each with numbers of its own for every row of every step.
    Training alone does so: validation, evaluation and the server see images as they are. A mask
    goes with its image: it is cut, moved, mirrored and turned alike.
    """

    crop: Fraction = Field(default=1.0, ge=0.01)
    """The smallest share of an image's area that is cut out and scaled to the whole
    (arXiv:1409.4842); 1.0 cuts nothing. Common are 0.08 for large sets of photographs, 0.35 and
    above for small ones."""
    shift: int = Field(default=0, ge=0, le=1000)
    """Moves the image by up to so many pixels along each side. The pixels at its edge are
    continued, so that neither a black nor a white ground shows a seam. 2 suits digits of 28
    pixels, 4 photographs of 32."""
    flip: bool = False
    """Mirrors left and right in half of all cases."""
    rotate: float = Field(default=0.0, ge=0.0, le=180.0)
    """Turns by up to so many degrees either way; the edge is continued as with `shift`."""
    color: Fraction = 0.0
    """Multiplies brightness, contrast and saturation each by a number from 1 - color to
    1 + color."""
    randaugment: Count = Field(default=0, le=10)
    """So many changes, one after the other, each drawn evenly from fourteen (RandAugment,
    arXiv:1909.13719): contrast, equalized values, turns, slants, shifts, inverted light parts,
    fewer bits, saturation, brightness, sharpness, and none. 2 is common for photographs, with
    `crop` and `flip`. Not for images with masks or boxes, which it would not move."""
    magnitude: Fraction = 0.3
    """How strong each change of `randaugment` is, as a share of the strongest: turns of 30°, slants
    of 0.3, shifts of 0.45 of a side, brightness and the like from 0.1 to 1.9, 4 bits. 0.3 is the 9
    of 30 that the paper has for ImageNet; larger models take more."""
    erase: Fraction = 0.0
    """The share of images in which a rectangle of 2 to 40 % of the area becomes noise
    (arXiv:1708.04896). There a mask bears no loss."""
    mixup: Fraction = 0.0
    """The share of images that are blended with another one of the same step (arXiv:1710.09412).
    The loss is that of both labels, each by the share of its image."""
    mixup_alpha: float = Field(default=0.2, ge=0.05, le=2.0)
    """Shares of `mixup` are drawn from the beta distribution with this number twice: 1.0 is evenly
    from 0 to 1, below it one of both images prevails. 0.2 for large sets of photographs, up to 1.0
    for small ones and models that overfit."""
    cutmix: Fraction = 0.0
    """The share of images in which a rectangle is filled with that part of another one of the same
    step (arXiv:1905.04899), of any size evenly. The loss is that of both labels, each by the area
    of its image. No image has both, so `mixup` and `cutmix` add up to 1 at most."""

    def identity(self) -> dict[str, Any]:
        """Without RandAugment as it was before there was one."""
        known = super().identity()
        later = () if self.randaugment else ("randaugment", "magnitude")
        return {k: v for k, v in known.items() if k not in later}

    @model_validator(mode="after")
    def _one_of_both(self) -> AugmentSpec:
        if self.mixup + self.cutmix > 1:
            raise ValueError(
                f"mixup is {self.mixup} and cutmix {self.cutmix}; an image is mixed in one way, so "
                "the two shares add up to 1 at most. Lower one"
            )
        return self


class TextAugmentSpec(Spec):
    """Changes of texts that leave what they say the same, as a rule. Everything is off by default.

    Applied in the order of the fields, each with numbers of its own for every row of every step.
    Training alone does so: validation, evaluation and the server see texts as they are. Words are
    what the tokenizer's tokens make up, in scripts without spaces each token by itself, and a
    punctuation mark is one too.
    """

    drop: Fraction = Field(default=0.0, le=0.9)
    """Each word is left out with this probability; one of a text stays. 0.1 is common (EDA,
    arXiv:1901.11196)."""
    swap: Fraction = Field(default=0.0, le=0.9)
    """Each word changes places with the next one with this probability, but for the first one of a
    text."""
    noise: Fraction = Field(default=0.0, le=0.9)
    """Each word is written with a slip with this probability: two letters exchanged, one left out,
    or one twice (arXiv:1711.02173). Words without letters stay. A slip makes more tokens of a word,
    and a row gets no longer than what it is filled up to anyway, a multiple of 8 tokens: of long
    texts fewer words have one, unless `drop` makes room."""

    @property
    def changes_words(self) -> bool:
        """Whether any of these three are."""
        return bool(self.drop or self.swap or self.noise)

    @property
    def is_on(self) -> bool:
        """Whether anything is changed."""
        return self.changes_words


class TranslatorSpec(Spec):
    """A served model that translates: one that writes answers in a chat, as OpenAI's API has it, or
    a `seq2seq_lm` that `serve` serves."""

    url: Text
    """Of the server, with or without `/v1`, such as http://127.0.0.1:8000."""
    model: Text | None = None
    """Which of its models; it may be left out where there is one."""
    prompt: Text | None = None
    """What it is asked, with `{text}` where the text stands, such as `Translate into German, and
    write nothing else: {text}`. In a chat it is needed; of a `seq2seq_lm` it is the text alone by
    default."""
    token_env: Annotated[Text, OPERATIONAL] = "RAYMODEL_TOKEN"
    """Name of the environment variable with the server's token, where it wants one."""

    @field_validator("url")
    @classmethod
    def _is_one(cls, url: str) -> str:
        authority = url.partition("://")[2].partition("/")[0]
        if "@" in authority or "?" in url:
            raise ValueError(
                "a URL with a user or a question mark may hold a secret, which would end up in "
                "manifests; leave these out, and put a token into the variable of `token_env`"
            )
        if not url.startswith(("http://", "https://")):
            raise ValueError(
                f"{url!r} is no URL of a server; give one such as http://127.0.0.1:8000"
            )
        return url

    @field_validator("prompt")
    @classmethod
    def _holds_the_text(cls, prompt: str | None) -> str | None:
        if prompt is not None and "{text}" not in prompt:
            raise ValueError(
                f"{prompt!r} has no place for the text; write {{text}} where it stands"
            )
        return prompt


class BackTranslationSpec(Spec):
    """Paraphrases: texts that served models have translated into another language and back
    (arXiv:1904.12848, section 2.2). Each is made once, when the examples are, and lies beside the
    text in its row, so that training asks nobody."""

    there: TranslatorSpec
    """Translates into another language."""
    back: TranslatorSpec
    """Translates from there into the language of the texts."""
    probability: Fraction = Field(default=0.5, gt=0)
    """At each step the paraphrase of a row is shown in the place of its text with this probability,
    where it has one. `drop`, `swap` and `noise` change what is shown."""
    share: Fraction = Field(default=1.0, gt=0)
    """Of the examples that are trained on, the share that is translated, chosen by a hash of their
    texts: each costs two answers."""
    max_tokens: Count = Field(default=1024, ge=1, le=100_000)
    """Longest translation that is written in a chat. One that is cut there is none."""
    concurrency: Annotated[Count, OPERATIONAL] = Field(default=8, ge=1, le=256)
    """Requests at a time, to both servers together."""

    def identity_of_examples(self) -> dict[str, Any]:
        """What decides the paraphrases, and not when they are shown."""
        return {name: value for name, value in self.identity().items() if name != "probability"}


class WholeTextAugmentSpec(TextAugmentSpec):
    """Also what a text as a whole may be changed to, where the answer is about all of it."""

    back_translation: BackTranslationSpec | None = None
    """Texts are shown in the words of a translation there and back."""

    @property
    def is_on(self) -> bool:
        """Whether anything is changed."""
        return self.changes_words or self.back_translation is not None

    def identity(self) -> dict[str, Any]:
        """What was not said is what it was before it could be."""
        known = super().identity()
        off = self.back_translation is None
        return {k: v for k, v in known.items() if not (off and k == "back_translation")}


class AudioSpec(Spec):
    """What sounds a model takes; a base brings its own `preprocessor_config.json`."""

    features: Literal["samples", "spectrogram"] = "samples"
    """Of a fresh model: samples, for wav2vec2 and its like, or a spectrogram of 128 mel bins, a
    frame every 10 ms, for `audio-spectrogram-transformer`. Both at 16,000 samples a second."""
    max_seconds: float = Field(default=30.0, ge=0.5, le=600)
    """Of a clip. Models of spectrograms, and those that are not told where a clip ends, compute as
    much for every clip as for one of this length."""


def find_wrong_alphabet(alphabet: str) -> str | None:
    """Why nobody can write with these characters; None where one can."""
    wrong = [character for character in alphabet.replace(" ", "") if character.isspace()]
    if wrong or "|" in alphabet or len(set(alphabet)) < max(2, len(alphabet)):
        return (
            f"the alphabet is {alphabet!r}; it must hold two characters or more, each once, and "
            "neither '|' nor white space other than the space. Correct it"
        )
    return None


class AudioAugmentSpec(Spec):
    """Changes of sounds that leave what they say the same. Everything is off by default.

    Applied in the order of the fields, each with numbers of its own for every row of every step.
    """

    speed: Fraction = Field(default=0.0, le=FASTEST - 1)
    """Plays a clip faster or slower by up to this share, and so higher or lower: 0.1 is common
    (Ko et al., Interspeech 2015). Not where how high a voice is matters."""
    noise: Fraction = 0.0
    """Adds white noise of up to this share of the clip's own loudness."""
    time_mask: Fraction = Field(default=0.0, le=0.9)
    """Hides up to this share of a clip, in two stretches (SpecAugment, arXiv:1904.08779)."""
    frequency_mask: Fraction = Field(default=0.0, le=0.9)
    """Hides up to this share of a spectrogram's bins, in two bands; nothing of samples."""
