"""Writes the mails of the SpamAssassin corpus as texts with labels, without their headers.

    python mails.py package/data mails.jsonl

What stands in the headers (lists, hops, a filter's own score) would tell the label alone. A mail
without a body is left out.
"""

import json
import sys
from pathlib import Path


def main(folder: Path, out: Path) -> None:
    with out.open("w", encoding="utf-8") as stream:
        for file in sorted(folder.glob("*/*.json")):
            mail = json.loads(file.read_text("utf-8"))
            _, _, body = mail["text"].replace("\r\n", "\n").partition("\n\n")
            if not body.strip():
                continue
            label = "spam" if mail["group"].startswith("spam") else "ham"
            stream.write(json.dumps({"text": body, "label": label}) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
