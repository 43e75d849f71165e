"""Broken jobs and broken inputs × the commands: refused with code 2, in one message, before
anything starts or is written; and what is merely not there yet stops no plan."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from raymodel import cli
from raymodel.storage import retry
from raymodel.storage.execution import ATTEMPTS_FILE
from raymodel.storage.manifest import commit_manifest
from raymodel.storage.uri import Location
from raymodel.testing.hub import Hub, hub
from raymodel.testing.tiny import build_tiny_bert, build_tiny_llama, train_tiny_tokenizer

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
PREPARE = {
    "sources": [{"path": "corpus.txt"}],
    "tokenizer": {"vocab_size": 300},
    "sequence_length": 16,
    "holdout": 0.1,
}
PRETRAIN = {
    "model": {"architecture": "llama", "config": SIZES},
    "global_batch": 8,
    "duration": "2 steps",
}
FINETUNE = {
    "task": "causal_lm",
    "sources": [{"path": "corpus.txt", "fields": {"prompt": "{text}", "response": "{text}"}}],
    "max_length": 16,
    "global_batch": 8,
    "duration": "2 steps",
}
LABELLED = {"sources": [{"path": "labels.jsonl", "format": "jsonl", "fields": {"label": "label"}}]}
CHAT = {"sources": [{"path": "chats.jsonl", "format": "jsonl"}]}
CLASSIFY = FINETUNE | {"task": "text_classification"} | LABELLED


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Whole models, and sources; each test that breaks one works on a copy of its files."""
    here = tmp_path_factory.mktemp("here")
    (here / "corpus.txt").write_text("def read(line): return line\n" * 50)
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    (here / "chats.jsonl").write_text(json.dumps({"messages": turns}) + "\n")
    (here / "labels.jsonl").write_text('{"text": "a b", "label": "x"}\n' * 50)
    tokenizer = train_tiny_tokenizer(["def read(line): return line"] * 3, vocab_size=300)
    size = len(tokenizer)
    for name, model in {
        "llama": build_tiny_llama(vocab_size=size),
        "tied": build_tiny_llama(vocab_size=size, tie_word_embeddings=True),
        "bert": build_tiny_bert(vocab_size=size),
    }.items():
        model.save_pretrained(here / name)
        tokenizer.save_pretrained(here / name)
    return here


