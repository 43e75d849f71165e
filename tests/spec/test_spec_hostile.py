"""Files made to hang, flood or break the reader: each is one short message, at once."""

from pathlib import Path

import pytest
from calls import few_calls

from raymodel.errors import SpecError
from raymodel.job.check import check_job
from raymodel.spec.load import load_job

JOB = """\
name: x
prepare:
  sources: [{path: a}]
  tokenizer: {vocab_size: 4096}
  sequence_length: 256
"""
SWEEP = """\
name: x
finetune:
  task: causal_lm
  base: somewhere
  sources: [{path: a, fields: {prompt: "{x}", response: "{y}"}}]
  global_batch: 32
  duration: 1 epoch
  sweep:
    trials: 2
    search:
"""


def _refused(path: Path, *overrides: str) -> str:
    with pytest.raises(SpecError) as caught, few_calls():
        check_job(load_job(path, overrides))
    message = str(caught.value)
    assert len(message) < 10_000
    assert all(line.isprintable() for line in message.split("\n"))
    return message.replace(str(path), "job.yaml")


@pytest.fixture
def hostile(tmp_path: Path):
    def refuse(content: str | bytes, *overrides: str) -> str:
        path = tmp_path / "job.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
        return _refused(path, *overrides)

    return refuse


def _laughs(first: str, times: str) -> str:
    """Twelve lines that stand for nine to the power of eleven values."""
    lines = [f"a0: &a0 {first}"]
    lines += [f"a{i}: &a{i} {times.replace('*', f'*a{i - 1}')}" for i in range(1, 12)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (_laughs("[x]", f"[{', '.join('*' * 9)}]"), "more than 5,000 keys and values, aliases"),
        (
            _laughs("{x: 1}", f"{{{', '.join(f'k{i}: *' for i in range(9))}}}"),
            "more than 5,000 keys and values, aliases",
        ),
        (f"a: &a {'x' * 60_000}\nb: [{', '.join(['*a'] * 100)}]", "more than 1,048,576 characters"),
        (_laughs("[x]", "[[[[[[*]]]]]]"), "more than 24 sections and lists inside each other"),
        (f"{JOB}base: &b {{seed: 1}}\ncluster: {{<<: *b}}", ":7: `<<` merges sections"),
        ("".join(f"key{i}: 1\n" for i in range(200_000)), ": more than 128 KiB"),
        ("[" * 1000 + "]" * 1000, ":1: more than 24 sections and lists inside each other"),
        ("[" * 100_000, ":1: more than 24 sections and lists inside each other"),
        ("- " * 60_000, ":1: more than 24 sections and lists inside each other"),
        ("".join(" " * i + "a:\n" for i in range(300)), ":24: more than 24 sections and lists"),
        (f"name: x\nseed: {'9' * 5000}", ":2: seed: 9999"),
        ("name: x\nseed: 99999999999999999999", ":2: seed: 99999999999999999999 is too large"),
        (f"name: {'x' * 10_000}", "xxx'… (10,000 characters) does not fit"),
        ("name: x\nstorage: a\0b", ":2: the character U+0000 has no place in YAML"),
        ('name: x\nstorage: "a\\0b"', ":2: storage: 'a\\x00b' holds the control character U+0000"),
        ('name: x\n"\\e[31m": 1', ":2: '\\x1b[31m' holds the control character U+001B"),
        ('name: x\nstorage: "\\ud800"', ":2: storage: '\\ud800' holds the control character"),
        ('name: x\nstorage: "\\U00110000"', ":2: this is not YAML: an escape"),
        ("name: x\n\tstorage: a", ":2: this is not YAML: a tab stands where YAML wants spaces"),
        (b"name: x\nstorage: \xe9", ":2: byte 17 of the file is not UTF-8"),
        (JOB.encode("utf-16"), ":1: byte 0 of the file is not UTF-8"),
        ("name: x\n---\nname: y", ":2: this is not YAML: expected a single document"),
        ("--- !!set {a, b}", ":1: the tag 'tag:yaml.org,2002:set' is not part of a job file"),
        ("name: !!binary aGk=", ":1: the tag 'tag:yaml.org,2002:binary'"),
        ("name: !!str 3", ":1: the tag 'tag:yaml.org,2002:str'"),
        (f"{JOB}seed: 2001-01-01", ":6: seed: '2001-01-01' is not a whole number"),
        (f"{JOB}seed: .nan", ":6: seed: '.nan' is not a whole number"),
        (
            f"{JOB}pretrain: {{model: {{preset: llama-tiny, config: {{x: -1e999}}}}}}",
            ":6: pretrain.model.config.x: -1e999 is too large for a number",
        ),
        (f"a: *{'b' * 10_000}", ":1: this is not YAML: found undefined alias 'bbb"),
        ("? [a]\n: b", ":1: a key must be text"),
        ("# nothing", ": nothing is written here"),
        ("--- ", ": null is not a job"),
    ],
    ids=range(32),
)
def test_a_hostile_file_is_one_short_message_with_its_line(hostile, content, message):
    text = hostile(content)
    assert message in text
    assert text.startswith("job.yaml")
    assert "\n" not in text


