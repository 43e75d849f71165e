"""What `beside_datatrove.py` has datatrove do, in an environment of its own: filters, MinHash and
tokens, each stage with as many workers. The parts and their order are those of its examples
(https://github.com/huggingface/datatrove/tree/main/examples: fineweb.py)."""

import argparse
import json
from pathlib import Path
from typing import Any

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import (
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.filters import (
    C4QualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.tokens import DocumentTokenizer
from datatrove.pipeline.writers import JsonlWriter


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("corpus", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("--bands", type=int, required=True)
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--ngram", type=int, required=True)
    parser.add_argument("--workers", type=int, required=True)
    asked = parser.parse_args()
    out, workers = asked.out, asked.workers
    config = MinhashConfig(
        n_grams=asked.ngram, num_buckets=asked.bands, hashes_per_bucket=asked.rows
    )

    def stage(name: str, tasks: int, *steps: Any) -> None:
        LocalPipelineExecutor(
            [*steps], tasks=tasks, workers=workers, logging_dir=str(out / "logs" / name)
        ).run()

    def filtered() -> JsonlReader:
        return JsonlReader(str(out / "filtered"))

    stage(
        "filters",
        workers,
        JsonlReader(str(asked.corpus)),
        GopherRepetitionFilter(),
        GopherQualityFilter(),
        C4QualityFilter(filter_no_terminal_punct=True),
        JsonlWriter(str(out / "filtered"), compression=None),
    )
    stage("signatures", workers, filtered(), MinhashDedupSignature(str(out / "signatures"), config))
    stage(
        "buckets",
        config.num_buckets,
        MinhashDedupBuckets(str(out / "signatures"), str(out / "buckets"), config=config),
    )
    stage(
        "clusters",
        1,
        MinhashDedupCluster(str(out / "buckets"), str(out / "removed"), config=config),
    )
    stage(
        "tokens",
        workers,
        filtered(),
        MinhashDedupFilter(str(out / "removed")),
        DocumentTokenizer(
            str(out / "tokens"),
            str(asked.tokenizer),
            eos_token="<|endoftext|>",
            shuffle_documents=False,
            save_final_metadata=False,
        ),
    )
    kept = sum(1 for file in (out / "filtered").iterdir() for _ in file.open(encoding="utf-8"))
    files = sorted((out / "tokens").iterdir())
    documents = sum(file.stat().st_size // 8 for file in files if file.name.endswith(".index"))
    tokens = sum(file.stat().st_size // 2 for file in files if file.name.endswith(".ds"))
    found = {"filtered": kept, "documents": documents, "tokens": tokens}
    (out / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