@pytest.fixture
def here(folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import shutil

    folder = tmp_path / "here"
    shutil.copytree(folders, folder)
    monkeypatch.chdir(folder)
    return folder


LLAMA = PRETRAIN["model"]
TIED = {"architecture": "llama", "config": SIZES | {"tie_word_embeddings": True}}


def job(**stages: Any) -> dict[str, Any]:
    return {"name": "tiny", "storage": "runs", **stages}


def pretraining(model: Any = None, prepare: Any = None, **changes: Any) -> dict[str, Any]:
    pretrain = PRETRAIN | changes
    if model is not None:
        pretrain = pretrain | {"model": model}
    return job(prepare=PREPARE | (prepare or {}), pretrain=pretrain)


def going_on(base: str = "llama", tokenizer: str = "llama", **changes: Any) -> dict[str, Any]:
    sections = job(
        prepare=PREPARE | {"tokenizer": {"load": tokenizer}},
        pretrain=PRETRAIN | {"model": None, "base": base} | changes,
    )
    return sections


def with_config(architecture: str = "llama", **fields: Any) -> dict[str, Any]:
    sizes = SIZES if architecture == "llama" else {}
    return pretraining({"architecture": architecture, "config": sizes | fields})


def finetuning(base: str | None = "llama", **changes: Any) -> dict[str, Any]:
    return job(finetune=FINETUNE | {"base": base} | changes)


def taught(teacher: str, student: Any = None, **finetune: Any) -> dict[str, Any]:
    distill = {"teacher": teacher} | ({"student": student} if student else {})
    return job(finetune=FINETUNE | {"distill": distill} | finetune)


def chatting(template: str | None) -> dict[str, Any]:
    return finetuning(task={"name": "chat", "chat_template": template}, **CHAT)


def adapting(base: str | None = "llama", **lora: Any) -> dict[str, Any]:
    return finetuning(base, adapter={"lora": lora})


def tuned_from_own(model: dict[str, Any], **finetune: Any) -> dict[str, Any]:
    return pretraining(model) | {"finetune": FINETUNE | finetune}


def codes(content: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> dict[str, int]:
    """Exit code of each command; all that refuse must do so in the same way."""
    path = Path("job.yaml")
    path.write_text(yaml.safe_dump(content))
    found = {}
    for command in ("check", "plan", "run"):
        found[command] = cli.main([command, str(path)])
        err = capsys.readouterr().err
        assert "Traceback" not in err
        errors.append(err)
        assert err.count("error: ") == (found[command] != 0), err
        assert not Path("runs/tiny").exists(), f"{command} wrote below the storage"
    return found


errors: list[str] = []
"""What the commands said last, for the tests below."""


@pytest.fixture(autouse=True)
def _here(here: Path, ask_here: list[Any]) -> None:
    errors.clear()


# ---- what the file tells -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (pretraining(prepare={"holdout": 0}), "prepare.holdout: 0 leaves no documents"),
        (pretraining(prepare={"holdout": 1.0}), "prepare.holdout: 100% of the documents"),
        (
            finetuning("https://huggingface.co/openai-community/gpt2"),
            "write hf://openai-community/gpt2 where a model or a tokenizer is named",
        ),
        (finetuning("hdfd://models/llama"), "finetune.base: 'hdfd://models/llama': the scheme"),
        (job(serve={"model": "s3://"}), "serve.model: 's3://' names no bucket"),
        (pretraining(base="llama"), "give either `base` (go on from its weights) or `model`"),
        (job(prepare=PREPARE, pretrain=PRETRAIN | {"model": None}), "there is no model; give"),
        (
            job(prepare=PREPARE, pretrain=PRETRAIN | {"model": None, "base": "llama"}),
            "write prepare.tokenizer: {load: 'llama'}",
        ),
        (going_on("hdfd://models/llama"), "pretrain.base: 'hdfd://models/llama': the scheme"),
        (finetuning(holdout=0), "finetune.holdout: 0 leaves no documents"),
        (finetuning(holdout="100%"), "finetune.holdout: 100%"),
        (
            pretraining() | {"evaluate": {"metrics": ["perplexity", "bleu"]}},
            "evaluate.metrics.1: 'bleu' compares answers with those of examples, which only",
        ),
        (with_config("foo"), "there is no architecture 'foo'"),
        (with_config("lama"), "did you mean 'llama'?"),
        (with_config("vit"), "builds no vit model as AutoModelForCausalLM"),
        (with_config(hiden_size=8), "pretrain.model.config.hiden_size: no field of a llama"),
        (with_config(hidden_size=0), "config.hidden_size: 0 must be at least 1"),
        (with_config(hidden_size=True), "config.hidden_size: True is not a whole number"),
        (with_config(num_key_value_heads="abc"), "num_key_value_heads: 'abc' is not a whole"),
        (with_config(num_key_value_heads=3), "4 heads cannot share 3 of keys and values"),
        (with_config(num_attention_heads=5, num_key_value_heads=5), "not a multiple"),
        (with_config(num_hidden_layers=10**6), "num_hidden_layers: 1000000 must be at"),
        (with_config(vocab_size=10**29), "vocab_size: 100000000000000000000000000000 is too large"),
        (with_config(vocab_size=299), "vocab_size: 299 is less than prepare.tokenizer.vocab"),
        (with_config(max_position_embeddings=8), "less than prepare.sequence_length, 16"),
        (with_config(hidden_act="foo"), "'foo'"),
        (with_config(rms_norm_eps="x"), "config.rms_norm_eps: "),
        (with_config("gpt2", n_head=5, n_embd=64), "divisible"),
        (with_config("bert"), "reads its text in both directions"),
        (pretraining({"preset": "bert-tiny"}), "reads its text in both directions"),
        (with_config(num_key_value_heads=1) | {"cluster": {"workers": 2}}, None),
        (
            pretraining(parallel={"tensor": 4}) | {"cluster": {"workers": 4}},
            "cannot share 4 heads with 2 of keys and values",
        ),
        (
            tuned_from_own(LLAMA, adapter={"lora": {"target": ["q_prj"]}}),
            "finetune.adapter: adapter.lora.target is ['q_prj'], which fits no module",
        ),
        (
            tuned_from_own(LLAMA, adapter={"lora": {"target": ["q_proj", "v_prj"]}}),
            "of which 'v_prj' fits no module; the linear layers are down_proj",
        ),
        (
            tuned_from_own(TIED, adapter={"lora": {"target": ["lm_head"]}}),
            "lm_head.weight is tied to another weight",
        ),
        (
            tuned_from_own(LLAMA, adapter={"lora": {"rank": 33}}),
            "adapter.lora.rank is 33, and the matrices that it is beside have ranks of 32",
        ),
        (
            taught("bert", base="bert", **LABELLED, task="text_regression"),
            "the loss of text_regression is no cross-entropy of ids or classes",
        ),
        (
            tuned_from_own(LLAMA, task="chat", **CHAT),
            "a tokenizer that the job trains has no chat template; add chat_template: roles",
        ),
        (
            tuned_from_own(LLAMA, task={"name": "chat", "chat_template": "chatml"}, **CHAT),
            "has no <|im_end|>, which chatml needs",
        ),
    ],
)
def test_what_the_file_tells_every_command_refuses(content, told, capsys):
    if told is None:  # the table would not notice that everything is refused
        Path("job.yaml").write_text(yaml.safe_dump(content))
        assert [cli.main([command, "job.yaml"]) for command in ("check", "plan")] == [0, 0]
        return
    assert codes(content, capsys) == {"check": 2, "plan": 2, "run": 2}
    assert len(set(errors)) == 1, "one message, whoever says it"
    assert told in errors[0]


