"""Padded batches, and what a model takes of them."""

import pytest
import torch
from transformers import BertConfig, BertForQuestionAnswering, BertForTokenClassification, BertModel

from raymodel.tasks import get_task
from raymodel.testing.tiny import build_tiny_bert, train_pair_tokenizer

POSITIONS = 61
TEXT = "def read(line): return line " * 40


def tiny(kind: type, labels: int = 2) -> torch.nn.Module:
    torch.manual_seed(0)
    return kind(
        BertConfig(
            vocab_size=300,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=POSITIONS,
            num_labels=labels,
        )
    ).eval()


@pytest.mark.parametrize(
    ("name", "model", "values"),
    [
        ("text_classification", None, {"text": TEXT, "label": "a"}),
        (
            "token_classification",
            BertForTokenClassification,
            {"tokens": TEXT.split(), "tags": ["a"] * len(TEXT.split())},
        ),
        (
            "question_answering",
            BertForQuestionAnswering,
            {
                "context": TEXT,
                "question": "what",
                "answers": [{"text": "read", "start": 4}],
            },
        ),
        ("embedding", BertModel, {"query": TEXT, "positive": TEXT + "!"}),
    ],
)
def test_rows_as_long_as_the_positions_train_though_batches_are_rounded_up(name, model, values):
    kind = get_task(name)
    processor = kind.processor_class()(train_pair_tokenizer([TEXT]))
    task = kind(labels=("a", "b") if kind.class_role() else (), processor=processor)
    example = task.features(values, POSITIONS)
    rows = {column: [value] * 2 for column, value in example.features.items()}
    batch = task.collate(rows)
    assert batch["input_ids"].shape[1] == 64
    net = tiny(model) if model else build_tiny_bert(vocab_size=300)
    net.config.max_position_embeddings = POSITIONS
    net.eval()
    seen = []
    net.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    assert torch.isfinite(task.loss(net, batch))
    assert seen == [POSITIONS]
