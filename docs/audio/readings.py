"""Writes a table of the readings of pocketsphinx-testdata: a clip and what is said in it a row.

python docs/audio/readings.py sphinx/usr/share/pocketsphinx/test/data/librivox
"""

import csv
import re
import sys
from pathlib import Path

LINE = re.compile(r"<s> (?P<text>.*) </s> \((?P<name>.*)\)")


def main(root: Path) -> None:
    lines = (root / "transcription").read_text(encoding="utf-8").splitlines()
    with open(root / "readings.csv", "w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["audio", "text"])
        for found in filter(None, map(LINE.match, lines)):
            rows.writerow([f"{found['name']}.wav", found["text"]])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
