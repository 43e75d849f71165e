"""A chat that answers from documents: what is found, what the model is given, what is told."""

import asyncio
import json
import os
import re
import time

import httpx
import numpy as np
import pytest
from asked import events
from local_ray import local_ray

from raymodel.errors import ArtifactError, SourceError
from raymodel.serve import documents as documents_module
from raymodel.serve import library as library_module
from raymodel.serve.app import build_inner
from raymodel.serve.documents import Documents
from raymodel.serve.flow import Flow
from raymodel.serve.gate import Gate
from raymodel.serve.grounded import Grounded
from raymodel.serve.library import Found, Library
from raymodel.serve.spec import DocumentsSpec, ServeSpec
from raymodel.testing.distributed import free_port
from raymodel.testing.tiny import build_tiny_bert

WORDS = ["printer", "paper", "refund", "money", "ship", "days"]
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
PRINTER = "# Printer\n\nThe printer takes paper from below.\n\n# Jams\n\nOpen the printer's lid."
REFUND = "A refund is money that comes back."


def by_words(texts):
    """Vectors of the words that they hold, so that what is close is known."""
    rows = [[text.lower().count(word) for word in WORDS] + [0.01] for text in texts]
    vectors = np.asarray(rows, dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def library_of(folder, piece_tokens=12, embed=by_words):
    return Library(folder, embed, lambda text: len(text.split()), piece_tokens)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "help"
    (folder / "money").mkdir(parents=True)
    (folder / "printer.md").write_text(PRINTER)
    (folder / "money/refund.txt").write_text(REFUND)
    (folder / "money/.hidden.md").write_text("printer " * 50)
    (folder / "table.csv").write_text("printer " * 50)
    return folder


# ---- documents -----------------------------------------------------------------------------------


def test_pieces_are_whole_paragraphs_under_their_heading_and_never_too_long(folder):
    library = library_of(folder)
    library.refresh()
    pieces, vectors = library._index
    assert [piece.text for piece in pieces] == [
        REFUND,
        "# Printer\n\nThe printer takes paper from below.",
        "# Jams\n\nOpen the printer's lid.",
    ]
    assert [piece.source for piece in pieces] == ["money/refund.txt", *["printer.md"] * 2]
    assert vectors.shape == (3, 7)
    (folder / "printer.md").write_text("# Long\n\n" + " ".join(f"w{i}" for i in range(40)))
    library.refresh()
    words = [piece.text.split() for piece in library._index[0] if piece.source == "printer.md"]
    assert all(len(each) <= 13 for each in words)  # the heading may come on top
    assert [w for each in words for w in each if w.startswith("w")] == [f"w{i}" for i in range(40)]


def test_the_closest_pieces_are_found_first(folder):
    library = library_of(folder)
    library.refresh()
    first, second = library.find(["my printer and its paper"], top=2, min_score=0.1)
    assert (first.source, second.source) == ("printer.md", "printer.md")
    assert "paper" in first.text
    assert first.score > second.score
    assert library.find(["weather"], top=2, min_score=0.5) == []
    both = library.find(["printer", "refund money"], top=3, min_score=0.5)
    assert {each.source for each in both} == {"printer.md", "money/refund.txt"}


def test_documents_that_change_are_read_again_and_the_others_keep_their_vectors(folder):
    embedded = []

    def embed(texts):
        embedded.extend(texts)
        return by_words(texts)

    library = library_of(folder, embed=embed)
    assert library.refresh()
    assert not library.refresh()
    embedded.clear()
    (folder / "money/refund.txt").write_text("A refund takes ten days.")
    (folder / "ship.rst").write_text("We ship in two days.")
    (folder / "printer.md").unlink()
    assert library.refresh()
    assert embedded == ["A refund takes ten days.", "We ship in two days."]
    assert library.state() == {"files": 2, "pieces": 2, "left_out": {}}
    assert library.find(["printer"], top=3, min_score=0.5) == []
    for name in ("money/refund.txt", "ship.rst"):
        (folder / name).unlink()
    library.refresh()
    assert library.find(["refund"], top=3, min_score=-1) == []


def test_what_cannot_be_read_is_told_and_read_when_it_can(folder, monkeypatch):
    monkeypatch.setattr(library_module, "MAX_FILE_BYTES", 200)
    (folder / "latin.txt").write_bytes(b"caf\xe9 printer")
    (folder / "empty.txt").write_text(" \n")
    (folder / "large.txt").write_text("printer " * 50)
    library = library_of(folder)
    library.refresh()
    left_out = library.state()["left_out"]
    assert left_out.keys() == {"latin.txt", "empty.txt", "large.txt"}
    assert "400 bytes" in left_out["large.txt"]
    assert not library.refresh()
    (folder / "latin.txt").write_text("café printer")
    assert library.refresh()
    assert library.state()["left_out"].keys() == {"empty.txt", "large.txt"}


def test_a_folder_that_is_none_or_too_large_is_an_error(folder, tmp_path, monkeypatch):
    with pytest.raises(SourceError, match="no folder of documents"):
        library_of(tmp_path / "none").refresh()
    monkeypatch.setattr(library_module, "MAX_PIECES", 2)
    with pytest.raises(SourceError, match="more than 2 pieces"):
        library_of(folder).refresh()


# ---- chats ---------------------------------------------------------------------------------------


class Bot:
    """A gate before a tiny chat model, with documents that are found by their words."""

    def __init__(self, generation, monkeypatch, folder):
        self.library = library_of(folder, piece_tokens=30)
        self.library.refresh()
        self.asked, self.given = [], []
        render = generation._turn_ids
        tokens = generation.tokenizer

        def turn_ids(turns, param, tools=None):
            self.given.append([(turn["role"], turn["content"]) for turn in turns])
            return render(turns, param, tools)

        monkeypatch.setattr(generation, "_turn_ids", turn_ids)
        monkeypatch.setattr(tokens, "chat_template", TEMPLATE, raising=False)

        async def find(questions):
            self.asked.append(list(questions))
            return self.library.find(questions, 2, 0.3)

        async def embedder(scope, receive, send):
            start = {"type": "http.response.start", "status": 200, "headers": []}
            await send(start)
            await send({"type": "http.response.body", "body": b"embedder"})

        async def model_health():
            return generation.health()

        async def health():
            return self.library.state()

        grounded = Grounded(build_inner(generation), embedder, find, 20, (model_health, health))
        self.app = Gate(grounded, grounded.health, Flow(2, 20), name="tiny")

    def ask(self, path="/v1/chat/completions", **body):
        async def run():
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://a") as client:
                if path == "/health":
                    return await client.get(path)
                asked = {"model": "tiny", "max_tokens": 4, "temperature": 0} | body
                return await client.post(path, json=asked)

        return asyncio.run(run())

    def chat(self, *said, **body):
        roles = ("user", "assistant") * len(said)
        turns = [{"role": r, "content": c} for r, c in zip(roles, said, strict=False)]
        return self.ask(messages=turns, **body)


@pytest.fixture
def bot(generation, monkeypatch, folder):
    return Bot(generation, monkeypatch, folder)


def test_an_answer_is_given_the_excerpts_and_names_its_sources(bot):
    answer = bot.chat("where is the refund money?").json()
    (role, turn) = bot.given[-1][-1]
    assert role == "user"
    assert f"[money/refund.txt]\n{REFUND}" in turn
    assert turn.endswith("Question: where is the refund money?")
    said = answer["choices"][0]["message"]["content"]
    assert said.endswith("\n\nSources: money/refund.txt")
    (source,) = answer["sources"]
    assert (source["source"], source["text"]) == ("money/refund.txt", REFUND)
    assert 0.3 <= source["score"] <= 1


def test_a_stream_says_the_same(bot):
    whole = bot.chat("where is the refund money?").json()
    response = bot.chat(
        "where is the refund money?", stream=True, stream_options={"include_usage": True}
    )
    *chunks, done = events(response)
    assert done == "[DONE]"
    told = [json.loads(chunk) for chunk in chunks]
    choices = [choice for chunk in told for choice in chunk["choices"]]
    text = "".join(choice["delta"].get("content") or "" for choice in choices)
    assert text == whole["choices"][0]["message"]["content"]
    assert [c["finish_reason"] for c in choices if c["finish_reason"]] == ["length"]
    assert choices[-1]["finish_reason"] == "length"
    assert [chunk["sources"] for chunk in told if "sources" in chunk] == [whole["sources"]]
    assert told[-1]["usage"] == whole["usage"]


def test_a_question_is_looked_up_with_the_one_before_it_and_turns_are_as_they_were_said(bot):
    first = bot.chat("where is my refund?").json()["choices"][0]["message"]["content"]
    answer = bot.chat("where is my refund?", first, "and when does it come?").json()
    assert bot.asked[-1] == [
        "and when does it come?",
        "where is my refund?\nand when does it come?",
    ]
    assert answer["sources"][0]["source"] == "money/refund.txt"
    turns = bot.given[-1]
    assert turns[0] == ("user", "where is my refund?")
    assert turns[1] == ("assistant", re.sub(r"\n\nSources: .*", "", first))


def test_a_question_that_no_document_is_about_is_answered_without(bot):
    answer = bot.chat("hello").json()
    assert bot.given[-1] == [("user", "hello")]
    assert answer["sources"] == []
    assert "Sources:" not in answer["choices"][0]["message"]["content"]


def test_a_conversation_that_does_not_fit_loses_its_oldest_turns_first(bot, generation):
    old = ["long ago " * 12, "yes"] * 8
    system = {"role": "system", "content": "be kind"}
    roles = ("user", "assistant") * len(old)
    turns = [{"role": r, "content": c} for r, c in zip(roles, old, strict=False)]
    turns += [{"role": "user", "content": "where is the refund money?"}]
    answer = bot.ask(messages=[system, *turns])
    assert answer.status_code == 200, answer.text
    given = bot.given[-1]
    assert given[0] == ("system", "be kind")
    assert given[1][0] == "user"
    assert REFUND in given[-1][1]
    assert 3 < len(given) < len(turns) + 1
    used = answer.json()["usage"]["prompt_tokens"]
    assert used + 4 <= generation.engine.context_tokens
    assert used > generation.engine.context_tokens // 2


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ({"response_format": {"type": "json_object"}}, False),
        ({"structured_outputs": {"choice": ["{}"]}}, False),
        ({"response_format": {"type": "text"}}, True),
    ],
)
def test_an_answer_of_a_form_stays_that_form_and_tells_its_sources_beside_it(asked, names):
    async def model(scope, receive, send):
        told = {"count": 1, "max_model_len": 100, "choices": [{"message": {"content": "{}"}}]}
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(told).encode()})

    async def find(questions):
        return [Found("a.md", "text", 0.9)]

    async def health():
        return {"status": "ok"}

    async def run():
        app = Grounded(model, model, find, 20, (health, health))
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://a"
        ) as client:
            turns = [{"role": "user", "content": "?"}]
            return await client.post("/v1/chat/completions", json={"messages": turns} | asked)

    answer = asyncio.run(run()).json()
    content = answer["choices"][0]["message"]["content"]
    assert content == "{}" + ("\n\nSources: a.md" if names else "")
    assert answer["sources"] == [{"source": "a.md", "score": 0.9, "text": "text"}]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "user", "content": "refund"}], "max_token": 3}, "max_tokens"),
        ({"messages": [{"role": "user", "content": "refund money " * 9000}]}, "messages"),
        ({"messages": [{"role": "user", "content": "refund"}], "model": "x"}, "no model"),
        ({"messages": [{"role": "user"}]}, "content"),
    ],
)
def test_what_is_wrong_with_a_request_is_told_as_ever(bot, body, words):
    answer = bot.ask(**body)
    assert answer.status_code in (400, 404)
    assert words in answer.json()["error"]["message"]
    assert "sources" not in answer.json()


