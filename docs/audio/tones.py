"""Writes a table for each of the two speakers of gcin-voice: a clip and its tone a row.

A folder is a syllable, whose name ends in its tone, 2, 3 or 4, or in none for the first; a clip
in it is called after its speaker.

    python docs/audio/tones.py gcin/usr/share/gcin-voice/ogg
"""

import csv
import sys
from pathlib import Path

SPEAKERS = ("3", "5")


def main(root: Path) -> None:
    for speaker in SPEAKERS:
        with open(root / f"speaker_{speaker}.csv", "w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["audio", "label"])
            for clip in sorted(root.glob(f"*/{speaker}.ogg")):
                last = clip.parent.name[-1]
                rows.writerow([clip.relative_to(root), last if last in "234" else "1"])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
