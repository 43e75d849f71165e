"""A cluster that asks for a token: it is found and sent, or one message says what is wrong."""

import os
from pathlib import Path

import pytest
from ray.exceptions import AuthenticationError

from raymodel.cluster.connect import _not_connected
from raymodel.cluster.head import ask_dashboard
from raymodel.cluster.token import MODE, find_token, send_token
from raymodel.errors import RequestError

VARIABLES = (MODE, "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where nobody has a token yet; what a test sets goes when it ends."""
    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # so that it is put back, whatever the code sets
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ray").mkdir()
    return tmp_path


def keep(home: Path, token: str) -> Path:
    path = home / ".ray/auth_token"
    path.write_text(token, encoding="utf-8")
    return path


def test_a_token_that_is_there_is_sent_without_being_told_to(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    send_token()
    assert MODE not in os.environ, "there is none"
    keep(home, "abc\n")
    send_token()
    assert (os.environ[MODE], find_token()) == ("token", "abc")
    monkeypatch.setenv(MODE, "disabled")
    send_token()
    assert os.environ[MODE] == "disabled", "who says so sends none"


def test_a_token_that_is_asked_for_here_and_missing_is_said_where_ray_would_abort(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(MODE, "token")
    with pytest.raises(RequestError, match=r"is 'token', and no token was found; set RAY_AUTH_TO"):
        send_token()
    monkeypatch.setenv("RAY_AUTH_TOKEN", "abc")
    send_token()


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({}, "asks for a token, and none was found; set RAY_AUTH_TOKEN"),
        ({"RAY_AUTH_TOKEN": "secret", MODE: "token"}, "refused the token; set RAY_AUTH_TOKEN"),
        (
            {"RAY_AUTH_TOKEN": "secret", MODE: "disabled"},
            "asks for a token, and RAY_AUTH_MODE is 'disabled', so that Ray sends none; unset it",
        ),
    ],
)
def test_what_is_wrong_with_a_token_is_told_of_a_cluster_that_refuses(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], words: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    refused = _not_connected("10.0.0.1:6379", AuthenticationError("InvalidAuthToken"))
    assert str(refused).startswith(f"the Ray head at 10.0.0.1:6379 {words}")
    assert refused.exit_code == 2
    assert "secret" not in str(refused)


@pytest.mark.parametrize("token", ["two words", "two\nlines", "schlüssel", "a\0b"])
def test_what_cannot_be_sent_is_no_token(
    home: Path, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    path = keep(home, token)
    for ask in (send_token, lambda: ask_dashboard("http://127.0.0.1:1", "/api/version")):
        with pytest.raises(RequestError, match="is no token: it has blanks") as refused:
            ask()
        assert str(path) in str(refused.value)
        assert token not in str(refused.value)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(home / "nowhere"))
    with pytest.raises(RequestError, match="which cannot be read"):
        send_token()
