"""`prepare:` raw records become shards of rows. Also the sources of `finetune:`."""

from __future__ import annotations

import codecs
from encodings.aliases import aliases
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, field_validator, model_validator

from raymodel.data.cleaning.spec import AnyStepSpec
from raymodel.data.dedup.spec import MAX_NGRAM, DedupSpec, ExactDedup, RepeatedSpec
from raymodel.modality.spec import ImageSpec, Normalization
from raymodel.spec.base import DISTINCT, OPERATIONAL, Many, Spec, Text
from raymodel.spec.fields import nearest
from raymodel.spec.quantity import Count, Fraction
from raymodel.spec.show import show

# Codecs of Python that no file of records is written in: for host names, source text or nothing.
_NOT_OF_FILES = {"idna", "punycode", "undefined", "unicode-escape", "raw-unicode-escape", "charmap"}
_LATER = ("share", "html", "element", "max_record_bytes")
"""Fields of a source that came after there were fingerprints."""
_OF_LINES = ("jsonl", "csv", "pixels", "conll", "word_tags")
ROWS_VERSION = 5
"""Enters the fingerprints of what is prepared: it is raised when the same spec and sources give
other rows, or other files of an attempt that can be gone on with."""
TOKENIZER_VERSION = 2
"""Enters the fingerprints of what is read with a tokenizer that the job trains: it is raised when
the same spec and texts give another one."""
MAX_LEFT_OUT = 0.5
"""Of what is read of a source: half. Bad records are a few in a hundred as a rule; a wrong format,
encoding or name of a field loses nearly all."""
MAX_WEIGHT = 10_000.0
"""Visits of a row in one epoch; a source of more outweighs all others anyway."""
MAX_CHARS = 10**9
"""Of one document: it lies in the memory of one process."""
MAX_VOCABULARY = 10_000_000
"""Tokens; the largest vocabularies in use are a tenth of it."""
MAX_ROW_TOKENS = 100_000_000
"""Of one row; the longest contexts of models are a tenth of it."""


