"""Whisper: what is given before the text, what bears loss, and answers from the same beginning."""

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoConfig, Wav2Vec2Config

from raymodel.model.load import load_for_use
from raymodel.storage.uri import Location
from raymodel.tasks import get_task
from raymodel.tasks.base import LeftOut, Limits
from raymodel.tasks.spec.audio import SpeechRecognitionSpec
from raymodel.testing.sounds import clip, write_tiny_whisper

TEXTS = ("a few", "words", "a")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_tiny_whisper(tmp_path_factory.mktemp("whisper"))


@pytest.fixture(scope="module")
def loaded(base):
    return load_for_use(base, "speech_recognition")


def rows(task):
    made = [task.features({"audio": clip("abc"), "text": t}, None).features for t in TEXTS]
    return {name: [row[name] for row in made] for name in made[0]}


def ids_of(task, *words):
    return task.processor.tokenizer.convert_tokens_to_ids(list(words))


def test_the_beginning_is_given_and_the_text_and_its_end_bear_loss(loaded):
    model, task = loaded
    columns = rows(task)
    batch = task.collate(columns)
    start, plain, end = ids_of(task, "<|startoftranscript|>", "<|notimestamps|>", "<|endoftext|>")
    words = columns["transcript_ids"][0]
    count = len(words)
    assert batch["decoder_input_ids"][0, : count + 2].tolist() == [start, plain, *words]
    assert batch["labels"][0, : count + 2].tolist() == [-100, *words, end]
    assert task.num_targets(batch) == sum(len(ids) + 1 for ids in columns["transcript_ids"])
    logits = model(
        input_features=batch["input_features"], decoder_input_ids=batch["decoder_input_ids"]
    ).logits
    expected = F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), reduction="sum")
    whole = task.loss(model, batch)
    torch.testing.assert_close(whole, expected)
    parts = [{name: column[i : i + 1] for name, column in columns.items()} for i in range(3)]
    cut = sum(task.loss(model, task.collate(part)) for part in parts)
    torch.testing.assert_close(cut, whole)


def test_answers_are_the_most_probable_tokens_after_that_beginning(loaded):
    model, task = loaded
    columns = rows(task)
    features = task.collate(columns)["input_features"]
    prefix = ids_of(task, "<|startoftranscript|>", "<|notimestamps|>")
    [end] = ids_of(task, "<|endoftext|>")
    for row, answer in enumerate(task.predict(model, columns, Limits(max_new_tokens=1))):
        ids = list(prefix)
        while len(ids) < model.config.max_target_positions:
            with torch.no_grad():
                logits = model(
                    input_features=features[row : row + 1],
                    decoder_input_ids=torch.tensor([ids]),
                ).logits
            ids.append(int(logits[0, -1].argmax()))
            if ids[-1] == end:
                break
        expected = task.processor.text.decode([i for i in ids[2:] if i != end]).strip()
        assert answer == {"text": expected}


def test_references_are_the_transcripts(loaded):
    _, task = loaded
    assert task.references(rows(task)) == list(TEXTS)


def test_what_cannot_be_learnt_is_left_out_with_its_reason(loaded):
    _, task = loaded
    long = task.features({"audio": clip("abcdefgh"), "text": "a"}, None)
    assert long == LeftOut("audio of more than 1 s with a transcript")
    assert task.features({"audio": clip("a"), "text": " "}, None) == LeftOut("empty transcript")
    many = task.features({"audio": clip("a"), "text": "zq " * 300}, None)
    assert many == LeftOut("transcript of more than 440 tokens")


def test_a_language_is_part_of_the_beginning(base):
    spec = SpeechRecognitionSpec(language="de")
    task = get_task("speech_recognition")(spec).reading_as(Location.parse(str(base)))
    batch = task.collate(rows(task))
    words = ("<|startoftranscript|>", "<|de|>", "<|transcribe|>", "<|notimestamps|>")
    assert batch["decoder_input_ids"][0, :4].tolist() == ids_of(task, *words)
    assert batch["labels"][0, :3].tolist() == [-100] * 3
    unknown = type(task)(SpeechRecognitionSpec(language="xx"), processor=task.processor)
    with pytest.raises(ValueError, match=r"lacks <\|xx\|>.*language by its code"):
        unknown.check_processor(task.processor)


def test_the_language_that_is_heard_is_the_most_probable_one(loaded):
    from raymodel.tasks.whisper import languages_heard

    model, task = loaded
    features = task.collate(rows(task))["input_features"]
    heard = languages_heard(model, features, task.processor.tokenizer)
    start, german, english = ids_of(task, "<|startoftranscript|>", "<|de|>", "<|en|>")
    logits = model(input_features=features, decoder_input_ids=torch.full((3, 1), start)).logits[
        :, 0
    ]
    expected = ["de" if row[german] > row[english] else "en" for row in logits]
    assert heard == expected


def test_a_model_of_many_languages_needs_one_to_learn_and_one_of_english_has_none(base):
    config = AutoConfig.from_pretrained(base)
    kind = get_task("speech_recognition")
    with pytest.raises(ValueError, match="knows English alone"):
        kind(SpeechRecognitionSpec(language="de")).check_model(config)
    config.vocab_size = 51_865
    with pytest.raises(ValueError, match="say which one"):
        kind(SpeechRecognitionSpec()).check_model(config)
    kind(SpeechRecognitionSpec(language="de")).check_model(config)
    kind().check_model(config)
    with pytest.raises(ValueError, match="take speech_ctc"):
        kind().check_model(Wav2Vec2Config())


def test_a_base_is_told_how_long_clips_are_within_its_window(base):
    place, kind = Location.parse(str(base)), get_task("speech_recognition")
    short = SpeechRecognitionSpec.model_validate({"audio": {"max_seconds": 0.5}})
    task = kind(short).reading_as(place)
    task.adapt_processor({})
    assert task.processor.audio.max_seconds == 0.5
    long = SpeechRecognitionSpec.model_validate({"audio": {"max_seconds": 2}})
    with pytest.raises(ValueError, match="the model takes 1 s at a time"):
        kind(long).reading_as(place).adapt_processor({})
