"""Speech recognition by CTC: an encoder says for every 20 ms which character is heard
(Graves et al., ICML 2006, doi:10.1145/1143844.1143891).

Shapes: B rows, F frames, T targets, V vocabulary.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from raymodel.modality.spec import FASTEST
from raymodel.tasks.base import LeftOut
from raymodel.tasks.clips import WAVE_FAMILIES, batch_of
from raymodel.tasks.speech import NOTHING_SAID, UNKNOWN_CHARACTERS, Speech

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

    from raymodel.modality.audio_decode import Samples
    from raymodel.modality.speech import SpeechProcessor

_FRAME_SAMPLES = 320
"""Of all published models: 20 ms at 16,000 samples a second."""


class SpeechCTC(Speech):
    """An encoder of samples with a head over characters (`AutoModelForCTC`).

    A transcript is written in the case that the tokenizer has, and without the punctuation that it
    lacks, which is not heard. One with other characters that it lacks is left out.
    """

    name = "speech_ctc"
    auto_class = "AutoModelForCTC"
    architectures = tuple(f"{family}ForCTC" for family in WAVE_FAMILIES)

    def fresh_processor(self) -> SpeechProcessor | None:
        """Characters of the job's alphabet, and clips as it says."""
        from raymodel.modality.speech import SpeechProcessor

        said: Any = self._said
        if said.audio is None or said.alphabet is None:
            return None
        return SpeechProcessor.fresh(said.audio, said.alphabet)

    def check_model(self, config: PretrainedConfig) -> None:
        """Refuses models of longer frames: whether a transcript fits its clip was judged by 20 ms.
        The processor must fit, as for every model of sounds."""
        super().check_model(config)
        frame = getattr(config, "inputs_to_logits_ratio", None)
        if frame is None or frame > _FRAME_SAMPLES:
            raise ValueError(
                f"a {config.model_type!r} model, so configured, has frames of {frame} samples; "
                f"speech_ctc needs one for every {_FRAME_SAMPLES} samples or fewer (conv_stride), "
                "as wav2vec2 and its like have"
            )

    def check_processor(self, processor: SpeechProcessor) -> None:
        """A blank, which is the padding, and samples."""
        if processor.tokenizer.pad_token_id is None:
            raise ValueError("the tokenizer has no padding token, which CTC takes for its blank")
        if processor.audio.argument != "input_values" or processor.audio.window is not None:
            raise ValueError("speech_ctc takes samples, and the base a spectrogram")

    # ---- data --------------------------------------------------------------------------------

    def target_ids(self, text: str, samples: int) -> list[int] | LeftOut:
        """An id for each character; none of them where the clip, played as fast as
        `augment` may, has too few frames for them."""
        tokenizer = self.processor.tokenizer
        known = set(tokenizer.get_vocab())
        written = _written(text, known | {" "})
        if not written:
            return LeftOut(NOTHING_SAID)
        ids = [int(number) for number in tokenizer(written)["input_ids"]]
        if tokenizer.unk_token_id in ids:
            return LeftOut(UNKNOWN_CHARACTERS)
        # Between two equal characters there must be a blank.
        needed = len(ids) + sum(a == b for a, b in pairwise(ids))
        # The first frame takes a little more, 400 samples.
        if needed > (samples / FASTEST - 80) // _FRAME_SAMPLES:
            return LeftOut("transcript that is too long for its audio")
        return ids

    def add_targets(self, batch: dict[str, torch.Tensor], targets: Sequence[Any]) -> None:
        """`labels` (B, T)."""
        from raymodel.tasks.batch import pad_right
        from raymodel.tasks.loss import IGNORED

        ids, mask = pad_right(targets, 0)
        batch["labels"] = ids.masked_fill(mask == 0, IGNORED)

    # ---- training ----------------------------------------------------------------------------

    def loss(self, model: PreTrainedModel, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Sum of -log p(transcript) over the rows, in fp32; the targets are characters."""
        import torch
        from torch.nn import functional

        from raymodel.tasks.loss import IGNORED

        logits_BFV, frames_B = _logits(model, batch)
        log_probs_FBV = logits_BFV.float().log_softmax(-1).transpose(0, 1)
        is_target_BT = batch["labels"] != IGNORED
        lengths_B = is_target_BT.sum(-1)
        loss_B = functional.ctc_loss(
            log_probs_FBV,
            batch["labels"].masked_fill(~is_target_BT, 0),
            frames_B,
            lengths_B,
            blank=self.processor.text.padding,
            reduction="none",
            # No row of examples needs it: of a gradient that is not finite nothing is left.
            zero_infinity=True,
        )
        # A blank row has no targets, and CTC a loss for saying nothing in it.
        return torch.where(lengths_B > 0, loss_B, torch.zeros_like(loss_B)).sum()

    # ---- answers -----------------------------------------------------------------------------

    def transcribe(self, model: PreTrainedModel, clips: Sequence[Samples]) -> list[str]:
        """The most probable character of every frame, each run of one taken once."""
        import torch

        batch = {
            name: value.to(model.device)
            for name, value in batch_of(clips, self.processor.audio).items()
        }
        with torch.inference_mode():
            logits_BFV, frames_B = _logits(model, batch)
            best_BF = logits_BFV.argmax(-1).cpu()
        blank = self.processor.text.padding
        texts = []
        for best_F, frames in zip(best_BF, frames_B.tolist(), strict=True):
            ids = best_F[:frames].unique_consecutive()
            texts.append(self._text(ids[ids != blank].tolist()))
        return texts

    def references(self, rows: Mapping[str, Any]) -> list[Any]:
        """The transcripts, as far as the tokenizer can write them."""
        return [self._text(ids) for ids in rows["transcript_ids"]]

    def _text(self, ids: Sequence[int]) -> str:
        """Of ids of which none is there because the one before goes on."""
        ids = [int(number) for number in ids]
        text = self.processor.tokenizer.decode(ids, group_tokens=False, skip_special_tokens=True)
        return str(text).strip()


def _logits(
    model: PreTrainedModel, batch: Mapping[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, F, V), and the frames of each row that are of its clip. (B,)"""
    import torch

    inner: Any = getattr(model, "module", model)
    mask = batch.get("attention_mask")
    values = batch["input_values"].to(next(model.parameters()).dtype)
    more = {} if mask is None else {"attention_mask": mask}
    logits_BFV = model(input_values=values, **more).logits
    if mask is None:
        frames_B = torch.full((len(values),), logits_BFV.shape[1], device=values.device)
    else:
        frames_B = inner._get_feat_extract_output_lengths(mask.sum(-1))
    return logits_BFV, frames_B.long()


def _written(text: str, known: set[str]) -> str:
    """In the case that the characters have, without punctuation that they lack."""
    text = unicodedata.normalize("NFC", text)
    cased = [character for character in known if len(character) == 1 and character.isalpha()]
    if cased and not any(character.islower() for character in cased):
        text = text.upper()
    elif cased and not any(character.isupper() for character in cased):
        text = text.lower()
    kept = [
        character
        if character in known or unicodedata.category(character)[0] not in "PZC"
        else (" " if unicodedata.category(character)[0] in "ZC" or character in "-–—" else "")
        for character in text
    ]
    return " ".join("".join(kept).split())
