"""Served models that translate, asked as any client would: in a chat, or `/predict` of our own."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from raymodel.errors import RaymodelError, RequestError
from raymodel.modality.spec import TranslatorSpec
from raymodel.remote import Remote

T = TypeVar("T")
logger = logging.getLogger(__name__)

TRIES = 5
FIRST_WAIT_S = 1.0
"""Doubled after each try: a quarter of a minute in all, beside what a server that is full asks to
wait."""
_MOST_IN_A_ROW = 8
"""Requests that a server may fail at one after the other before nobody waits for it any more."""
_TEXTS_PER_REQUEST = 8
"""Of `/predict`, which computes what comes together in one batch."""


@dataclass(frozen=True)
class Failed:
    """A text that was not translated."""

    reason: str
    """The same words for all of a kind: they are counted by it."""
    is_of_server: bool = True
    """Whether it was not the answer that was wrong, but that there was none."""


Translated = str | Failed


class Translator:
    """One of the two servers.

    Args:
        spec: where it is.
        role: `there` or `back`, for messages.
        max_tokens: of one answer in a chat.

    Raises:
        RequestError: it is no translator, its token is wrong, or it has no such model.
        RaymodelError: nothing answers there.
    """

    def __init__(self, spec: TranslatorSpec, role: str, max_tokens: int) -> None:
        self._role, self._max_tokens = role, max_tokens
        self._remote = Remote(spec.url, token_env=spec.token_env)
        self._name = self._remote.find_model(spec.model)
        self._prompt = spec.prompt
        self._input = self._find_input()
        if self._input is None and spec.prompt is None:
            raise RequestError(
                f"back_translation.{role}: {self._remote.url} answers in chats, and must be told "
                "what to do; add `prompt`, such as 'Translate into German, and write nothing else: "
                "{text}'"
            )

    def _find_input(self) -> str | None:
        """The role of `/predict` that a text is; None of a server that is asked in chats. Other
        servers than ours tell nothing of it, or have no `/health` with JSON."""
        try:
            told = self._remote.json("/health")
        except RaymodelError:
            return None
        fields = told.get("fields")
        if told.get("answers") == "text" and isinstance(fields, dict) and len(fields) == 1:
            [(name, kind)] = fields.items()
            if kind == "text":
                return str(name)
        if told.get("kind", "generation") != "generation":
            raise RequestError(
                f"back_translation.{self._role}: {self._remote.url} serves {self._name} for "
                f"{told.get('task')}, which translates nothing; serve a model of seq2seq_lm or chat"
            )
        return None

    def translate(self, texts: Sequence[str], threads: int) -> list[Translated]:
        """Each text in the other language, in their order.

        Args:
            threads: requests at a time.
        """
        prompts = [(self._prompt or "{text}").replace("{text}", text) for text in texts]
        size = 1 if self._input is None else _TEXTS_PER_REQUEST
        batches = [prompts[start : start + size] for start in range(0, len(prompts), size)]
        in_a_row = 0

        def answer(batch: list[str]) -> list[Translated]:
            nonlocal in_a_row
            if in_a_row >= _MOST_IN_A_ROW:
                return [self._failed] * len(batch)
            found = self._chat(batch) if self._input is None else self._predict(batch)
            in_a_row = in_a_row + 1 if self._failed in found else 0
            return found

        with ThreadPoolExecutor(threads) as pool:
            return [each for batch in pool.map(answer, batches) for each in batch]

    @property
    def _failed(self) -> Failed:
        return Failed(f"{self._role}: the server failed {TRIES} times")

    @property
    def _refused(self) -> Failed:
        return Failed(f"{self._role}: refused by the server")

    def _predict(self, prompts: list[str]) -> list[Translated]:
        inputs = [{self._input: prompt} for prompt in prompts]
        body = {"model": self._name, "inputs": inputs}

        def ask() -> list[Translated]:
            told = self._remote.json("/predict", body)
            found = [self._said(each.get("text")) for each in _rows(told, "data")]
            if len(found) != len(prompts):
                raise RaymodelError(f"/predict answered {len(found)} of {len(prompts)} texts")
            return found

        try:
            return self._asked(ask) or [self._failed] * len(prompts)
        except RequestError:
            if len(prompts) == 1:
                return [self._refused]
        return [each for prompt in prompts for each in self._predict([prompt])]  # one, perhaps

    def _chat(self, prompts: list[str]) -> list[Translated]:
        [prompt] = prompts
        body = {
            "model": self._name,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": self._max_tokens,
        }

        def ask() -> Translated:
            choices = _rows(self._remote.json("/v1/chat/completions", body), "choices")
            if len(choices) != 1:
                raise RaymodelError(f"/v1/chat/completions answered {len(choices)} times")
            if choices[0].get("finish_reason") == "length":
                return Failed(f"{self._role}: longer than max_tokens", is_of_server=False)
            message = choices[0].get("message")
            return self._said(message.get("content") if isinstance(message, dict) else None)

        try:
            return [self._asked(ask) or self._failed]
        except RequestError:
            return [self._refused]

    def _asked(self, ask: Callable[[], T]) -> T | None:
        """What is answered; None where the server failed at every try.

        Raises:
            RequestError: it refuses, and would again.
        """
        wait_s = FIRST_WAIT_S
        for _ in range(TRIES - 1):
            try:
                return ask()
            except RequestError:
                raise
            except RaymodelError as error:
                logger.warning("translating failed, again in %g s: %s", wait_s, error)
            time.sleep(wait_s)
            wait_s *= 2
        try:
            return ask()
        except RequestError:
            raise
        except RaymodelError as error:
            logger.warning("translating failed %d times, at last: %s", TRIES, error)
            return None

    def _said(self, answer: Any) -> Translated:
        text = answer.strip() if isinstance(answer, str) else ""
        return text or Failed(f"{self._role}: an empty answer", is_of_server=False)


def _rows(told: dict[str, Any], name: str) -> list[dict[str, Any]]:
    found = told.get(name)
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []
