"""The page at `/`, in a browser: what a person types, presses and sees."""

import os
from pathlib import Path

import pytest
from asked import rules_of
from browser import CHROMIUM, Page
from listening import listening

from raymodel.serve.app import build_app

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here"),
]
TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
IS_DONE = "!document.getElementById('send').disabled"
IS_FOCUSED = "document.activeElement.id === 'text'"
NUM_TURNS = "document.querySelectorAll('.turn').length"
# What sticks out at the side, and labels that take more than a line.
SIDEWAYS = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
WRAPPED = """[...document.querySelectorAll('label')].filter(label => label.offsetHeight
  > 1.9 * parseFloat(getComputedStyle(label).fontSize)).map(label => label.textContent)"""


@pytest.fixture
def template(tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "chat_template", TEMPLATE, raising=False)


@pytest.fixture
def page(tmp_path):
    with Page(tmp_path) as page:
        yield page


def ask(page, text):
    page.tell("document.getElementById('text').focus()")
    page.type(text)
    page.press_ctrl_enter()


def test_a_conversation_of_several_turns_by_keyboard(generation, template, page):
    asked = []
    read = generation.read_chat
    generation.read_chat = lambda body, *more: asked.append(body.messages) or read(body, *more)
    with listening(build_app(generation)) as url:
        page.open(url)
        page.wait_for("document.getElementById('name').textContent === 'tiny'")
        assert page.tell("document.getElementById('mode').value") == "chat"
        assert page.tell("getComputedStyle(document.getElementById('token-box')).display") == "none"
        ask(page, "hi")
        page.wait_for(f"{NUM_TURNS} === 2 && {IS_DONE}")
        assert page.tell(IS_FOCUSED)
        assert page.tell("document.getElementById('text').value") == ""
        assert "tokens/s" in page.tell("document.getElementById('figures').textContent")
        page.type("and then?")
        page.press_ctrl_enter()
        page.wait_for(f"{NUM_TURNS} === 4 && {IS_DONE}")
        assert [[m.role for m in each] for each in asked] == [
            ["user"], ["user", "assistant", "user"],
        ]  # fmt: skip
        assert page.tell("document.querySelectorAll('.copy').length") == 2
        page.click("reset")
        assert page.tell(NUM_TURNS) == 0
        assert page.tell(IS_FOCUSED)


def test_an_answer_that_is_stopped_stays_and_one_that_is_refused_gives_the_text_back(
    generation, template, page
):
    with listening(build_app(generation)) as url:
        page.open(url)
        page.wait_for("document.getElementById('name').textContent === 'tiny'")
        page.tell("document.getElementById('max-tokens').value = 400")
        ask(page, "hi")
        page.wait_for("document.querySelector('.turn.assistant')?.textContent.length > 3")
        page.click("stop")
        page.wait_for(f"{NUM_TURNS} === 2 && {IS_DONE}")
        while generation.engine.num_active:
            pass
        page.tell("document.getElementById('max-tokens').value = 1000")
        page.tell("document.getElementById('form').noValidate = true")
        ask(page, "again")
        page.wait_for(f"document.querySelector('.error') && {IS_DONE}")
        assert page.tell(NUM_TURNS) == 2
        assert page.tell("document.getElementById('text').value") == "again"


def test_a_token_is_asked_for_where_one_is_needed(generation, page):
    with listening(build_app(generation, rules_of(token="secret"))) as url:
        page.open(url)
        page.wait_for("!document.getElementById('token-box').hidden")
        page.tell("document.getElementById('token').focus()")
        page.type("secret")
        ask(page, "def read")
        page.wait_for(f"{IS_DONE} && document.querySelector('.prompt')")
        assert page.tell("document.getElementById('mode').value") == "completions"
        assert page.tell("document.getElementById('answer').textContent").startswith("def read")
        assert not page.tell("document.getElementById('copy').hidden")


@pytest.mark.parametrize("width", [360, 1000])
def test_nothing_sticks_out_on_a_phone_and_no_label_wraps(
    width, generation, classification, template, page
):
    for service in (generation, classification):
        with listening(build_app(service)) as url:
            page.open(url, width=width, is_dark=width < 600)
            page.wait_for("document.getElementById('name').textContent === 'tiny'")
            ask(page, "def read_file" + "x" * 50)
            page.wait_for(f"{IS_DONE} && (document.querySelector('.bar') || {NUM_TURNS} === 2)")
            assert not page.tell(SIDEWAYS)
            assert page.tell(WRAPPED) == []
            color = page.tell("getComputedStyle(document.documentElement).colorScheme")
            assert color == "light dark"
            if folder := os.environ.get("PICTURES"):
                Path(folder, f"{service.kind}-{width}.png").write_bytes(page.picture())
