"""What computes a model that is called once: measured, held against torch, told in /health."""

import base64
import io
import wave

import pytest
import torch
from asked import call
from transformers.modeling_outputs import SequenceClassifierOutput

from raymodel.errors import SpecError
from raymodel.observe.slow_paths import forget_slow_paths, slow_paths
from raymodel.serve import fastest, openvino_pass
from raymodel.serve.load import load_service
from raymodel.serve.openvino_pass import OpenVinoPass
from raymodel.serve.passes import Pass
from raymodel.serve.prediction import PredictionService
from raymodel.serve.rehearsal import longer
from raymodel.serve.spec import ServeSpec
from raymodel.serve.trial import Case, Measured, find_fault, pick
from raymodel.tasks import get_task
from raymodel.tasks.clips import a_tone
from raymodel.tasks.spec.audio import SpeechCTCSpec
from raymodel.testing.sounds import SMALL_WAVE, build_sound_model

TEXTS = ["def read", "naïve café", "user: hi\nassistant: hello\n" * 2, "a " * 20]


@pytest.fixture
def never_quick(monkeypatch):
    """Tiny models are tried as large ones are."""
    monkeypatch.setattr(fastest, "_QUICK_S", 0.0)


@pytest.fixture(autouse=True)
def _no_slow_paths():
    forget_slow_paths()
    yield
    forget_slow_paths()


def served(model, task, **fields):
    spec = ServeSpec(batch=4, queue=60, **fields)
    return PredictionService(model, task, name="tiny", spec=spec)


def settled(model, task, **fields):
    service = served(model, task, **fields)
    service.settle()
    return service


def probs_of(service, texts):
    response = call(service, "POST", "/classify", json={"model": "tiny", "input": texts})
    return torch.tensor([each["probs"] for each in response.json()["data"]])


# ---- OpenVINO is the model -----------------------------------------------------------------------


@pytest.fixture
def compiled(bert, text_classification):
    service = settled(bert, text_classification, engine="openvino", dtype="float32")
    yield service
    service.close()


def test_openvino_gives_the_answers_of_torch_whatever_the_lengths(compiled, classification):
    wanted = torch.cat([probs_of(classification, [text]) for text in TEXTS])
    together, alone = probs_of(compiled, TEXTS), [probs_of(compiled, [text]) for text in TEXTS]
    torch.testing.assert_close(together, wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.cat(alone), wanted, atol=1e-5, rtol=0)
    health = compiled.health()
    assert (health["engine"], health["dtype"]) == ("openvino", "float32")
    assert slow_paths() == []
    [longest] = [each["shape"][1] for each in health["trial"]["batches"]][-2:-1]
    assert longest >= 48, "the longest text was tried"


def test_what_is_given_out_is_not_written_over_by_the_next_batch(compiled):
    rows = [compiled.row({"text": text}, "text") for text in TEXTS[:2]]
    model, collate = compiled._computed.model, compiled.task.collate
    inputs = [collate({"input_ids": [row["input_ids"]]}) for row in rows]
    names = ("input_ids", "attention_mask")
    first = model(**{name: inputs[0][name] for name in names}).logits
    kept = first.clone()
    model(**{name: inputs[1][name] for name in names})
    assert torch.equal(first, kept)


def test_sounds_and_images_are_compiled_as_well():
    kind = get_task("speech_ctc")
    said = SpeechCTCSpec.model_validate({"audio": {"max_seconds": 12}, "alphabet": "abc"})
    task = kind(processor=kind(said).fresh_processor())
    model = build_sound_model(task, "wav2vec2", SMALL_WAVE)
    service = settled(model, task, engine="openvino", dtype="float32")
    rows = [service.row({"audio": longer(a_tone(), "audio", times)}, "x") for times in (1, 3, 7)]
    inputs = task.collate({"audio": [row["audio"] for row in rows]})
    assert inputs
    assert service._predict(rows) == [
        answer for row in rows for answer in task.predict(model, {"audio": [row["audio"]]}, None)
    ]
    service.close()


def test_a_model_that_writes_is_left_in_torch_with_the_reason(translation, t5):
    translation.settle()
    health = translation.health()
    assert health["engine"] == "transformers"
    assert health["engine_reason"].startswith("openvino cannot: its task ")
    service = served(t5, translation.task, engine="openvino")
    with pytest.raises(SpecError, match=r"serve.engine is openvino, and its task .*set serve"):
        service.settle()


# ---- it is held against torch --------------------------------------------------------------------