class SourceSpec(Spec):
    """Where raw records come from and how they are read."""

    path: Text
    """A file, folder or glob; `s3:// gs:// abfs:// hdfs://`; `python:stdlib` for this machine's
    Python standard library; `python:PACKAGE/path` for data inside an installed package, which
    is found without importing it; or `hf://datasets/OWNER/NAME[@REVISION]/path` for a data set on
    the Hugging Face Hub, which is read there: a run stays with the commit at which the revision
    (`main` by default) was when it began. What is not public is read with the token in `HF_TOKEN`,
    or that of `hf auth login`. An archive (`.zip`, `.tar`, `.tar.gz`, `.tar.bz2`, `.tar.xz`,
    `.tar.zst`) is read in place, as the folder that it holds: `data.zip`, a part of it,
    `data.zip!/train/*.png`, or several, `parts/*.tar`; one that only lies in a folder is not
    entered."""
    format: Literal[
        "text",
        "jsonl",
        "csv",
        "parquet",
        "arrow",
        "folder",
        "python_functions",
        "class_folders",
        "mask_folders",
        "librispeech",
        "idx",
        "cifar",
        "pixels",
        "conll",
        "word_tags",
        "squad",
        "coco",
        "warc",
        "xml",
    ] = "text"
    """`text`: each file is one document, field `text`. `jsonl`: a JSON object a line, or an array
    of them. `csv`: a record a row, under the names of the first. `parquet`: a record a row.
    `arrow`: a record a row of Arrow's files and streams, such as the folders that `save_to_disk`
    of Hugging Face's `datasets` writes. Of both, columns that it wrote as classes hold their names.
    `folder`: text files whose folder name is the field `label`. `python_functions`: each documented
    function of a Python file, fields `code` (its source without the docstring), `docstring`,
    `name`, `returns` (what a call gives back: `value`, `nothing` or `generator`) and `statements`
    (a list of the words that begin those it has: `for`, `if`, `raise`, `try`, `with`, …).
    `class_folders`: each image file (PNG, JPEG, WebP, BMP, GIF, TIFF, PPM, PGM) and each sound
    (FLAC, WAV, Ogg, MP3) is a record, fields `image` or `audio`, `label` (the name of its folder)
    and `path`. `mask_folders`: each image below a folder `images`, with the file of the same name
    below the folder `masks` beside that one, whose pixels are numbers of classes: fields `image`,
    `mask` and `path`. `librispeech`: a clip a file, and beside those of a chapter their transcripts
    (`84-121123.trans.txt`), fields `audio`, `text`, `id`, `speaker`, `chapter` and `path`.
    `idx`: MNIST's files of images (`train-images-idx3-ubyte`), each with its labels beside it
    (`train-labels-idx1-ubyte`), fields `image`, `label` and `index`.
    `cifar`: batches of CIFAR-10 or CIFAR-100, binary or pickled (which is read without running any
    code of it), fields `image`, `label`, `index`, of CIFAR-100 `coarse_label`, of pickled ones
    `filename`; labels are names where the file of names lies beside the batch.
    `pixels`: a grey, square image a row, one number from 0 to 255 a pixel, with its
    label (`label_column`), fields `image`, `label` and `index`; a header is passed over.
    `conll`: a token a line, its tag in the last column, sentences parted by blank lines; fields
    `tokens` and `tags` (lists), `column_2` and so on for columns between them, and `document` (how
    many `-DOCSTART-` lines came before). `word_tags`: a sentence a line, `word/TAG word/TAG`;
    fields `tokens` and `tags`. `squad`: SQuAD's JSON files, of both versions; each question is a
    record, fields `context`, `question`, `answers` (none where it is impossible), `title` and what
    else it has, such as `id`. `coco`: COCO's JSON files of objects; each image is a record, fields
    `image` (its path: beside the file, in `images`, or in the folder that
    `annotations/instances_NAME.json` names), `objects` (`label` and `box` of each), and what else
    it has, such as `id`; what is annotated as a crowd is left out.
    `warc`: the pages in what crawlers of the web write (`response`, `resource` and `conversion`
    records of WARC 1.0 and 1.1, so Common Crawl's WET files too), fields `text` (see `html`),
    `url`, `date`, `content_type`, `type` and `id`; answers with an error and what is no text are
    left out, and records that only tell of the crawl passed over. `xml`: each element that
    `element` names is a record, its parts are the fields.
    Files packed with gzip, bzip2, xz, Zstandard or LZ4 are read as what is in them."""
    encoding: Text = "utf-8"
    """Text encoding. What does not decode – a line, a row, or a file that is one document – is
    counted, reported and left out. A Python file's own coding line comes before it."""
    html: Literal["main", "all", "source"] = "main"
    """`warc`: what of a page in HTML is its `text`. `main`: what it is about, without menus,
    headers and footers, by the rules of thumb of the package resiliparse (`raymodel[web]`). `all`:
    whatever a reader sees. `source`: the HTML itself."""
    element: Annotated[Text, Field(max_length=200)] | None = None
    """`xml`, which needs it: the name of the element that is a record, such as `page` of
    MediaWiki's dumps. Its parts are fields: a text, or where a part has parts itself a mapping,
    `{revision[text]}`; what comes several times is a list, an attribute is `part@attribute`."""
    max_record_bytes: Annotated[Count, Field(ge=1000, le=2**30)] | None = None
    """A record whose texts and files are larger is left out. By default a line, a row or a page may
    have 128 MiB and a file that is one document a GiB: more would fill the memory of a worker."""
    delimiter: str | None = None
    """`csv` and `pixels`: the character between two fields. By default the one of comma, tab,
    semicolon and bar that parts the first row, which is said where it is not the one that the
    file's name tells; a row that could be parted by two of them is refused."""
    label_column: Literal["first", "last"] | None = None
    """`pixels`, which needs it: where the label stands in a row. `first` in Kaggle's MNIST. It
    cannot be told from the numbers."""
    fields: dict[str, Text] = Field(default_factory=dict, max_length=100)
    """Role → what of a record stands for it. Which roles there are, the task says: `text` or
    `image` of `prepare`; `text` and `label`; `prompt` and `response`; `prompt`, `chosen` and
    `rejected`; `messages`; `image` and `label`, `mask` or `objects`. A text is a template over the
    record's fields, `"{title}: {body}"`, with the parts of a list or mapping in brackets,
    `"{messages[0][content]}"`. Every other role is the name of a field. By default
    `text: "{text}"`, and for `label`, `image` and the like the field of that name; `messages` is
    found: the list of turns in `messages`, `conversations` or `conversation` (`role` and `content`
    as OpenAI writes them, or `from` and `value` as ShareGPT), else Alpaca's `instruction`, `input`
    and `output`. What stands for `image`, `mask` or `audio` is the bytes of a file, or its path
    below the source. A label is one text, number, true or false; white space around it is nothing,
    and 1, 1.0, "1" and "1.0" are one class; a record without a value (null, NaN, an empty text) is
    left out."""
    label_separator: Text | None = None
    """What parts the classes of a record where several stand in one text, such as `;`. By default a
    list holds them, and a text is one class."""
    split: Literal["train", "validation", "test"] | None = None
    """Of data that comes split: `validation` is what training is validated on, `test` what is
    evaluated. By default the stage's `holdout` divides; of a source that is `train` too, unless
    another one is `validation`."""
    group: Text | None = None
    """The field whose values must not fall on both sides of the split: a speaker, a user, a
    conversation. By default the file where a file is a document, else what the model is given."""
    weight: float = Field(default=1.0, gt=0, le=MAX_WEIGHT)
    """How often this source's documents appear relative to their natural share."""
    share: Fraction = Field(default=1.0, gt=0)
    """Of the documents that would be trained on, the share that is; all others are left out, and
    what is held out stays whole. Chosen by a hash, so that a larger share holds a smaller one: for
    seeing what few labels are worth, or how a model gets better with more data."""

    def identity(self) -> dict[str, Any]:
        """What was not said is what it was before it could be."""
        known = super().identity()
        later = {name: type(self).model_fields[name].default for name in _LATER}
        return {k: v for k, v in known.items() if k not in later or v != later[k]}

    @field_validator("encoding")
    @classmethod
    def _is_known(cls, encoding: str) -> str:
        try:
            known = codecs.lookup(encoding)
        except (LookupError, ValueError):
            close = nearest(encoding.lower().replace("-", "_"), _text_encodings())
            hint = f"did you mean {close.replace('_', '-')!r}?" if close else "most files are utf-8"
            raise ValueError(f"{encoding!r} is not an encoding of Python; {hint}") from None
        if not known._is_text_encoding or known.name in _NOT_OF_FILES:
            raise ValueError(f"{encoding!r} is not an encoding of text files; most files are utf-8")
        return encoding

    @model_validator(mode="before")
    @classmethod
    def _names_roles(cls, data: Any) -> Any:
        old = ("text", "prompt", "response", "label")
        roles = [name for name in old if isinstance(data, dict) and name in data]
        if roles:
            written = ", ".join(f"{name}: {show(data[name])}" for name in roles)
            raise ValueError(
                f"what stands for {' and '.join(f'`{name}`' for name in roles)} of a record is "
                f"said in `fields`; write fields: {{{written}}}"
            )
        return data

    @model_validator(mode="after")
    def _can_be_parted(self) -> SourceSpec:
        if self.format in _OF_LINES and b"\n" not in "\n".encode(self.encoding):
            raise ValueError(
                f"files of format {self.format!r} cannot be read line by line in {self.encoding!r},"
                " which ends lines in another way; convert them to utf-8"
            )
        if self.delimiter is None:
            return self
        if self.format not in ("csv", "pixels"):
            raise ValueError(
                f"`delimiter` is for formats 'csv' and 'pixels', not {self.format!r}; leave it out"
            )
        if len(self.delimiter) != 1 or self.delimiter in '\r\n"\0':
            raise ValueError(
                f"the delimiter {self.delimiter!r} must be one character, and no quote or line end"
            )
        return self

    @model_validator(mode="after")
    def _names_the_element(self) -> SourceSpec:
        if self.format == "xml" and self.element is None:
            raise ValueError(
                "format 'xml' needs `element`: the name of the element that is a record, such as "
                "`element: page` of MediaWiki's dumps"
            )
        for name, format in (("element", "xml"), ("html", "warc")):
            is_said = getattr(self, name) != type(self).model_fields[name].default
            if is_said and self.format != format:
                raise ValueError(
                    f"`{name}` is for format {format!r}, not {self.format!r}; leave it out"
                )
        return self

    @model_validator(mode="after")
    def _knows_the_label(self) -> SourceSpec:
        if self.format == "pixels" and self.label_column is None:
            raise ValueError(
                "format 'pixels' needs `label_column`: `first` or `last`, where the label of an "
                "image stands in its row"
            )
        if self.format != "pixels" and self.label_column is not None:
            raise ValueError(
                f"`label_column` is for format 'pixels', not {self.format!r}; leave it out"
            )
        return self


