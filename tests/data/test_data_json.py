"""Reading JSON: lines, and everything that people call JSON lines."""

import json
from pathlib import Path
from typing import Any

import pytest
from reading import lines_left_out, read_file, texts

from raymodel.data.readers import json_values, lines

THREE = [{"text": "one"}, {"text": "two"}, {"text": "three"}]
JSON_LINES = "".join(json.dumps(record) + "\n" for record in THREE)


@pytest.mark.parametrize(
    "data",
    [
        JSON_LINES,
        "\ufeff" + JSON_LINES,
        JSON_LINES.rstrip(),
        JSON_LINES.replace("\n", "\r\n"),
        JSON_LINES.replace("\n", "\r"),
        "\n \n" + JSON_LINES.replace("\n", "\n\n\t\n"),
        JSON_LINES.replace("}\n", "},\n"),
        JSON_LINES.replace("}\n", "} , \n"),
        json.dumps(THREE),
        json.dumps(THREE, indent=2),
        "\n" + json.dumps(THREE, indent="\t"),
        "[" + JSON_LINES.replace("}\n", "},\n").removesuffix(",\n") + "]\n",
        "[" + JSON_LINES.replace("}\n", "}\n,").removesuffix(",") + "]",
        "\n".join(json.dumps(record, indent=4) for record in THREE),
        "\n".join(json.dumps(record, indent=4) for record in THREE).replace("\n", "\r\n"),
    ],
)
@pytest.mark.parametrize("partition_bytes", [1, 2, 3, 9, 1000])
def test_every_way_to_write_records_is_read(
    tmp_path: Path, data: str, partition_bytes: int
) -> None:
    records, account = read_file(tmp_path, "x.json", data, partition_bytes, format="jsonl")
    assert (texts(records), account.left_out) == (["one", "two", "three"], {})


@pytest.mark.parametrize(
    ("encoding", "written"),
    [
        ("utf-16", "utf-16-le"),  # without a mark: as this machine
        ("utf-16", "\ufeff utf-16-le"),
        ("utf-16", "\ufeff utf-16-be"),
        ("utf-16-be", "utf-16-be"),
        ("UTF_16LE", "\ufeff utf-16-le"),
        ("utf-32", "\ufeff utf-32-be"),
        ("utf-8-sig", "utf-8"),
        ("utf-8-sig", "\ufeff utf-8"),
        ("gb18030", "\ufeff gb18030"),
    ],
)
def test_an_encoding_is_read_by_its_own_line_ends(
    tmp_path: Path, encoding: str, written: str
) -> None:
    # The bytes of a line end lie inside of these characters too.
    wanted = ["ਊ", "\u0a00\u000d", "\u0a0a\u2028", ""]
    mark, _, codec = written.rpartition(" ")
    text = "\n".join(json.dumps({"text": text}, ensure_ascii=False) for text in wanted)
    data = (mark + text).encode(codec)
    records, account = read_file(tmp_path, "x.jsonl", data, 3, format="jsonl", encoding=encoding)
    assert (texts(records), account.left_out) == (wanted, {})


def test_a_file_in_another_encoding_says_in_which(tmp_path: Path) -> None:
    _, account = read_file(tmp_path, "x.jsonl", JSON_LINES.encode("utf-16"), 20, format="jsonl")
    reason = "line not utf-8: its file begins with the mark of utf-16"
    assert account.left_out[reason] == 1
    assert account.kept == 0


def test_line_separators_of_unicode_end_no_line(tmp_path: Path) -> None:
    records, _ = read_file(tmp_path, "x.jsonl", '{"text": "a\u2028b\x85c"}\n', format="jsonl")
    assert texts(records) == ["a\u2028b\x85c"]


TRAPS: list[tuple[str, str]] = [
    ('{"text": "a", "text": "b"}', "with a name twice in one object"),
    ('{"text": "a", "more": [{"x": 1, "x": 1}]}', "with a name twice in one object"),
    (f'{{"text": {"9" * 5000}}}', "with a number of too many digits"),
    (f'{{"text": {"[" * 100_000}{"]" * 100_000}}}', "nested too deep"),
    (f'{{"text": {"[" * 100}{"]" * 100}}}', "nested too deep"),
    ('{"text": "a"} {"text": "b"}', "with more than a JSON value"),
    ('{"text": "a', "not JSON"),
    ("[1]", "not a JSON object"),
    ("null", "not a JSON object"),
    ("\0", "not JSON"),
]


@pytest.mark.parametrize(("line", "reason"), TRAPS)
@pytest.mark.parametrize("partition_bytes", [7, 10**6])
def test_a_line_that_is_no_record_costs_only_itself(
    tmp_path: Path, line: str, reason: str, partition_bytes: int
) -> None:
    data = f'{{"text": "before"}}\n{line}\n{{"text": "behind"}}\n'
    if len(line) > 10_000:
        partition_bytes *= 10_000
    records, account = read_file(tmp_path, "x.jsonl", data, partition_bytes, format="jsonl")
    assert (texts(records), account.left_out) == (["before", "behind"], {f"line {reason}": 1})
    (reject,) = account.rejects
    assert reject.place.byte == 19
    assert partition_bytes == 7 or reject.place.line == 2