def test_the_line_of_a_wrong_field_is_named(capsys):
    text = yaml.safe_dump(with_config(hiden_size=8), sort_keys=False)
    Path("job.yaml").write_text(text)
    line = 1 + next(i for i, line in enumerate(text.splitlines()) if "hiden_size" in line)
    assert cli.main(["check", "job.yaml"]) == 2
    assert f"error: job.yaml:{line}: pretrain.model.config.hiden_size: " in capsys.readouterr().err


# ---- what the folders hold -----------------------------------------------------------------------


def edit_config(name: str, **changes: Any) -> None:
    file = Path(name) / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def edit_weights(name: str, change: Any) -> None:
    from safetensors.torch import load_file, save_file

    file = Path(name) / "model.safetensors"
    weights = load_file(file)
    change(weights)
    save_file({key: tensor.contiguous() for key, tensor in weights.items()}, file, {"format": "pt"})


def edit_tokenizer(name: str, change: Any) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(name)
    change(tokenizer)
    tokenizer.save_pretrained(name)


def cut(name: str) -> None:
    with open(Path(name) / "model.safetensors", "r+b") as file:
        file.truncate(5000)


def drop(*keys: str) -> Any:
    return lambda weights: [weights.pop(key) for key in keys]


def half(key: str) -> Any:
    return lambda weights: weights.update({key: weights[key][:16]})


def unfinished(name: str) -> None:
    (Path(name) / "started").mkdir()
    (Path(name) / "started" / ATTEMPTS_FILE).write_text("{}")
    Path("bert").rename(Path(name) / "started" / "model")


def no_tokenizer(name: str) -> None:
    for file in Path(name).glob("tokenizer*"):
        file.unlink()


def prepared(name: str) -> None:
    """A complete dataset without a holdout, as the result of another run."""
    splits = {
        split: {"rows": rows, "tokens": 16 * rows, "parts": [{}] * rows}
        for split, rows in (("train", 1), ("holdout", 0))
    }
    tokenizer = {"modality": "text", "vocab_size": 300, "sha256": "0"}
    place = Location.parse("runs/other/prepare") / "0123456789abcdef"
    (place / "data/x").write_text("x")
    commit_manifest(
        place,
        job_name="other",
        stage="prepare",
        fingerprint="0123456789abcdef",
        parents={},
        content={"splits": splits, "processor": tokenizer, "sequence_length": 16},
    )
    (Location.parse("runs/other/prepare") / "latest").write_text("0123456789abcdef\n")


