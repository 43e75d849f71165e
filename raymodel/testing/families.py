"""Chat templates in the forms that families of models use, written anew and small, and tokenizers
that have their special tokens."""

from __future__ import annotations

from dataclasses import dataclass

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

TEXTS = [
    "system user assistant model You are kind. Hello there, how are you? I am well! ",
    "Nothing ### Instruction: ### Response: [INST] [/INST] USER: ASSISTANT: what is new, 東京 café",
]


@dataclass(frozen=True)
class Family:
    """How one family writes conversations."""

    template: str
    specials: tuple[str, ...]
    """Special tokens beside the first, the end of text and the padding."""
    closing: str
    """What ends an answer."""
    bos: str | None = None
    eos: str = "</s>"
    adds_bos: bool = False
    """Whether the tokenizer puts `bos` in front of a text by itself."""
    is_spaced: bool = False
    """SentencePiece's way: spaces are `▁`, and one is put in front of the text."""
    takes_system: bool = True


CHATML = Family(
    template="""
{%- if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are kind.<|im_end|>\n' }}
{%- endif %}{%- for m in messages %}
{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}""",
    specials=("<|im_start|>", "<|im_end|>"),
    closing="<|im_end|>",
    eos="<|endoftext|>",
)
HEADERS = Family(  # as Llama 3 writes them
    template="""
{%- for m in messages %}{%- if loop.first %}{{- bos_token }}{%- endif %}
{{- '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}
{%- endfor %}{%- if add_generation_prompt %}
{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}""",
    specials=("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    closing="<|eot_id|>",
    bos="<|begin_of_text|>",
    eos="<|end_of_text|>",
    adds_bos=True,
)
INST = Family(  # as Mistral and Llama 2 do: no generation prompt, the system in the first turn
    template="""
{%- if messages[0].role == 'system' %}{%- set first = messages[0].content + '\n\n' %}
{%- set rest = messages[1:] %}{%- else %}{%- set first = '' %}{%- set rest = messages %}
{%- endif %}{{- bos_token }}{%- for m in rest %}
{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('roles must alternate') }}{%- endif %}
{%- if m.role == 'user' %}{{- '[INST] ' + (first if loop.first else '') + m.content + ' [/INST]' }}
{%- else %}{{- ' ' + m.content + eos_token }}{%- endif %}{%- endfor %}""",
    specials=(),
    closing="</s>",
    bos="<s>",
    adds_bos=True,
    is_spaced=True,
)
TURNS = Family(  # as Gemma does: no system, the assistant is called model
    template="""{{- bos_token }}{%- if messages[0].role == 'system' %}
{{- raise_exception('System role not supported') }}{%- endif %}{%- for m in messages %}
{%- set role = 'model' if m.role == 'assistant' else m.role %}
{{- '<start_of_turn>' + role + '\n' + m.content | trim + '<end_of_turn>\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<start_of_turn>model\n' }}{%- endif %}""",
    specials=("<start_of_turn>", "<end_of_turn>"),
    closing="<end_of_turn>",
    bos="<bos>",
    eos="<eos>",
    adds_bos=True,
    is_spaced=True,
    takes_system=False,
)
BARS = Family(  # as Zephyr does: the roles are text, the end of a turn is that of the text
    template="""
{%- for m in messages %}{{- '<|' + m.role + '|>\n' + m.content + eos_token + '\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>\n' }}{%- endif %}""",
    specials=(),
    closing="</s>",
    bos="<s>",
    is_spaced=True,
)
PHI = Family(  # roles are special tokens
    template="""
{%- for m in messages %}{{- '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>\n' }}{%- else %}{{- eos_token }}{%- endif %}""",
    specials=("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
    closing="<|end|>",
    eos="<|endoftext|>",
)
ALPACA = Family(
    template="""{{- bos_token }}
{%- for m in messages %}{%- if m.role == 'system' %}{{- m.content + '\n\n' }}
{%- elif m.role == 'user' %}{{- '### Instruction:\n' + m.content.strip() + '\n\n' }}
{%- else %}{{- '### Response:\n' + m.content + eos_token + '\n\n' }}{%- endif %}{%- endfor %}
{%- if add_generation_prompt %}{{- '### Response:\n' }}{%- endif %}""",
    specials=(),
    closing="</s>",
    bos="<s>",
)
SEEK = Family(  # as DeepSeek does: a thought is left out of older answers
    template="""{{- bos_token }}
{%- for m in messages %}{%- if m.role == 'system' %}{{- m.content }}
{%- elif m.role == 'user' %}{{- '<｜User｜>' + m.content }}
{%- else %}{{- '<｜Assistant｜>' + m.content.split('</think>')[-1] + '<｜end▁of▁sentence｜>' }}
{%- endif %}{%- endfor %}{%- if add_generation_prompt %}{{- '<｜Assistant｜>' }}{%- endif %}""",
    specials=("<｜User｜>", "<｜Assistant｜>"),
    closing="<｜end▁of▁sentence｜>",
    bos="<｜begin▁of▁sentence｜>",
    eos="<｜end▁of▁sentence｜>",
    adds_bos=True,
)
THINKING = Family(  # as Qwen 3 does: of all answers the last begins with an empty thought
    template="""
{%- for m in messages %}{{- '<|im_start|>' + m.role + '\n' }}
{%- if m.role == 'assistant' and loop.last %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}
{{- m.content + '<|im_end|>\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}""",
    specials=("<|im_start|>", "<|im_end|>"),
    closing="<|im_end|>",
    eos="<|im_end|>",
)
FAMILIES = {
    "chatml": CHATML,
    "headers": HEADERS,
    "inst": INST,
    "turns": TURNS,
    "bars": BARS,
    "phi": PHI,
    "alpaca": ALPACA,
    "seek": SEEK,
    "thinking": THINKING,
}


def build_tokenizer(family: Family, *, padding: bool = True) -> PreTrainedTokenizerFast:
    """A small BPE with the special tokens of a family, and its template."""
    named = [family.bos, family.eos, "<|pad|>" if padding else None]
    first = list(dict.fromkeys(name for name in named if name))
    tokenizer, alphabet = _spaced() if family.is_spaced else _byte_level()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<unk>", *first],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS * 2, trainer)
    if family.is_spaced:  # no token goes on over a space, though the text is never split there
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    # As published models do, which get theirs when the vocabulary is there.
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in family.specials])
    if family.adds_bos:
        number = tokenizer.token_to_id(str(family.bos))
        tokenizer.post_processor = TemplateProcessing(
            single=f"{family.bos} $A", special_tokens=[(str(family.bos), number)]
        )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token=family.bos,
        eos_token=family.eos,
        pad_token="<|pad|>" if padding else None,
        chat_template=family.template,
        clean_up_tokenization_spaces=False,
    )


def _byte_level() -> tuple[Tokenizer, list[str]]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer, pre_tokenizers.ByteLevel.alphabet()


def _spaced() -> tuple[Tokenizer, list[str]]:
    """As SentencePiece, before it is trained."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    return tokenizer, sorted({*"▁\n", *"".join(TEXTS).replace(" ", "▁")})
