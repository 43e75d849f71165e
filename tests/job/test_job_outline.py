from raymodel.job.outline import outline
from raymodel.job.spec import Job

FINETUNE = {
    "task": "causal_lm",
    "base": "somewhere",
    "sources": [{"path": "a", "fields": {"prompt": "{x}", "response": "{y}"}}],
    "global_batch": 8,
    "duration": "1 epoch",
}


def test_a_stage_is_one_short_line_however_much_it_names():
    sources = [{"path": f"folder-{i}/" + "x" * 1000} for i in range(300)]
    prepare = {"sources": sources, "tokenizer": {"vocab_size": 4096}, "sequence_length": 256}
    job = Job(name="x", prepare=prepare, finetune=FINETUNE | {"base": "a\nb" * 1000})
    lines = dict(outline(job))
    assert all(len(words) < 800 and words.isprintable() for words in lines.values())
    assert "295 more" in lines["prepare"]
    assert "folder-4/" in lines["prepare"]


def test_a_teacher_and_what_its_student_begins_as_are_told():
    distill = {"teacher": "large/finetune", "student": {"layers": 6}}
    job = Job(name="x", finetune=FINETUNE | {"base": None, "distill": distill})
    line = dict(outline(job))["finetune"]
    assert line.startswith("causal_lm from 6 layers of its teacher; taught by large/finetune; ")
    beside = Job(name="x", finetune=FINETUNE | {"distill": {"teacher": "large/finetune"}})
    assert "from somewhere; taught by large/finetune" in dict(outline(beside))["finetune"]
