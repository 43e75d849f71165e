"""Extractive question answering: the piece of a context that answers a question, or none."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from raymodel.tasks.base import Answer, Columns, Example, LeftOut, Limits, Measure, Sample, Task
from raymodel.tasks.fields import Field

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    import torch
    from numpy.typing import NDArray
    from transformers import PreTrainedModel

    from raymodel.chance import Draw
    from raymodel.tasks.windows import Window

_WINDOW_TOKENS = 384  # when asked, where the model knows as many; as the pipeline of transformers
_UNUSED_POSITIONS = 2  # RoBERTa's kind counts from after the padding's id, which is 1
_WINDOWS_AT_ONCE = 16  # in a forward pass: a long context has hundreds
_OWN_WINDOW = 0.5
"""How often training shows the window that has the answer; else one of the others, by chance."""


class QuestionAnswering(Task):
    """A model that tells where an answer begins and ends (`AutoModelForQuestionAnswering`).

    A context that is too long is cut into windows that overlap. Training shows one of a row's
    windows at a step: half of the time the one that has the answer in its middle, else any other,
    in which there may be none. What is asked is asked of all windows, and the best piece of all is
    the answer. No answer is the place of the token that begins a sequence.
    """

    name = "question_answering"
    modality = "text"
    auto_class = "AutoModelForQuestionAnswering"
    architectures = ("ForQuestionAnswering",)
    pipeline_tag = "question-answering"
    peft_task = "QUESTION_ANS"
    fields = MappingProxyType(
        {
            "context": Field(kind="text", default="{context}"),
            "question": Field(kind="text", default="{question}"),
            "answers": Field(kind="answers", default="answers", is_target=True),
        }
    )
    measures = MappingProxyType(
        {
            "exact_match": Measure(needs="answers", higher_is_better=True),
            "f1": Measure(needs="answers", higher_is_better=True),
        }
    )
    answers = "extract"
    draws_head = True

    # ---- data ------------------------------------------------------------------------------------

    def schema(self) -> pa.Schema:
        """Of the window with the answer `input_ids` list<int32>, and `span`, the places where it
        begins and ends (int32, 2); of all others, end to end, `other_ids`, `other_lengths` and
        `other_spans` (list<int32>). Of all windows `pair_start` int32, where the context begins.
        And the texts: `question`, `context`, `answers` (list<string>)."""
        import pyarrow as pa

        numbers, text = pa.list_(pa.int32()), pa.string()
        return pa.schema(
            [
                ("input_ids", numbers),
                ("span", pa.list_(pa.int32(), 2)),
                ("other_ids", numbers),
                ("other_lengths", numbers),
                ("other_spans", numbers),
                ("pair_start", pa.int32()),
                ("question", text),
                ("context", text),
                ("answers", pa.list_(text)),
            ]
        )

    def check_processor(self, processor: Any) -> None:
        """Raises ValueError when the tokenizer has no form for pairs, or is a slow one."""
        processor.check_pairs()

    def special_tokens(self, row_tokens: int | None) -> Mapping[str, int]:
        """What parts a question and its context."""
        return {"separator": 1}

    def features(self, values: Mapping[str, Any], max_length: int | None) -> Example | LeftOut:
        """Windows of at most `max_length` tokens; a question that is longer than half of that loses
        its end. Of several answers the first is learnt.

        Raises:
            ValueError: the tokenizer has no form for pairs, or is a slow one, or `max_length`
                leaves no room.
        """
        from raymodel.tasks.windows import windows_of

        self.processor.check_pairs()
        question, context = values["question"], values["context"]
        windows, is_cut = windows_of(self.processor.tokenizer, question, context, max_length)
        if not windows:
            return LeftOut("record whose context is nothing to the tokenizer")
        texts = {"question": question, "context": context}
        if "answers" not in values:
            return Example(features=texts)
        answers = values["answers"]
        spans = [self._span(window, answers) for window in windows]
        own = _own_window(windows, spans, answers)
        if own is None:
            return LeftOut("record whose answer is in no window whole")
        others = [i for i in range(len(windows)) if i != own]
        features = {
            "input_ids": windows[own].input_ids,
            "span": spans[own],
            "other_ids": [token for i in others for token in windows[i].input_ids],
            "other_lengths": [len(windows[i].input_ids) for i in others],
            "other_spans": [place for i in others for place in spans[i]],
            "pair_start": windows[own].first,
            **texts,
            "answers": [answer["text"] for answer in answers],
        }
        return Example(features=features, cut=("question",) if is_cut else ())

    def _span(self, window: Window, answers: Sequence[Mapping[str, Any]]) -> list[int]:
        """Where the answer begins and ends in a window, or twice the place of none."""
        found = window.find(*_characters(answers[0])) if answers else None
        return list(found or [self._null(window.input_ids)] * 2)

    def _null(self, ids: Sequence[int]) -> int:
        """The place that stands for no answer: of the token that begins a sequence, else the
        first."""
        tokenizer = self.processor.tokenizer
        begins = (
            tokenizer.bos_token_id if tokenizer.cls_token_id is None else tokenizer.cls_token_id
        )
        return list(ids).index(begins) if begins in ids else 0

    # ---- training --------------------------------------------------------------------------------

    def collate(self, rows: Columns, draw: Draw | None = None) -> dict[str, torch.Tensor]:
        """`input_ids`, `attention_mask`, perhaps `token_type_ids` (B, T), of one window a row: the
        own one without a `draw`; `labels` (B, 2), where its answer begins and ends."""
        import numpy as np
        import torch

        shown = [_shown(rows, i, draw) for i in range(len(rows["input_ids"]))]
        batch = self._inputs([ids for ids, _ in shown], rows["pair_start"])
        labels = np.asarray([span for _, span in shown], dtype=np.int64)
        return batch | {"labels": torch.from_numpy(labels)}

    def _inputs(
        self, ids: Sequence[Sequence[int]], pair_starts: Sequence[int]
    ) -> dict[str, torch.Tensor]:
        import torch

        from raymodel.tasks.batch import pad_right

        input_ids, mask = pad_right(ids, self.processor.padding)
        batch = {"input_ids": input_ids, "attention_mask": mask}
        if self.processor.makes_token_types:
            starts = torch.as_tensor([int(start) for start in pair_starts])
            is_context = torch.arange(input_ids.shape[1])[None, :] >= starts[:, None]
            batch["token_type_ids"] = is_context.long() * mask
        return batch

    def num_targets(self, batch: Mapping[str, torch.Tensor]) -> int:
        """The rows."""
        return int((batch["labels"][:, 0] != self.no_target).sum())

    def loss(self, model: PreTrainedModel, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Sum over the rows of the mean cross-entropy of where the answer begins and ends.

        Padding has no share of the probability: a row's loss does not depend on the others.
        """
        from raymodel.tasks.batch import text_inputs
        from raymodel.tasks.loss import cross_entropy_sum

        inputs = text_inputs(batch, model)
        output = model(**inputs)
        is_padding = inputs["attention_mask"] == 0
        logits = (output.start_logits, output.end_logits)  # (B, T) each
        start, end = (each.masked_fill(is_padding, float("-inf")) for each in logits)
        labels = batch["labels"]
        return (cross_entropy_sum(start, labels[:, 0]) + cross_entropy_sum(end, labels[:, 1])) / 2

    def model_arguments(self) -> dict[str, Any]:
        """Two outputs: where an answer begins, and where it ends."""
        names = {0: "LABEL_0", 1: "LABEL_1"}
        return {"num_labels": 2, "id2label": names, "label2id": {v: k for k, v in names.items()}}

    # ---- answers ---------------------------------------------------------------------------------

    def predict(self, model: PreTrainedModel, rows: Columns, limits: Limits) -> list[Answer]:
        """`answer`, a piece of the context, from character `start` to before `end`, and `score`,
        how probable it is in its window; an empty text where no answer is more probable."""
        import torch

        from raymodel.tasks.windows import find_answer, windows_of

        size, positions = _WINDOW_TOKENS, getattr(model.config, "max_position_embeddings", None)
        if positions is not None:
            size = min(size, positions - _UNUSED_POSITIONS)
        pairs = list(zip(rows["question"], rows["context"], strict=True))
        cut = [windows_of(self.processor.tokenizer, q, c, size)[0] for q, c in pairs]
        windows = [window for each in cut for window in each]
        with torch.inference_mode():
            logits = [logit for part in _parts(windows) for logit in self._logits(model, part)]
        found = [
            find_answer(window, start, end, self._null(window.input_ids))
            for window, (start, end) in zip(windows, logits, strict=True)
        ]
        rest = iter(found)
        return [
            _best([next(rest) for _ in each], context)
            for each, (_, context) in zip(cut, pairs, strict=True)
        ]

    def _logits(
        self, model: PreTrainedModel, windows: Sequence[Window]
    ) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Where an answer begins and ends, of each window (T,)."""
        from raymodel.tasks.batch import encoder_inputs

        ids = [window.input_ids for window in windows]
        batch = self._inputs(ids, [window.first for window in windows])
        output = model(**encoder_inputs(batch, model))
        start_BT, end_BT = (
            each.float().cpu().numpy() for each in (output.start_logits, output.end_logits)
        )
        return zip(start_BT, end_BT, strict=True)

    def references(self, rows: Columns) -> list[Any]:
        """The answers that are accepted; none where there is no answer."""
        return [[str(text) for text in texts] for texts in rows["answers"]]

    def measure(
        self, answers: Sequence[Answer], references: Sequence[Any], names: Collection[str]
    ) -> dict[str, float]:
        """`exact_match` and `f1`."""
        from raymodel.tasks.squad import answer_scores

        return answer_scores([answer["answer"] for answer in answers], references)

    def sample(self, rows: Columns, index: int, answer: Answer, reference: Any) -> Sample:
        """The context and the question; of the accepted answers the first."""
        texts = {role: str(rows[role][index]) for role in ("context", "question")}
        return Sample(
            prompt="\n\n".join(texts.values()),
            answer=self.answer_text(answer),
            reference=next(iter(reference), _NO_ANSWER),
            request=texts,
        )

    @staticmethod
    def answer_text(answer: Answer) -> str:
        return str(answer["answer"]) or _NO_ANSWER


_NO_ANSWER = "no answer"


def _characters(answer: Mapping[str, Any]) -> tuple[int, int]:
    return answer["start"], answer["start"] + len(answer["text"])


def _own_window(
    windows: Sequence[Window], spans: Sequence[Sequence[int]], answers: Sequence[Mapping[str, Any]]
) -> int | None:
    """The window with the answer and most context around it, the first where there is no answer;
    None where the answer is whole in none."""
    if not answers:
        return 0
    start, end = _characters(answers[0])
    able = [i for i, window in enumerate(windows) if window.find(start, end) is not None]
    return max(able, key=lambda i: windows[i].margin(start, end), default=None)


def _shown(rows: Columns, index: int, draw: Draw | None) -> tuple[Sequence[int], Sequence[int]]:
    """Ids and span of the window of a row that is shown."""
    own = rows["input_ids"][index], rows["span"][index]
    lengths = rows["other_lengths"][index]
    if draw is None or not len(lengths):
        return own
    chance = draw.of_row(index)
    if chance.is_true(_OWN_WINDOW):
        return own
    [other] = chance.integers(len(lengths), 1)
    start = int(sum(lengths[:other]))
    ids = rows["other_ids"][index][start : start + int(lengths[other])]
    return ids, rows["other_spans"][index][2 * other : 2 * other + 2]


def _parts(windows: Sequence[Window]) -> Iterator[Sequence[Window]]:
    for start in range(0, len(windows), _WINDOWS_AT_ONCE):
        yield windows[start : start + _WINDOWS_AT_ONCE]


def _best(found: Sequence[Any], context: str) -> Answer:
    """Of what the windows of a context say (`windows.Found`)."""
    null = min(found, key=lambda each: each.null_logit)
    best = max(found, key=lambda each: each.logit)
    if null.null_logit > best.logit:
        return {"answer": "", "score": null.null_prob, "start": 0, "end": 0}
    start, end = best.span
    text = context[start:end]
    start += len(text) - len(text.lstrip())  # some tokens come with the space before them
    return {
        "answer": text.strip(),
        "score": best.prob,
        "start": start,
        "end": start + len(text.strip()),
    }
