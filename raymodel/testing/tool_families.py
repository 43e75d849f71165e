"""Chat templates with functions, in the forms that families of models use, written anew and small;
for the tokenizers of `families.py`."""

from __future__ import annotations

from raymodel.testing.families import Family

TAGS = Family(  # as Qwen and Hermes do: an object a call, each between two tags
    template="""
{%- if tools %}{{- '<|im_start|>system\nTools:' }}{%- for tool in tools %}
{{- '\n' + (tool | tojson) }}{%- endfor %}{{- '\nCall by <tool_call>.<|im_end|>\n' }}{%- endif %}
{%- for m in messages %}
{%- if m.role == 'tool' %}
{{- '<|im_start|>user\n<tool_response>\n' + m.content + '\n</tool_response><|im_end|>\n' }}
{%- else %}{{- '<|im_start|>' + m.role }}{%- if m.content %}{{- '\n' + m.content }}{%- endif %}
{%- for call in m.tool_calls or [] %}{{- '\n<tool_call>\n{"name": "' + call.function.name }}
{{- '", "arguments": ' + (call.function.arguments | tojson) + '}\n</tool_call>' }}{%- endfor %}
{{- '<|im_end|>\n' }}{%- endif %}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}""",
    specials=("<|im_start|>", "<|im_end|>"),
    closing="<|im_end|>",
    eos="<|endoftext|>",
)
BARE = Family(  # as Llama 3 does: the answer is one object, and `parameters` its arguments
    template="""
{%- for m in messages %}
{%- if m.role == 'tool' %}{{- '<|start_header_id|>ipython<|end_header_id|>\n\n' }}
{{- {'output': m.content} | tojson }}{{- '<|eot_id|>' }}
{%- elif m.tool_calls %}{%- if m.tool_calls | length > 1 %}
{{- raise_exception('one call at a time') }}{%- endif %}
{%- set call = m.tool_calls[0].function %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{{- '{"name": "' + call.name + '", "parameters": ' + (call.arguments | tojson) + '}<|eot_id|>' }}
{%- else %}{{- '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' }}
{%- if loop.first and tools %}{%- for tool in tools %}{{- (tool | tojson(indent=4)) + '\n\n' }}
{%- endfor %}{%- endif %}{{- m.content | trim + '<|eot_id|>' }}{%- endif %}{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}""",
    specials=("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    closing="<|eot_id|>",
    bos="<|begin_of_text|>",
    eos="<|end_of_text|>",
)
LIST = Family(  # as Mistral does: a special token, then a list of all calls, with their ids
    template="""
{{- bos_token }}{%- set users = messages | selectattr('role', 'equalto', 'user') | list %}
{%- for m in messages %}{%- if m.role == 'user' %}{%- if m == users[-1] and tools %}
{{- '[AVAILABLE_TOOLS] ' + (tools | tojson) + '[/AVAILABLE_TOOLS]' }}{%- endif %}
{{- '[INST] ' + m.content + '[/INST]' }}
{%- elif m.tool_calls %}{{- '[TOOL_CALLS] [' }}{%- for call in m.tool_calls %}
{%- if call.id | length != 9 %}{{- raise_exception('an id has nine characters') }}{%- endif %}
{{- (call.function | tojson)[:-1] + ', "id": "' + call.id + '"}' }}
{{- ', ' if not loop.last else ']' + eos_token }}{%- endfor %}
{%- elif m.role == 'tool' %}
{{- '[TOOL_RESULTS] {"content": ' + (m.content | tojson) + ', "call_id": "' + m.tool_call_id }}
{{- '"}[/TOOL_RESULTS]' }}
{%- else %}{{- ' ' + m.content + eos_token }}{%- endif %}{%- endfor %}""",
    specials=(
        "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]",
        "[TOOL_RESULTS]", "[/TOOL_RESULTS]",
    ),
    closing="</s>",
    bos="<s>",
)  # fmt: skip
NAMED = Family(  # as newer Mistral models do: the name behind a special token, then its arguments
    template="""
{{- bos_token }}{%- if tools %}{{- '[AVAILABLE_TOOLS]' + (tools | tojson) }}
{{- '[/AVAILABLE_TOOLS]' }}{%- endif %}
{%- for m in messages %}{%- if m.role == 'user' %}{{- '[INST]' + m.content + '[/INST]' }}
{%- elif m.role == 'tool' %}
{{- '[TOOL_RESULTS]' + m.tool_call_id + '[TOOL_CONTENT]' + m.content + '[/TOOL_RESULTS]' }}
{%- else %}{{- m.content }}{%- for call in m.tool_calls or [] %}
{{- '[TOOL_CALLS]' + call.function.name + '[CALL_ID]' + call.id + '[ARGS]' }}
{{- call.function.arguments | tojson }}{%- endfor %}{{- eos_token }}{%- endif %}{%- endfor %}""",
    specials=(
        "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]",
        "[CALL_ID]", "[ARGS]", "[TOOL_RESULTS]", "[TOOL_CONTENT]", "[/TOOL_RESULTS]",
    ),
    closing="</s>",
    bos="<s>",
)  # fmt: skip
FENCED = Family(  # as DeepSeek does: arguments are a text for it, between fences
    template="""{{- bos_token }}{%- if tools %}{{- 'Tools: ' + (tools | tojson) }}{%- endif %}
{%- for m in messages %}{%- if m.role == 'user' %}{{- '<｜User｜>' + m.content }}
{%- elif m.role == 'tool' %}{{- '<｜tool▁output▁begin｜>' + m.content }}
{%- else %}{{- '<｜Assistant｜>' + m.content }}{%- for call in m.tool_calls or [] %}
{{- '<｜tool▁calls▁begin｜>' if loop.first else '\n' }}{{- '<｜tool▁call▁begin｜>function' }}
{{- '<｜tool▁sep｜>' + call.function.name + '\n```json\n' + call.function.arguments + '\n```' }}
{{- '<｜tool▁call▁end｜>' + ('<｜tool▁calls▁end｜>' if loop.last else '') }}{%- endfor %}
{{- eos_token }}{%- endif %}{%- endfor %}
{%- if add_generation_prompt %}{{- '<｜Assistant｜>' }}{%- endif %}""",
    specials=(
        "<｜User｜>", "<｜Assistant｜>", "<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>",
        "<｜tool▁sep｜>", "<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>", "<｜tool▁output▁begin｜>",
    ),
    closing="<｜end▁of▁sentence｜>",
    bos="<｜begin▁of▁sentence｜>",
    eos="<｜end▁of▁sentence｜>",
)  # fmt: skip


def _chatml(call: str, *specials: str) -> Family:
    """ChatML with calls in a form of their own."""
    template = """
{%- if tools %}{{- '<|im_start|>system\nTools: ' + (tools | tojson) + '<|im_end|>\n' }}{%- endif %}
{%- for m in messages %}{{- '<|im_start|>' + m.role + '\n' + m.content }}CALLS
{{- '<|im_end|>\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"""
    return Family(
        template=template.replace("CALLS", call),
        specials=("<|im_start|>", "<|im_end|>", *specials),
        closing="<|im_end|>",
        eos="<|endoftext|>",
    )


PARAMETERS = _chatml(  # as Qwen3-Coder does: each argument between tags, on lines of its own
    """
{%- for call in m.tool_calls or [] %}
{{- ('\n' if m.content or not loop.first else '') + '<tool_call>\n<function=' }}
{{- call.function.name + '>\n' }}
{%- for key, value in call.function.arguments | items %}{{- '<parameter=' + key + '>\n' }}
{{- (value if value is string else value | tojson) + '\n</parameter>\n' }}{%- endfor %}
{{- '</function>\n</tool_call>' }}{%- endfor %}"""
)
PAIRS = _chatml(  # as GLM does: keys and values by turns
    """
{%- for call in m.tool_calls or [] %}{{- '\n<tool_call>' + call.function.name + '\n' }}
{%- for key, value in call.function.arguments | items %}
{{- '<arg_key>' + key + '</arg_key>\n<arg_value>' }}
{{- (value if value is string else value | tojson) + '</arg_value>\n' }}{%- endfor %}
{{- '</tool_call>' }}{%- endfor %}"""
)
PYTHON = _chatml(  # as Llama 4 and others do: a list of Python's calls
    """
{%- for call in m.tool_calls or [] %}{{- '[' if loop.first else ', ' }}
{{- call.function.name + '(' }}{%- for key, value in call.function.arguments | items %}
{{- key + '=' + (value | tojson) + (', ' if not loop.last else '') }}{%- endfor %}
{{- ')' + (']' if loop.last else '') }}{%- endfor %}"""
)
# As LFM2 does: a list of Python's calls between two tokens, of which the template knows nothing.
UNWRITTEN = _chatml("", "<|tool_call_start|>", "<|tool_call_end|>")
TOOL_FAMILIES = {
    "tags": TAGS,
    "bare": BARE,
    "list": LIST,
    "named": NAMED,
    "fenced": FENCED,
    "parameters": PARAMETERS,
    "pairs": PAIRS,
    "python": PYTHON,
    "unwritten": UNWRITTEN,
}
