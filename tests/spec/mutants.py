"""Job files of the repository, damaged as people, editors and generators damage them.

Each mutant follows from its seed alone, so that a failure is seen again by its number.
"""

import copy
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).parents[2]
JOBS = (*sorted((REPOSITORY / "jobs").glob("*.yaml")), REPOSITORY / "raymodel/spec/first_job.yaml")

SCALARS = (
    *("", "null", "~", "true", "-1", "0", "1", "1.5", "1e-3", "1e999", "-1e999", ".nan", ".inf"),
    *("9" * 19, "9" * 30, "9" * 5000, "100%", "-5%", "0%", "2M", "1.5", "1T tokens", "0 steps"),
    *("0.0001 epochs", "1000T steps", "1000000d", "0.01ms", "2001-01-01", "1:30", "0x10"),
    *('""', "''", "[]", "{}", "[[[[]]]]", "*a", "&a 1", "&a [*a]", "<<", "!!set {a}", "!!str 3"),
    *("!!python/name:os.system", '"\\0"', '"\\e[31m"', '"\\ud800"', '"\\U00110000"', "٣", "ﬀ"),
    *("\u202e", "a: b: c", "- - -", "? x", "|", ">", "%YAML 9.9", "---", "...", "\t", "#", "@"),
    "x" * 10_000,
)
VALUES = (
    *(None, True, False, -1, 0, 1, 2**31, 2**63, 10**29, 10**400, 0.5, -0.0, 1e308, "", " ", "x"),
    *(float("inf"), float("nan"), [], {}, [[]], {"": 1}, {"a.b": 1}, ["x"] * 300, "x" * 10_000),
    *({f"key{i}": i for i in range(400)}, "100%", "1T tokens", "1e-30%", "5000 steps", "llama"),
)
LINES = (
    "<<: *a",
    "? [a]",
    "  nested: {deep: [1, {deeper: [2]}]}",
    "name: again",
    "\tindented: by a tab",
    "key: " + "[" * 60 + "]" * 60,
    "key: " + "[" * 1000,
    "a: &a [x, x]\nb: &b [*a, *a, *a]\nc: [*b, *b, *b]",
    "".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9 if i else 'x')}]\n" for i in range(12)),
    "\n".join(" " * i + "a:" for i in range(200)),
)


def mutant(seed: int) -> bytes:
    """The job file of this number: one of the repository's after one to four changes."""
    chance = random.Random(seed)
    text = chance.choice(JOBS).read_text(encoding="utf-8")
    if chance.random() < 0.5:
        text = _dump(_changed_tree(yaml.safe_load(text), chance))
    for _ in range(chance.randint(0 if chance.random() < 0.4 else 1, 3)):
        text = chance.choice(TEXT_CHANGES)(text, chance)
    data = bytearray(text.encode("utf-8", "surrogatepass"))
    if data and chance.random() < 0.1:
        for _ in range(chance.randint(1, 3)):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(data)


def _dump(tree: Any) -> str:
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=10**6)


def _changed_tree(tree: Any, chance: random.Random) -> Any:
    for _ in range(chance.randint(1, 3)):
        places = list(_places(tree))
        if not places:
            return tree
        holder, key = chance.choice(places)
        change = chance.randrange(6)
        if change == 0:
            del holder[key]
        elif change == 1:  # a value of elsewhere, shared: it is written as an alias
            other, there = chance.choice(places)
            holder[key] = other[there] if not _holds(other[there], holder) else None
        elif change == 2 and isinstance(holder, dict):
            holder[_misspelt(str(key), chance)] = holder.pop(key)
        elif change == 3:
            for _ in range(chance.choice((1, 5, 30))):  # PyYAML's writer calls itself
                holder[key] = [holder[key]] if chance.random() < 0.5 else {str(key): holder[key]}
        else:
            holder[key] = copy.deepcopy(chance.choice(VALUES))
    return tree


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Each (list or dict, index or key) in the tree."""
    entries = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in list(entries):
        yield tree, key
        if isinstance(value, dict | list):
            yield from _places(value)


def _holds(value: Any, inner: Any) -> bool:
    return value is inner or (
        isinstance(value, dict | list) and any(here[key] is inner for here, key in _places(value))
    )


def _misspelt(key: str, chance: random.Random) -> str:
    i = chance.randrange(len(key) + 1)
    return chance.choice((key[:i] + key[i + 1 :], key[:i] + "x" + key[i:], key + "\n", key * 500))


def _span(text: str, chance: random.Random) -> tuple[int, int]:
    start = chance.randrange(len(text) + 1)
    return start, min(len(text), start + chance.choice((1, 2, 10, 100)))


def _cut(text: str, chance: random.Random) -> str:
    start, end = _span(text, chance)
    return text[:start] + text[end:]


def _repeat(text: str, chance: random.Random) -> str:
    start, end = _span(text, chance)
    return text[:end] + text[start:end] * chance.choice((1, 3, 500)) + text[end:]


def _insert_character(text: str, chance: random.Random) -> str:
    start, _ = _span(text, chance)
    return (
        text[:start]
        + chance.choice("\0\x07\t\r\n:#-[]{}&*!|>'\"%@`\x85\ufeff\ud800é🦙")
        + text[start:]
    )


def _replace_value(text: str, chance: random.Random) -> str:
    lines = text.split("\n")
    i = chance.randrange(len(lines))
    name, colon, _ = lines[i].partition(": ")
    lines[i] = f"{name}{colon or ': '}{chance.choice(SCALARS)}"
    return "\n".join(lines)


def _insert_line(text: str, chance: random.Random) -> str:
    lines = text.split("\n")
    lines.insert(chance.randrange(len(lines) + 1), chance.choice(LINES))
    return "\n".join(lines)


def _move_line(text: str, chance: random.Random) -> str:
    lines = text.split("\n")
    line = lines.pop(chance.randrange(len(lines)))
    lines.insert(
        chance.randrange(len(lines) + 1), chance.choice((line, f"  {line}", line.lstrip()))
    )
    return "\n".join(lines)


def _repeat_block(text: str, chance: random.Random) -> str:
    lines = text.split("\n")
    i = chance.randrange(len(lines))
    return "\n".join(lines + lines[i : i + 12] * chance.choice((1, 2, 300)))


def _truncate(text: str, chance: random.Random) -> str:
    return text[: chance.randrange(len(text) + 1)]


TEXT_CHANGES: tuple[Callable[[str, random.Random], str], ...] = (
    *(_cut, _repeat, _insert_character, _replace_value, _replace_value, _insert_line),
    *(_move_line, _repeat_block, _truncate),
)
