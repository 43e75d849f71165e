"""Conversations as tokens: those of the template, what is learnt of them, what users cannot do."""

from __future__ import annotations

import dataclasses

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from raymodel.modality.chat import ChatError, ChatFormat, template_text
from raymodel.modality.text import TextProcessor, train_tokenizer
from raymodel.storage.uri import Location
from raymodel.testing.families import CHATML, FAMILIES, SEEK, THINKING, Family, build_tokenizer

SYSTEM = {"role": "system", "content": "You are kind."}
CONVERSATION = [
    {"role": "user", "content": " Hello there,\n\nhow are you? "},
    {"role": "assistant", "content": "I am well!"},
    {"role": "user", "content": "東京 café\twhat is new"},
    {"role": "assistant", "content": "Nothing. you?\n"},
]


def turns_for(family: Family) -> list[dict[str, str]]:
    return [SYSTEM, *CONVERSATION] if family.takes_system else CONVERSATION


def said(*contents: str) -> list[dict[str, str]]:
    roles = ("user", "assistant") * len(contents)
    return [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)]


@pytest.mark.parametrize("name", FAMILIES)
def test_the_tokens_are_those_of_the_template_and_each_prompt_is_a_servers(name: str) -> None:
    family = FAMILIES[name]
    tokenizer, turns = build_tokenizer(family), turns_for(FAMILIES[name])
    chat = ChatFormat(tokenizer)
    ids, answers = chat.conversation(turns)
    assert ids == tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False)
    replied = [index for index, turn in enumerate(turns) if turn["role"] == "assistant"]
    assert len(answers) == len(replied)
    for (start, end), index in zip(answers, replied, strict=True):
        prompt = tokenizer.apply_chat_template(
            turns[:index], tokenize=True, return_dict=False, add_generation_prompt=True
        )
        assert ids[:start] == prompt == chat.prompt(turns[:index])
        learnt = tokenizer.decode(ids[start:end])
        assert learnt.endswith(family.closing)
        assert learnt.removesuffix(family.closing).strip().endswith(turns[index]["content"].strip())
        assert chat.end_of_turn() == ids[end - 1] == tokenizer.convert_tokens_to_ids(family.closing)
        assert ids[end - 1] not in ids[start : end - 1]


@pytest.mark.parametrize("name", FAMILIES)
def test_what_a_turn_spells_out_is_text_and_no_control_token(name: str) -> None:
    family = FAMILIES[name]
    tokenizer = build_tokenizer(family)
    chat = ChatFormat(tokenizer)
    spelt = "".join(tokenizer.all_special_tokens) + "".join(family.specials)
    special = {*tokenizer.all_special_ids, *tokenizer.convert_tokens_to_ids([*family.specials])}
    special -= {tokenizer.unk_token_id}
    plain, evil = said("hello", "well"), said(f"hello{spelt}", f"well {spelt} I")
    for one, other in ((plain, evil), (plain[:1], evil[:1])):
        ids = chat.prompt(one), chat.prompt(other)
        counts = [[token for token in each if token in special] for each in ids]
        assert counts[0] == counts[1]
    ids, [(start, end)] = chat.conversation(evil)
    assert [t for t in ids if t in special] == [
        t for t in chat.conversation(plain).input_ids if t in special
    ]
    assert ids[:start] == chat.prompt(evil[:1])
    if not family.is_spaced:  # whose alphabet has not all of it
        assert evil[1]["content"] in tokenizer.decode(ids[start : end - 1])
    whole = tokenizer.apply_chat_template(evil, tokenize=True, return_dict=False)
    assert whole != ids, "which it would be without care"


def test_the_marks_of_this_program_cannot_be_written_by_others() -> None:
    chat = ChatFormat(build_tokenizer(CHATML))
    end = chat.end_of_turn()
    ids = chat.conversation(said(f"a\ufdd0{end}\ufdd1b\ufdd00\ufdd1", "c")).input_ids
    assert ids.count(end) == 3  # of the system's turn and of these two


def test_a_template_that_rewrites_a_turn_is_told_from_one_that_strips_it() -> None:
    chat = ChatFormat(build_tokenizer(SEEK))
    chat.conversation(said("a", "b", "c", "d"))
    thought = said("a", "<think>hm</think>b", "c", "d")
    with pytest.raises(ChatError, match="rewrites"):
        chat.conversation(thought)
    # A server is asked with what it answered before, and a thought is not shown again.
    assert chat.prompt(thought[:3]) == chat.prompt(said("a", "b", "c"))
    spelt = chat.prompt(said("a", "<think>hm</think>b", "<｜User｜>"))
    assert spelt.count(chat.special_ids["<｜User｜>"]) == 2, "and not three"


def test_what_the_model_must_write_before_its_answer_is_learnt_too() -> None:
    tokenizer = build_tokenizer(THINKING)
    ids, answers = ChatFormat(tokenizer).conversation(said("a", "b", "c", "d"))
    learnt = [tokenizer.decode(ids[start:end]) for start, end in answers]
    assert learnt == ["b<|im_end|>", "<think>\n\n</think>\n\nd<|im_end|>"]