def _text_encodings() -> list[str]:
    """Names of encodings and their aliases, to find the one that was meant."""
    names = {*aliases, *aliases.values()}
    return sorted(name for name in names if not name.endswith("_codec"))


class DatasetSpec(Spec):
    """One dataset of a mixture."""

    # Which dataset it is, its fingerprint says, which does not change when the storage moves.
    path: Annotated[Text, OPERATIONAL]
    """A dataset artifact: `RUN/prepare` or its folder's URI. All of a mixture need the same
    tokenizer and sequence_length."""
    weight: float = Field(default=1.0, gt=0, le=MAX_WEIGHT)
    """Visits of each of its rows in one epoch of the mixture, times the weight of the row's source.
    An epoch is all datasets by their weights."""


_OF_LEARNING = {"split", "group", "weight", "share", "label_separator"}


class DecontaminateSpec(Spec):
    """Documents that have a run of words in common with a text of an evaluation set are left out,
    and counted by set. The manifest says for each how many they are, and how much of the set was
    found in the data."""

    sets: dict[str, SourceSpec] = Field(min_length=1, max_length=100)
    """Name → where its texts are read, such as `squad: {path: dev.json, format: squad, fields:
    {text: "{question}"}}`. The role is `text`."""
    ngram: Count = Field(default=13, ge=2, le=MAX_NGRAM)
    """Words of a run; case, punctuation and white space are nothing, and in scripts without spaces
    a character is a word. Texts with fewer cannot be found, which is said. By default 13, as for
    GPT-3 (arXiv:2005.14165, appendix C)."""

    @field_validator("sets")
    @classmethod
    def _only_say_what_is_read(cls, sets: dict[str, SourceSpec]) -> dict[str, SourceSpec]:
        for name, source in sets.items():
            said = source.model_fields_set & {
                "split",
                "group",
                "weight",
                "share",
                "label_separator",
            }
            if said:
                raise ValueError(
                    f"`{min(said)}` of the set {name!r} would say how it is learnt from, and it is "
                    "read only to be left out; drop it"
                )
        return sets