Q = "model.layers.1.self_attn.q_proj.weight"


@pytest.mark.parametrize(
    ("content", "breaking", "told"),
    [
        (
            finetuning("gpt2"),
            None,
            "reads like an id on the Hugging Face Hub…write hf://OWNER/gpt2",
        ),
        (finetuning("openai-community/gpt2"), None, "hf download openai-community/gpt2"),
        (finetuning("corpus.txt"), None, "has no config.json"),
        (finetuning(), lambda: no_tokenizer("llama"), "holds no tokenizer"),
        (finetuning(), lambda: cut("llama"), "not a whole safetensors file"),
        (finetuning(), lambda: edit_weights("llama", drop(Q)), f"lacks 1 weights …{Q}"),
        (finetuning(), lambda: edit_weights("llama", drop("lm_head.weight")), "lacks 1 weights"),
        (finetuning(), lambda: edit_weights("llama", half(Q)), "16 × 32, and a … has 32 × 32"),
        (finetuning(), lambda: edit_config("llama", num_hidden_layers=1), "has no place for"),
        (finetuning(), lambda: edit_config("llama", model_type="lama"), "cannot be loaded"),
        (finetuning(), lambda: edit_config("llama", hidden_size=0), "weights of other shapes"),
        (finetuning(), lambda: edit_tokenizer("llama", lambda t: t.add_tokens("new")), "embed"),
        (finetuning(), lambda: unfinished("llama"), None),
        (finetuning("llama/started"), lambda: unfinished("llama"), "not finished"),
        (finetuning("llama/started/model"), lambda: unfinished("llama"), "not finished"),
        (finetuning("other/prepare"), lambda: prepared("other"), "is the result of prepare"),
        (finetuning("bert"), None, "reads its text in both directions"),
        (finetuning(max_length=65), None, "max_length is 65, and the base has 64 positions"),
        (
            finetuning(),
            lambda: edit_tokenizer("llama", lambda t: setattr(t, "eos_token", None)),
            "no end-of-text token",
        ),
        (adapting(target=["query"]), None, "target is ['query'], which fits no module"),
        (adapting("tied", target=["embed_tokens"]), None, "is tied to another weight"),
        (
            finetuning(parallel={"tensor": 4}) | {"cluster": {"workers": 4}},
            None,
            "parallel.tensor: 4 workers cannot share 4 heads with 2",
        ),
        (taught("llama", base="llama"), None, None),
        (taught("llama", student={"layers": 1}), None, None),
        (taught("llama", model=LLAMA), None, None),
        (taught("gpt2", base="llama"), None, "reads like an id on the Hugging Face Hub"),
        (taught("bert", base="llama"), None, "a model for text_classification, and the student"),
        (taught("llama", student={"layers": 2}), None, "is 2, and the teacher has 2 layers"),
        (taught("tied", base="llama"), lambda: cut("tied"), "not a whole safetensors file"),
        (
            taught("tied", base="llama"),
            lambda: train_tiny_tokenizer(["another text"], 262).save_pretrained("tied"),
            "distill.teacher: …reads with another tokenizer.json than",
        ),
        (
            taught("tied", base="llama"),
            lambda: edit_config("tied", max_position_embeddings=8),
            "distill.teacher: it takes 8 tokens, and examples have up to 16",
        ),
        (
            pretraining(prepare={"tokenizer": {"load": "llama"}}, distill={"teacher": "tied"}),
            lambda: edit_config("tied", max_position_embeddings=8),
            "distill.teacher: it takes 8 tokens, and prepare.sequence_length is 16",
        ),
        (going_on(), None, None),
        (going_on() | {"finetune": FINETUNE}, None, None),
        (going_on("tied"), None, None),
        (going_on("bert"), None, "reads its text in both directions"),
        (going_on("gpt2"), None, "reads like an id on the Hugging Face Hub"),
        (going_on(), lambda: cut("llama"), "not a whole safetensors file"),
        (
            going_on("tied"),
            lambda: train_tiny_tokenizer(["another text"], 262).save_pretrained("tied"),
            "pretrain: …reads with another tokenizer.json than",
        ),
        (
            going_on("tied"),
            lambda: edit_config("tied", max_position_embeddings=8),
            "base takes 8 tokens, and prepare.sequence_length is 16",
        ),
        (
            going_on(parallel={"tensor": 4}) | {"cluster": {"workers": 4}},
            None,
            "parallel.tensor: 4 workers cannot share 4 heads with 2",
        ),
        (job(serve={"model": "llama", "draft": {"model": "tied"}}), None, None),
        (
            job(serve={"model": "llama", "draft": {"model": "tied"}}),
            lambda: train_tiny_tokenizer(["another text"], 262).save_pretrained("tied"),
            "draft: …reads with another tokenizer.json than",
        ),
        (
            job(serve={"model": "llama", "draft": {"model": "bert"}}),
            None,
            "serve.draft: the draft is for text_classification, which does not write text",
        ),
        (job(serve={"model": "llama", "draft": {"model": "gpt2"}}), None, "reads like an id"),
        (job(serve={"model": "gpt2"}), None, "reads like an id"),
        (job(serve={"model": "corpus.txt"}), None, "has no config.json"),
        (job(serve={"model": "other/prepare"}), lambda: prepared("other"), "result of prepare"),
        (
            job(serve={"model": "bert"}),
            lambda: edit_weights("bert", drop("classifier.weight", "classifier.bias")),
            "lacks 2 weights of a BertForSequenceClassification (classifier.bias",
        ),
        (
            job(serve={"model": "bert"}),
            lambda: edit_config("bert", architectures=["BertForMaskedLM"]),
            "BertForMaskedLM",
        ),
        (pretraining(prepare={"tokenizer": {"load": "gpt2"}}), None, "reads like an id"),
        (pretraining(prepare={"tokenizer": {"load": "runs"}}), lambda: Path("runs").mkdir(), "no"),
        (
            pretraining(
                {"architecture": "llama", "config": SIZES | {"vocab_size": 200}},
                {"tokenizer": {"load": "llama"}},
            ),
            None,
            "model.config.vocab_size is 200, but the data needs",
        ),
        (
            pretraining(prepare={"tokenizer": {"load": "llama"}}),
            lambda: edit_tokenizer("llama", lambda t: setattr(t, "eos_token", None)),
            "no end-of-text token",
        ),
        (chatting(None), None, "the tokenizer has no chat template; name one with"),
        (chatting("chatml"), None, "closes an answer with no special token of this tokenizer"),
        (chatting("plain"), None, None),
        (
            job(pretrain=PRETRAIN | {"data": "other/prepare"}),
            lambda: prepared("other"),
            "hold no documents out",
        ),
        (job(pretrain=PRETRAIN | {"data": "llama"}), None, "no complete dataset"),
        (
            pretraining(prepare={"sources": [{"path": "llama", "format": "csv"}]}),
            None,
            "Change `format` or `path`",
        ),
        (
            finetuning(sources=[FINETUNE["sources"][0] | {"path": "x.csv", "format": "csv"}]),
            lambda: Path("x.csv").write_text("text,a;label\n1,2;3\n"),
            "can be parted by comma and by semicolon…Set `delimiter`",
        ),
    ],
)
def test_what_a_folder_holds_plan_and_run_refuse_before_the_first_stage(
    content, breaking, told, capsys
):
    if breaking:
        breaking()
    expected = 2 if told else 0
    if told is None:
        Path("job.yaml").write_text(yaml.safe_dump(content))
        assert cli.main(["plan", "job.yaml"]) == expected
        return
    missing = told == "no complete dataset"
    assert codes(content, capsys) == {"check": 0, "plan": 0 if missing else 2, "run": 2}
    assert all(part in errors[-1] for part in told.split("…")), errors[-1]


