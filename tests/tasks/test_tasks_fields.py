"""What a source must say of the roles of a task."""

import pytest

from raymodel.data.spec import SourceSpec
from raymodel.tasks import TASKS, get_task
from raymodel.tasks.fields import PLAIN_TEXT, find_wrong_roles, find_wrong_sources, used_fields


def wrong(task, **fields):
    source = SourceSpec(path="x", fields=fields)
    return [*find_wrong_roles(source, get_task(task).fields, task)]


@pytest.mark.parametrize(
    ("task", "fields", "role", "rule"),
    [
        ("causal_lm", {"response": "{b}"}, "prompt", "says nothing of the role `prompt`"),
        ("causal_lm", {"prompt": "{a}"}, "response", 'fields: {response: "{response}"}'),
        ("causal_lm", {"prompt": "a", "response": "{b}"}, "prompt", "like {a}"),
        ("causal_lm", {"prompt": "{", "response": "{b}"}, "prompt", "write plain field names"),
        ("text_classification", {"lable": "x"}, "lable", "did you mean 'label'?"),
        ("text_classification", {"label": "{x}"}, "label", "without braces"),
    ],
)
def test_a_role_that_cannot_be_read_is_named_with_the_fix(task, fields, role, rule):
    ((found, why),) = wrong(task, **fields)
    assert found == role
    assert rule in why


def test_what_has_a_default_may_be_left_out():
    assert wrong("text_classification") == []
    assert [*find_wrong_roles(SourceSpec(path="x"), PLAIN_TEXT, "prepare")] == []


@pytest.mark.parametrize("name", TASKS)
def test_every_task_is_given_something_and_asked_for_something(name):
    fields = get_task(name).fields
    assert any(not field.is_target for field in fields.values())
    assert not next(iter(fields.values())).is_target, "the first role is what the model is given"


def sources(*fields, **more):
    return [SourceSpec(path=f"s{i}", fields=each, **more) for i, each in enumerate(fields)]


def test_an_optional_role_is_named_by_all_sources_or_by_none():
    roles = get_task("text_classification").fields
    pair = {"text_pair": "{b}"}
    for named, used in ((sources(pair, pair), True), (sources({}, {}), False)):
        assert [*find_wrong_sources(named, roles, "text_classification")] == []
        assert ("text_pair" in used_fields(roles, named)) is used
    [(index, why)] = find_wrong_sources(sources(pair, {}), roles, "text_classification")
    assert index == 1
    assert "'s1' says nothing of the role `text_pair`" in why
    assert "in all sources, or in none" in why
    assert "like {b}" in wrong("text_classification", text_pair="b")[0][1]


def test_a_separator_is_for_roles_of_several_classes():
    named = sources({}, label_separator=";")
    for task, count in (("multi_label_classification", 0), ("text_classification", 1)):
        assert len([*find_wrong_sources(named, get_task(task).fields, task)]) == count


def test_the_old_names_of_roles_are_answered_with_where_they_stand_now():
    with pytest.raises(ValueError, match=r"write fields: \{prompt: '\{a\}', response: '\{b\}'\}"):
        SourceSpec(path="x", prompt="{a}", response="{b}")