class CleanSpec(Spec):
    """What a document must be to be kept."""

    min_chars: Count = Field(default=1, le=MAX_CHARS)
    """Documents shorter than this, all their texts together, are dropped."""
    max_chars: Count = Field(default=10_000_000, ge=1, le=MAX_CHARS)
    """Texts longer than this are cut and counted, so that one file cannot fill a worker's memory. A
    prompt keeps its end, every other text its start. Conversations longer than this are dropped."""
    dedup: DedupSpec = ExactDedup()
    """`exact` keeps the first of all documents with the same text (prompt and response, text and
    label), as it was before it was cut. One text with several labels is kept with each. `decoded`
    compares images and sounds by what is in their files. `near`, or a section with `name: near`,
    also keeps the first alone of texts, or images, that are nearly the same."""
    decontaminate: DecontaminateSpec | None = None
    """Leaves out what models are evaluated on."""
    repeated: RepeatedSpec | None = None
    """Takes out lines or paragraphs that stand in many documents."""
    steps: Annotated[Many[AnyStepSpec], DISTINCT] = ()
    """What the texts, images and sounds of a record go through in this order before all else:
    names, or sections with `name` and what the step takes, `[unicode, {name: gopher, min_words:
    20}]`. What a step leaves out or changes is counted under its name. `module.path:Name` is a
    function of your own, which gives the text to keep, or null to leave its document out."""

    def identity(self) -> dict[str, Any]:
        """With the version of each step, and the text of the modules of your own: a step that
        changed gives other documents."""
        known = super().identity()
        del known["decontaminate"]  # which enters with the files of its sets, as the sources do
        if self.repeated is None:
            del known["repeated"]
        if not known.pop("steps"):
            return known
        return known | {"steps": [step.mark() for step in self.steps]}

    def with_lists(self) -> CleanSpec:
        """The same with the terms of the lists that its steps name, for processes elsewhere.

        Raises:
            SpecError: one cannot be read.
        """
        return self.model_copy(update={"steps": tuple(step.with_lists() for step in self.steps)})

    @model_validator(mode="after")
    def _ordered(self) -> CleanSpec:
        if self.min_chars > self.max_chars:
            raise ValueError(
                f"min_chars is {self.min_chars:,} and max_chars {self.max_chars:,}, so that no "
                "document is kept; min_chars must not exceed max_chars"
            )
        return self