def test_other_paths_go_where_they_belong(bot):
    assert bot.ask("/v1/embeddings", input="a").text == "embedder"
    assert bot.ask("/v1/completions", prompt="def").json()["choices"]
    assert bot.ask("/health").json()["documents"] == {"files": 2, "pieces": 3, "left_out": {}}


# ---- with a served embedder ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def embedder_folder(tokenizer, tmp_path_factory):
    from raymodel.model.purpose import find_task
    from raymodel.storage.uri import Location

    path = tmp_path_factory.mktemp("embedder")
    bert = build_tiny_bert(("a", "b"), vocab_size=len(tokenizer)).bert.eval()
    bert.save_pretrained(path)
    tokenizer.save_pretrained(path)
    assert find_task(Location.parse(str(path))) == "embedding"
    return path


def test_a_served_embedder_finds_documents_and_sees_them_change(
    embedder_folder, folder, monkeypatch
):
    from raymodel.serve.load import load_service

    monkeypatch.setattr(documents_module, "LOOK_S", 0.0)
    monkeypatch.setattr(documents_module, "_WAIT_S", 60.0)
    service = load_service(embedder_folder, "embedding", name="e", spec=ServeSpec())
    spec = DocumentsSpec(path="help", embedder="e", piece_tokens=128, top=1, min_score=-1)
    documents = Documents(service, spec, folder)
    assert documents.state()["embedder"] == "e"

    async def find(question):
        (found,) = await documents.find([question])
        return found

    async def run():
        found = await find(REFUND)
        assert (found.source, found.text) == ("money/refund.txt", REFUND)
        assert found.score == pytest.approx(1, abs=1e-4)
        (folder / "money/refund.txt").write_text("Another text, of which nobody knew.")
        assert (await find("Another text, of which nobody knew.")).score > 0.999
        os.rename(folder, folder.parent / "away")
        assert (await find("Another text, of which nobody knew.")).score > 0.999
        assert "no folder" in documents.state()["trouble"]

    asyncio.run(run())
    documents.close()


