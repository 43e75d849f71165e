"""What of a transcript is compared, and how its errors are counted."""

import pytest

from raymodel.tasks.transcript import error_rates, spoken


@pytest.mark.parametrize(
    ("text", "heard"),
    [
        ("Don't STOP, he said.", "don't stop he said"),
        ("‘quoted’ rock ’n’ roll", "quoted rock n roll"),
        ("well-known  –  thing\n", "well known thing"),
        ("Straße 7", "strasse 7"),
        ("हिन्दी", "हिन्दी"),
        ("?!", ""),
    ],
)
def test_case_and_punctuation_are_not_heard(text, heard):
    assert spoken(text) == heard


def test_errors_are_over_all_words_and_characters_together():
    scores = error_rates(["the cat sat", "a dog"], ["The cat sat.", "A big dog!"])
    assert scores["wer"] == pytest.approx(1 / 6)
    assert scores["cer"] == pytest.approx(4 / (11 + 9))
    assert error_rates(["word"], ["..."]) == {}
    assert error_rates([""], ["two words"])["wer"] == 1