class TokenizerSpec(Spec):
    """Train a tokenizer on the prepared text, or load one. Exactly one of the two."""

    vocab_size: Annotated[Count, Field(le=MAX_VOCABULARY)] | None = None
    """Train one with this many tokens, special tokens included."""
    tokens: Literal["bytes", "wordpiece", "unigram", "characters"] = "bytes"
    """What is trained. `bytes`: a byte-level BPE, which knows every text, as GPT and Llama have it.
    `wordpiece`: pieces of words as BERT has them, which keep no white space, so for models that
    read and do not write. `unigram`: pieces by their likelihood as T5 has them, which keep it.
    `characters`: one token for each of the most frequent characters, for Chinese and its like. To
    all but the first what they do not know is one unknown token, whose share is said."""
    mask: bool = False
    """Tokenizers of bytes and Unigram have a token that stands for a hidden one, as `masked_lm`
    needs; the others always have."""
    sentinels: int = Field(default=0, ge=0, le=1000)
    """So many tokens of bytes and Unigram, `<extra_id_0>` and so on, stand for runs of hidden
    ones, as `seq2seq_lm` needs to pretrain: one for each twenty tokens of a row. T5 has 100."""
    lowercase: bool = False
    """WordPiece and Unigram take capitals for small letters; WordPiece leaves accents out too, as
    BERT's uncased models do. Fewer tokens, and a model that cannot write capitals."""
    normalization: Normalization = "none"
    """WordPiece and Unigram: what Unicode has several ways to write is one. `nfc` makes accents
    part of their letters; `nfkc`, as T5 and XLNet have it, also full width, ligatures and
    superscripts plain. By default texts stay as they are."""
    load: Text | None = None
    """A Hugging Face folder with a `tokenizer.json`, `hf://OWNER/NAME[@REVISION]`, or
    `python:PACKAGE/path`."""
    sample_chars: Count = Field(default=50_000_000, ge=1, le=10**12)
    """At most this many characters of text are used to train: whole documents, chosen by a hash
    from all files of all sources alike."""

    @model_validator(mode="after")
    def _one_way(self) -> TokenizerSpec:
        if (self.vocab_size is None) == (self.load is None):
            raise ValueError("give either `vocab_size` (train a tokenizer) or `load` (use one)")
        trained = {"tokens", "mask", "sentinels", "lowercase", "normalization"}
        if self.load is not None and self.model_fields_set & trained:
            raise ValueError(
                "`tokens`, `mask`, `sentinels`, `lowercase` and `normalization` are for a "
                "tokenizer that is trained; drop them"
            )
        return self

    @model_validator(mode="after")
    def _fits_what_is_trained(self) -> TokenizerSpec:
        if self.sentinels and self.tokens not in ("bytes", "unigram"):
            raise ValueError(
                "`sentinels` are for tokens: bytes and tokens: unigram; leave one of the two out"
            )
        said = {"lowercase": self.lowercase, "normalization": self.normalization != "none"}
        changed = [name for name, is_said in said.items() if is_said]
        if changed and self.tokens not in ("wordpiece", "unigram"):
            raise ValueError(
                f"`{changed[0]}` is for tokens: wordpiece and tokens: unigram, and tokenizers of "
                f"{self.tokens} keep every text as it is; leave it out"
            )
        least, why = _LEAST_TOKENS[self.tokens]
        least += self.sentinels
        if self.vocab_size is not None and self.vocab_size < least:
            raise ValueError(
                f"a vocab_size of {self.vocab_size} is too small; {why}, so at least {least}"
            )
        return self

    @property
    def has_mask(self) -> bool:
        """Whether the one that is trained has a token that stands for a hidden one."""
        return self.mask or self.tokens in ("wordpiece", "characters")

    @property
    def has_separator(self) -> bool:
        """Whether the one that is trained has a token that parts two texts."""
        return self.tokens in ("wordpiece", "characters")

    def identity(self) -> dict[str, Any]:
        """Of one that is trained with the version of what trains it."""
        known = super().identity()
        return known if self.load is not None else known | {"version": TOKENIZER_VERSION}


