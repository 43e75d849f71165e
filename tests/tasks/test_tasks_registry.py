"""The registry is light, and names the nearest task."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from raymodel.tasks import TASKS, get_task


def test_every_task_is_found_by_its_name():
    assert {name: get_task(name).name for name in TASKS} == {name: name for name in TASKS}
    assert {"causal_lm", "text_classification"} <= set(TASKS)


def test_an_unknown_task_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'causal_lm'"):
        get_task("casual_lm")


def test_asking_a_task_about_a_source_loads_nothing_heavy():
    code = (
        "import sys; from raymodel.tasks import get_task\n"
        "from raymodel.data.spec import SourceSpec\n"
        "from raymodel.tasks.fields import find_wrong_roles\n"
        "source = SourceSpec(path='x', fields={'prompt': '{a}', 'response': '{b}'})\n"
        "assert not [*find_wrong_roles(source, get_task('causal_lm').fields, 'causal_lm')]\n"
        "print([m for m in ('torch', 'pyarrow', 'transformers', 'ray') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr


def test_the_readme_has_the_table_of_what_the_tasks_say():
    """`python docs/table_of_tasks.py` writes it."""
    script = runpy.run_path(str(Path(__file__).parents[2] / "docs/table_of_tasks.py"))
    assert script["current"]() == script["table"]()
