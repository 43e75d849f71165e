"""Words of Chinese, Japanese, Thai and their neighbours have no spaces between them."""

import pytest

from raymodel.modality.scripts import is_written_without_spaces


@pytest.mark.parametrize("character", list("中〇。，（「のカ𠀀ไລကខ"))
def test_scripts_without_spaces(character: str) -> None:
    assert is_written_without_spaces(character)


@pytest.mark.parametrize("character", list("aé1 .,(Жαאع한अ€😀\n"))
def test_scripts_with_spaces(character: str) -> None:
    assert not is_written_without_spaces(character)
