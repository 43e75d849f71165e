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
TOOL_FAMILIES = {"tags": TAGS, "bare": BARE, "list": LIST}
