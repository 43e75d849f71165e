"""`raymodel chat`: a conversation at the terminal, or through a pipe."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import TextIO

from raymodel.errors import RaymodelError, RequestError
from raymodel.observe.quiet import quiet_environment
from raymodel.serve.chat_model import ChatModel, ChatSettings, Turn
from raymodel.storage.uri import Location

PROMPT = "> "
RESET = "/reset"
_HELP = f"{RESET} forgets the conversation, Ctrl-C stops an answer, Ctrl-D ends"
_ADDRESS = re.compile(r"[\w.-]+:\d+")
# What moves the cursor or gives orders to a terminal, as an answer may have learnt it from a log.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def chat(
    reference: str,
    settings: ChatSettings,
    *,
    system: str | None,
    name: str | None,
    token_env: str,
    storage: str,
) -> None:
    """Talks to a model until the input ends.

    Args:
        reference: a server's URL, or a model as `find_named` takes it, which is loaded here.
        settings: how turns are answered.
        system: what the model is told before all turns.
        name: of the model, on a server with several.
        token_env: the environment variable with the server's token.
        storage: where runs are looked up by name.

    Raises:
        RaymodelError: there is no such model or server; through a pipe also when a turn fails.
        KeyboardInterrupt: through a pipe, at Ctrl-C.
    """
    terminal = Terminal()
    with closing(_open(reference, settings, name, token_env, storage, terminal)) as model:
        terminal.say(f"{model.name} ({model.about}); {_HELP}")
        Chat(model, terminal, system).run()


def _open(
    reference: str,
    settings: ChatSettings,
    name: str | None,
    token_env: str,
    storage: str,
    terminal: Terminal,
) -> ChatModel:
    if reference.startswith(("http://", "https://")):
        from raymodel.serve.chat_remote import RemoteChat

        return RemoteChat(reference, settings, model=name, token_env=token_env, say=terminal.say)
    if _ADDRESS.fullmatch(reference):
        raise RequestError(f"{reference} is no model; of a server give http://{reference}")
    if name is not None:
        raise RequestError(f"--name {name} is of a server; {reference} is one model: leave it out")
    terminal.say(f"loading {reference} …")
    quiet_environment()
    from raymodel.serve.chat_local import LocalChat

    return LocalChat(reference, Location.parse(storage), settings)


class Terminal:
    """Where turns come from and answers go: two terminals, or pipes.

    Attributes:
        is_interactive: whether a person types the turns.
    """

    def __init__(self) -> None:
        self._input: TextIO = sys.stdin or io.StringIO()  # closed by who started the command
        self._output = sys.stdout
        self.is_interactive = self._input.isatty()
        self._has_editor = self.is_interactive and self._output.isatty()
        if isinstance(self._input, io.TextIOWrapper):
            self._input.reconfigure(errors="replace")  # bytes that are no text
        if self._has_editor:
            with suppress(ImportError):  # of systems without it
                import readline  # noqa: F401 - `input` edits lines and knows those before

    def turns(self) -> Iterator[str]:
        """The lines that are typed or piped, but for empty ones, until the input ends."""
        while True:
            try:
                line = self._read()
            except EOFError:
                self.say("")
                return
            except KeyboardInterrupt:
                if not self.is_interactive:
                    raise
                self.say(f"\n{_HELP}")
                continue
            if line.strip():
                yield line.strip()

    def _read(self) -> str:
        if self._has_editor:
            return input(PROMPT)
        if self.is_interactive:  # the answers go elsewhere
            sys.stderr.write(PROMPT)
            sys.stderr.flush()
        line = self._input.readline()
        if not line:
            raise EOFError
        return line

    def write(self, text: str) -> None:
        """A piece of an answer."""
        self._output.write(_CONTROL.sub("", text) if self._output.isatty() else text)
        self._output.flush()

    def say(self, text: str) -> None:
        """What is no answer; only a person is told."""
        if self.is_interactive:
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()


class Chat:
    """A conversation.

    Args:
        model: answers.
        terminal: where it is held.
        system: what the model is told before all turns.
    """

    def __init__(self, model: ChatModel, terminal: Terminal, system: str | None) -> None:
        self._model, self._terminal = model, terminal
        self._first: list[Turn] = [{"role": "system", "content": system}] if system else []
        self._turns = list(self._first)

    def run(self) -> None:
        """Until the input ends."""
        for text in self._terminal.turns():
            if text == RESET:
                self._turns = list(self._first)
                self._terminal.say("forgotten")
            else:
                self._ask(text)

    def _ask(self, text: str) -> None:
        """One turn; one that failed is as if it had not been asked."""
        asked: list[Turn] = [*self._turns, {"role": "user", "content": text}]
        pieces: list[str] = []
        try:
            with closing(self._model.answer(asked)) as answer:
                for piece in answer:
                    pieces.append(piece)
                    self._terminal.write(piece)
            self._terminal.write("\n")
        except KeyboardInterrupt:
            if not self._terminal.is_interactive:
                raise
            self._terminal.write("\n")
            self._terminal.say("stopped")
        except RaymodelError as error:
            if pieces:
                self._terminal.write("\n")
            if not self._terminal.is_interactive:
                raise
            self._terminal.say(f"error: {error}")
            return
        if pieces:
            said = "".join(pieces)
            self._turns = [*asked, {"role": "assistant", "content": said}]
