"""The texts of the small corpus, and how a step of its dataset is done in this process."""

from raymodel.data.step import Step, complete_item, missing_items

SENTENCE = "the data of a step depends on seed and step alone, on any number of workers"
WORDS = SENTENCE.split()


def text_of(index: int) -> str:
    return " ".join(WORDS[(index * 7 + i * (index + 3)) % len(WORDS)] for i in range(60 + index))


def execute_here(step: Step) -> None:
    for item in missing_items(step):
        complete_item(step, item)
