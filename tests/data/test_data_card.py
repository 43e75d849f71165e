"""The data card: its figures are those of the data, and its page is safe and fits."""

import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from images import digits
from labelled import classes, labelled, write_records

from raymodel.data.card.build import _padding_of
from raymodel.data.card.notes import notes_of
from raymodel.data.card.page import card_page
from raymodel.data.card.sketch import MAX_NAMES, Histogram, Names, bin_index, next_edge
from raymodel.data.prepare import Recipe, prepare_dataset
from raymodel.data.readers.png import encode_png
from raymodel.data.rows import RowKind
from raymodel.data.spec import CleanSpec, SourceSpec, TokenizerSpec
from raymodel.data.step import Step
from raymodel.modality.text import TextProcessor
from raymodel.storage.uri import Location
from raymodel.tasks import make_task
from raymodel.tasks.spec.audio import AudioClassificationSpec
from raymodel.tasks.spec.image import ImageClassificationSpec
from raymodel.testing.sounds import clip, encoded, tones

Execute = Callable[[Step], None]
HOSTILE = '<script>document.title="taken"</script><img src="https://x.example/y.png" onerror=a()>'


def card_of(recipe: Recipe, place: Location, execute: Execute) -> dict[str, Any]:
    prepare_dataset(recipe, place, execute, lambda text: None)
    return json.loads((place / "card.json").read_text())


