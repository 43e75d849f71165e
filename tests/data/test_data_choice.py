"""Records are chosen by their language, and by terms and hosts in them."""

import pytest
from cleaned import check_bound, clean, cleaned, reason_of

from raymodel.data.cleaning.language import Language
from raymodel.data.cleaning.spec.choice import LANGUAGES, LanguageSpec
from raymodel.data.spec import CleanSpec

TEXTS = {
    "en": "The harbour lies to the north of the old town, and ships come from afar.",
    "de": "Der Hafen liegt im Norden der Altstadt, und Schiffe kommen von weit her.",
    "fr": "Le port se trouve au nord de la vieille ville,\net des navires y viennent de loin.",
    "zh": "港口位于老城以北，船只从远方而来。",
    "ja": "港は旧市街の北にあり、遠くから船がやって来ます。",
    "ru": "Порт находится к северу от старого города, и корабли приходят издалека.",
    "ar": "يقع الميناء شمال المدينة القديمة وتأتي إليه السفن من بعيد.",
}


@pytest.mark.parametrize("language", TEXTS)
def test_texts_of_the_named_languages_are_kept_and_others_counted_by_theirs(language) -> None:
    assert reason_of(TEXTS[language], "language", languages=["it", language]) is None
    assert reason_of(TEXTS[language], "language", languages=["it"]) == language


def test_of_a_text_that_could_be_any_nothing_is_sure() -> None:
    assert reason_of("12 34", "language", languages=["en"]) == "less than 65 % sure"
    assert reason_of("", "language", languages=["en"]) == "less than 65 % sure"


def test_the_confidence_holds_on_both_sides_of_its_bound() -> None:
    text, asked = TEXTS["en"], LanguageSpec(languages=("en",))
    (share,) = Language(asked)._model.predict(text)[1]
    above = round(float(share) + 0.001, 4)
    below = round(float(share) - 0.001, 4)
    assert reason_of(text, "language", languages=["en"], min_confidence=below) is None
    said = f"less than {100 * above:g} % sure"
    assert reason_of(text, "language", languages=["en"], min_confidence=above) == said


def test_the_languages_are_those_that_the_model_has() -> None:
    model = Language(LanguageSpec(languages=("en",)))._model
    labels, _ = model.predict("a", k=1000, threshold=-1.0)
    assert sorted(label.removeprefix("__label__") for label in labels) == sorted(LANGUAGES)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"languages": ["eng"]}, "'eng' is no language that the model knows; did you mean 'en'"),
        ({"languages": []}, "at least 1"),
        ({"languages": [False]}, "valid string"),
    ],
)
def test_languages_that_it_does_not_know_are_refused(wrong: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        clean("x", "language", **wrong)


# ---- words and hosts -----------------------------------------------------------------------------


def test_records_with_a_word_of_the_list_are_left_out() -> None:
    check_bound("in the casinos", "in the CASINO.", "a word of the list", "words",
                words=["casino", "slot machine"])  # fmt: skip
    check_bound("slot for a machine", "slot\nmachine", "a word of the list", "words",
                words=["casino", "slot machine"])  # fmt: skip


@pytest.mark.parametrize(
    ("kept", "left_out"),
    [
        ("see https://notexample.org/", "see https://example.org/x"),
        ("example.org has no address", "http://WWW.Example.ORG:80"),
        ("https://example.org.uk/", "(www.example.org)"),
        ("https://x.org/?to=example.org", "//a.b.example.org"),
        ("http://example.org@x.org", "http://me:secret@example.org"),
    ],
)
def test_records_with_an_address_on_a_host_of_the_list_are_left_out(kept, left_out) -> None:
    check_bound(kept, left_out, "a host of the list", "words", hosts=["Example.org", "bad.com"])


def test_lists_come_from_files_too(own_folder) -> None:
    (own_folder() / "hosts.txt").write_text("example.org\n")
    spec = CleanSpec.model_validate({"steps": [{"name": "words", "hosts_file": "hosts.txt"}]})
    (step,) = spec.with_lists().steps
    assert (step.hosts, step.words) == (("example.org",), ())


def test_no_list_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no list; give `words`"):
        cleaned("x", "words")
