"""The yardstick: Hugging Face's Trainer on the examples of a raymodel run.

`python benchmarks/bare_trainer.py EXAMPLES BASE BATCH THREADS RECORD_STEPS`

EXAMPLES is a folder with the examples of a text classification; its rows are loaded into memory at
the start. Rows are padded as raymodel pads them: to the longest of the batch, rounded up to 8.
Prints step, Unix time and loss after each RECORD_STEPS steps, and goes on until it is ended.
"""

import sys
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)


class Printer(TrainerCallback):
    """What `turns.py` reads."""

    def __init__(self, record_steps: int) -> None:
        self._record_steps = record_steps

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step % self._record_steps == 0:
            print(f"step {state.global_step} at {time.time():.3f}", flush=True)


def main() -> None:
    examples, base, *numbers = sys.argv[1:]
    batch, threads, record_steps = map(int, numbers)
    torch.set_num_threads(threads)
    files = sorted(Path(examples).glob("data/train/part-000/0*.parquet"))
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    data = [{"input_ids": row["input_ids"], "labels": row["label"]} for row in rows]
    model = AutoModelForSequenceClassification.from_pretrained(
        base, num_labels=1 + max(row["labels"] for row in data), dtype=torch.float32
    )
    tokenizer = AutoTokenizer.from_pretrained(base)
    with tempfile.TemporaryDirectory() as folder:
        Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=folder,
                per_device_train_batch_size=batch,
                max_steps=10**6,
                learning_rate=5e-5,
                weight_decay=0.01,
                max_grad_norm=1.0,
                save_strategy="no",
                logging_steps=record_steps,
                report_to=[],
                use_cpu=True,
                disable_tqdm=True,
            ),
            train_dataset=data,
            data_collator=DataCollatorWithPadding(tokenizer, pad_to_multiple_of=8),
            callbacks=[Printer(record_steps)],
        ).train()


if __name__ == "__main__":
    main()
