"""Several dataset artifacts as one: exact, for any workers, and refused where they differ."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from small_corpus import WORDS, execute_here

from raymodel.data.feed import DirectFeed
from raymodel.data.mixing.card import mixture_page
from raymodel.data.mixing.seen import seen_rows
from raymodel.data.mixing.spec import MixtureSpec, MixtureStage
from raymodel.data.mixture import (
    Mixture,
    WeightedArtifact,
    check_mixture,
    inputs_of,
    mixture_of,
    resolve_mixture,
)
from raymodel.data.order import DataDigest, local_sum
from raymodel.data.prepare import Recipe, prepare_dataset
from raymodel.data.rows import RowKind
from raymodel.data.shard import Dataset, open_dataset
from raymodel.data.spec import CleanSpec, DatasetSpec, SourceSpec, TokenizerSpec
from raymodel.errors import ArtifactError, SpecError
from raymodel.observe.text import table_text
from raymodel.storage.artifact import Artifact, open_artifact
from raymodel.storage.manifest import commit_manifest
from raymodel.storage.registry import Run
from raymodel.storage.uri import Location
from raymodel.train.spec import PretrainSpec
from raymodel.train.work import legs_for, open_train, plan_for, seen_of

Make = Callable[..., Artifact]
TOKENIZER = TokenizerSpec(vocab_size=300)


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Prepares a dataset of some documents that no other one holds."""
    folder, counter = tmp_path_factory.mktemp("mixture"), iter(range(100))

    def make(
        documents: int,
        tokenizer: TokenizerSpec | Location = TOKENIZER,
        length: int = 16,
        holdout: float = 0.1,
        weight: float = 1.0,
    ) -> Artifact:
        number = next(counter)
        texts = folder / f"texts-{number}"
        texts.mkdir()
        for index in range(documents):
            words = " ".join(WORDS[(index * i + number) % len(WORDS)] for i in range(40 + index))
            (texts / f"{index:03d}.txt").write_text(f"{number} {index} {words}")
        clean = CleanSpec()
        recipe = Recipe(
            sources=(SourceSpec(path=str(texts), weight=weight),),
            clean=clean,
            holdout=holdout,
            seed=7,
            kind=RowKind(length=length),
            processor=tokenizer,
        )
        place = Location.parse(str(folder / f"runs/data-{number}/prepare/{number:016x}"))
        content = prepare_dataset(recipe, place, execute_here, lambda text: None)
        commit_manifest(
            place,
            job_name=f"data-{number}",
            stage="prepare",
            fingerprint=f"{number:016x}",
            parents={},
            content=content,
        )
        return open_artifact(place)

    return make


@pytest.fixture(scope="module")
def first(make: Make) -> Artifact:
    return make(60)


@pytest.fixture(scope="module")
def second(make: Make, first: Artifact) -> Artifact:
    return make(20, first.location / "data/processor", weight=2.0)


@pytest.fixture(scope="module")
def mixture(first: Artifact, second: Artifact) -> Mixture:
    """Its source weighs 2 and its artifact a half again as much, so its rows come three times."""
    return (WeightedArtifact(first), WeightedArtifact(second, 1.5))


def storage_of(artifact: Artifact) -> Location:
    return artifact.location.parent.parent.parent


# ---- the rows ------------------------------------------------------------------------------------