# ---- what lies on the Hub ------------------------------------------------------------------------


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(retry, "FIRST_WAIT_S", 0.01)
    with hub() as made:
        yield made


def sharded(name: str) -> None:
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(name).save_pretrained(name, max_shard_size="20KB")
    (Path(name) / "model.safetensors").unlink()


def pickled(name: str) -> None:
    (Path(name) / "model.safetensors").rename(Path(name) / "pytorch_model.bin")


@pytest.mark.parametrize("breaking", [None, sharded], ids=["one file", "shards"])
def test_a_model_on_the_hub_is_looked_at_where_it_lies_and_its_size_is_told(
    breaking, server, here, capsys
):
    if breaking:
        breaking("llama")
    size = sum(f.stat().st_size for f in (here / "llama").iterdir() if f.name != "README.md")
    count = len([*(here / "llama").iterdir()])
    commit = server.push_model("owner/llama", here / "llama", **{"README.md": b"#" * 9999})
    Path("job.yaml").write_text(yaml.safe_dump(finetuning("hf://owner/llama")))
    assert cli.main(["check", "job.yaml"]) == 0
    assert cli.main(["plan", "job.yaml"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    note = f"hf://owner/llama@{commit} is {size / 1e6:,.1f} MB in {count} files, fetched once by"
    assert f"finetune: {note}" in told
    assert [name for name in server.contents() if name.endswith(".safetensors")], "their headers"
    asked = [each for each in server.requests if each.startswith("HEAD")]
    assert not [each for each in asked if each.endswith(".safetensors")], "and not all of them"


def test_pickled_weights_of_the_hub_are_refused_as_those_of_a_folder(server, here, capsys):
    pickled("llama")
    server.push_model("owner/llama", here / "llama")
    found = codes(finetuning("hf://owner/llama"), capsys)
    assert found == {"check": 0, "plan": 2, "run": 2}
    assert "holds no weights as safetensors" in errors[-1]
    assert "pickled weights are never read" in errors[-1]
    assert "pytorch_model.bin" not in server.contents()


# ---- what is not there yet -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        pretraining(prepare={"sources": [{"path": "/on/the/cluster/only"}]}),
        pretraining(prepare={"tokenizer": {"load": "/on/the/cluster/only"}}),
        pretraining(
            prepare={"clean": {"decontaminate": {"sets": {"quiz": {"path": "/on/the/c"}}}}}
        ),
        finetuning("/on/the/cluster/only"),
        finetuning("python:not_installed_here/model"),
        finetuning("other/pretrain"),
        going_on("other/pretrain"),
        job(pretrain=PRETRAIN | {"data": "other/prepare"}),
        job(serve={"model": "other/best"}),
    ],
)
def test_what_is_not_there_yet_stops_the_run_and_not_the_plan(content, capsys):
    assert codes(content, capsys) == {"check": 0, "plan": 0, "run": 2}