_BESIDE_SPECIAL = "beside the special tokens it needs room for a character"
_LEAST_TOKENS = {
    "bytes": (264, "a byte-level BPE needs 256 bytes and its special tokens"),
    "wordpiece": (8, _BESIDE_SPECIAL),
    "unigram": (10, _BESIDE_SPECIAL),
    "characters": (6, _BESIDE_SPECIAL),
}
"""What is trained → the smallest vocabulary, without sentinels, and why."""


class TextRows(NamedTuple):
    """How text becomes rows."""

    tokenizer: TokenizerSpec
    length: int
    """Of each, in tokens."""


class PrepareSpec(Spec):
    """Reads, cleans, drops duplicates, splits, writes shards: of text, for which a tokenizer is
    trained, in packed rows of tokens; of images one a row."""

    sources: Many[SourceSpec] = Field(min_length=1)
    """What to read."""
    clean: CleanSpec = CleanSpec()
    """What to keep."""
    tokenizer: TokenizerSpec | None = None
    """Of text: the tokenizer."""
    sequence_length: Annotated[Count, Field(gt=1, le=MAX_ROW_TOKENS)] | None = None
    """Of text: tokens in a row. Documents are packed end to end, each closed by an end-of-text
    token."""
    image: ImageSpec | None = None
    """Of images, in place of `tokenizer` and `sequence_length`: what a model is given of them. They
    stay encoded as in their source."""
    holdout: Fraction = 0.01
    """Share of the documents that training never sees, chosen by a hash of the file where a file is
    a document (`text`, `folder`, `python_functions`), else of the text. Above 0 where this job
    trains on them, since it is validated on these."""
    max_left_out: Annotated[Fraction, OPERATIONAL] = MAX_LEFT_OUT
    """Stop when more than this share of what was read of a source is left out, other than by
    `clean`. By default half: bad records are a few in a hundred as a rule, while a wrong format,
    encoding or name of a field loses nearly all. A dataset that is complete is not judged again."""

    @model_validator(mode="after")
    def _is_of_one_kind(self) -> PrepareSpec:
        of_text = ("tokenizer", "sequence_length")
        has = [name for name in of_text if getattr(self, name) is not None]
        if self.image is not None and has:
            raise ValueError(
                f"`image` is for sources of images, and `{has[0]}` for those of text; leave one of "
                "the two out"
            )
        if self.image is None and len(has) < len(of_text):
            lacking = " and ".join(f"`{name}`" for name in of_text if name not in has)
            raise ValueError(f"rows of text need {lacking}, and those of images `image`; add it")
        return self

    @property
    def text(self) -> TextRows | None:
        """How its rows are made; None where they are images."""
        if self.tokenizer is None or self.sequence_length is None:
            return None
        return TextRows(self.tokenizer, self.sequence_length)

    @property
    def modality(self) -> str:
        """Of its rows: the task that is pretrained on them has the same."""
        return "text" if self.image is None else "image"

    def identity(self) -> dict[str, Any]:
        """Of text as it was before there were images."""
        known = super().identity()
        return known if self.image else {k: v for k, v in known.items() if k != "image"}
