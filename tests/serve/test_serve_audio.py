"""Sounds over HTTP: as OpenAI's client sends them, in base64, and what is refused."""

import base64

import httpx
import openai
import pytest
from fastapi.testclient import TestClient

from raymodel.serve.app import build_app
from raymodel.serve.prediction import PredictionService
from raymodel.serve.spec import ServeSpec
from raymodel.tasks import get_task
from raymodel.tasks.base import Limits
from raymodel.tasks.spec.audio import AudioClassificationSpec, SpeechCTCSpec
from raymodel.testing.sounds import SMALL_WAVE, build_sound_model, clip

PATH = "/v1/audio/transcriptions"


def served(name, said, **more):
    kind = get_task(name)
    task = kind(said, processor=kind(said).fresh_processor(), **more)
    model = build_sound_model(task, "wav2vec2", SMALL_WAVE)
    plain = kind(processor=task.processor)  # a server knows nothing of a job
    return PredictionService(model, plain, name="tiny", spec=ServeSpec())


@pytest.fixture
def speech():
    said = SpeechCTCSpec.model_validate({"audio": {"max_seconds": 2}, "alphabet": "abc"})
    return served("speech_ctc", said)


def test_openais_client_is_told_what_is_said(speech):
    sound = clip("abca")
    features = speech.task.features({"audio": sound}, None).features
    [expected] = speech.task.predict(speech.model, {"audio": [features["audio"]]}, Limits())
    with TestClient(build_app(speech)) as http:
        client = openai.OpenAI(api_key="none", base_url="http://testserver/v1", http_client=http)
        answer = client.audio.transcriptions.create(model="tiny", file=("a.wav", sound))
        assert answer.text == expected["text"]
        plain = client.audio.transcriptions.create(
            model="tiny", file=("any.txt", sound), response_format="text", stream=False
        )
        assert plain.strip() == expected["text"]


def test_the_same_answer_comes_for_base64_and_health_says_what_is_taken(speech):
    encoded = base64.b64encode(clip("abca")).decode()
    with TestClient(build_app(speech)) as http:
        body = {"model": "tiny", "inputs": {"audio": "data:audio/wav;base64," + encoded}}
        [answer] = http.post("/predict", json=body).json()["data"]
        form = {"files": {"file": ("a.wav", clip("abca"))}, "data": {"model": "tiny"}}
        assert http.post(PATH, **form).json() == {"text": answer["text"]}
        assert http.get("/health").json()["fields"] == {"audio": "audio"}
        asked = {"model": "tiny", "inputs": speech.task.example_request()}
        assert http.post("/predict", json=asked).status_code == 200


def refused(response: httpx.Response, status: int, words: str) -> None:
    assert response.status_code == status
    assert words in response.json()["error"]["message"]


def test_what_is_no_sound_or_form_is_refused_with_the_reason(speech):
    with TestClient(build_app(speech)) as http:

        def send(sound, **data):
            form = {"model": "tiny", **data}
            return http.post(PATH, files={"file": ("a.wav", sound)}, data=form)

        refused(send(b"no sound"), 400, "no audio of a format that is read")
        refused(send(b""), 400, "audio file without samples")
        refused(send(clip("a")[:60]), 400, "audio of less than 0.1 s")
        refused(send(clip("a"), model="other"), 404, "there is no model 'other'")
        refused(send(clip("a"), response_format="srt"), 400, "response_format is 'srt'")
        refused(send(clip("a"), stream="true"), 400, "stream is")
        refused(http.post(PATH, data={"model": "tiny"}), 400, "file is missing")
        refused(http.post("/predict", json={"model": "tiny", "inputs": {"audio": "?"}}), 400,
                "bytes of a file (audio) in base64")  # fmt: skip


def test_only_models_that_answer_with_the_text_of_a_sound_have_that_route():
    said = AudioClassificationSpec.model_validate({"audio": {"max_seconds": 2}})
    with TestClient(build_app(served("audio_classification", said, labels=("a", "b")))) as http:
        form = {"files": {"file": ("a.wav", clip("ab"))}, "data": {"model": "tiny"}}
        assert http.post(PATH, **form).status_code == 404
        body = {"model": "tiny", "inputs": {"audio": base64.b64encode(clip("ab")).decode()}}
        [answer] = http.post("/predict", json=body).json()["data"]
        assert answer["label"] in ("a", "b")
