import pytest

from raymodel.errors import SpecError
from raymodel.spec.document import Position, dotted, parse_document


def data(text: str) -> object:
    return parse_document(text, "x.yaml").data


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1.0e-5", 1e-5),
        ("2E6", 2e6),
        (".5", 0.5),
        ("-3", -3),
        ("010", 10),
        ("true", True),
        ("False", False),
        ("~", None),
        ("null", None),
    ],
)
def test_plain_scalars_follow_yaml_1_2(text, value):
    result = data(f"a: {text}")["a"]
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize(
    "text", ["on", "off", "yes", "no", "1:30", "2024-01-31", "1_000", "0x10", ".inf", "5%"]
)
def test_what_yaml_1_1_would_convert_stays_text(text):
    assert data(f"a: {text}") == {"a": text}


def test_quoted_numbers_and_words_are_text():
    assert data("""{a: "1", b: 'true', c: "null", d: ""}""") == {
        "a": "1",
        "b": "true",
        "c": "null",
        "d": "",
    }


def test_block_text_keeps_its_lines():
    assert data("a: |-\n  {code}\n  1") == {"a": "{code}\n1"}


def test_every_key_and_item_has_its_line_and_column():
    positions = parse_document("a:\n  b: [1,\n    2]\nc: {d: 3}\n", "x.yaml").positions
    assert positions["a",] == Position("x.yaml", 1, 1)
    assert positions["a", "b"] == Position("x.yaml", 2, 3)
    assert positions["a", "b", 1] == Position("x.yaml", 3, 5)
    assert positions["c", "d"] == Position("x.yaml", 4, 5)
    assert str(positions["c", "d"]) == "x.yaml:4"


def test_a_value_used_twice_by_an_alias_is_written_out():
    assert data("a: &x {b: 1}\nc: *x") == {"a": {"b": 1}, "c": {"b": 1}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "x.yaml:3: a is given twice (first at x.yaml:1); keep one"),
        ("a: {b: 1,\n b: 2}", "x.yaml:2: a.b is given twice (first at x.yaml:1); keep one"),
        ("a: [1, 2\nb: 3", "x.yaml:2: this is not YAML: while parsing a flow sequence"),
        ("a:\n\t- 1", "x.yaml:2: this is not YAML"),
        ("a: *b", "x.yaml:1: this is not YAML: found undefined alias 'b'"),
        ("a: 1\n---\nb: 2", "x.yaml:2: this is not YAML: expected a single document"),
        ("\na: !!python/name:os.system x", "x.yaml:2: the tag 'tag:yaml.org,2002:python/name"),
        ("a: 1\n2: b", 'x.yaml:2: the key 2 is not text; quote it: "2"'),
        ("[a, b]: 1", "x.yaml:1: a key must be text"),
        ("a: 1\nserve:\n", "x.yaml:2: serve: nothing is written after `serve:`"),
        ("a: &x [*x]", "x.yaml:1: a.0 contains itself"),
        ("", "x.yaml: nothing is written here; `raymodel init`"),
        ("a: 1\nb: \x07", "x.yaml:2: the character U+0007 has no place in YAML; remove it"),
    ],
)
def test_bad_yaml_is_one_message_with_its_line(text, message):
    with pytest.raises(SpecError) as caught:
        parse_document(text, "x.yaml")
    assert str(caught.value).startswith(message)


def test_a_path_is_shown_as_set_writes_it():
    assert dotted(("finetune", "sources", 0, "path")) == "finetune.sources.0.path"