def test_what_the_job_makes_itself_is_not_looked_for(here):
    from raymodel.job.preflight import look_at_inputs
    from raymodel.job.spec import Job

    whole = finetuning("tiny/pretrain") | pretraining() | {"serve": {"model": "tiny/best"}}
    assert look_at_inputs(Job.model_validate(whole), here).findings == ()
    serving = job(serve={"model": "tiny/pretrain"})
    (finding,) = look_at_inputs(Job.model_validate(serving), here).findings
    assert finding.is_missing


def test_a_delimiter_that_is_found_stands_in_the_plan(capsys):
    Path("x.csv").write_text("prompt;text\n1;2\n")
    content = pretraining(prepare={"sources": [{"path": "x.csv", "format": "csv"}]})
    Path("job.yaml").write_text(yaml.safe_dump(content))
    assert cli.main(["plan", "job.yaml"]) == 0
    told = "prepare: source 'x.csv': x.csv, parted by semicolons"
    assert capsys.readouterr().out.count(told) == 1


def test_a_template_of_the_job_that_is_not_there_stops_the_run_and_not_the_plan(capsys):
    assert codes(chatting("other.jinja"), capsys) == {"check": 0, "plan": 0, "run": 2}
    assert "other.jinja does not exist; chat needs that file" in errors[-1]


