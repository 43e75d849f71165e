"""The classifier that is asked: one behind a URL, as any client asks it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from raymodel.errors import RaymodelError, RequestError
from raymodel.remote import Remote
from raymodel.spec.fields import nearest


class Classifier:
    """A model that says which class a text is of.

    Args:
        remote: its server.
        model: which of its models; None where it has one.

    Raises:
        RequestError: it is no classifier of texts, or the server refuses.
        RaymodelError: nothing answers there.
    """

    def __init__(self, remote: Remote, model: str | None = None) -> None:
        self._remote = remote
        self.name = remote.find_model(model)
        told = remote.json("/health")
        if told.get("answers") != "label" or told.get("fields") != {"text": "text"}:
            raise RequestError(
                f"{remote.url} serves {self.name} for {told.get('task', 'another purpose')}, and "
                "what is monitored is the class of a text; serve a model for text_classification"
            )
        self.labels = tuple(map(str, told.get("labels") or ()))

    def check_label(self, label: str) -> None:
        """Raises RequestError for a class that it does not know."""
        if label in self.labels:
            return
        close = nearest(label, self.labels)
        hint = f"; did you mean {close!r}?" if close else ""
        raise RequestError(
            f"monitor.alerts names the class {label!r}, and {self.name} knows "
            f"{', '.join(self.labels)}{hint}"
        )

    def classify(self, texts: Sequence[str]) -> list[str | None]:
        """The most probable class of each text; None of one that the model refuses by itself.

        Raises:
            RaymodelError: the server cannot be reached or fails; the same question may pass later.
            RequestError: it refuses every text.
        """
        try:
            return list(self._ask(texts))
        except RequestError:
            if len(texts) > 1:  # one of them, perhaps
                return [label for text in texts for label in self.classify([text])]
            self._check_alive()
            return [None]

    def _check_alive(self) -> None:
        """Raises RequestError when it refuses what any classifier takes."""
        self._ask(["text"])

    def _ask(self, texts: Sequence[str]) -> list[str]:
        body: dict[str, Any] = {"model": self.name, "input": list(texts), "truncate": True}
        told = self._remote.json("/classify", body)
        try:
            labels = [str(each["label"]) for each in told["data"]]
        except (KeyError, TypeError):
            labels = []
        if len(labels) != len(texts):
            raise RaymodelError(
                f"{self._remote.url}/classify answered {len(labels)} of {len(texts)} texts"
            )
        return labels