@pytest.mark.parametrize(("value", "reason"), [trap for trap in TRAPS if "{" in trap[0]])
def test_a_value_that_is_no_record_costs_only_itself(
    tmp_path: Path, value: str, reason: str
) -> None:
    if "more than" in reason:
        return  # two values are two records here
    data = f'[\n  {{"text": "before"}},\n  {value},\n  {{"text": "behind"}}\n]\n'
    records, account = read_file(tmp_path, "x.json", data, 50, format="jsonl")
    assert texts(records) == ["before", "behind"]
    assert lines_left_out(account) == {f"value {reason}": [3]}


def test_the_inside_of_a_damaged_value_is_no_record(tmp_path: Path) -> None:
    damaged = '  {\n    "text": oops,\n    "more":\n    {"text": "inside"}\n  },\n'
    data = f'[\n{damaged}  {{"text": "behind"}}\n]\n'
    records, account = read_file(tmp_path, "x.json", data, format="jsonl")
    assert texts(records) == ["behind"]
    assert lines_left_out(account) == {"value not JSON": [2]}


def test_what_python_writes_for_no_number_is_read_as_it_writes_it(tmp_path: Path) -> None:
    line = json.dumps({"text": "a", "score": float("inf"), "other": float("nan")})
    (record,), _ = read_file(tmp_path, "x.jsonl", line, format="jsonl")
    assert record.fields["score"] == float("inf")
    assert record.fields["other"] != record.fields["other"]


@pytest.mark.parametrize("indent", [None, 2])
def test_records_inside_of_one_object_are_named_with_the_fix(
    tmp_path: Path, indent: int | None
) -> None:
    data = json.dumps({"version": 1, "data": THREE}, indent=indent)
    records, account = read_file(tmp_path, "x.json", data, format="jsonl")
    ((reason, count),) = account.left_out.items()
    assert (records, count) == ([], 1)
    assert "the records in its list 'data'" in reason
    assert "jq .data" in reason


def test_a_record_may_hold_a_list_of_objects(tmp_path: Path) -> None:
    line = json.dumps({"text": "a", "authors": [{"name": "b"}]})
    records, _ = read_file(tmp_path, "x.jsonl", line, format="jsonl")
    assert texts(records) == ["a"]


@pytest.mark.parametrize("form", ["lines", "array", "pretty"])
def test_values_are_read_in_bounded_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """Chunks of a few bytes cut every token, and a value without an end does not fill memory."""
    monkeypatch.setattr(json_values, "_CHUNK_BYTES", 5)
    monkeypatch.setattr(json_values, "MAX_VALUE_CHARS", 3000)
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 3000)
    wanted: list[dict[str, Any]] = [
        {"text": f'😀é"\\ {i}', "n": [-1.5e10, 123456789, True, None, {}]} for i in range(30)
    ]
    long = {"text": "x" * 9000}
    if form == "lines":
        data = "".join(json.dumps(record) + "\n" for record in [*wanted[:15], long, *wanted[15:]])
    else:
        indent = None if form == "array" else 2
        data = json.dumps(wanted, indent=indent)
        assert json.loads(data) == wanted
    records, account = read_file(tmp_path, "x.json", data, 100, format="jsonl")
    assert [record.fields for record in records] == wanted
    assert account.left_out == ({"line longer than a record may be": 1} if form == "lines" else {})


def test_a_long_value_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_values, "_CHUNK_BYTES", 50)
    monkeypatch.setattr(json_values, "MAX_VALUE_CHARS", 2000)
    data = json.dumps([THREE[0], {"text": "x" * 9000}, *THREE[1:]], indent=1)
    records, account = read_file(tmp_path, "x.json", data, format="jsonl")
    assert texts(records) == ["one", "two", "three"]
    assert lines_left_out(account) == {"value not JSON": [5]}


def test_lines_of_lists_are_not_taken_for_an_array(tmp_path: Path) -> None:
    data = '[{"role": "user"}]\n[{"role": "user"}]\n{"text": "a"}\n'
    records, account = read_file(tmp_path, "x.jsonl", data, 5, format="jsonl")
    assert (texts(records), account.left_out) == (["a"], {"line not a JSON object": 2})


def test_a_heading_in_brackets_is_a_line(tmp_path: Path) -> None:
    data = "[INFO] started\n" + JSON_LINES
    records, account = read_file(tmp_path, "x.jsonl", data, 5, format="jsonl")
    assert (len(records), account.left_out) == (3, {"line not JSON": 1})