class Fake(Pass):
    engine = "openvino"

    def __init__(self, answer, dtype="float32"):
        self.dtype, self._answer = dtype, answer

    def __call__(self, inputs):
        return self._answer(inputs)


def case_of(logits, mask=None):
    inputs = {"input_ids": torch.zeros(logits.shape[:2], dtype=torch.int64)}
    return Case(inputs | ({} if mask is None else {"attention_mask": mask}), {"logits": logits})


RIGHT = torch.linspace(-2, 2, 24).reshape(2, 3, 4)
NAN = torch.where(RIGHT > 1.9, torch.nan, RIGHT)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ({"logits": RIGHT + 0.01}, "its logits is 0.005 off, and at most 0.001"),
        ({"logits": NAN}, "NaN or infinity"),
        ({"logits": RIGHT[:1]}, r"is \[1, 3, 4\], not \[2, 3, 4\]"),
        ({}, "its logits is None"),
        (None, "it fails on .*TypeError"),
    ],
)
def test_a_pass_that_computes_something_else_is_refused(answer, told):
    candidate = Fake(lambda _: {**answer})
    with pytest.raises(AssertionError, match=told):
        raise AssertionError(find_fault(candidate, [case_of(RIGHT)]))
    assert find_fault(Fake(lambda _: {"logits": RIGHT + 1e-6}), [case_of(RIGHT)]) is None
    assert (
        find_fault(Fake(lambda _: {"logits": RIGHT + 0.01}, "bfloat16"), [case_of(RIGHT)]) is None
    )


def test_what_comes_of_padding_is_not_compared():
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    found = torch.where(mask.bool()[:, :, None], RIGHT, 5.0)
    assert find_fault(Fake(lambda _: {"logits": found}), [case_of(RIGHT, mask)]) is None
    assert find_fault(Fake(lambda _: {"logits": found}), [case_of(RIGHT)]) is not None


def test_an_engine_that_computes_another_model_answers_nobody(
    bert, text_classification, never_quick, monkeypatch, classification
):
    plain = OpenVinoPass.__call__

    def wrong(self, inputs):
        return {name: value * 1.1 for name, value in plain(self, inputs).items()}

    monkeypatch.setattr(OpenVinoPass, "__call__", wrong)
    service = settled(bert, text_classification, dtype="float32")
    health = service.health()
    assert health["engine"] == "transformers"
    assert "off, and at most 0.001" in health["trial"]["refused"]["openvino in float32"]
    torch.testing.assert_close(probs_of(service, TEXTS), probs_of(classification, TEXTS))
    service.close()
    with pytest.raises(SpecError, match=r"openvino in float32: of .* off.*set serve.engine: auto"):
        settled(bert, text_classification, engine="openvino", dtype="float32")


def test_an_engine_that_cannot_be_made_is_told(bert, text_classification, never_quick, monkeypatch):
    def convert(model, calls):
        raise RuntimeError("no such operation: aten::frobnicate")

    monkeypatch.setattr(openvino_pass, "convert", convert)
    service = settled(bert, text_classification, dtype="float32")
    assert "aten::frobnicate" in service.health()["trial"]["refused"]["openvino"]
    assert "aten::frobnicate" in service.health()["engine_reason"]
    [told] = service.health()["slow_paths"]
    assert told["what"] == "is not computed by openvino"
    assert service.health()["engine"] == "transformers"
    service.close()


def test_an_engine_that_fails_later_leaves_the_rest_to_torch(compiled, classification, monkeypatch):
    def fail(self, inputs):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(OpenVinoPass, "__call__", fail)
    monkeypatch.delenv("RAYMODEL_SLOW_PATHS", raising=False)
    torch.testing.assert_close(probs_of(compiled, TEXTS), probs_of(classification, TEXTS))
    [told] = slow_paths()
    assert told.what == "is computed by transformers in float32"
    assert told.why == "openvino in float32 failed: out of memory"


# ---- what is taken -------------------------------------------------------------------------------


def test_one_pass_is_taken_for_all_sizes_unless_another_is_much_faster_for_one():
    alike = [{"a": 1.0, "b": 1.1}, {"a": 2.0, "b": 1.9}]
    assert pick(alike) == ("a", ["a", "a"])
    apart = [{"a": 1.0, "b": 3.0}, {"a": 2.0, "b": 1.5}]
    assert pick(apart) == ("a", ["a", "b"])


