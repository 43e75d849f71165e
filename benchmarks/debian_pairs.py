"""Pairs of sentences in two languages, out of the package descriptions of Debian and its kin.

    python benchmarks/debian_pairs.py --to fr --longest 200 OUT.jsonl

It fetches the lists of this machine's own package archives into a folder of its own, by apt, which
changes nothing of the system. A description is a line and paragraphs; where its translation has as
many, each is a pair: fields `en`, the language (`fr`), `package`. Equal pairs come once. The texts
are under the licences of the packages, mostly free ones.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

Descriptions = dict[tuple[str, str], list[str]]
"""(package, digest of the English description) → its line and its paragraphs."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--to", default="fr", help="the language of the translations")
    parser.add_argument("--longest", type=int, default=10**6, help="characters of either text")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        lists = _fetch(Path(folder), asked.to)
        source, target = (_descriptions(lists, language) for language in ("en", asked.to))
    pairs = list(dict.fromkeys(_pairs(source, target, asked.longest)))
    with asked.out.open("w", encoding="utf-8") as stream:
        for package, english, other in pairs:
            record = {"en": english, asked.to: other, "package": package}
            stream.write(json.dumps(record, ensure_ascii=False) + "\n")
    print(f"{len(pairs):,} pairs of {len(source.keys() & target.keys()):,} descriptions")


def _fetch(folder: Path, language: str) -> Path:
    """The folder of the lists that apt has fetched."""
    lists = folder / "lists"
    (lists / "partial").mkdir(parents=True)
    options = {
        "Dir::State::Lists": lists,
        "Dir::Cache": folder,
        "Acquire::Languages": f"en,{language}",
    }
    words = [f"--option={name}={value}" for name, value in options.items()]
    subprocess.run(["apt-get", *words, "update"], check=True, stdout=subprocess.DEVNULL)
    return lists


def _descriptions(lists: Path, language: str) -> Descriptions:
    found: Descriptions = {}
    for file in sorted(lists.glob(f"*_i18n_Translation-{language}*")):
        done = subprocess.run(
            ["/usr/lib/apt/apt-helper", "cat-file", str(file)],
            check=True,
            capture_output=True,
            encoding="utf-8",
        )
        for stanza in done.stdout.split("\n\n"):
            found |= dict([entry] if (entry := _entry(stanza)) else ())
    return found


def _entry(stanza: str) -> tuple[tuple[str, str], list[str]] | None:
    fields: dict[str, str] = {}
    name = ""
    for line in stanza.splitlines():
        if line.startswith(" "):
            fields[name] += "\n" + line[1:]
        else:
            name, _, value = line.partition(": ")
            name = "text" if name.startswith("Description-") and name[-3:] != "md5" else name
            fields[name] = value
    if not {"Package", "Description-md5", "text"} <= fields.keys():
        return None
    # A line with a dot alone parts paragraphs; a space more at its start begins a line of its own.
    line, _, rest = fields["text"].partition("\n")
    paragraphs = [" ".join(part.split()) for part in rest.split("\n.\n")]
    return (fields["Package"], fields["Description-md5"]), [line.strip(), *paragraphs]


def _pairs(
    source: Descriptions, target: Descriptions, longest: int
) -> Iterator[tuple[str, str, str]]:
    for key in sorted(source.keys() & target.keys()):
        parts = source[key], target[key]
        if len(parts[0]) == len(parts[1]):
            for english, other in zip(*parts, strict=True):
                fits = 0 < len(english) <= longest and 0 < len(other) <= longest
                if fits and english != other:
                    yield key[0], english, other


if __name__ == "__main__":
    main()