def test_an_epoch_visits_each_row_as_often_as_the_weights_say(mixture: Mixture) -> None:
    dataset = open_dataset(mixture, "train")
    one, three = (part.rows for part in dataset.parts)
    order = dataset.order(7, 10)
    assert order.rows_per_epoch == one + 3 * three
    steps = range(-(-2 * order.rows_per_epoch // 10))
    rows = np.concatenate([order.rows(step) for step in steps])
    for epoch in np.split(rows[: 2 * order.rows_per_epoch], 2):
        visits = np.bincount(epoch, minlength=dataset.num_rows)
        assert (visits[:one] == 1).all()
        assert (visits[one:] == 3).all()


def test_every_stretch_holds_each_dataset_in_its_share(mixture: Mixture) -> None:
    dataset = open_dataset(mixture, "train")
    one, three = (part.rows for part in dataset.parts)
    order, share = dataset.order(7, 50), 3 * three / (one + 3 * three)
    counts = [(order.rows(step) >= one).sum() for step in range(20)]
    assert max(abs(count - 50 * share) for count in counts) <= 2


def test_row_ids_count_through_the_artifacts(mixture: Mixture) -> None:
    dataset = open_dataset(mixture, "train")
    alone = [open_dataset(artifact, "train") for artifact, _ in mixture]
    rows = [row for each in alone for row in each.read(np.arange(each.num_rows)).to_pylist()]
    assert dataset.read(np.arange(dataset.num_rows)).to_pylist() == rows


def test_a_mixture_of_one_is_the_dataset_itself(first: Artifact) -> None:
    assert open_dataset(mixture_of(first), "train") == open_dataset(first, "train")


def digest_of(dataset: Dataset, world_size: int, start: int, end: int, state: str) -> str:
    order, digest = dataset.order(7, 10), DataDigest(state)
    feeds = [DirectFeed(dataset, order, start, end, rank, world_size) for rank in range(world_size)]
    for parts in zip(*feeds, strict=True):
        total = sum(local_sum(part.positions, part.row_ids) for part in parts)
        digest.update(parts[0].step, total)
    return digest.hex


def test_the_digest_survives_a_resize_and_a_move_of_one_artifact(
    mixture: Mixture, tmp_path: Path
) -> None:
    dataset, start = open_dataset(mixture, "train"), "0" * 16
    whole = digest_of(dataset, 1, 0, 60, start)
    half = digest_of(dataset, 2, 0, 23, start)
    artifact, weight = mixture[1]
    place = Location.parse(str(tmp_path / "elsewhere"))
    artifact.location.local_path.rename(place.local_path)
    try:
        moved = (mixture[0], WeightedArtifact(replace(artifact, location=place), weight))
        assert digest_of(open_dataset(moved, "train"), 3, 23, 60, half) == whole
    finally:
        place.local_path.rename(artifact.location.local_path)


def test_other_weights_and_another_order_of_the_datasets_are_another_digest(
    mixture: Mixture,
) -> None:
    first, second = mixture
    variants = [mixture, (second, first), (first, second._replace(weight=1.0))]
    digests = {digest_of(open_dataset(v, "train"), 1, 0, 20, "0" * 16) for v in variants}
    assert len(digests) == 3


# ---- counts --------------------------------------------------------------------------------------


def test_tokens_of_a_row_are_those_of_an_epoch(mixture: Mixture) -> None:
    dataset = open_dataset(mixture, "train")
    (one, two), (a, b) = dataset.parts, [part.content for part in dataset.parts]
    expected = (a.tokens + 3 * b.tokens) / (one.rows + 3 * two.rows)
    assert dataset.tokens_per_row == pytest.approx(expected, rel=1e-12)


def test_rows_spread_over_a_mixture_are_in_their_shares(mixture: Mixture) -> None:
    dataset = open_dataset(mixture, "train")
    one, three = (part.rows for part in dataset.parts)
    rows = dataset.spread(40)
    assert (rows >= one).sum() == pytest.approx(40 * 3 * three / (one + 3 * three), abs=1)
    assert all(a < b for a, b in pairwise(rows.tolist())), "some rows, each once"


def test_rows_spread_over_equal_weights_are_evenly_spaced(first: Artifact) -> None:
    dataset = open_dataset(first, "train")
    rows = dataset.num_rows
    assert dataset.spread(13).tolist() == [place * rows // 13 for place in range(13)]
    assert dataset.spread(10**6).tolist() == list(range(rows)), "no more than there are"


def test_a_dataset_without_held_out_rows_is_left_out_of_them(make: Make, first: Artifact) -> None:
    bare = make(20, first.location / "data/processor", holdout=0.0)
    mixture = (WeightedArtifact(bare), WeightedArtifact(first))
    held_out = open_dataset(mixture, "holdout")
    assert held_out == open_dataset(first, "holdout")
    with pytest.raises(ArtifactError, match="no rows in the split 'holdout'"):
        open_dataset(mixture_of(bare), "holdout")


# ---- which datasets ------------------------------------------------------------------------------


def test_datasets_are_named_by_run_or_folder(mixture: Mixture) -> None:
    first, second = (artifact for artifact, _ in mixture)
    storage = storage_of(first)
    name = first.manifest.job_name
    Run(storage / name).set_latest("prepare", first.fingerprint)
    specs = [
        DatasetSpec(path=f"{name}/prepare"),
        DatasetSpec(path=second.location.uri, weight=1.5),
    ]
    assert resolve_mixture(specs, storage) == mixture
    assert inputs_of(mixture) == {"data": first, "data-2": second}


def test_a_missing_dataset_is_named(first: Artifact) -> None:
    specs = [DatasetSpec(path=first.location.uri), DatasetSpec(path="nowhere/prepare")]
    with pytest.raises(ArtifactError, match=r"names 'nowhere/prepare'.*no complete dataset"):
        resolve_mixture(specs, storage_of(first))


def test_each_dataset_of_a_mixture_has_a_role_and_no_dataset_has_none(mixture: Mixture) -> None:
    assert inputs_of(()) == {}
    assert inputs_of(mixture) == {"data": mixture[0].artifact, "data-2": mixture[1].artifact}


def test_what_differs_is_one_error_with_the_way_to_mend_it(make: Make, first: Artifact) -> None:
    other = make(30, TokenizerSpec(vocab_size=280), length=24)
    with pytest.raises(ArtifactError) as caught:
        check_mixture((WeightedArtifact(first), WeightedArtifact(other)))
    message = str(caught.value)
    assert "the tokenizers (" in message
    assert "300 tokens" in message
    assert "280 tokens" in message
    assert "sequence_length (16 and 24)" in message
    assert f"`tokenizer: {{load: {first.location}/data/processor}}`" in message
    assert "`sequence_length: 16`" in message


def test_only_the_length_differing_says_only_that(make: Make, first: Artifact) -> None:
    other = make(30, first.location / "data/processor", length=24)
    with pytest.raises(ArtifactError, match=r"differ in sequence_length \(16 and 24\);"):
        check_mixture((WeightedArtifact(first), WeightedArtifact(other)))


def test_one_dataset_twice_is_refused(first: Artifact) -> None:
    with pytest.raises(ArtifactError, match=r"are the same dataset.*`weight`"):
        check_mixture((*mixture_of(first), WeightedArtifact(first, 2.0)))


def test_what_is_no_rows_of_tokens_is_refused(first: Artifact) -> None:
    def holding(content: dict[str, object]) -> Artifact:
        return replace(first, manifest=replace(first.manifest, content=content))

    with pytest.raises(ArtifactError, match="is not a dataset"):
        check_mixture(mixture_of(holding({"task": "causal_lm"})))
    examples = first.content | {"sequence_length": None, "task": "causal_lm"}
    with pytest.raises(ArtifactError, match="holds labelled examples"):
        check_mixture(mixture_of(holding(examples)))


def test_images_are_mixed_with_images_that_a_model_is_given_alike_alone(first: Artifact) -> None:
    def of_images(sha256: str, fingerprint: str) -> Artifact:
        processor = {"modality": "image", "folder": "data/processor", "sha256": sha256}
        content = first.content | {"sequence_length": None, "processor": processor}
        manifest = replace(first.manifest, content=content, fingerprint=fingerprint)
        return replace(first, manifest=manifest)

    images = WeightedArtifact(of_images("a", "1" * 16))
    check_mixture((images, WeightedArtifact(of_images("a", "2" * 16))))
    for other in (of_images("b", "3" * 16), first):
        with pytest.raises(ArtifactError, match="must be of one kind, and images of one size"):
            check_mixture((images, WeightedArtifact(other)))


# ---- temperature, limits and stages --------------------------------------------------------------


def pretrain(**mixture: object) -> PretrainSpec:
    data = [{"path": "first"}, {"path": "second", "weight": 1.5}]
    spec = {"model": {"architecture": "llama"}, "global_batch": 10, "duration": "60 steps"}
    return PretrainSpec.model_validate({**spec, "data": data, "mixture": mixture})


def sources_of(dataset: Dataset) -> list[str]:
    return [part.content.source for part in dataset.parts]


def test_temperature_makes_small_sources_come_more_often_in_as_long_an_epoch(
    mixture: Mixture,
) -> None:
    plain = open_train(pretrain(), mixture)
    sizes = [part.rows * weight for part, weight in zip(plain.parts, plain.weights(), strict=True)]
    assert plain.weights() == (1.0, 3.0)
    for temperature in (1.5, 5.0, 1000.0):
        dataset = open_train(pretrain(temperature=temperature), mixture)
        visits = [part.visits for part in dataset.order_parts]
        assert sum(visits) == pytest.approx(sum(sizes), abs=2)
        rows = [part.rows for part in plain.parts]
        wanted = [w * n ** (1 / temperature) for w, n in zip((1, 3), rows, strict=True)]
        assert visits[1] / sum(visits) == pytest.approx(wanted[1] / sum(wanted), abs=0.01)


def test_a_stage_gives_sources_and_datasets_weights_in_the_place_of_their_own(
    mixture: Mixture,
) -> None:
    dataset = open_train(pretrain(), mixture)
    first, second = sources_of(dataset)
    stages = [
        {"until": "25%", "weights": {"second": 0.5}},
        {"until": "30 steps", "weights": {first: 0, second: 4}},
        {},
    ]
    spec = pretrain(stages=stages)
    legs = legs_for(spec, dataset, 60)
    assert [leg.first_step for leg in legs] == [0, 15, 30]
    assert [leg.weights for leg in legs] == [(1.0, 2 * 0.5), (0.0, 4 * 1.5), (1.0, 3.0)]


def staged_digest(spec: PretrainSpec, dataset: Dataset, world_size: int, steps: range) -> str:
    order = dataset.order(7, 10, legs=legs_for(spec, dataset, 60))
    digest = DataDigest()
    feeds = [
        DirectFeed(dataset, order, steps.start, steps.stop, rank, world_size)
        for rank in range(world_size)
    ]
    for parts in zip(*feeds, strict=True):
        total = sum(local_sum(part.positions, part.row_ids) for part in parts)
        digest.update(parts[0].step, total)
    return digest.hex


def test_the_rows_of_stages_are_the_same_for_any_workers_from_any_step(mixture: Mixture) -> None:
    spec = pretrain(temperature=3, stages=[{"until": "25%", "weights": {"second": 9}}, {}])
    dataset = open_train(spec, mixture)
    for steps in (range(60), range(13, 40), range(20, 30)):
        assert staged_digest(spec, dataset, 1, steps) == staged_digest(spec, dataset, 3, steps)
    later, plain = range(20, 30), pretrain(temperature=3)
    assert staged_digest(spec, dataset, 1, later) != staged_digest(plain, dataset, 1, later)


def test_what_is_seen_is_what_the_order_gives(mixture: Mixture) -> None:
    spec = pretrain(stages=[{"until": "50%", "weights": {"second": 0}}, {}])
    dataset = open_train(spec, mixture)
    plan = plan_for(spec, dataset)
    seen = seen_of(spec, dataset, plan)
    assert seen is not None
    order = dataset.order(99, 10, legs=legs_for(spec, dataset, 60))
    rows = np.concatenate([order.rows(step) for step in range(60)])
    one = dataset.parts[0].rows
    counts = [int((rows < one).sum()), int((rows >= one).sum())]
    assert [source["rows_seen"] for source in seen["sources"]] == pytest.approx(counts, abs=4)
    assert sum(source["rows_seen"] for source in seen["sources"]) == 600
    assert seen["sources"][1]["visits_of_a_row"] * dataset.parts[1].rows == pytest.approx(
        seen["sources"][1]["rows_seen"]
    )
    assert seen["stages"][0]["window"]["rows"][1] == 0
    assert seen["stages"][1]["window"]["rows"][1] > 0
    table = table_text(seen_rows(seen))
    assert "0 to 30" in table
    assert "30 to 60" in table
    page = mixture_page(seen, {"<b>": "card.html"}, "tokens")
    assert "Stage 2: steps 30 to 60" in page
    assert "&lt;b&gt;" in page


def test_rows_that_would_come_too_often_are_refused_by_source(mixture: Mixture) -> None:
    dataset = open_train(pretrain(), mixture)
    first, second = sources_of(dataset)
    often = dataset.order(0, 10).visits(60)[1] / dataset.parts[1].rows
    plan_for(pretrain(max_visits=often + 0.01), dataset)
    wrong = rf"of '{second}' would be visited .* times each in 60 steps, and `mixture` allows"
    for limits in ({"max_visits": often - 0.01}, {"max_visits_of": {"second": often - 0.01}}):
        with pytest.raises(SpecError, match=wrong) as caught:
            plan_for(pretrain(**limits), dataset)
        assert repr(first) not in str(caught.value)
    plan_for(pretrain(max_visits=often - 0.01, max_visits_of={second: 100}), dataset)


@pytest.mark.parametrize(
    ("mix", "wrong"),
    [
        ({"stages": [{"until": "50%", "weights": {"secnd": 2}}, {}]}, "names 'secnd', and the"),
        ({"stages": [{"until": "90 steps"}, {}]}, "from step 90 to step 60 of 60"),
        ({"stages": [{"weights": {"first": 0, "second": 0}}]}, "gives every source the weight 0"),
        ({"max_visits_of": {"x": 2}}, "mixture.max_visits_of names 'x'"),
    ],
)
def test_a_mixture_that_does_not_fit_the_data_is_refused(
    mixture: Mixture, mix: dict[str, object], wrong: str
) -> None:
    with pytest.raises(SpecError, match=wrong):
        plan_for(pretrain(**mix), open_train(pretrain(**mix), mixture))


@pytest.mark.parametrize(
    ("stages", "wrong"),
    [
        ([{"until": "50%"}], "the last stage goes on"),
        ([{}, {}], "stage 1 of 2 has no `until`"),
        ([{"until": "50%"}, {"until": "40%"}, {}], "put them in order"),
    ],
)
def test_stages_follow_each_other(stages: list[dict[str, object]], wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        pretrain(stages=stages)


def test_a_mixture_that_changes_nothing_changes_no_fingerprint_and_one_that_does_does() -> None:
    def identity(**changes: object) -> dict[str, object]:
        return pretrain().model_copy(update=changes).identity()

    plain = identity(mixture=None)
    assert "mixture" not in plain
    assert identity() == plain
    assert identity(mixture=MixtureSpec(max_visits=3, max_visits_of={"first": 2})) == plain
    assert identity(mixture=MixtureSpec(temperature=2)) != plain
    stage = MixtureStage(weights={"second": 2.0, "texts": 3.0})
    staged = identity(mixture=MixtureSpec(stages=(stage,)))
    assert staged["mixture"]["stages"][0]["weights"] == {"data-2": 2.0, "texts": 3.0}
