"""Chat: answer as the assistant of conversations does, turn by turn."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from raymodel.tasks.base import Answer, Columns, Example, LeftOut, Sample, Task
from raymodel.tasks.conversation import shown
from raymodel.tasks.fields import Field
from raymodel.tasks.prompt import TOO_LONG, fit_answers
from raymodel.tasks.spec.language import ChatSpec
from raymodel.tasks.templated import TemplatedTask

if TYPE_CHECKING:
    import pyarrow as pa
    import torch

    from raymodel.chance import Draw


class Chat(TemplatedTask):
    """A causal language model whose examples are conversations, written by its chat template.

    Examples: `input_ids` of the whole conversation, and in `answers` where the assistant's turns
    lie in it. What is measured is the last of them, given all turns before it.
    """

    name = "chat"
    fields = MappingProxyType({"messages": Field(kind="messages", default="")})

    # ---- data ------------------------------------------------------------------------------------

    def schema(self) -> pa.Schema:
        """`input_ids` list<int32>; `answers` list<int32>, of each answer its first token and the
        one after its last; `messages` string, the conversation as JSON."""
        import pyarrow as pa

        numbers = pa.list_(pa.int32())
        return pa.schema([("input_ids", numbers), ("answers", numbers), ("messages", pa.string())])

    def features(self, values: Mapping[str, Any], max_length: int | None) -> Example | LeftOut:
        """The ids of a conversation, as the chat template writes it, and where its answers lie.

        An example that is too long loses its end. Where not even its first answer fits, that is
        all that is kept of it, cut as prompt and response are.

        Raises:
            ValueError: the tokenizer has no chat template, or one that teaches no end.
        """
        from raymodel.modality.chat import ChatError

        _ = self._end_of_turn  # where there is none, no conversation can be learnt
        turns = values["messages"]
        try:
            ids, answers = self.processor.chat.conversation(turns)
        except ChatError as error:
            return LeftOut(str(error))
        is_cut = max_length is not None and len(ids) > max_length
        if max_length is not None and is_cut:
            if self._drops_too_long:
                return LeftOut(TOO_LONG)
            ids, answers = self._fitted(ids, answers, max_length)
        last = _place_of_answer(turns, len(answers))
        return Example(
            features={
                "input_ids": ids,
                "answers": [place for span in answers for place in span],
                "messages": json.dumps(turns[: last + 1], ensure_ascii=False),
            },
            cut=("messages",) if is_cut else (),
        )

    def _fitted(
        self, ids: list[int], answers: list[tuple[int, int]], max_length: int
    ) -> tuple[list[int], list[tuple[int, int]]]:
        start, end = answers[0]
        if end > max_length:
            prompt, [answer] = fit_answers(
                ids[:start], [ids[start:end]], max_length, self.processor.tokenizer
            )
            return prompt + answer, [(len(prompt), len(prompt) + len(answer))]
        kept = [(start, min(end, max_length)) for start, end in answers if start < max_length]
        return ids[:max_length], kept

    def collate(self, rows: Columns, draw: Draw | None = None) -> dict[str, torch.Tensor]:
        """`input_ids` and `labels`, both (B, T), without a mask and in one row as in `CausalLM`.

        Without a `draw`, as in validation and evaluation, only answers bear loss.
        """
        import torch

        from raymodel.tasks.batch import pad_right
        from raymodel.tasks.documents import joined, without_first_tokens
        from raymodel.tasks.loss import IGNORED

        input_ids, mask = pad_right(rows["input_ids"], self.processor.padding)
        bears_loss = mask == 1
        if draw is None or self._training.loss == "answers":
            bears_loss = torch.zeros_like(bears_loss)
            for index, places in enumerate(rows["answers"]):
                for start, end in _spans(places):
                    bears_loss[index, start:end] = True
        batch = {"input_ids": input_ids, "labels": input_ids.masked_fill(~bears_loss, IGNORED)}
        if not self.keeps_apart:
            return batch
        fill = {"input_ids": self.processor.padding, "labels": IGNORED}
        return without_first_tokens(joined(batch, mask.sum(1).tolist(), fill))

    @property
    def _training(self) -> ChatSpec:
        """What the job says of the task."""
        return self.spec if isinstance(self.spec, ChatSpec) else ChatSpec()

    # ---- answers ---------------------------------------------------------------------------------

    def can_evaluate(self, columns: Collection[str]) -> bool:
        """Conversations alone."""
        return Task.can_evaluate(self, columns)

    def has_answers(self, rows: Columns) -> bool:
        """Always."""
        return True

    def sample(self, rows: Columns, index: int, answer: Answer, reference: Any) -> Sample:
        """The turns before the last answer, and that answer."""
        given = json.loads(rows["messages"][index])[:-1]
        return Sample(
            prompt=shown(given),
            answer=answer["text"],
            reference=reference,
            request={"messages": given},
        )

    @staticmethod
    def _parted(rows: Columns) -> list[tuple[Any, Any]]:
        """The ids of all that comes before the last answer, and of that answer."""
        parted = []
        for ids, places in zip(rows["input_ids"], rows["answers"], strict=True):
            start, end = list(_spans(places))[-1]
            parted.append((ids[:start], ids[start:end]))
        return parted


def _spans(places: Any) -> list[tuple[int, int]]:
    numbers = [int(place) for place in places]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def _place_of_answer(turns: list[dict[str, str]], count: int) -> int:
    """The turn that is the answer of this number, counted from one."""
    return [i for i, turn in enumerate(turns) if turn["role"] == "assistant"][count - 1]
