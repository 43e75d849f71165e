"""Preference between answers of an assistant, written by the chat template."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from raymodel.tasks.base import Answer, Columns, Example, LeftOut, Sample
from raymodel.tasks.conversation import shown
from raymodel.tasks.fields import Field
from raymodel.tasks.pairs import SIDES, PairTask
from raymodel.tasks.templated import TemplatedTask

if TYPE_CHECKING:
    import pyarrow as pa


class ChatPreference(TemplatedTask, PairTask):
    """Pairs of conversations that differ in their last answer alone.

    Each answer follows exactly the ids that a server gives the model for the turns before it, and
    ends with the token that ends a turn.
    """

    name = "chat_preference"
    fields = MappingProxyType(
        {
            "messages": Field(kind="messages", default="chosen"),
            "rejected": Field(kind="messages", default="rejected", is_target=True),
        }
    )

    def schema(self) -> pa.Schema:
        """As of all pairs; and `messages` string, the turns before the answers as JSON."""
        import pyarrow as pa

        return super().schema().append(pa.field("messages", pa.string()))

    def features(self, values: Mapping[str, Any], max_length: int | None) -> Example | LeftOut:
        """The ids of both conversations; nothing is learnt of a pair whose answers are equal, or
        follow different turns.

        Raises:
            ValueError: the tokenizer has no chat template, or one that teaches no end.
        """
        from raymodel.modality.chat import ChatError

        _ = self._end_of_turn  # where there is none, no conversation can be learnt
        pair = dict(zip(SIDES, (values["messages"], values["rejected"]), strict=True))
        asked = pair["chosen"][:-1]
        if pair["rejected"][:-1] != asked:
            return LeftOut("pair whose conversations differ before the last answer")
        if pair["chosen"][-1]["content"].strip() == pair["rejected"][-1]["content"].strip():
            return LeftOut("pair whose sides are equal")
        prompts, answers = dict[str, list[int]](), dict[str, list[int]]()
        try:
            for side, turns in pair.items():
                ids, spans = self.processor.chat.conversation(turns)
                start, end = spans[-1]
                prompts[side], answers[side] = ids[:start], ids[start:end]
        except ChatError as error:
            return LeftOut(str(error))
        if prompts["chosen"] != prompts["rejected"]:
            return LeftOut("pair whose answers change what the chat template writes before them")
        roles = {"prompt": "messages", "chosen": "messages", "rejected": "rejected"}
        example = self._pair(prompts["chosen"], answers, max_length, roles)
        if isinstance(example, LeftOut):
            return example
        told = {"messages": json.dumps(asked, ensure_ascii=False)}
        return Example(features={**example.features, **told}, cut=example.cut)

    def sample(self, rows: Columns, index: int, answer: Answer, reference: Any) -> Sample:
        """The turns before the answers, and the one that is wanted."""
        asked = json.loads(rows["messages"][index])
        return Sample(
            prompt=shown(asked),
            answer=answer["text"],
            reference=reference,
            request={"messages": asked},
        )
