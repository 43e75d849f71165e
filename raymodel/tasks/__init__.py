"""The tasks by name. Loads neither torch, pyarrow nor transformers."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from raymodel.spec.fields import nearest
from raymodel.spec.own import is_own
from raymodel.tasks.audio_classification import AudioClassification
from raymodel.tasks.base import Task
from raymodel.tasks.causal_lm import CausalLM
from raymodel.tasks.chat import Chat
from raymodel.tasks.chat_preference import ChatPreference
from raymodel.tasks.embedding import Embedding
from raymodel.tasks.image_classification import ImageClassification
from raymodel.tasks.image_segmentation import ImageSegmentation
from raymodel.tasks.masked_image import MaskedImage
from raymodel.tasks.masked_lm import MaskedLM
from raymodel.tasks.multi_label_classification import MultiLabelClassification
from raymodel.tasks.object_detection import ObjectDetection
from raymodel.tasks.own import own_measure, own_task
from raymodel.tasks.preference import Preference
from raymodel.tasks.question_answering import QuestionAnswering
from raymodel.tasks.ranking import Ranking
from raymodel.tasks.seq2seq_lm import Seq2SeqLM
from raymodel.tasks.speech_ctc import SpeechCTC
from raymodel.tasks.speech_recognition import SpeechRecognition
from raymodel.tasks.text_classification import TextClassification
from raymodel.tasks.text_regression import TextRegression
from raymodel.tasks.token_classification import TokenClassification

if TYPE_CHECKING:
    from raymodel.modality.base import Processor
    from raymodel.tasks.spec import AnyTask

_ALL: tuple[type[Task], ...] = (
    CausalLM,
    Chat,
    Preference,
    ChatPreference,
    MaskedLM,
    Seq2SeqLM,
    TextClassification,
    MultiLabelClassification,
    TextRegression,
    TokenClassification,
    QuestionAnswering,
    ImageClassification,
    MaskedImage,
    ImageSegmentation,
    ObjectDetection,
    AudioClassification,
    SpeechRecognition,
    SpeechCTC,
    Ranking,
    Embedding,  # last: many names end in the bare "Model" of its architecture
)
TASKS = MappingProxyType({task.name: task for task in _ALL})


def get_task(name: str) -> type[Task]:
    """The task class called `name`, or that a user's own name `module.path:Name` leads to.

    Raises:
        ValueError: there is none, with the nearest name; or the user's own keeps no contract.
    """
    if name in TASKS:
        return TASKS[name]
    if is_own(name):
        return own_task(name)
    close = nearest(name, TASKS)
    hint = f"; did you mean {close!r}?" if close else ""
    raise ValueError(f"there is no task {name!r}; the tasks are {', '.join(TASKS)}{hint}")


def make_task(
    spec: AnyTask, labels: Sequence[str] = (), processor: Processor | None = None
) -> Task:
    """The task of a `TaskSpec`."""
    return get_task(spec.name)(spec, labels=labels, processor=processor)


def is_higher_better(measure: str) -> bool:
    """Which way a measure of any task, or a user's own, goes. Raises ValueError where none has
    it."""
    if is_own(measure):
        return own_measure(measure).higher_is_better
    for task in TASKS.values():
        if measure in task.measures:
            return task.measures[measure].higher_is_better
    known = dict.fromkeys(name for task in TASKS.values() for name in task.measures)
    close = nearest(measure, known)
    hint = f"; did you mean {close!r}?" if close else ""
    raise ValueError(f"there is no measure {measure!r}{hint} (known are {', '.join(known)})")
