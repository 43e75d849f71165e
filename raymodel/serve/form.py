"""The form that an answer must have: a JSON schema, a regular expression, one of some texts.

A grammar says after each token which may follow; all others cannot be chosen (llguidance, MIT).
"""

from __future__ import annotations

import json
import logging
import threading
from functools import lru_cache
from typing import Any

import llguidance.hf
import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer
from transformers import PreTrainedTokenizerBase

from raymodel.errors import FormError
from raymodel.serve.sampling import Form

log = logging.getLogger(__name__)

_KEPT_GRAMMARS = 64
# Between the parts of JSON. A model may write it for ever, if a grammar lets it.
_JSON: Any = {"whitespace_pattern": r"[ \n\t]{0,16}"}


class Grammars:
    """The grammars of one model's answers.

    Args:
        tokenizer: a fast one.
        vocab_size: rows of the model's output layer.
        ends: tokens that end an answer whose form is complete.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, vocab_size: int, ends: frozenset[int]
    ) -> None:
        self._tokenizer, self._vocab_size, self._ends = tokenizer, vocab_size, ends
        self._lock = threading.Lock()
        self._tokens: LLTokenizer | None = None
        self._compiled = lru_cache(_KEPT_GRAMMARS)(self._compile)

    def begin(self, form: Form) -> FormState:
        """At the beginning of an answer. A form that is new takes from a millisecond to seconds.

        Raises:
            FormError: it is none.
        """
        return FormState(self._compiled(form).deep_copy(), self._ends)

    def _compile(self, form: Form) -> LLMatcher:
        if not self._ends:
            raise FormError("this model has no token that ends an answer, which a form needs")
        try:
            grammar = _grammar(form)
            tokens = self._read_tokens()
        except ValueError as error:
            raise FormError(str(error)) from error
        wrong = LLMatcher.validate_grammar(grammar, tokens)
        matcher = LLMatcher(tokens, grammar, log_level=0)
        if wrong or matcher.is_error():
            raise FormError(" ".join((wrong or matcher.get_error()).split()))
        return matcher

    def _read_tokens(self) -> LLTokenizer:
        with self._lock:
            if self._tokens is None:  # a second for a large vocabulary
                self._tokens = llguidance.hf.from_tokenizer(
                    self._tokenizer,  # type: ignore[arg-type]  # refuses slow ones itself
                    n_vocab=self._vocab_size,
                    eos_token=sorted(self._ends),
                )
            return self._tokens


class FormState:
    """How far one answer has come in its form."""

    def __init__(self, matcher: LLMatcher, ends: frozenset[int]) -> None:
        self._matcher, self._ends = matcher, ends

    def allowed(self, num_tokens: int) -> torch.Tensor:
        """(V,) whether each token may be next."""
        allowed = np.zeros(num_tokens, dtype=bool)
        if self._matcher.is_error():  # a limit of the library: the answer ends here
            log.warning("a form cannot be followed further: %s", self._matcher.get_error()[:200])
            allowed[list(self._ends)] = True
        else:
            bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
            known = np.unpackbits(bits, bitorder="little")[:num_tokens]
            allowed[: len(known)] = known
        return torch.from_numpy(allowed)

    def copy(self) -> FormState:
        """One that goes on by itself."""
        return FormState(self._matcher.deep_copy(), self._ends)

    def advance(self, token: int) -> None:
        """Goes on with a token that was chosen."""
        self._matcher.consume_token(token)


def _grammar(form: Form) -> str:
    match form.kind:
        case "json":
            return str(LLMatcher.grammar_from_json_schema(form.text, overrides=_JSON))
        case "regex":
            return str(LLMatcher.grammar_from_regex(form.text))
        case "choice":
            texts = " | ".join(json.dumps(text) for text in json.loads(form.text))
            return str(LLMatcher.grammar_from_lark(f"start: {texts}"))
        case "grammar":
            return str(LLMatcher.grammar_from_lark(form.text))
