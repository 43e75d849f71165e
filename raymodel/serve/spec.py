"""`serve:` how the best model answers over HTTP."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from raymodel.data.spec import MAX_ROW_TOKENS
from raymodel.serve.filters.spec import AnyFilterSpec
from raymodel.spec.base import DISTINCT, OPERATIONAL, Many, Spec, Text
from raymodel.spec.quantity import Bytes, Count, Fraction, Seconds
from raymodel.spec.show import show

MOST_MEMBERS = 15  # beside the first: each is asked for every request
EngineName = Literal["auto", "openvino", "transformers"]
EngineWeights = Literal["f16", "q8_0"]
DtypeName = Literal["auto", "float32", "bfloat16"]


class ReplicasSpec(Spec):
    """How many copies of the model answer."""

    min: int = Field(default=1, ge=0, le=10_000)
    """Replicas that always run. With 0 the model is let go when nobody asks, and loaded again by
    the next request, which waits for it; `/health` wakes nothing, and then says `asleep`."""
    max: int = Field(default=1, ge=1, le=10_000)
    """Replicas under load."""
    idle: Annotated[Seconds, Field(gt=0, le=86_400), OPERATIONAL] = "10min"  # type: ignore[assignment]
    """With `min: 0`: how long nobody must have asked until the last replica goes, and half a minute
    more, over which requests are counted."""
    wake: Annotated[Seconds, Field(gt=0, le=3600), OPERATIONAL] = "2min"  # type: ignore[assignment]
    """With `min: 0`: how long a request waits for a replica to start, before it is refused with
    503."""

    @model_validator(mode="after")
    def _ordered(self) -> ReplicasSpec:
        if self.min > self.max:
            raise ValueError(f"min is {self.min} and max is {self.max}; min must not exceed max")
        return self

    @property
    def wake_s(self) -> float:
        """How long a request may wait for a replica to start; 0 where one always runs."""
        return 0.0 if self.min else self.wake


class CanarySpec(Spec):
    """A new model shows itself before it answers all."""

    share: Fraction = Field(default=0.1, gt=0, lt=1)
    """Of the requests to the first replica that changes which the new model answers."""
    requests: int = Field(default=100, ge=1, le=1_000_000)
    """So many it answers before it takes the place of the old one."""
    within: Seconds = Field(default="10min", gt=0, le=86_400)  # type: ignore[assignment]
    """Where fewer come in this time, those decide."""


class ListenSpec(Spec):
    """Where requests are taken, and of whom."""

    host: Text = "127.0.0.1"
    """Address to listen on. Anything but loopback needs a token."""
    port: int = Field(default=8000, ge=1, le=65535)
    """Port to listen on."""
    token_env: Text | None = None
    """Name of the environment variable that holds the bearer token clients must send, or several
    with spaces between; each as it is, or as `sha256:` and its digest."""
    token_file: Text | None = None
    """A file with such tokens, one a line, each alone or behind a name; nobody but its owner and
    group may have rights to it."""
    requests_per_min: int | None = Field(default=None, ge=1, le=1_000_000)
    """What one token may ask in a minute, on a server without tokens what all may together; more is
    refused with 429. By default without a limit."""

    @model_validator(mode="after")
    def _guarded(self) -> ListenSpec:
        if self.host not in ("127.0.0.1", "localhost", "::1") and not self.has_token:
            raise ValueError(
                f"host {show(self.host)} can be reached from outside; set `token_env` to the name "
                "of the environment variable with the bearer token, or `token_file`, or listen on "
                "127.0.0.1"
            )
        return self

    @property
    def has_token(self) -> bool:
        """Whether clients must send one."""
        return self.token_env is not None or self.token_file is not None

    @property
    def url(self) -> str:
        """Where it is asked from this machine."""
        # A wildcard is where to listen, not where to ask.
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"


class DocumentsSpec(Spec):
    """Documents that a chat model answers from."""

    path: Text
    """A folder on this machine; `.md`, `.txt` and `.rst` below it are read, and read again when
    they change."""
    embedder: Text
    """The model that finds: a Hugging Face folder, `hf://OWNER/NAME[@REVISION]`,
    `python:PACKAGE/path`, or `RUN/STAGE`, for the task embedding. It is served too, at
    `/v1/embeddings`."""
    top: int = Field(default=4, ge=1, le=50)
    """Excerpts that a question is given; fewer where they do not fit into the model's context."""
    piece_tokens: int = Field(default=128, ge=16, le=4096)
    """Length of an excerpt in tokens of the embedder, which must be able to read it whole."""
    min_score: float = Field(default=0.2, ge=-1, le=1)
    """Cosine from which on an excerpt is about the question; a question that none is about is
    answered without."""


