"""What a model will be is known without transformers, from before, or from a process apart."""

import itertools
import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from raymodel.errors import RaymodelError
from raymodel.model import examine as module
from raymodel.model.counted import Counting, text_rows
from raymodel.model.examine import Question, examine
from raymodel.model.fields import find_wrong_fields
from raymodel.model.presets import load_presets
from raymodel.model.spec import AdapterSpec
from raymodel.storage.cache import cache_folder
from raymodel.storage.uri import Location

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
GPT2 = Question(task="causal_lm", architecture="gpt2", fields={"n_embd": 8, "n_head": 2})


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_process_apart_answers_and_is_asked_once(own_cache, capfd, monkeypatch):
    wrong = replace(GPT2, fields={"n_embd": 8, "n_head": 3})
    first = examine([GPT2, wrong])
    assert "asking transformers" in capfd.readouterr().err
    assert first[0].problems == ()
    assert first[0].config["n_embd"] == 8
    ((subject, message),) = first[1].problems
    assert subject == "config"
    assert "divisible" in message
    assert len(list(own_cache.rglob("*.json"))) == 2
    monkeypatch.setattr(module, "ask_apart", lambda questions: pytest.fail("asked again"))
    assert examine([GPT2, wrong]) == first


def test_what_decides_the_answer_decides_its_name(tmp_path, monkeypatch):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    of_folder = Question(task="causal_lm", folder=Location.parse(str(folder)))
    before = of_folder.key()
    assert of_folder.key() == before
    (folder / "config.json").write_text("{ }")
    keys = {before, of_folder.key(), replace(of_folder, trains=False).key(), GPT2.key()}
    monkeypatch.setattr(module, "_version", lambda package: "another")
    assert len(keys | {GPT2.key()}) == 5


def test_a_torn_answer_is_asked_again_and_a_folder_that_cannot_be_written_is_no_error(
    own_cache, ask_here, monkeypatch
):
    examine([GPT2])
    (file,) = own_cache.rglob("*.json")
    file.write_text(file.read_text()[:20])
    examine([GPT2])
    assert len(ask_here) == 2
    monkeypatch.setenv("XDG_CACHE_HOME", str(file))  # a file where a folder should be
    assert examine([GPT2])[0].problems == ()


def test_the_cache_lies_where_the_user_keeps_such_things(monkeypatch):
    assert cache_folder().name == "raymodel"
    for ignored in ("", "relative/path"):
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        assert cache_folder() == Path.home() / ".cache" / "raymodel"


def test_an_examiner_that_dies_is_an_error_in_its_words(monkeypatch):
    monkeypatch.setattr(module.sys, "executable", "/bin/false")
    with pytest.raises(RaymodelError, match=r"cannot be examined: .*exit code 1"):
        examine([GPT2])


