"""From sources to shards, in this process: what is kept, how it is resumed, what is refused."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from labelled import labelled

from raymodel.data.prepare import Recipe, prepare_dataset
from raymodel.data.shard import dataset_of
from raymodel.data.spec import CleanSpec, SourceSpec
from raymodel.data.step import Step, complete_item, missing_items
from raymodel.errors import ArtifactError, SourceError
from raymodel.modality.text import TextProcessor
from raymodel.storage.uri import Location

Execute = Callable[[Step], None]


def decode_all(place: Location, content: dict, split: str) -> list[str]:
    """The documents of a split, as text."""
    data = dataset_of(place, content, split)
    table, tokenizer = (
        data.read(np.arange(data.num_rows)),
        TextProcessor.load(data.processor).tokenizer,
    )
    ids = [
        token
        for tokens, length in zip(
            table["tokens"].to_pylist(), table["length"].to_pylist(), strict=True
        )
        for token in tokens[:length]
    ]
    return tokenizer.decode(ids).split(tokenizer.eos_token)[:-1]


def files_of(place: Location) -> dict[str, bytes]:
    return {entry.name: (place / entry.name).read_bytes() for entry in place.walk()}


def test_every_document_is_once_in_one_split(
    recipe: Recipe, place: Location, corpus: Path, execute: Execute
) -> None:
    content = prepare_dataset(recipe, place, execute, lambda text: None)
    train, holdout = (decode_all(place, content, split) for split in ("train", "holdout"))
    texts = {file.read_text() for file in corpus.rglob("*.txt")}
    assert sorted(train + holdout) == sorted(texts)
    assert 5 <= len(holdout) <= 30
    assert content["duplicates"] == 4
    for split, documents in {"train": train, "holdout": holdout}.items():
        assert content["splits"][split]["documents"] == len(documents)
        assert content["splits"][split]["num_bytes"] == sum(len(d.encode()) for d in documents)


def test_each_source_is_a_part_with_its_weight(
    recipe: Recipe, place: Location, execute: Execute
) -> None:
    content = prepare_dataset(recipe, place, execute, lambda text: None)
    parts = content["splits"]["train"]["parts"]
    assert [part["weight"] for part in parts] == [1.0, 2.0]
    assert content["splits"]["train"]["rows"] == sum(part["rows"] for part in parts)
    assert not (place / "work").exists()


def test_text_that_spells_a_special_token_stays_text(
    recipe: Recipe, place: Location, corpus: Path, execute: Execute
) -> None:
    for file in corpus.rglob("*.txt"):
        file.unlink()
    (corpus / "a/x.txt").write_text("before <|endoftext|> after")
    recipe = replace(recipe, sources=recipe.sources[:1], holdout=0.0)
    content = prepare_dataset(recipe, place, execute, lambda text: None)
    data = dataset_of(place, content, "train")
    tokens = data.read(np.arange(data.num_rows))["tokens"].to_pylist()
    assert sum(row.count(content["processor"]["end_of_text"]) for row in tokens) == 1


@pytest.mark.parametrize("stop_after", range(8))
def test_an_interrupted_run_ends_in_the_same_bytes(
    recipe: Recipe, tmp_path: Path, execute: Execute, stop_after: int
) -> None:
    class PowerCut(Exception):
        pass

    left = [stop_after]

    def break_down(step: Step) -> None:
        for item in reversed(missing_items(step)):
            if not left[0]:
                raise PowerCut
            left[0] -= 1
            complete_item(step, item)

    whole, broken = (Location.parse(str(tmp_path / name)) for name in ("whole", "broken"))
    prepare_dataset(recipe, whole, execute, lambda text: None)
    if stop_after < 7:
        with pytest.raises(PowerCut):
            prepare_dataset(recipe, broken, break_down, lambda text: None)
    prepare_dataset(recipe, broken, execute, lambda text: None)
    assert files_of(broken) == files_of(whole)


def test_a_finished_dataset_is_not_made_again(
    recipe: Recipe, place: Location, execute: Execute
) -> None:
    def refuse(step: Step) -> None:
        raise AssertionError(f"{step.name} ran again")

    first = prepare_dataset(recipe, place, execute, lambda text: None)
    assert prepare_dataset(recipe, place, refuse, lambda text: None) == first


def test_what_is_left_out_is_told_and_kept_in_the_manifest(
    recipe: Recipe, place: Location, corpus: Path, execute: Execute
) -> None:
    (corpus / "a/junk.bin").write_bytes(b"\0\0\0")
    (corpus / "b/latin.txt").write_bytes(b"caf\xe9 au lait")
    said: list[str] = []
    content = prepare_dataset(recipe, place, execute, said.append)
    assert content["left_out"] == {"binary file": 1, "not utf-8": 1}
    assert any("1 × binary file" in line for line in said)


def test_nothing_left_after_cleaning_is_an_error_with_the_reasons(
    recipe: Recipe, place: Location, execute: Execute
) -> None:
    strict = replace(recipe, clean=CleanSpec(min_chars=10**6))
    with pytest.raises(SourceError, match=r"150 × shorter than clean\.min_chars"):
        prepare_dataset(strict, place, execute, lambda text: None)


def test_the_wrong_format_is_an_error_that_names_what_was_seen(
    recipe: Recipe, place: Location, corpus: Path, execute: Execute
) -> None:
    wrong = SourceSpec(path=str(corpus / "a/000.txt"), format="jsonl")
    with pytest.raises(SourceError, match=r"1 × line not JSON.*Check `format`"):
        prepare_dataset(replace(recipe, sources=(wrong,)), place, execute, lambda text: None)


def test_a_template_that_fits_no_record_shows_the_fields(
    recipe: Recipe, place: Location, corpus: Path, execute: Execute
) -> None:
    wrong = SourceSpec(path=str(corpus / "a"), fields={"text": "{body}"})
    with pytest.raises(SourceError, match=r"without the field 'body'.*fields path, text"):
        prepare_dataset(replace(recipe, sources=(wrong,)), place, execute, lambda text: None)


def test_a_holdout_of_everything_leaves_nothing_to_train_on(
    recipe: Recipe, place: Location, execute: Execute
) -> None:
    with pytest.raises(SourceError, match="no training rows"):
        prepare_dataset(replace(recipe, holdout=1.0), place, execute, lambda text: None)


def test_a_split_without_rows_is_named(recipe: Recipe, place: Location, execute: Execute) -> None:
    content = prepare_dataset(replace(recipe, holdout=0.0), place, execute, lambda text: None)
    with pytest.raises(ArtifactError, match="no rows in the split 'holdout'"):
        dataset_of(place, content, "holdout")


def test_a_share_leaves_out_what_is_trained_on_alone_and_a_larger_one_holds_it(
    recipe: Recipe, tmp_path: Path, execute: Execute
) -> None:
    kept, held = list[set[str]](), list[list[str]]()
    for share in (0.2, 0.6, 1.0):
        source = recipe.sources[0].model_copy(update={"share": share})
        place = Location.parse(str(tmp_path / f"{share}"))
        one = replace(recipe, sources=(source,), max_left_out=0.1)
        content = prepare_dataset(one, place, execute, lambda text: None)
        kept.append(set(decode_all(place, content, "train")))
        held.append(sorted(decode_all(place, content, "holdout")))
        left_out = content["left_out"].get("beyond the share of its source", 0)
        assert left_out + len(kept[-1]) + len(held[-1]) + content["duplicates"] == 120
    assert kept[0] < kept[1] < kept[2]
    assert 10 <= len(kept[0]) <= 35
    assert 50 <= len(kept[1]) <= 80
    assert held[0] == held[1] == held[2]


def test_a_whole_source_has_the_fingerprint_that_it_had_before_there_were_shares() -> None:
    whole, part = (SourceSpec(path="a", share=share) for share in (1.0, 0.5))
    assert "share" not in whole.identity()
    assert part.identity()["share"] == 0.5


# ---- labelled examples ---------------------------------------------------------------------------


def test_classes_become_labelled_examples(
    recipe: Recipe, place: Location, corpus: Path, execute: Execute, tokenizer: Location
) -> None:
    source = SourceSpec(path=str(corpus), format="folder", fields={"label": "label"})
    examples = labelled(source, "text_classification", tokenizer)
    content = prepare_dataset(examples, place, execute, lambda text: None)
    assert content["labels"] == ["a", "b"]
    assert content["duplicates"] == 1
    assert content["label_conflicts"] == 3, "they are in both folders"
    train = dataset_of(place, content, "train")
    rows = train.read(np.arange(train.num_rows))
    loaded = TextProcessor.load(train.processor).tokenizer
    for ids, label in zip(rows["input_ids"].to_pylist(), rows["label"].to_pylist(), strict=True):
        text = loaded.decode(ids)
        own = [file.read_text() for file in (corpus / "ab"[label]).iterdir()]
        assert any(document.startswith(text) for document in own)
    total = content["splits"]["train"]["rows"] + content["splits"]["holdout"]["rows"]
    assert total == 149


def test_a_module_held_out_in_prepare_is_held_out_in_fine_tuning(
    recipe: Recipe, tmp_path: Path, execute: Execute, tokenizer: Location
) -> None:
    modules = tmp_path / "modules"
    modules.mkdir()
    for index in range(40):
        (modules / f"m{index}.py").write_text(
            "".join(
                f'def f{index}_{i}(x):\n    """Adds {index} and {i}."""\n    return x + {i}\n\n'
                for i in range(3)
            )
        )
    text = replace(recipe, sources=(SourceSpec(path=str(modules)),), holdout=0.3)
    pairs = SourceSpec(
        path=str(modules),
        format="python_functions",
        fields={"prompt": "{code}\n", "response": "{docstring}"},
    )
    examples = labelled(pairs, "causal_lm", tokenizer, holdout=0.3)
    sides = []
    for name, one in {"text": text, "pairs": examples}.items():
        out = Location.parse(str(tmp_path / name))
        content = prepare_dataset(one, out, execute, lambda text: None)
        held = dataset_of(out, content, "holdout")
        table, loaded = (
            held.read(np.arange(held.num_rows)),
            TextProcessor.load(held.processor).tokenizer,
        )
        column = "tokens" if name == "text" else "input_ids"
        whole = "".join(loaded.decode(ids) for ids in table[column].to_pylist())
        sides.append({index for index in range(40) if f"f{index}_0(" in whole})
    assert sides[0] == sides[1]
    assert 4 <= len(sides[0]) <= 22
