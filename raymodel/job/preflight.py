"""What a job names is looked at before its first stage: sources, tokenizers, datasets, models.

`raymodel check` reads the job file alone. Here, where the job runs or is planned, each folder that
the file names is opened, so that nothing is prepared for hours which a later stage cannot use. What
the job makes itself is not there yet and not looked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from raymodel.compress.origin import resolve_models, rows_of
from raymodel.compress.spec import CompressSpec
from raymodel.data.mixture import Mixture, resolve_mixture
from raymodel.data.sources import find_tokenizer, resolve_source, sets_of
from raymodel.data.spec import TokenizerSpec
from raymodel.errors import (
    ArtifactError,
    MissingArtifactError,
    MissingSourceError,
    RaymodelError,
    SpecError,
    StorageError,
    StorageUnavailableError,
)
from raymodel.job.check_measures import find_wrong_measures
from raymodel.job.preflight_teacher import (
    check_same_task,
    find_reader,
    find_wrong_teacher,
    named_reader,
)
from raymodel.job.progress import Progress, find_progress
from raymodel.job.spec import Job
from raymodel.job.special_tokens import lacking_in_pretraining, lacking_tokens, special_tokens
from raymodel.model.examine import Answer, Question, examine
from raymodel.model.positions import find_max_tokens
from raymodel.model.presets import resolve_model
from raymodel.model.purpose import find_task, model_location
from raymodel.serve.draft_rules import check_draft
from raymodel.serve.filters.check import check_classifier
from raymodel.serve.filters.spec import ClassifierFilterSpec, classifiers_of
from raymodel.spec.document import dotted
from raymodel.storage.artifact import Artifact
from raymodel.storage.hub_place import is_on_hub
from raymodel.storage.registry import Run
from raymodel.storage.uri import Location
from raymodel.tasks import get_task, make_task
from raymodel.tasks.base import Task
from raymodel.tasks.files import read_files
from raymodel.tasks.spec import AnyTask
from raymodel.train.base import BaseModel, resolve_base
from raymodel.train.forecast.support import Trained, find_unsupported
from raymodel.train.spec import FinetuneSpec, PretrainSpec, TrainSpec
from raymodel.tune.space import adapters_of


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What is wrong with an input."""

    stage: str
    message: str
    is_missing: bool = False
    """Nothing lies there, or nothing can be read from here: it may be made yet, or be seen only
    where the job will run."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What was found of a job's inputs."""

    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    """What will be done that the user may not expect."""
    found: tuple[str, ...]
    """What no field says of the data and a look at it does; a stage says it itself when it reads
    all of it, so that a run does not say it before."""
    base: Answer | None
    """About the folder that `finetune.base` names, where that is there."""
    pretrain_base: Answer | None
    """The same of `pretrain.base`."""
    progress: Progress
    """What the job's storage holds of it."""
    teachers: Mapping[str, Answer] = field(default_factory=dict)
    """Stage → about the folder of what its model learns from, where that is there."""
    unavailable: StorageUnavailableError | None = None
    """A storage that failed at every try, which is no fault of the job."""

    def wrong(self) -> dict[str, str]:
        """Stage → what no waiting can mend."""
        return self._by_stage(is_missing=False)

    def missing(self) -> dict[str, str]:
        """Stage → what is not there, or not to be seen from here."""
        return self._by_stage(is_missing=True)

    def _by_stage(self, *, is_missing: bool) -> dict[str, str]:
        chosen = [each for each in self.findings if each.is_missing == is_missing]
        return {
            stage: "; ".join(each.message for each in chosen if each.stage == stage)
            for stage in dict.fromkeys(each.stage for each in chosen)
        }


def check_inputs(job: Job, base_dir: Path, say: Callable[[str], None]) -> None:
    """Looks at all that a job names, before anything is started or written.

    Args:
        job: the checked job.
        base_dir: where relative paths start.
        say: told what the user may not expect.

    Raises:
        SpecError: something is missing or wrong; a line for each.
        StorageUnavailableError: a storage cannot be asked at the moment.
    """
    inputs = look_at_inputs(job, base_dir)
    if inputs.unavailable is not None:
        raise inputs.unavailable
    if inputs.findings:
        lines = dict.fromkeys(f"{each.stage}: {each.message}" for each in inputs.findings)
        head = [f"{len(lines)} inputs of the job are wrong"] if len(lines) > 1 else []
        raise SpecError("\n".join([*head, *lines]))
    for note in inputs.notes:
        say(note)


