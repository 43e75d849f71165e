import json

import pytest
from pydantic import ValidationError

from raymodel.errors import SpecError
from raymodel.job.spec import Job
from raymodel.spec.document import dotted
from raymodel.spec.fields import find_field, in_words, nearest, walk_fields
from raymodel.spec.reference import describe
from raymodel.spec.schema import json_schema


def test_a_section_lists_its_fields_with_type_default_and_meaning():
    text = describe(Job, "pretrain.optimizer")
    assert "learning_rate: a number, above 0 and at most 1,000 [optional]" in text
    assert "gradient_clip: a number, from 0 to 1,000,000,000 [default: 1.0]" in text
    assert "The peak of the schedule." in text


def test_a_field_that_may_be_two_things_explains_both():
    text = describe(Job, "cluster.workers")
    assert "a whole number, from 1 to 100,000 or a section (min, max)" in text
    assert "The run grows up to this many workers" in text


def test_items_of_a_list_and_free_keys_are_described_without_an_index():
    assert "python:stdlib" in describe(Job, "finetune.sources.path")
    assert "loguniform: a list, each item a number [optional]" in describe(
        Job, "finetune.sweep.search"
    )


def test_operational_fields_say_that_they_may_change():
    text = describe(Job, "pretrain.micro_batch")
    assert "[optional; may change when a run goes on]" in " ".join(text.split())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pretrian", "pretrian: unknown key 'pretrian'; did you mean 'pretrain'?"),
        ("pretrain.optimizer.learning_rat", "did you mean 'learning_rate'?"),
        (
            "seed.x",
            "seed is a whole number, from 0 to 4,294,967,295; it has no field 'x'",
        ),
    ],
)
def test_an_unknown_field_names_the_nearest(name, message):
    with pytest.raises(SpecError) as caught:
        describe(Job, name)
    assert message in str(caught.value)


@pytest.mark.parametrize("name", [".", "a.", "x" * 10_000, "a." * 50_000, "prepare.\x1b[31m\n"])
def test_a_name_that_is_nonsense_is_refused_in_one_short_line(name):
    with pytest.raises(SpecError) as caught:
        describe(Job, name)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


def test_the_path_of_a_message_can_be_described_as_it_stands():
    text = describe(Job, "prepare.sources.0.weight")
    assert "How often this source's documents appear" in text
    assert "a number, above 0 and at most 10,000 [default: 1.0]" in text


def test_every_field_of_the_job_language_has_a_docstring_and_a_type_in_words():
    for path in walk_fields(Job):
        field = find_field(Job, path)
        assert field.description, f"{dotted(path)} has no docstring"
        assert "typing" not in field.in_words, dotted(path)
        assert describe(Job, dotted(path)).startswith(f"{dotted(path)}: ")


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (int | None, "a whole number"),
        (bool, "true or false"),
        (str | tuple[str, ...], "text or a list, each item text"),
        (dict[str, float], "a section of free keys, each a number"),
    ],
)
def test_types_are_told_in_words(annotation, words):
    assert in_words(annotation) == words


def test_nearest_finds_a_slip_and_not_a_stranger():
    assert nearest("learning_rat", ["learning_rate", "eps"]) == "learning_rate"
    assert nearest("zzz", ["learning_rate", "eps"]) is None


def test_the_json_schema_accepts_what_the_job_accepts(write_job):
    jsonschema = pytest.importorskip("jsonschema")
    schema = json_schema(Job)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    jsonschema.Draft202012Validator.check_schema(schema)
    job = {
        "name": "x",
        "cluster": {"workers": {"min": 1, "max": 2}},
        "pretrain": {
            "data": "runs/x/prepare",
            "model": {"preset": "llama-tiny"},
            "global_batch": 32,
            "duration": "2M tokens",
            "fault": {"hang_after": "10min"},
        },
    }
    Job(**job)
    validator = jsonschema.Draft202012Validator(json.loads(json.dumps(schema)))
    validator.validate(job)
    assert not validator.is_valid(job | {"seeed": 1})
    assert not validator.is_valid(job | {"cluster": {"workers": "two"}})


@pytest.mark.parametrize(
    ("clean", "is_taken"),
    [
        ({"steps": ["unicode", "steps:mine", {"name": "gopher", "min_words": "2K"}]}, True),
        ({"steps": [{"name": "steps:mine"}, {"name": "unicode"}]}, True),
        ({"steps": ["gofer"]}, False),
        ({"steps": [{"name": "gopher", "min_word": 2}]}, False),
        ({"dedup": "near"}, True),
        ({"dedup": {"name": "near", "ngram": 3}}, True),
        ({"dedup": "my:own"}, False),
    ],
)
def test_the_json_schema_takes_a_name_or_a_section_where_the_job_does(clean, is_taken):
    jsonschema = pytest.importorskip("jsonschema")
    job = {
        "name": "x",
        "finetune": {
            "task": "text_classification",
            "base": "folder",
            "sources": [{"path": "x", "fields": {"label": "y"}}],
            "global_batch": 2,
            "duration": "1 epochs",
            "clean": clean,
        },
    }
    schema = json.loads(json.dumps(json_schema(Job)))
    assert jsonschema.Draft202012Validator(schema).is_valid(job) == is_taken
    if is_taken:
        Job(**job)
    else:
        with pytest.raises(ValidationError):
            Job(**job)