def test_all_wrong_inputs_come_at_once(capsys):
    content = finetuning("gpt2") | {"serve": {"model": "corpus.txt"}}
    assert codes(content, capsys)["run"] == 2
    assert errors[-1].startswith("error: 2 inputs of the job are wrong\nfinetune: ")
    assert "\nserve: " in errors[-1]


def test_a_machine_without_transformers_submits_and_says_what_it_does_not_know(
    capsys, monkeypatch, ask_here
):
    from raymodel.model import examine

    monkeypatch.setattr(examine, "_can_ask", lambda: False)
    content = with_config("gpt2") | {"finetune": FINETUNE | {"base": "llama"}}
    Path("job.yaml").write_text(yaml.safe_dump(content))
    assert [cli.main([command, "job.yaml"]) for command in ("check", "plan")] == [0, 0]
    sparse = pretraining({"architecture": "llama", "config": {"hidden_size": 64}})
    Path("job.yaml").write_text(yaml.safe_dump(sparse))
    assert cli.main(["plan", "job.yaml"]) == 0
    assert "which is not installed here" in " ".join(capsys.readouterr().out.split())
    assert ask_here == []


def test_a_model_without_a_formula_is_counted_for_the_plan(capsys):
    content = with_config("gpt2", n_embd=64, n_head=4, n_layer=2) | {"finetune": FINETUNE}
    Path("job.yaml").write_text(yaml.safe_dump(content))
    assert cli.main(["plan", "job.yaml"]) == 0
    out = capsys.readouterr().out
    assert out.count("counted on the meta device") == 2
    assert out.count("memory of one worker") == 2
    assert "cannot be planned" not in out


def test_a_classifier_of_any_architecture_gets_numbers(here, capsys):
    from transformers import AutoModelForMaskedLM, AutoTokenizer, DistilBertConfig

    tokenizer = AutoTokenizer.from_pretrained("bert")
    config = DistilBertConfig(
        vocab_size=len(tokenizer), dim=32, hidden_dim=64, n_layers=2, n_heads=4
    )
    AutoModelForMaskedLM.from_config(config).save_pretrained("distilbert")
    tokenizer.save_pretrained("distilbert")
    for base in ("bert", "distilbert"):
        content = job(
            finetune=CLASSIFY | {"base": base, "micro_batch": 4},
            cluster={"workers": 2, "gpus_per_worker": 1},
        )
        Path("job.yaml").write_text(yaml.safe_dump(content))
        assert cli.main(["plan", "job.yaml", "--on", "h100:2"]) == 0
        out = " ".join(capsys.readouterr().out.split())
        for words in ("parameters", "FLOPs", "time", "activations", "total"):
            assert words in out
        assert "cannot be planned" not in out
        assert ("counted on the meta device" in out) == (base == "distilbert")


def test_a_model_that_cannot_be_counted_is_one_line_of_the_plan(capsys, monkeypatch):
    from raymodel.model import meta_count

    def refuse(*_, **__):
        raise RuntimeError("it depends on its values")

    monkeypatch.setattr(meta_count, "_forward", refuse)
    Path("job.yaml").write_text(yaml.safe_dump(with_config("gpt2", n_embd=64, n_head=4)))
    assert cli.main(["plan", "job.yaml"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "pretrain: cannot be planned: there is no formula for" in out
    assert "it depends on its values" in out
    assert "asked of the cluster" in out


def test_a_classifier_without_a_padding_token_is_padded_with_its_end_of_text(capsys, here):
    from raymodel.job.preflight import look_at_inputs
    from raymodel.job.spec import Job

    edit_tokenizer("llama", lambda t: setattr(t, "pad_token", None))
    edit_config("llama", pad_token_id=None)
    content = job(finetune=CLASSIFY | {"base": "llama"})
    inputs = look_at_inputs(Job.model_validate(content), here)
    assert inputs.findings == ()
    assert inputs.notes == (
        "finetune: pad_token_id of the model becomes 0, the tokenizer's end-of-text token, which "
        "its texts are filled up with (it was None)",
    )
    edit_tokenizer("llama", lambda t: setattr(t, "eos_token", None))
    assert codes(content, capsys) == {"check": 0, "plan": 2, "run": 2}
    assert "neither a padding nor an end-of-text token" in errors[-1]
