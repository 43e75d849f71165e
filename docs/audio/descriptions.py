"""Writes a table of what is said of Tux Paint's stamps in one language: a clip and its words a row.

A stamp has a text file, whose first line is English, `fr.utf8=` before the French and so on, and
a clip for each language in which somebody read it aloud. The column `stamp` is the same for all
languages.

    python docs/audio/descriptions.py tuxpaint/usr/share/tuxpaint/stamps fr
"""

import csv
import sys
from pathlib import Path


def said(stamp: Path, language: str) -> str | None:
    """What stands in the text file of a stamp, None where this language does not."""
    lines = stamp.with_suffix(".txt").read_text(encoding="utf-8").splitlines()
    if language == "en":
        return lines[0].strip() if lines else None
    begin = f"{language}.utf8="
    return next((line[len(begin) :].strip() for line in lines if line.startswith(begin)), None)


def main(root: Path, language: str) -> None:
    ending = "_desc.ogg" if language == "en" else f"_desc_{language}.ogg"
    with open(root / f"descriptions_{language}.csv", "w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["audio", "text", "stamp"])
        for clip in sorted(root.rglob(f"*{ending}")):
            stamp = clip.with_name(clip.name.removesuffix(ending))
            text = said(stamp, language) if stamp.with_suffix(".txt").exists() else None
            if text:
                rows.writerow([clip.relative_to(root), text, stamp.relative_to(root)])


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