def look_at_inputs(job: Job, base_dir: Path) -> Inputs:
    """Looks at all that a job names; what is wrong is said, not raised."""
    return _Look(job, base_dir).run()


@dataclass
class _Look:
    job: Job
    base_dir: Path
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    found: list[str] = field(default_factory=list)
    questions: list[tuple[str, Question]] = field(default_factory=list)
    """Stage or field → what is asked about a folder; all are asked at once."""
    base_answer: Answer | None = None
    pretrain_base: Answer | None = None
    teachers: dict[str, Answer] = field(default_factory=dict)
    unavailable: StorageUnavailableError | None = None

    def run(self) -> Inputs:
        job = self.job
        if job.prepare:
            self._sources("prepare", (*job.prepare.sources, *sets_of(job.prepare.clean)))
            self._tokenizer("prepare", job.prepare.tokenizer)
        if job.pretrain and job.pretrain.data is not None:
            self._data()
        if job.pretrain:
            self._base("pretrain", job.pretrain, job.pretrain.objective)
            self._teacher("pretrain", job.pretrain, job.pretrain.objective)
        if job.finetune:
            self._sources("finetune", (*job.finetune.sources, *sets_of(job.finetune.clean)))
            self._tokenizer("finetune", job.finetune.tokenizer)
            with self._collecting("finetune"):
                read_files(job.finetune.task, self.base_dir)
            self._base("finetune", job.finetune, job.finetune.task)
            self._teacher("finetune", job.finetune, job.finetune.task)
        if job.compress:
            self._compressed(job.compress)
        if job.serve and job.serve.model:
            self._served("serve.model", job.serve.model)
        for i, member in enumerate(job.serve.ensemble if job.serve else ()):
            self._served(f"serve.ensemble.{i}", member)
        if job.serve and job.serve.draft:
            self._draft(job.serve.model, job.serve.draft.model)
        if job.serve and job.serve.documents:
            self._served("serve.documents.embedder", job.serve.documents.embedder)
        for judge in classifiers_of(job.serve.filters if job.serve else ()):
            self._served("serve.filters", judge.model, judge)
        answers = examine([question for _, question in self.questions])
        for (stage, _), answer in zip(self.questions, answers, strict=True):
            with self._collecting(stage.partition(".")[0]):
                self._judge(stage, answer)
        progress = find_progress(job, self.base_dir)
        self._translators(progress)
        self._rows("pretrain", job.pretrain, progress)
        self._rows("finetune", job.finetune, progress)
        return Inputs(
            findings=tuple(self.findings),
            notes=tuple(self.notes),
            found=tuple(self.found),
            base=self.base_answer,
            pretrain_base=self.pretrain_base,
            progress=progress,
            teachers=self.teachers,
            unavailable=self.unavailable,
        )

    @contextmanager
    def _collecting(self, stage: str) -> Iterator[None]:
        """An error becomes a finding."""
        try:
            yield
        except StorageUnavailableError as error:
            self.unavailable = error
            self._add(stage, str(error), is_missing=True)
        except (RaymodelError, OSError) as error:
            missing = MissingArtifactError | MissingSourceError | StorageError | OSError
            self._add(stage, str(error), is_missing=isinstance(error, missing))

    def _add(self, stage: str, message: str, *, is_missing: bool = False) -> None:
        self.findings.append(Finding(stage=stage, message=message, is_missing=is_missing))

    @property
    def _storage(self) -> Location:
        return Location.parse(self.job.storage)

    # ---- what lies there -------------------------------------------------------------------------

    def _sources(self, stage: str, sources: tuple[Any, ...]) -> None:
        from raymodel.data.read import peek  # imports numpy

        for source in sources:
            with self._collecting(stage):
                files = resolve_source(source, self.base_dir)
                self.found += [f"{stage}: {line}" for line in peek(files, source)]

    def _tokenizer(self, stage: str, spec: TokenizerSpec | None) -> None:
        if spec is not None and spec.load is not None:
            with self._collecting(stage):
                folder = find_tokenizer(spec.load, self.base_dir)
                self.questions.append((f"{stage}.tokenizer", Question(folder=folder)))

    def _data(self) -> None:
        spec = self.job.pretrain
        assert spec is not None, "the caller looked"
        if any(self._is_made_by_this_job(each.path) for each in spec.datasets):
            return
        with self._collecting("pretrain"):
            mixture = resolve_mixture(spec.datasets, self._storage, self.base_dir)
            self._check_held_out(mixture)
            for artifact, _ in mixture[:1]:  # the rest is alike
                content = artifact.content
                facts, row_tokens = content["processor"], content["sequence_length"]
                other = find_other_modality(get_task(spec.objective.name), facts["modality"])
                if other is not None:
                    self._add("pretrain", f"{artifact.location}: {other}")
                elif row_tokens is not None:
                    self._check_tokens("pretrain", artifact.location, facts, row_tokens)
                    self._check_sizes(facts["vocab_size"], row_tokens)

    def _rows(self, stage: str, spec: TrainSpec | None, progress: Progress) -> None:
        """That rows which can be counted already fill the steps that are made of them."""
        data, is_wrong = progress.rows(stage), any(each.stage == stage for each in self.findings)
        if spec is None or not data or is_wrong or stage in progress.complete:
            return
        from raymodel.train.work import plan_dataset  # imports numpy

        with self._collecting(stage):
            repeats = plan_dataset(spec, data).repeats
            self.found += [f"{stage}: {repeats}"] if repeats else []

    def _base(self, stage: str, spec: PretrainSpec | FinetuneSpec, task: AnyTask) -> None:
        if spec.base is None or self._is_made_by_this_job(spec.base):
            return
        with self._collecting(stage):
            base = self._resolve(stage, spec.base)
            question = replace(question_of(task, self.base_dir), folder=base.location)
            if isinstance(spec, FinetuneSpec):
                question = replace(question, adapters=adapters_of(spec))
            else:
                question = replace(question, reads_like=self._reader(stage))
            self.questions.append((f"{stage}.base", question))

    def _teacher(self, stage: str, spec: TrainSpec, task: AnyTask) -> None:
        """The model that another learns from; and that one, where it begins as a part of it."""
        if spec.distill is None or self._is_made_by_this_job(spec.distill.teacher):
            return
        with self._collecting(stage):
            model = self._resolve(stage, spec.distill.teacher)
            check_same_task(model, task, spec.distill.teacher)
            question = replace(question_of(task, self.base_dir), folder=model.location)
            asked = replace(question, trains=False, reads_like=self._reader(stage))
            self.questions.append((f"{stage}.teacher", asked))
            if isinstance(spec, FinetuneSpec) and spec.distill.student is not None:
                layers, adapters = spec.distill.student.layers, adapters_of(spec)
                part = replace(question, layers=layers, adapters=adapters)
                self.questions.append(("finetune.base", part))

    def _resolve(self, stage: str, named: str) -> BaseModel:
        """Says how much is to be fetched of what lies on the Hugging Face Hub."""
        model = resolve_base(named, self._storage, self.base_dir)
        if is_on_hub(uri := model.location.uri):
            from raymodel.storage.hub_model import size_text  # imports the client

            note = f"{stage}: {uri} is {size_text(uri)}, fetched once by each machine that reads it"
            self.notes += [note] if note not in self.notes else []
        return model

    def _reader(self, stage: str) -> Location | None:
        named = named_reader(self.job, stage)
        if named is None or self._is_made_by_this_job(named):
            return None
        return find_reader(self.job, stage, self._storage, self.base_dir)

    def _served(self, field: str, named: str, judge: ClassifierFilterSpec | None = None) -> None:
        """A model that is served; what the filter asks of it whose model it is."""
        if self._is_made_by_this_job(named):
            return
        with self._collecting("serve"):
            model = self._resolve("serve", named)
            found = model.artifact or model.location
            task, folder = find_task(found), model_location(found)
            self.questions.append((field, Question(task=task, folder=folder, trains=False)))
            if judge is not None:
                check_classifier(judge, folder, task)

    def _draft(self, served: str | None, named: str) -> None:
        """The model that writes ahead of another; that it reads as that one does, where that is
        there."""
        if self._is_made_by_this_job(named):
            return
        with self._collecting("serve"):
            draft = self._resolve("serve", named)
            task = find_task(draft.artifact or draft.location)
            question = Question(task=task, folder=draft.location, trains=False)
            if served is not None and not self._is_made_by_this_job(served):
                model = self._resolve("serve", served)
                check_draft(find_task(model.artifact or model.location), task)
                question = replace(question, reads_like=model.location)
            self.questions.append(("serve.draft", question))

    def _compressed(self, spec: CompressSpec) -> None:
        """The models of other runs that it names, and that they can be measured as asked."""
        if spec.merge and spec.merge.base and not self._is_made_by_this_job(spec.merge.base):
            with self._collecting("compress"):
                self._resolve("compress", spec.merge.base)
        if any(map(self._is_made_by_this_job, spec.named)):
            return
        with self._collecting("compress"):
            models = resolve_models(spec.named, self._storage, self.base_dir)
            for model in models:
                folder = model_location(model)
                question = Question(task=find_task(model), folder=folder, trains=False)
                self.questions.append(("compress.model", question))
            for model in models[:1]:
                self._check_measures(model)

    def _check_measures(self, model: Artifact) -> None:
        """Of a job that trains its own model `check` has done so."""
        assert self.job.evaluate is not None, "the spec asks for it"
        rows = rows_of(model)
        for problem in find_wrong_measures(
            self.job.evaluate,
            find_task(model),
            has_examples=rows.examples is not None,
            has_text=rows.examples is not None and bool(rows.data),
        ):
            self._add("evaluate", f"{dotted(problem.path[1:])}: {problem.message}")

    def _is_made_by_this_job(self, reference: str) -> bool:
        """Whether a reference is to a stage that runs before, and has no result yet."""
        run, _, stage = reference.partition("/")
        if run != self.job.name or stage not in (*_MAKES, "best"):
            return False
        makes = stage == "best" or getattr(self.job, stage) is not None
        known = Run(self._storage / run)
        return makes and (known.best() if stage == "best" else known.latest(stage)) is None

    def _translators(self, progress: Progress) -> None:
        """The servers that translate examples, where these are yet to be made."""
        spec = self.job.finetune
        if spec is None or not spec.sources or "examples" in progress.complete:
            return
        if (made_by := spec.task.back_translation) is not None:
            from raymodel.data.paraphrases import check_translators  # imports pyarrow

            with self._collecting("finetune"):
                check_translators(made_by)

    # ---- what it holds ---------------------------------------------------------------------------

    def _judge(self, stage: str, answer: Answer) -> None:
        owner = stage.partition(".")[0]
        for subject, message in answer.problems:
            where = "adapter: " if subject == "adapter" else ""
            where = "distill.teacher: " if stage.endswith(".teacher") else where
            where = "draft: " if stage == "serve.draft" else where
            self._add(owner, where + message)
        self.notes += [f"{owner}: {note}" for note in answer.notes]
        if answer.problems:
            return
        if stage == "prepare.tokenizer":
            self._judge_tokenizer(answer)
        elif stage == "finetune.base":
            self.base_answer = answer
            self._judge_base(answer)
        elif stage == "pretrain.base":
            self.pretrain_base = answer
            self._judge_pretrain_base(answer)
        elif stage == "finetune.tokenizer":
            self._judge_tokenizer_of_examples(answer)
        elif owner in ("pretrain", "finetune") and stage.endswith(".teacher"):
            self.teachers[owner] = answer
            for why in find_wrong_teacher(self.job, owner, answer, self.base_answer):
                self._add(owner, f"distill.teacher: {why}")

    def _judge_tokenizer(self, answer: Answer) -> None:
        text = self.job.prepare.text if self.job.prepare else None
        assert text is not None, "the caller looked"
        if answer.end_of_text is None:
            self._add(
                "prepare",
                f"the tokenizer {text.tokenizer.load!r} has no end-of-text token; documents are "
                "packed with one between them. Set `eos_token` in its tokenizer_config.json",
            )
        where = f"the tokenizer {text.tokenizer.load!r}"
        facts = {"mask": answer.mask, "sentinels": answer.sentinels}
        self._check_tokens("prepare", where, facts, text.length)
        if self.job.pretrain and self.job.pretrain.data is None:
            self._check_sizes(answer.vocab_size or 0, text.length)

    def _judge_tokenizer_of_examples(self, answer: Answer) -> None:
        spec = self.job.finetune
        assert spec is not None, "the caller looked"
        assert spec.tokenizer is not None, "the caller looked"
        has = special_tokens({"mask": answer.mask, "sentinels": answer.sentinels})
        for lack in lacking_tokens([(spec.task, None)], has):
            self._add(
                "finetune",
                f"the tokenizer {spec.tokenizer.load!r}: {lack.text}; take that of a model that "
                f"was trained so, or train one with finetune.tokenizer: {{vocab_size: …, "
                f"{lack.fix}}}",
            )

    def _judge_base(self, answer: Answer) -> None:
        spec = self.job.finetune
        assert spec is not None, "the caller looked"
        if not answer.config:
            return  # nobody here could tell
        length = spec.max_length_for(find_max_tokens(answer.config))
        self._judge_layout("finetune", spec, spec.task, answer, length)

    def _judge_pretrain_base(self, answer: Answer) -> None:
        job, most = self.job, find_max_tokens(answer.config)
        assert job.pretrain is not None, "the caller looked"
        if not answer.config:
            return  # nobody here could tell
        length = job.prepare.sequence_length if job.prepare and not job.pretrain.data else None
        if length is not None and most is not None and length > most:
            self._add(
                "pretrain",
                f"base takes {most} tokens, and prepare.sequence_length is {length}; lower that, "
                "or start from a base that takes as many",
            )
        self._judge_layout("pretrain", job.pretrain, job.pretrain.objective, answer, length)
        if job.finetune is not None and job.finetune.starts_from_pretrain:
            length = job.finetune.max_length_for(most)
            self._judge_layout("finetune", job.finetune, job.finetune.task, answer, length)

    def _judge_layout(
        self, stage: str, spec: TrainSpec, task: AnyTask, answer: Answer, length: int | None
    ) -> None:
        architecture, kind = str(answer.config.get("model_type")), get_task(task.name)
        model = Trained(
            architecture, answer.config, kind.cuts_rows, length, kind.apart_architectures
        )
        for name, reason in find_unsupported(spec, model):
            self._add(stage, f"{name}: {reason}")

    def _check_tokens(
        self, stage: str, where: object, facts: Mapping[str, Any], row_tokens: int
    ) -> None:
        """That what reads the data has the special tokens that the training on it needs.

        Args:
            facts: of the tokenizer; what older datasets do not say of it is not looked at.
            row_tokens: of packed rows.
        """
        for lack in lacking_in_pretraining(self.job, special_tokens(facts), row_tokens):
            self._add(
                stage,
                f"{where}: {lack.text}; take the tokenizer of a model that was trained so, or "
                f"train one with prepare.tokenizer: {{vocab_size: …, {lack.fix}}}",
            )

    def _check_sizes(self, vocab_size: int, row_tokens: int) -> None:
        """That a model which is given its sizes has room for the data."""
        assert self.job.pretrain is not None, "the caller looked"
        if self.job.pretrain.model is None:
            return  # a base has what it has
        _, fields = resolve_model(self.job.pretrain.model)
        needed = {"vocab_size": vocab_size, "max_position_embeddings": row_tokens}
        for name, size in needed.items():
            if fields.get(name, size) < size:
                self._add(
                    "pretrain",
                    f"model.config.{name} is {fields[name]}, but the data needs {size}; leave it "
                    "out, or give at least that",
                )

    def _check_held_out(self, mixture: Mixture) -> None:
        if not any(artifact.content["splits"]["holdout"]["parts"] for artifact, _ in mixture):
            raise ArtifactError(
                f"{', '.join(str(artifact.location) for artifact, _ in mixture)} hold no documents "
                "out, and training is validated on some; prepare one with a `holdout` above 0"
            )


def find_other_modality(task: type[Task], modality: str) -> str | None:
    """Why a task cannot be pretrained on rows of a modality; None where it can."""
    if task.modality == modality:
        return None
    fix = (
        "give `prepare` an `image` in place of `tokenizer` and `sequence_length`"
        if task.modality == "image"
        else "give `prepare` a `tokenizer` and a `sequence_length`"
    )
    return f"{task.name} learns from {task.modality}, and the rows are of {modality}; {fix}"


def question_of(task: AnyTask, base_dir: Path) -> Question:
    """About a model that is trained for a task, which is to be filled in.

    Raises:
        SourceError: a file that the task names is missing.
    """
    return Question(task=task.name, task_spec=task.to_dict(), files=read_files(task, base_dir))


def offered_to_own(spec: FinetuneSpec) -> dict[str, Any]:
    """What is known, before there is data, of what a fresh module of the user's own is offered."""
    processor = make_task(spec.task).fresh_processor()
    if processor is not None:
        return processor.facts()
    sizes = {"vocab_size": spec.tokenizer and spec.tokenizer.vocab_size}
    return {name: size for name, size in sizes.items() if size is not None}


_MAKES = ("prepare", "pretrain", "finetune", "compress")