class Tags(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


# ---- sketches ------------------------------------------------------------------------------------


def test_a_histogram_put_together_of_parts_is_that_of_the_whole() -> None:
    numbers = np.random.default_rng(0).lognormal(6, 2, 5000).astype(np.int64)
    whole, parts = Histogram(), Histogram()
    whole.add(numbers)
    for part in np.array_split(numbers, 7):
        one = Histogram()
        one.add(part)
        parts.merge(json.loads(json.dumps(one.summary())))
    assert parts.summary() == whole.summary()
    assert (whole.count, whole.total) == (5000, int(numbers.sum()))
    for share in (0.1, 0.5, 0.9):
        exact = np.quantile(numbers, share, method="inverted_cdf")
        assert 0.875 * exact <= whole.quantile(share) <= exact
    assert whole.quantile(1.0) <= whole.most == numbers.max()


def test_the_bins_of_a_histogram_meet_end_to_end() -> None:
    histogram = Histogram()
    histogram.add(np.arange(5000))
    edges = sorted(histogram.bins)
    assert [next_edge(edge) for edge in edges[:-1]] == edges[1:]
    assert [bin_index(edge) for edge in edges] == [*range(len(edges))]
    assert all(count <= max(1, edge / 8) for edge, count in histogram.bins.items())
    histogram.add([2**62])
    assert len(histogram.bins) < 500


def test_names_are_bounded_and_short_by_no_more_than_they_say() -> None:
    true = {f"often {i}": 1000 - i for i in range(20)} | {f"once {i}": 1 for i in range(3000)}
    names = Names()
    for start in range(0, len(true), 500):
        part = Names()
        part.add(dict([*true.items()][start : start + 500]))
        names.merge(json.loads(json.dumps(part.summary())))
    assert len(names) <= MAX_NAMES
    assert names.lost
    assert [name for name, _ in names.most(20)] == [f"often {i}" for i in range(20)]
    for name, count in names.most(MAX_NAMES):
        assert true[name] - names.lost <= count <= true[name]


def test_padding_is_what_random_batches_need() -> None:
    chance = np.random.default_rng(0)
    lengths = chance.integers(10, 1000, 20_000)
    histogram = Histogram()
    histogram.add(lengths)
    drawn = chance.choice(lengths, (4000, 8))
    measured = 1 - drawn.sum() / (8 * drawn.max(axis=1)).sum()
    assert _padding_of(histogram, 8) == pytest.approx(measured, abs=0.02)
    alike = Histogram()
    alike.add([260] * 9)
    assert _padding_of(alike, 8) == pytest.approx(0, abs=0.001)


# ---- figures -------------------------------------------------------------------------------------


def test_every_record_of_each_source_is_in_the_card(
    recipe: Recipe, place: Location, corpus: Path, execute: Execute
) -> None:
    (corpus / "b/junk.bin").write_bytes(b"\0\0")
    card = card_of(recipe, place, execute)
    assert [source["read"] for source in card["sources"]] == [120, 31]
    assert [source["duplicates"] for source in card["sources"]] == [1, 3]
    assert [source["left_out"] for source in card["sources"]] == [{}, {"binary file": 1}]
    for source in card["sources"]:
        documents = sum(split["documents"] for split in source["splits"].values())
        lost = source["duplicates"] + sum(source["left_out"].values())
        assert source["read"] == documents + lost
        assert source["sizes"]["characters"]["count"] == documents
        assert 0 < len(source["kept"]) <= 6
    assert card["sources"][1]["dropped"][0]["file"] == "junk.bin"
    assert card["counts"]["read"] == 151
    a, b = (source["epoch"] for source in card["sources"])
    assert b["visits"] == 2 * card["sources"][1]["splits"]["train"]["rows"]
    assert a["share"] + b["share"] == pytest.approx(1)


def test_fertility_and_lengths_are_those_of_the_tokenizer(
    recipe: Recipe, place: Location, corpus: Path, execute: Execute
) -> None:
    only = replace(recipe, sources=recipe.sources[:1])
    card = card_of(only, place, execute)
    texts = {file.read_text() for file in (corpus / "a").glob("*.txt")}
    encode = TextProcessor.load(place / "data/processor").tokenizer.backend_tokenizer.encode
    tokens = [len(encode(text).ids) for text in texts]
    (source,) = card["sources"]
    assert source["fertility"] == {
        "per_character": pytest.approx(sum(tokens) / sum(map(len, texts))),
        "per_word": pytest.approx(sum(tokens) / sum(len(text.split()) for text in texts)),
        "per_byte": pytest.approx(sum(tokens) / sum(len(text.encode()) for text in texts)),
        "unknown": None,
        "tokens": sum(tokens),
        "characters": sum(map(len, texts)),
        "bytes": sum(len(text.encode()) for text in texts),
    }
    (script,) = source["written_in"]["script"].items()
    assert script == ("Latin", {**without_unknown(source), "documents": len(texts)})
    assert isinstance(source["fertility"]["characters"], int)
    assert source["sizes"]["tokens"]["most"] == max(tokens)
    train = source["splits"]["train"]
    assert card["padding"]["train"] == pytest.approx(1 - train["tokens"] / (train["rows"] * 16))


def without_unknown(source: dict[str, Any]) -> dict[str, Any]:
    return {name: each for name, each in source["fertility"].items() if name != "unknown"}


def test_fertility_is_told_by_script_and_adds_up(
    recipe: Recipe, place: Location, corpus: Path, execute: Execute
) -> None:
    for index in range(40):
        (corpus / f"b/x{index}.txt").write_text(f"шаги {index} обучения на {index * index} данных")
    (corpus / "b/digits.txt").write_text("12 34 56")
    card = card_of(recipe, place, execute)
    own = card["sources"][1]["written_in"]["script"]
    assert list(own) == ["Cyrillic", "Latin", "none"]
    assert own["Cyrillic"]["documents"] == 40
    text = "шаги 11 обучения на 121 данных"
    encode = TextProcessor.load(place / "data/processor").tokenizer.backend_tokenizer.encode
    assert own["Cyrillic"]["per_word"] == pytest.approx(len(encode(text).ids) / 6, rel=0.1)
    for name in ("tokens", "characters", "bytes"):
        total = card["sources"][1]["fertility"][name]
        assert sum(sums[name] for sums in own.values()) == total
    shown = Tags(card_page(card)).text
    assert "By script" in shown
    assert "By language" not in shown
    # The tokenizer is one of English, so that two bytes of Cyrillic are more than a token.
    assert [note for note in notes_of(card) if "'Cyrillic'" in note]


def test_fertility_is_told_by_language_where_cleaning_tells_it(
    recipe: Recipe, place: Location, corpus: Path, execute: Execute
) -> None:
    texts = {
        "en": "The harbour lies to the north of the old town, and {} ships come from afar.",
        "de": "Der Hafen liegt im Norden der Altstadt, und {} Schiffe kommen von weit her.",
    }
    for language, text in texts.items():
        for index in range(20):
            (corpus / f"b/{language}{index}.txt").write_text(text.format(index))
    clean = CleanSpec.model_validate({"steps": [{"name": "language", "languages": ["en", "de"]}]})
    only = replace(recipe, sources=recipe.sources[1:], clean=clean)
    card = card_of(only, place, execute)
    written = card["sources"][0]["written_in"]
    assert list(written) == ["language"]
    assert written["language"]["de"]["documents"] == 20
    assert written["language"]["en"]["documents"] >= 20
    assert "By language" in Tags(card_page(card)).text


def test_unknown_tokens_are_counted_and_told(
    recipe: Recipe, place: Location, corpus: Path, execute: Execute
) -> None:
    of_characters = TokenizerSpec(vocab_size=20, tokens="characters")
    card = card_of(replace(recipe, processor=of_characters), place, execute)
    unknown = card["sources"][0]["fertility"]["unknown"]
    assert 0.001 < unknown < 0.5
    assert any("does not know" in note for note in notes_of(card))


def test_a_card_of_labels_names_the_rare_ones_and_where_documents_come_from(
    tmp_path: Path, place: Location, execute: Execute, tokenizer: Location
) -> None:
    records = [
        {
            "text": f"the step {i} of a seed {i * i}",
            "label": "rare" if i < 3 else "often",
            "url": f"https://{'a' if i % 3 else 'b'}.example/{i}",
            "language": "en",
        }
        for i in range(90)
    ]
    source = classes(write_records(tmp_path / "x.jsonl", [*records, {"text": "", "label": "a"}]))
    card = card_of(labelled(source, "text_classification", tokenizer), place, execute)
    assert sum(card["labels"]["train"].values()) == card["counts"]["train"]
    (told,) = card["sources"]
    assert told["names"]["host"]["most"] == [["a.example", 60], ["b.example", 30]]
    assert told["names"]["field language"]["most"] == [["en", 90]]
    notes = " ".join(notes_of(card))
    assert "'rare'" in notes
    assert "Labels are uneven" in notes
    assert "documents are held out" in notes
    assert set(card["padding"]) == {"batches of 8", "batches of 32"}


def test_a_card_of_images_shows_them_and_their_sizes(
    tmp_path: Path, place: Location, execute: Execute
) -> None:
    images = digits(30)
    for index, (pixels, label) in enumerate(zip(images.pixels, images.labels, strict=True)):
        folder = tmp_path / f"images/{label}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{index}.png").write_bytes(encode_png(pixels[:, : 32 if index else 16]))
    spec = ImageClassificationSpec.model_validate({"image": {"size": 32, "channels": 1}})
    task = make_task(spec)
    recipe = labelled(
        SourceSpec(path=str(tmp_path / "images"), format="class_folders"),
        "image_classification",
        place,
    )
    kind = RowKind(task=spec, length=None)
    recipe = replace(
        recipe, kind=kind, reads=task.processor_class(), processor=task.fresh_processor()
    )
    card = card_of(recipe, place, execute)
    (source,) = card["sources"]
    assert source["names"]["size"]["most"] == [["32 × 32", 29], ["16 × 32", 1]]
    assert (source["sizes"]["width"]["least"], source["sizes"]["height"]["least"]) == (16, 32)
    assert source["fertility"] == {}
    shown = [image for tag, image in Tags(card_page(card)).found if tag == "img"]
    assert len(shown) == 6
    assert all(image["src"].startswith("data:image/png;base64,") for image in shown)


