"""SQuAD's files: articles with paragraphs, each a context with its questions and their answers.

`{"data": [{"title": …, "paragraphs": [{"context": …, "qas": [{"question": …, "answers": […]}]}]}]}`
Source: https://rajpurkar.github.io/SQuAD-explorer/
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from raymodel.data.account import Account
from raymodel.data.readers.json_object import Misfit, parse_object
from raymodel.data.readers.text import read_document
from raymodel.data.record import FileSlice, RawRecord, whole_record
from raymodel.data.spec import SourceSpec
from raymodel.storage.uri import Location

_Part = Mapping[str, Any] | str
"""The fields of a question, or why a part of the file has none."""


def read_squad(
    root: Location, piece: FileSlice, spec: SourceSpec, account: Account
) -> Iterator[RawRecord]:
    """The questions of a file, each with its context and the title of its article.

    Those without an answer, of version 2, have none in `answers`.
    """
    read = read_document(root, piece, account, lambda _: spec.encoding)
    if read is None:
        return
    try:
        parts = list(_questions(parse_object(read[1].strip())))
    except Misfit as misfit:
        account.leave_out(f"file {misfit}", read[1])
        return
    if not parts:
        account.leave_out("SQuAD file without questions", read[1])
    for index, part in enumerate(parts):
        # The first one is the record that was met with the file.
        account.begin(piece.name, index + 1, records=1 if index else 0)
        if isinstance(part, str):
            account.leave_out(part, piece.name)
        else:
            yield whole_record(dict(part))


def _questions(file: Mapping[str, Any]) -> Iterator[_Part]:
    articles = file.get("data")
    if not isinstance(articles, list):
        yield "JSON file without a list `data`, which SQuAD's have"
        return
    for article in articles:
        paragraphs = article.get("paragraphs") if isinstance(article, Mapping) else None
        if not isinstance(paragraphs, list):
            yield "article without a list of `paragraphs`"
            continue
        for paragraph in paragraphs:
            yield from _of_paragraph(paragraph, article.get("title"))


def _of_paragraph(paragraph: object, title: object) -> Iterator[_Part]:
    if not (
        isinstance(paragraph, Mapping)
        and isinstance(paragraph.get("context"), str)
        and isinstance(paragraph.get("qas"), list)
    ):
        yield "paragraph without a `context` and a list of `qas`"
        return
    for question in paragraph["qas"]:
        if isinstance(question, Mapping):
            yield {**question, "context": paragraph["context"], "title": title}
        else:
            yield "question that is no mapping"
