"""What `raymodel plan` says of serving."""

import pytest

from raymodel.cluster.devices import parse_fleet
from raymodel.job.forecast import plan_job
from raymodel.job.forecast_text import plan_text
from raymodel.job.served import Offered, served_lines
from raymodel.job.spec import Job
from raymodel.testing.tiny import write_tiny_corpus

SMOL = {
    "model_type": "llama", "num_hidden_layers": 30, "num_attention_heads": 9,
    "num_key_value_heads": 3, "hidden_size": 576, "max_position_embeddings": 8192,
}  # fmt: skip
NUMBERS = 134_515_008


def lines(config=SMOL, on="16GiB", task="causal_lm", numbers=NUMBERS, **serve):
    job = Job.model_validate({"name": "n", "storage": "s", "serve": {"model": "m", **serve}})
    offered = Offered(task=task, config=config, numbers=numbers, dtype="bfloat16")
    return dict(served_lines(job, offered, on and parse_fleet(on)))


def test_a_plan_says_how_many_requests_at_once_and_how_long_texts_may_be():
    told = lines()
    assert told["weights"] == "0.25 GiB in bfloat16"
    assert told["cache"] == "22.5 KiB of keys and values a token"
    assert told["at once"].startswith("32 requests a replica, of 8,192 tokens at most and")
    assert told["answers"] == "up to 8,192 tokens; 512 where a request names no limit"
    assert "1 × 16 GiB machines" in told["at once"]


def test_less_memory_and_longer_numbers_give_fewer_requests():
    rows = [int(lines(on="2GiB", **s)["at once"].split()[0]) for s in ({}, {"dtype": "float32"})]
    assert 32 > rows[0] > rows[1] > 0
    # Without the weights that OpenVINO has beside torch's.
    assert lines(on="2GiB", engine="transformers")["at once"].startswith("32 requests")
    assert lines(on="1GiB")["at once"].startswith("none: the memory that is left holds")


def test_a_draft_has_its_share_of_the_memory_and_openvino_has_none():
    job = Job.model_validate(
        {"name": "n", "storage": "s", "serve": {"model": "m", "draft": {"model": "d"}}}
    )
    config = SMOL | {"num_hidden_layers": 15}
    model, draft = (
        Offered(task="causal_lm", config=each, numbers=numbers, dtype="bfloat16")
        for each, numbers in ((SMOL, NUMBERS), (config, NUMBERS // 2))
    )
    told = dict(served_lines(job, model, parse_fleet("2GiB"), draft))
    assert told["draft"] == "0.13 GiB in bfloat16; writes 1 token ahead"
    assert told["cache"] == "33.8 KiB of keys and values a token"
    rows = int(told["at once"].split()[0])
    assert rows < int(lines(on="2GiB", engine="transformers")["at once"].split()[0])


def test_what_is_written_is_said_as_it_is_written():
    told = lines(batch=4, max_tokens=100)
    assert told["at once"].startswith("4 requests a replica (serve.batch), of 8,192 tokens")
    assert told["answers"] == "up to 100 tokens; 100 where a request names no limit"


def test_a_gpu_has_its_own_memory_and_a_model_of_other_names_is_told_when_it_is_loaded():
    assert lines(on="h100:8")["at once"].startswith("64 requests a replica")
    other = {"model_type": "gpt2", "n_layer": 2}
    assert lines(config=other)["at once"] == "up to 32 requests"


def test_a_model_that_is_called_once_has_rows_of_a_pass():
    assert lines(task="text_classification")["at once"] == "8 rows of a pass"
    whole = lines(task="seq2seq_lm", batch=2)
    assert whole["at once"] == "2 rows of a pass (serve.batch)"
    assert whole["answers"] == "up to 256 tokens"


@pytest.mark.parametrize("serve", [{}, {"dtype": "float32"}])
def test_a_job_that_trains_is_planned_with_the_model_that_it_will_have(tmp_path, serve):
    write_tiny_corpus(tmp_path / "corpus")
    sizes = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": 128,
    }  # fmt: skip
    job = Job.model_validate({
        "name": "tiny",
        "storage": str(tmp_path / "runs"),
        "prepare": {
            "sources": [{"path": "corpus"}], "tokenizer": {"vocab_size": 300},
            "sequence_length": 16, "holdout": 0.1,
        },
        "pretrain": {
            "model": {"architecture": "llama", "config": sizes},
            "global_batch": 8, "duration": "2 epochs",
        },
        "serve": serve,
    })  # fmt: skip
    text = plan_text(plan_job(job, tmp_path))
    assert f"MiB in {serve.get('dtype', 'bfloat16')}" in text
    assert "32 requests a replica, of 128 tokens at most" in " ".join(text.split())