class DraftSpec(Spec):
    """A small model that writes ahead of the served one, which reads what it wrote in one pass and
    takes what it would have written itself. The answers are those of the model alone, and drawn
    with the same probabilities; what changes is how long they take."""

    model: Text
    """As `serve.model` names one, of the same tokenizer: such as `JOB/finetune` of this job, where
    `finetune.distill` made a student and `serve.model` is its teacher."""
    tokens: int | None = Field(default=None, ge=1, le=32)
    """So many it writes in a step for each answer. By default what pays for a model as much smaller
    as it is: 1 of one of half the size, 5 of one of a tenth."""


class ServeSpec(ListenSpec):
    """One HTTP application for the promoted model."""

    model: Text | None = None
    """A Hugging Face folder, `hf://OWNER/NAME[@REVISION]` on the Hugging Face Hub,
    `python:PACKAGE/path`, or `RUN/STAGE`; by default this job's newest model, once its gates are
    met."""
    name: Text | None = None
    """The model's name in the API; by default the job's name."""
    watch: Annotated[Literal["best"] | None, OPERATIONAL] = None
    """`best` has the replicas follow the promoted model of this job, or of the run whose `RUN/best`
    `model` names: a new one is loaded and probed beside the old one, one replica after the other,
    and answers what comes then. So a replica needs memory for two models. One that does not load
    is told in `/health`, and the old one goes on."""
    canary: Annotated[CanarySpec | None, OPERATIONAL] = None
    """With `watch`: a new model first answers a share of the requests, beside the old one. If it
    fails (statuses of 500 and more, answers that break off) more often than the old one, it is left
    as one that does not load. `/metrics` counts answers by version."""
    ensemble: Annotated[Many[Text], DISTINCT, Field(max_length=MOST_MEMBERS), OPERATIONAL] = ()
    """More models, named as `model` is, that answer together with it: classifiers of the same
    classes, whose probabilities are averaged. Each replica holds all of them."""
    draft: Annotated[DraftSpec | None, OPERATIONAL] = None
    """A small model writes ahead of one that writes text: for few requests at a time, of which each
    then takes less. The engine `transformers` computes both; on an x86 CPU `openvino` without a
    draft may be faster (`benchmarks/serve_draft.py`)."""
    documents: Annotated[DocumentsSpec | None, OPERATIONAL] = None
    """`/v1/chat/completions` answers from the documents of a folder, and names them."""
    filters: Annotated[Many[AnyFilterSpec], OPERATIONAL] = ()
    """What texts that are asked, and those that are answered, go through, in this order: names, or
    sections with `name` and what the filter takes, `[{name: words, file: blocked.txt}, {name: pii,
    side: out}]`. What they find is counted in `/metrics`, and told nowhere."""
    replicas: ReplicasSpec = ReplicasSpec()
    """Copies of the model."""
    engine: EngineName = "auto"
    """What computes the answers: `openvino`, on a CPU, or `transformers`, every model. `/health`
    says which, and why.

    Of a model that writes text `auto` takes OpenVINO GenAI where it can (Llama, Qwen 2 and Qwen 3
    with a byte-level BPE). What that does not do as a request asks (OpenAI's penalties, biases,
    alternatives to a token, scored prompts, forms) torch does beside it, with the model once more
    in memory from the first such request on. Of classes, tags, vectors and scores, whose model is
    called once, `auto` takes what is measured to be faster when the model is loaded, and computes
    the same."""
    dtype: DtypeName = "auto"
    """What is multiplied: `float32` or `bfloat16`. `auto` is what the model was saved in, where
    that is fast here; of models that are called once, what is measured to be faster, in which no
    number is more than 3% of the largest one away from fp32."""
    weights: EngineWeights = "f16"
    """Format of the weights in the engine `openvino`: `q8_0` holds them in eight bits, in half the
    memory, at a small loss. Of other engines the format is the model's own."""
    batch: int | None = Field(default=None, ge=1, le=100_000)
    """Requests that one replica answers at the same time. By default what memory and model allow:
    of a model that writes text up to 32 on a CPU and 64 on a GPU, as long as their keys and values
    have room; rows of a pass of any other model 8. `raymodel plan` and `/health` say."""
    queue: int = Field(default=64, ge=1, le=1_000_000)
    """Requests that wait for a place; more are refused with 503 and Retry-After."""
    max_wait: Annotated[Seconds | None, Field(gt=0), OPERATIONAL] = None
    """How long a request may have to wait for a place, as far as can be told from what answers
    took of late; one that would wait longer is refused at once, with 503 and a Retry-After of that
    time. By default half as long as answers take once they have a place, of models that answer in
    passes as long as a pass, so that the next one is full, and at least 0.5s: under any load what
    is taken is answered in about 1.5 times, or twice, what it takes when all places are taken and
    nobody waits."""
    max_tokens: Count | None = Field(default=None, ge=1, le=MAX_ROW_TOKENS)
    """Longest answer of one request, in tokens, and what one gets that names no limit. By default
    all that the context has room for, and 512 unasked; of answers that come whole (`seq2seq_lm`)
    256."""
    max_body: Bytes = Field(default="32MiB", ge=2**10, le=2**30)  # type: ignore[assignment]
    """Longest body of one request, as it is sent; more is refused with 413 before it is read. An
    image or a sound in base64 takes a third more than its file."""
    beams: int = Field(default=1, ge=1, le=64)
    """Of answers that come whole (`seq2seq_lm`), as in `evaluate`; 1 is greedy."""
    timeout: Seconds = Field(default="120s", gt=0)  # type: ignore[assignment]
    """A request that takes longer is ended with 504."""

    grace: Seconds = Field(default="30s", ge=0, le=3600)  # type: ignore[assignment]
    """How long answers under way may still take when the server is told to end (Ctrl-C, SIGTERM);
    then a stream is closed by an error event. Requests that wait are refused at once."""

    def identity(self) -> dict[str, Any]:
        """What is left to memory and model stands for what it was when it was a number: a job is
        the same job on a machine of another size."""
        data = super().identity()
        return data | {"batch": self.batch or 8, "max_tokens": self.max_tokens or 256}

    @model_validator(mode="after")
    def _followed(self) -> ServeSpec:
        if self.watch and self.model and not self.model.endswith("/best"):
            raise ValueError(
                f"watch follows the promoted model of a run, and model is {show(self.model)}; name "
                "RUN/best, or leave model out to follow this job"
            )
        if self.watch and self.ensemble:
            raise ValueError(
                "watch changes one model, and ensemble is of several that were trained together; "
                "leave one of the two out"
            )
        if self.draft and self.engine == "openvino":
            raise ValueError(
                "draft is for the engine transformers: OpenVINO ends beside one as soon as an "
                "answer's tokens are drawn. Leave engine out, or draft"
            )
        if self.draft and self.ensemble:
            raise ValueError(
                "draft writes ahead of a model that writes text, and ensemble is of classifiers; "
                "leave one of the two out"
            )
        if self.canary and not self.watch:
            raise ValueError("canary is of models that are followed; set watch: best too")
        return self