def test_a_model_that_gives_no_vectors_is_refused(classification, folder):
    with pytest.raises(ArtifactError, match="text_classification"):
        Documents(classification, DocumentsSpec(path="help", embedder="e"), folder)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_job_of_the_docs_answers_from_documents_on_ray(
    embedder_folder, folder, llama, tokenizer, monkeypatch, tmp_path
):
    import openai

    from raymodel.cluster.spec import ClusterSpec
    from raymodel.observe.story import Story
    from raymodel.serve.run import run_serve
    from raymodel.spec.load import load_job
    from raymodel.storage.uri import Location

    job = load_job(
        "docs/support.yaml",
        [f"serve.port={free_port()}", "serve.max_tokens=8", f"serve.documents.path={folder}"],
    ).job
    monkeypatch.setattr(tokenizer, "chat_template", TEMPLATE, raising=False)
    llama.save_pretrained(tmp_path / "llama")
    tokenizer.save_pretrained(tmp_path / "llama")
    given = {"job_name": job.name, "cluster": ClusterSpec(), "story": Story()}
    assert job.serve is not None
    with (
        local_ray(4),
        run_serve(
            job.serve,
            Location.parse(str(tmp_path / "llama")),
            embedder=Location.parse(str(embedder_folder)),
            **given,
        ) as served,
    ):
        assert served.health()["documents"]["files"] == 2
        client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)
        vector = client.embeddings.create(model="support-embedder", input="a").data[0].embedding
        assert len(vector) == 32
        turns = [{"role": "user", "content": REFUND}]
        whole = client.chat.completions.create(model="support", messages=turns)
        assert "Sources: " in whole.choices[0].message.content
        assert "money/refund.txt" in {each["source"] for each in whole.sources}
        (folder / "new.md").write_text("What nobody has told yet.")
        time.sleep(documents_module.LOOK_S + 0.5)
        turns = [{"role": "user", "content": "What nobody has told yet."}]
        stream = client.chat.completions.create(model="support", messages=turns, stream=True)
        text = "".join(c.choices[0].delta.content or "" for c in stream)
        assert "new.md" in text.partition("Sources: ")[2]