def test_an_examiner_that_does_not_end_is_an_error_too(monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT_S", 0.01)
    with pytest.raises(RaymodelError, match=r"cannot be outlined in 0\.01 s"):
        examine([GPT2])


def test_a_count_is_part_of_the_answer_and_kept_with_it(own_cache, ask_here):
    counting = Counting(rows=text_rows(16), precision="fp32", labels=5)
    asked = replace(GPT2, counting=counting)
    (first,) = examine([asked])
    assert examine([asked]) == [first], "also after it went through JSON"
    assert len(ask_here) == 1
    assert [size for size, _ in first.count.forward_flops] == [16, 8]
    other = replace(asked, counting=replace(counting, rows=text_rows(8)))
    assert len({asked.key(), other.key(), GPT2.key()}) == 3
    assert examine([GPT2])[0].count is None


def test_a_plain_model_is_asked_about_when_it_is_to_be_counted(own_cache, ask_here):
    plain = Question(task="causal_lm", architecture="llama", fields=SIZES | {"vocab_size": 32})
    assert plain.is_plain
    (answer,) = examine([replace(plain, counting=Counting(rows=text_rows(8)))])
    assert answer.count is not None


def test_a_count_has_the_labels_and_the_adapter_that_are_asked_for(own_cache, ask_here):
    adapter = AdapterSpec.model_validate({"lora": {"rank": 2, "target": ["c_attn"]}})
    whole = Question(
        task="text_classification",
        architecture="gpt2",
        fields={"n_embd": 8, "n_head": 2, "n_layer": 1, "vocab_size": 32, "pad_token_id": 0},
    )
    two, five = (
        examine([replace(whole, counting=Counting(rows=text_rows(8), labels=labels))])[0].count
        for labels in (2, 5)
    )
    assert five.trained - two.trained == 3 * 8
    counting = Counting(rows=text_rows(8))
    (adapted,) = examine([replace(whole, counting=counting, adapters=(adapter,))])
    assert adapted.count.trained == 2 * (8 + 24) + 2 * 8, "the pair, and the head"
    assert adapted.count.frozen == two.trained


# ---- what needs no asking ------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in load_presets() if not n.startswith("bert")])
def test_presets_are_known_without_asking(name, monkeypatch):
    monkeypatch.setattr(module, "ask_apart", lambda questions: pytest.fail("asked"))
    preset = load_presets()[name]
    adapter = AdapterSpec.model_validate({"lora": {"rank": 8}})
    question = Question(
        task="causal_lm",
        architecture=preset["architecture"],
        fields=preset["config"],
        adapters=(adapter,),
    )
    (answer,) = examine([question])
    assert answer.problems == ()


def candidates():
    """Fields as a job file may have them, right and wrong, of all plain families."""
    draw = random.Random(0)
    values = {
        "hidden_size": (0, 8, 12, 32, 30, "x"),
        "num_attention_heads": (1, 2, 3, 4),
        "num_key_value_heads": (None, 1, 2, 3, 4),
        "head_dim": (None, 1, 3, 4, 16),
        "tie_word_embeddings": (True, False, None, "no"),
        "rms_norm_eps": (1e-5, 1, "x"),
        "rope_theta": (1e4, 10000, None),
        "vocab_size": (32, -1, 100),
        "max_position_embeddings": (8, 64),
    }
    families = itertools.cycle(("llama", "mistral", "qwen2", "qwen3"))
    for _, family in zip(range(120), families, strict=False):
        chosen = draw.sample(list(values), draw.randint(0, 4))
        yield family, SIZES | {name: draw.choice(values[name]) for name in chosen}


def test_what_arithmetic_says_transformers_says_too():
    from raymodel.model import examiner

    plain = refused = 0
    adapter = AdapterSpec.model_validate({"lora": {"rank": 32}})
    for family, fields in candidates():
        for task in ("causal_lm", "text_classification"):
            question = Question(
                task=task, architecture=family, fields=fields, adapters=(adapter,) * (plain < 4)
            )
            if question.is_plain:
                plain += 1
                assert examiner.answer(question.to_dict())["problems"] == [], fields
        if any(find_wrong_fields(fields)):
            refused += 1
            assert examiner.answer(question.to_dict())["problems"], fields
    assert plain > 40
    assert refused > 20


def test_a_plain_model_computes(tmp_path):
    """Fields that fit together when a model is built may still not when it is used."""
    import torch

    from raymodel.model.build import build_config
    from raymodel.tasks import get_task

    done = 0
    for family, fields in candidates():
        if done < 12 and Question(task="causal_lm", architecture=family, fields=fields).is_plain:
            config = build_config(family, fields | {"pad_token_id": None})
            import transformers

            model = getattr(transformers, get_task("causal_lm").auto_class).from_config(config)
            assert model(torch.tensor([[1, 2, 3]])).logits.shape[-1] == config.vocab_size
            done += 1
    assert done == 12


def test_answers_are_plain_json(own_cache, ask_here):
    examine([GPT2])
    (file,) = own_cache.rglob("*.json")
    assert json.loads(file.read_text())["config"]["model_type"] == "gpt2"


def test_a_model_of_stages_has_heads_for_each():
    staged = {"depths": [1, 2], "num_attention_heads": [1, 2]}
    assert not [*find_wrong_fields(staged)]
    for wrong in ({"num_attention_heads": [1, 2]}, staged | {"num_attention_heads": [1, 0]}):
        [(name, _)] = find_wrong_fields(wrong)
        assert name == "num_attention_heads"
