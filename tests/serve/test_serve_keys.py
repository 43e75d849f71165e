"""Bearer tokens: several, kept as digests, from the environment and a file; and their quotas."""

import asyncio
import hashlib
import pickle

import httpx
import pytest
from asked import check_error, rules_of
from pydantic import ValidationError

from raymodel.errors import SpecError
from raymodel.serve import keys as keys_module
from raymodel.serve.app import build_app
from raymodel.serve.gate import Rules
from raymodel.serve.keys import ANYBODY, Quota, digest_of, find_key, load_keys
from raymodel.serve.refusal import Refusal
from raymodel.serve.spec import ServeSpec


def hashed(token):
    return "sha256:" + hashlib.sha256(token.encode()).hexdigest()


def of_environment(text):
    return load_keys(ServeSpec(token_env="TOKENS"), {"TOKENS": text})


def of_file(tmp_path, text, mode=0o600):
    path = tmp_path / "tokens"
    path.write_text(text)
    path.chmod(mode)
    return load_keys(ServeSpec(token_file=str(path)), {})


def test_the_environment_holds_one_token_or_several_plain_or_hashed():
    keys = of_environment(f"one {hashed('two')}\n three")
    for token, name in (("one", "TOKENS-1"), ("two", "TOKENS-2"), ("three", "TOKENS-3")):
        assert find_key(keys, f"Bearer {token}") == name
    for wrong in ("", "one", "Basic one", "Bearer", "Bearer four", f"Bearer {hashed('two')}"):
        assert find_key(keys, wrong) is None


def test_a_file_names_its_tokens(tmp_path):
    keys = of_file(tmp_path, f"# clients\nann secret\n\nbob {hashed('other')}\nthird\n")
    assert find_key(keys, "bearer secret") == "ann"
    assert find_key(keys, "Bearer other") == "bob"
    assert find_key(keys, "Bearer third") == "line-5"
    assert find_key(keys, "Bearer ann") is None


def test_both_count_and_without_either_anybody_may_ask(tmp_path):
    path = tmp_path / "tokens"
    path.write_text("one")
    path.chmod(0o440)
    keys = load_keys(ServeSpec(token_env="T", token_file=str(path)), {"T": "two"})
    assert find_key(keys, "Bearer one")
    assert find_key(keys, "Bearer two")
    assert load_keys(ServeSpec(), {}) == ()
    assert find_key((), "") == ANYBODY


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o602, 0o620, 0o601])
def test_a_file_that_others_can_use_is_refused(tmp_path, mode):
    with pytest.raises(SpecError, match=rf"mode {mode:o}.*chmod 600"):
        of_file(tmp_path, "secret", mode)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no token"),
        ("# only this\n", "holds no token"),
        ("a b c", "line 1: 3 words"),
        ("ok\nann sha256:abc", r"line 2: what follows sha256:.*sha256sum"),
    ],
)
def test_what_is_no_token_is_told_by_its_line_and_not_shown(tmp_path, text, words):
    with pytest.raises(SpecError, match=words):
        of_file(tmp_path, text)


def test_what_is_not_there_is_told(tmp_path):
    with pytest.raises(SpecError, match=r"names TOKENS, which is not set"):
        of_environment(" ")
    with pytest.raises(SpecError, match=r"cannot be read \(No such file"):
        load_keys(ServeSpec(token_file=str(tmp_path / "none")), {})
    with pytest.raises(ValidationError, match="token_file"):
        ServeSpec(host="0.0.0.0")
    assert ServeSpec(host="0.0.0.0", token_file="tokens").has_token


def test_no_token_travels_to_the_cluster():
    rules = Rules(keys=of_environment("very-secret"))
    assert b"very-secret" not in pickle.dumps(rules)
    assert "very-secret" not in repr(rules)


def test_all_keys_are_compared_whatever_is_found(monkeypatch):
    compared = []
    real = keys_module.hmac.compare_digest
    monkeypatch.setattr(
        keys_module.hmac, "compare_digest", lambda a, b: compared.append(a) or real(a, b)
    )
    keys = of_environment("one two three")
    assert find_key(keys, "Bearer one") == "TOKENS-1"
    assert compared == [digest_of(token) for token in ("one", "two", "three")]


def test_a_quota_is_of_each_key_and_says_when_to_come_again(monkeypatch):
    now_s = [0.0]
    monkeypatch.setattr(keys_module.time, "monotonic", lambda: now_s[0])
    quota = Quota(30)
    for _ in range(30):
        quota.take("ann")
    with pytest.raises(Refusal) as refused:
        quota.take("ann")
    assert (refused.value.status, refused.value.retry_after_s) == (429, 2)
    quota.take("bob")
    now_s[0] = 2.0
    quota.take("ann")
    with pytest.raises(Refusal):
        quota.take("ann")
    now_s[0] = 1000.0
    for _ in range(30):
        quota.take("ann")
    with pytest.raises(Refusal):
        quota.take("ann")


def ask(gate, *asked, token="secret"):
    """The responses to requests, one after the other."""

    async def run():
        headers = {"Authorization": f"Bearer {token}"}
        transport = httpx.ASGITransport(gate)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://test", headers=headers
        ) as client:
            return [
                await client.request("GET" if body is None else "POST", path, json=body)
                for path, body in asked
            ]

    return asyncio.run(run())


def test_who_asks_too_often_is_429(generation):
    gate = build_app(generation, rules_of(token="secret", requests_per_min=2))
    *answered, response = ask(gate, *[("/v1/models", None)] * 3)
    assert [each.status_code for each in answered] == [200, 200]
    check_error(response, 429, "2 requests a minute", "serve.requests_per_min")
    assert 1 <= int(response.headers["retry-after"]) <= 30
    assert response.json()["error"]["type"] == "rate_limit_error"
    assert ask(gate, ("/health", None))[0].status_code == 200
    assert ask(gate, ("/v1/models", None), token="other")[0].status_code == 401


def test_metrics_count_requests_tokens_and_times(generation):
    gate = build_app(generation, rules_of(token="secret"))
    assert ask(gate, ("/metrics", None), token="other")[0].status_code == 401
    body = {"model": "tiny", "prompt": [5, 6, 7], "max_tokens": 9, "temperature": 0}
    path = "/v1/completions"
    *_, told = ask(
        gate,
        ("/no/such/path", None),
        (path, body),
        (path, body | {"stream": True}),
        (path, body | {"max_tokens": -1}),
        ("/metrics", None),
    )
    for line in (
        'requests_total{model="tiny",path="/v1/completions",status="200"} 2.0',
        'requests_total{model="tiny",path="/v1/completions",status="400"} 1.0',
        'requests_total{model="tiny",path="other",status="404"} 1.0',
        'requests_total{model="tiny",path="other",status="401"} 1.0',
        'tokens_total{kind="prompt",model="tiny"} 6.0',
        'tokens_total{kind="completion",model="tiny"} 18.0',
        'time_to_first_token_seconds_count{model="tiny"} 2.0',
        'time_per_token_seconds_count{model="tiny"} 2.0',
        'requests_waiting{model="tiny"} 0.0',
        'requests_running{model="tiny"} 0.0',
    ):
        assert f"\nraymodel_{line}\n" in told.text