def test_a_card_of_clips_tells_how_long_they_are(
    tmp_path: Path, place: Location, execute: Execute
) -> None:
    spec = AudioClassificationSpec.model_validate({"audio": {"max_seconds": 2}})
    for index in range(12):
        folder = tmp_path / f"clips/{'ab'[index % 2]}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{index}.wav").write_bytes(clip("ab", seed=index))
    (tmp_path / "clips/a/slow.wav").write_bytes(encoded(tones("abc", rate=8000), rate=8000))
    task = make_task(spec)
    source = SourceSpec(path=str(tmp_path / "clips"), format="class_folders")
    recipe = replace(
        labelled(source, "audio_classification", place),
        kind=RowKind(task=spec, length=None),
        reads=task.processor_class(),
        processor=task.fresh_processor(),
    )
    (told,) = card_of(recipe, place, execute)["sources"]
    assert told["sizes"]["milliseconds"]["least"] == 300
    assert told["sizes"]["milliseconds"]["most"] == 450
    assert told["names"]["rate"]["most"] == [["16,000 Hz", 12], ["8,000 Hz", 1]]


def test_near_duplicates_and_evaluation_sets_are_told_where_they_were_looked_for(
    recipe: Recipe, place: Location, corpus: Path, execute: Execute
) -> None:
    words = next((corpus / "a").glob("*.txt")).read_text().split()
    (corpus / "a/near.txt").write_text(" ".join([*words[:-1], "other"]))
    clean = CleanSpec.model_validate(
        {
            "dedup": {"name": "near"},
            "decontaminate": {"sets": {"quiz": {"path": str(corpus / "b/003.txt")}}},
        }
    )
    card = card_of(replace(recipe, clean=clean), place, execute)
    assert card["common"]["near"]["duplicates"] >= 1
    assert card["common"]["decontaminated"]["quiz"]["texts"] == 1
    shown = Tags(card_page(card)).text
    assert "recall at threshold" in shown
    assert "quiz" in shown