@pytest.mark.parametrize("best", ["transformers in float32", "openvino in float32"])
def test_what_was_measured_to_be_faster_answers(
    bert, text_classification, never_quick, monkeypatch, best
):
    def measure(passes, cases):
        took_s = {each.name: 1.0 if each.name == best else 2.5 for each in passes}
        return [Measured(case.shape, took_s) for case in cases]

    monkeypatch.setattr(fastest, "measure", measure)
    service = settled(bert, text_classification, dtype="float32")
    health = call(service, "GET", "/health").json()
    assert f"{health['engine']} in {health['dtype']}" == best
    assert {batch["taken"] for batch in health["trial"]["batches"]} == {best}
    assert health["trial"]["batches"][0]["ms"][best] == 1000
    told = "nothing else was faster" if best.startswith("t") else "measured at the start: 2.5 times"
    assert health["engine_reason"].startswith(told)
    service.close()


def test_a_batch_is_computed_by_what_was_fastest_for_one_of_its_size(bert):
    def answer(name):
        return Fake(lambda inputs: {"logits": name})

    stand_in = fastest.Fastest(
        bert, SequenceClassifierOutput, [(8, answer(1)), (800, answer(2))], 100
    )
    for rows, tokens, expected in ((1, 8, 1), (2, 16, 1), (8, 64, 2), (32, 100, 2)):
        ids = torch.zeros(rows, tokens, dtype=torch.int64)
        assert stand_in(input_ids=ids).logits == expected
    assert stand_in.config is bert.config
    too_long = torch.zeros(2, 56, dtype=torch.int64)
    stand_in._row_size = 50
    assert torch.equal(stand_in(input_ids=too_long).logits, bert(input_ids=too_long).logits)


def test_a_small_model_is_not_tried(bert, text_classification):
    service = settled(bert, text_classification)
    health = service.health()
    assert health["engine_reason"].startswith("a whole batch takes it ")
    assert "trial" not in health
    service.close()


def test_a_dtype_that_is_asked_for_is_the_only_one(
    bert, text_classification, tokenizer, never_quick, tmp_path
):
    bert.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    for dtype in ("float32", "bfloat16"):
        spec = ServeSpec(engine="transformers", dtype=dtype)
        service = load_service(tmp_path, "text_classification", name="tiny", spec=spec)
        assert service.health()["dtype"] == dtype
        assert str(next(service.model.parameters()).dtype) == f"torch.{dtype}"
        assert service.health()["engine_reason"] == "serve.engine is transformers"
        service.close()


def test_memory_that_holds_no_copies_keeps_the_model_as_it_is(
    bert, text_classification, never_quick, monkeypatch
):
    monkeypatch.setattr(fastest, "available_memory_bytes", lambda: 1000)
    service = settled(bert, text_classification)
    assert "and 0.0 GB are left" in service.health()["engine_reason"]
    service.close()
    with pytest.raises(SpecError, match="set engine: transformers"):
        settled(bert, text_classification, engine="openvino")


def test_a_longer_request_is_the_same_several_times():
    assert longer("a b", "text", 3) == "a b a b a b"
    assert longer(["a", "b"], "words", 2) == ["a", "b", "a", "b"]
    with wave.open(io.BytesIO(base64.b64decode(longer(a_tone(), "audio", 4)))) as clip:
        assert clip.getnframes() == 4 * 4000
    assert longer("image", "image", 3) == "image"


# ---- the queue -----------------------------------------------------------------------------------


def test_many_who_ask_at_once_are_answered_in_few_batches_of_like_lengths(
    bert, text_classification, monkeypatch
):
    service = PredictionService(
        bert, text_classification, name="tiny", spec=ServeSpec(batch=8, queue=60)
    )
    sizes = []
    plain = service._predict

    def predict(rows):
        sizes.append([len(row["input_ids"]) for row in rows])
        return plain(rows)

    monkeypatch.setattr(service, "_predict", predict)
    long, short = "def read " * 8, "def"
    texts = [long if number % 4 == 0 else short for number in range(32)]
    together = probs_of(service, texts)
    alone = {text: probs_of(service, [text])[0] for text in (long, short)}
    for text, probs in zip(texts, together, strict=True):
        torch.testing.assert_close(probs, alone[text], atol=1e-5, rtol=0)
    assert sizes[:4] == [sizes[0]] * 1 + sizes[1:4]
    batches = sizes[:-2]
    assert all(max(each) < 2 * min(each) for each in batches), batches
    assert len(batches) == 4
    assert service.health()["batches"] == 6
    service.close()