def test_of_very_many_problems_the_first_twenty_are_listed_and_all_are_counted(hostile):
    lines = hostile(JOB + "".join(f"pretrian{i}: 1\n" for i in range(2000))).split("\n")
    assert len(lines) == 22
    assert lines[0] == "2,000 problems"
    assert lines[1].startswith("job.yaml:6: pretrian0: unknown key 'pretrian0'; did you mean")
    assert lines[20].startswith("job.yaml:25: pretrian19: unknown key")
    assert lines[21] == "and 1,980 more"


@pytest.mark.parametrize(
    "text",
    [
        JOB.replace("[{path: a}]", f"[{'x, ' * 4000}]"),
        f"{JOB}trackers: [{'1, ' * 4000}]",
        f"{JOB}pretrain:\n" + "".join(f"  global_btch{i}: 1\n" for i in range(2000)),
        SWEEP + "".join(f"      optimizer.learning_rat{i}: {{choice: [1]}}\n" for i in range(100)),
        SWEEP + f"      optimizer.learning_rate: {{choice: [{'1, ' * 999} x]}}\n",
        SWEEP + f"      optimizer.learning_rate: {{choice: [{'1, ' * 2000}]}}\n",
    ],
    ids=["sources", "choices", "keys", "search", "choice", "long choice"],
)
def test_no_check_takes_longer_than_the_file_is_long(hostile, text):
    hostile(text)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (f"seed={'9' * 5000}", "(5,000 characters) is too large for a number of 64 bits"),
        (f"{'a.' * 50_000}a=1", "more than 24 sections and lists inside each other"),
        (f"prepare.sources.{'9' * 5000}.path=x", "prepare.sources is a list of 1; '9999"),
        ("prepare.sources.٠.path=x", "'٠' is none of its items"),
        (f"seed={'[' * 1000}", "more than 24 sections and lists inside each other"),
        ("x" * 10_000, "'… (10,000 characters) is not a setting"),
        (f"{'x' * 10_000}=1", "… (10,000 characters): unknown key"),
        ("seed=\0", "--set seed: the character U+0000 has no place in YAML"),
        ("a\nb=1", "--set a\\nb: unknown key 'a\\nb'"),
        ("seed=# none", '--set seed: no value after "="'),
        ("seed=---", '--set seed: no value after "="'),
        ("seed=1\n---\n2", "--set seed: this is not YAML: expected a single document"),
        ("seed=!!python/name:os.system x", "--set seed: the tag"),
        ("seed=&a [*a]", "contains itself"),
        (f"seed={'x' * 200_000}", "--set: given 1 times with 200,005 characters in all"),
        (_laughs("[x]", f"[{', '.join('*' * 9)}]").replace("a0: ", "seed=a0: ", 1), "5,000 keys"),
    ],
    ids=range(16),
)
def test_a_hostile_setting_is_one_short_message(hostile, override, message):
    text = hostile(JOB, override)
    assert message in text
    assert text.startswith("--set")


def test_settings_count_together(hostile):
    assert "--set: given 2,000 times" in hostile(JOB, *["seed=1"] * 2000)
    values = f"[{'1, ' * 40}]"
    settings = [f"pretrain.model.config.x{i}={values}" for i in range(199)]
    assert "more than 5,000 keys and values" in hostile(JOB, *settings)


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/urandom"])
def test_a_device_without_an_end_is_read_no_further_than_a_job_may_be(device):
    assert _refused(Path(device)).startswith("job.yaml: more than 128 KiB")


def test_a_path_that_names_no_file_is_refused(tmp_path):
    assert "cannot be read: Is a directory" in _refused(tmp_path)
    assert "File name too long" in _refused(tmp_path / ("x" * 10_000))
    assert "no path of a file" in _refused(Path("a\0b"))


def test_a_byte_order_mark_and_windows_line_ends_are_no_fault(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + JOB.replace("\n", "\r\n").encode())
    assert load_job(path).job.name == "x"