def test_what_cleaning_steps_changed_is_shown_by_source(
    recipe: Recipe, place: Location, corpus: Path, execute: Execute
) -> None:
    for index in range(4):
        (corpus / f"b/mail{index}.txt").write_text(f"write to a{index}@b.example or c@d.example")
    clean = CleanSpec.model_validate({"steps": ["pii"]})
    card = card_of(replace(recipe, clean=clean), place, execute)
    first, second = (source["changed"] for source in card["sources"])
    assert (first, second["pii"]["records"], second["pii"]["email"]) == ({}, 4, 8)
    assert "8 × email" in Tags(card_page(card)).text


def test_work_that_was_begun_before_there_were_cards_can_be_ended(
    recipe: Recipe, place: Location, execute: Execute
) -> None:
    def as_before(step: Step) -> None:
        execute(step)
        for file in (place / "work" / step.name).local_path.glob("*.json"):
            summary = json.loads(file.read_text())
            file.write_text(json.dumps({k: v for k, v in summary.items() if k != "profile"}))

    card = card_of(recipe, place, as_before)
    assert card["counts"]["read"] == 150
    assert card_page(card)


# ---- the page ------------------------------------------------------------------------------------


@pytest.fixture
def hostile(tmp_path: Path, place: Location, execute: Execute, tokenizer: Location) -> Location:
    """A card of records that try to be more than text, in every place that a page shows."""
    records = [
        {
            "text": f"{HOSTILE} {i} {'x' * (700 + 200 * i)} \x1b[31m",
            "label": f"{HOSTILE} {i % 2}",
            "url": f"https://{'h' * 50}.example/{i}",
            "source": HOSTILE,
        }
        for i in range(20)
    ]
    bad = [{"text": HOSTILE}, {"text": " ", "label": HOSTILE}]
    path = write_records(tmp_path / "<b>&amp;.jsonl", [*records, *bad])
    recipe = labelled(classes(path), "text_classification", tokenizer)
    prepare_dataset(recipe, place, execute, lambda text: None)
    return place / "card.html"


def test_whatever_the_data_says_is_text_on_the_page(hostile: Location) -> None:
    page = hostile.read_text()
    tags = Tags(page)
    names = {tag for tag, _ in tags.found}
    assert not names & {"script", "img", "iframe", "object", "link", "form", "a"}
    assert HOSTILE in tags.text
    assert "<b>&amp;.jsonl" in tags.text
    allowed = {"class", "style", "title", "content", "http-equiv", "name", "charset", "lang"}
    allowed |= {"viewbox", "role", "x", "y", "width", "height", "x1", "x2", "y1", "y2", "dir"}
    allowed |= {"text-anchor", "scope", "tabindex", "aria-hidden"}
    assert {name for _, attributes in tags.found for name in attributes} <= allowed
    assert "\x1b" not in page
    assert len(page) < 100_000
    assert "more characters" in tags.text


def test_a_page_loads_nothing_and_says_so(hostile: Location) -> None:
    page = hostile.read_text()
    tags = Tags(page).found
    policies = [a["content"] for tag, a in tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]
    assert not re.search(r"url\(|@import", page)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium")
@pytest.mark.parametrize("width", [500, 1280])
def test_a_browser_runs_nothing_of_the_data_and_needs_no_sideways_scrolling(
    hostile: Location, tmp_path: Path, width: int
) -> None:
    page = hostile.read_text()
    opened = dom_of(page, tmp_path, width)
    assert "<title>Data card</title>" in opened
    assert html.escape(HOSTILE, quote=False) in opened
    # Without the policy, which would keep our own script out, the same page is measured.
    measured = re.sub(r"<meta http-equiv[^>]*>", "", page).replace(
        "</body>",
        "<script>document.title = document.documentElement.scrollWidth + ' of ' + innerWidth + "
        "', ' + document.querySelectorAll('svg rect').length</script></body>",
    )
    found = re.search(r"<title>(\d+) of (\d+), (\d+)</title>", dom_of(measured, tmp_path, width))
    assert found is not None
    content, window, bars = map(int, found.groups())
    assert content <= window
    assert bars > 3


def dom_of(page: str, folder: Path, width: int) -> str:
    file = folder / "page.html"
    file.write_text(page)
    command = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += [f"--user-data-dir={folder / 'profile'}", f"--window-size={width},900"]
    done = subprocess.run(
        [*command, file.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout
