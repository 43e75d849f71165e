"""Speech: two processors in one folder, and a tokenizer of an alphabet."""

from pathlib import Path

import pytest
from transformers import AutoProcessor, Wav2Vec2Processor

from raymodel.modality.audio import AudioProcessor
from raymodel.modality.spec import AudioSpec
from raymodel.modality.speech import SpeechProcessor, character_tokenizer
from raymodel.modality.text import TextProcessor
from raymodel.storage.uri import Location


def test_a_folder_has_both_as_transformers_reads_them(tmp_path: Path) -> None:
    made = SpeechProcessor.fresh(AudioSpec(max_seconds=2), " abc'")
    made.save(Location.parse(str(tmp_path)))
    loaded = SpeechProcessor.load(Location.parse(str(tmp_path)))
    assert loaded.facts() == made.facts()
    assert loaded.facts()["vocab_size"] == 7, "the five, the blank and the unknown"
    assert loaded.tokenizer("ab c")["input_ids"] == made.tokenizer("ab c")["input_ids"]
    theirs = AutoProcessor.from_pretrained(tmp_path)
    assert isinstance(theirs, Wav2Vec2Processor)
    assert theirs.feature_extractor.return_attention_mask
    assert theirs.tokenizer.get_vocab() == made.tokenizer.get_vocab()


@pytest.mark.parametrize("alphabet", ["", "a", "aba", "ab|", "ab\t"])
def test_an_alphabet_that_is_none_is_refused(alphabet: str) -> None:
    with pytest.raises(ValueError, match="each once"):
        character_tokenizer(alphabet)


def test_a_fresh_model_gets_a_row_for_each_character_and_the_blank() -> None:
    fields = SpeechProcessor.fresh(AudioSpec(), "abc").model_fields(512)
    assert fields.at_least == {"vocab_size": 6}
    assert fields.given == {"feat_extract_norm": "layer", "pad_token_id": 0}


def test_shorter_clips_change_only_the_sounds() -> None:
    made = SpeechProcessor(
        AudioProcessor.fresh(AudioSpec()), TextProcessor(character_tokenizer("abc"))
    )
    assert made.up_to(3).audio.max_seconds == 3
    assert made.up_to(3).text is made.text