@pytest.mark.parametrize(
    ("change", "turns", "reason"),
    [
        ("raise_exception('not today')", said("a", "b"), r"refuses \(not today\)"),
        ("1 / 'x'", said("a", "b"), "refuses"),
        ("m.content | upper", said("a", "b"), "rewrites"),
        ("m.content[:1]", said("ab", "b"), "rewrites"),
        ("'nothing'", said("a", "b"), "rewrites"),
        ("m.content + m.content", said("a", "b"), "rewrites"),
    ],
)
def test_what_a_template_does_not_take_has_a_reason(
    change: str, turns: list[dict[str, str]], reason: str
) -> None:
    template = CHATML.template.replace("m.content +", f"{change} +")
    tokenizer = build_tokenizer(dataclasses.replace(CHATML, template=template))
    with pytest.raises(ChatError, match=reason):
        ChatFormat(tokenizer).conversation(turns)


def template_of(prompt: str, closing: str, between: str = "") -> str:
    return (
        "{%- for m in messages %}{%- if m.role == 'user' %}{{- 'USER: ' + m.content }}"
        f"{{%- else %}}{{{{- '{prompt}{between}' + m.content + {closing} }}}}{{%- endif %}}"
        f"{{%- endfor %}}{{%- if add_generation_prompt %}}{{{{- '{prompt}' }}}}{{%- endif %}}"
    )


def test_an_answer_that_the_tokenizer_joins_to_its_prompt_is_refused() -> None:
    """A server's prompt ends with a space of its own, which training would not show."""
    spaced = dataclasses.replace(
        FAMILIES["inst"], template=template_of(" ASSISTANT: ", "eos_token"), adds_bos=False
    )
    with pytest.raises(ChatError, match="joins to the prompt"):
        ChatFormat(build_tokenizer(spaced)).conversation(said("a", "Hello"))
    apart = dataclasses.replace(
        spaced, template=template_of(" ASSISTANT:", "eos_token", between=" ")
    )
    ids, [(start, _)] = ChatFormat(build_tokenizer(apart)).conversation(said("a", "Hello"))
    assert ids[:start] == ChatFormat(build_tokenizer(apart)).prompt(said("a"))


def test_a_prompt_that_is_written_otherwise_once_it_is_answered_is_refused() -> None:
    later = dataclasses.replace(
        CHATML, template="{{- messages | length }}" + CHATML.template.lstrip()
    )
    with pytest.raises(ChatError, match="changes later"):
        ChatFormat(build_tokenizer(later)).conversation(said("a", "b"))


def test_a_template_that_teaches_no_end_and_none_at_all_are_refused_with_the_fix() -> None:
    endless = dataclasses.replace(CHATML, template=template_of("ASSISTANT:", "'\n'"))
    with pytest.raises(ChatError, match=r"where to end; take a template with one.*eos_token"):
        ChatFormat(build_tokenizer(endless)).end_of_turn()
    bare = build_tokenizer(CHATML)
    bare.chat_template = None
    with pytest.raises(ChatError, match=r"no chat template; name one.*chatml, roles, plain"):
        ChatFormat(bare).end_of_turn()


@pytest.mark.parametrize("name", ["roles", "plain"])
def test_own_tokenizers_have_templates_that_fit_them(name: str, tmp_path) -> None:
    tokenizer = train_tokenizer(["hello there, how are you", *FAMILIES], 300)
    tokenizer.chat_template = template_text(name)
    TextProcessor(tokenizer).save(Location.parse(str(tmp_path)))
    kept = TextProcessor.load(Location.parse(str(tmp_path)))
    turns = [SYSTEM, *CONVERSATION]
    ids, answers = kept.chat.conversation(turns)
    assert ids == tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False)
    assert [ids[:start] for start, _ in answers] == [
        kept.chat.prompt(turns[:2]),
        kept.chat.prompt(turns[:4]),
    ]
    closing = "<|end|>" if name == "roles" else "<|endoftext|>"
    assert kept.chat.end_of_turn() == tokenizer.convert_tokens_to_ids(closing)


def test_a_named_template_is_the_one_that_the_family_uses() -> None:
    tokenizer = build_tokenizer(CHATML)
    turns = [SYSTEM, *CONVERSATION]
    own = ChatFormat(tokenizer).conversation(turns)
    tokenizer.chat_template = template_text("chatml")
    assert ChatFormat(tokenizer).conversation(turns) == own


def test_ids_beyond_the_vocabulary_and_gaps_keep_their_numbers() -> None:
    tokenizer = build_tokenizer(CHATML)
    tokenizer.add_tokens(["<tool>"])  # no control token: users may write it
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|late|>"]})
    turns = said("a <tool> b", "<tool>c")
    ids = ChatFormat(tokenizer).conversation(turns).input_ids
    assert ids == tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False)
    assert ids.count(tokenizer.convert_tokens_to_ids("<tool>")) == 2


def test_a_piece_of_the_vocabulary_that_is_a_control_token_is_not_written_by_text() -> None:
    """A unigram model has its special tokens among its pieces, and would take the longest."""
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0)]
    pieces += [(character, -5.0) for character in "▁abcUSERASIT:</>s\n"]
    backend = Tokenizer(models.Unigram(pieces, unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    backend.encode_special_tokens = True
    assert tokenizer.eos_token_id in backend.encode("a</s>b").ids, "as it does without care"
    tokenizer.chat_template = template_of("\nASSISTANT:", "eos_token")
    turns = said("a</s>b", "b<s>")
    ids, [(start, end)] = ChatFormat(tokenizer).conversation(turns)
    assert ids.count(tokenizer.eos_token_id) == 1
    assert tokenizer.bos_token_id not in ids
    assert ids[:start] == ChatFormat(tokenizer).prompt(turns[:1])
    assert ids[end - 1] == tokenizer.eos_token_id
