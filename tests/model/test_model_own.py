"""A plain module of a user's own as a model: made, tried, counted, saved and loaded."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from raymodel.errors import ArtifactError, SpecError
from raymodel.modality.audio import AudioProcessor
from raymodel.modality.image import ImageProcessor
from raymodel.modality.spec import AudioSpec
from raymodel.modality.text import TextProcessor
from raymodel.model.adapters import attach_adapter
from raymodel.model.build import build_model
from raymodel.model.counted import rows_of
from raymodel.model.examine import Question
from raymodel.model.examiner import answer
from raymodel.model.export import save_model
from raymodel.model.load import load_for_use, load_model, open_model
from raymodel.model.materialise import materialise
from raymodel.model.own import first_weights
from raymodel.model.own_try import check_forward
from raymodel.model.presets import OWN
from raymodel.model.purpose import find_task
from raymodel.model.spec import AdapterSpec, LoraSpec, ModelSpec
from raymodel.spec.own import load_own
from raymodel.storage.uri import Location
from raymodel.tasks import get_task
from raymodel.testing.tiny import train_tiny_tokenizer

TEMPLATES = Path(__file__).parents[2] / "docs/own"
SOUND_TEMPLATES = TEMPLATES.parent / "audio"
LABELS = ("no", "yes", "perhaps")
IMAGES = ImageProcessor(size=(8, 8), channels=1, mean=(0.5,), std=(0.5,))
SOUNDS = AudioProcessor.fresh(AudioSpec(features="spectrogram", max_seconds=0.5))
PROCESSORS = {"image_classification": IMAGES, "audio_classification": SOUNDS}


def task_named(name: str, labels=LABELS):
    processor = PROCESSORS.get(name)
    if processor is None:
        processor = TextProcessor(train_tiny_tokenizer(["a few words of a text"]))
    return get_task(name)(labels=labels, processor=processor)


def outline(module: str, task, **config):
    spec = ModelSpec(module=module, config=config)
    return build_model(spec, task, task.processor.model_fields(12))


def saved(model, task, folder: Path, seed: int = 3):
    """The model with its first weights, which lie in `folder` too."""
    save_model(model, first_weights(model, seed), task.processor, folder, torch.float32, {})
    return materialise(model, first_weights(model, seed), torch.float32).eval()


def inputs_of(task) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    if task.modality == "image":
        return {"pixel_values": torch.randn((2, 1, 8, 8), generator=draw)}
    if task.modality == "audio":
        [(argument, shape)] = task.processor.facts()["inputs"].items()
        return {argument: torch.randn((2, *shape), generator=draw)}
    ids = torch.randint(0, 200, (2, 8), generator=draw)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("networks:SmallCNN", "image_classification"),
        ("networks:TextLSTM", "text_classification"),
        ("networks:TextCNN", "text_classification"),
        ("networks:SoundLSTM", "audio_classification"),
        ("networks:TextTransformer", "text_classification"),
    ],
)
def test_a_template_is_saved_and_loaded_with_the_same_logits(own_folder, tmp_path, module, name):
    own_folder(TEMPLATES)
    task = task_named(name)
    model = outline(module, task, width=8)
    check_forward(model, task, rows_of(task.modality, task.processor.facts(), 8)[0][1])
    made = saved(model, task, tmp_path)
    loaded, _ = load_for_use(tmp_path, name)
    with torch.no_grad():
        assert torch.equal(loaded(**inputs_of(task)).logits, made(**inputs_of(task)).logits)
    assert loaded.config.id2label == dict(enumerate(LABELS))
    assert find_task(Location.parse(str(tmp_path))) == name
    assert (tmp_path / "networks.py").read_bytes() == (TEMPLATES / "networks.py").read_bytes()


def glide(start: float, end: float, seconds: float) -> torch.Tensor:
    """A buzz whose pitch moves evenly, at 16,000 samples a second. (T,)"""
    hertz = torch.linspace(start, end, int(seconds * 16_000), dtype=torch.float64)
    phase = 2 * torch.pi * (hertz / 16_000).cumsum(0)
    return sum(torch.sin(number * phase) / number for number in range(1, 6)).float()


def test_a_network_of_samples_is_offered_where_they_end_and_hears_the_pitch_alone(
    own_folder, tmp_path
):
    own_folder(SOUND_TEMPLATES)
    processor = AudioProcessor.fresh(AudioSpec(features="samples", max_seconds=0.5))
    assert processor.has_mask
    task = get_task("audio_classification")(labels=LABELS, processor=processor)
    made = saved(outline("pitch:PitchContour", task), task, tmp_path)
    loaded, _ = load_for_use(tmp_path, task.name)
    find_contour = load_own("pitch:PitchContour").forward.__globals__["find_contour"]
    clips = [glide(100, 140, 0.4), glide(220, 308, 0.25), glide(200, 120, 0.3)]
    batch = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True)
    with torch.no_grad():
        assert torch.equal(loaded(input_values=batch).logits, made(input_values=batch).logits)
        alone = made(input_values=clips[1][None]).logits[0]
        assert torch.allclose(made(input_values=batch).logits[1], alone, atol=1e-3)
    low, high, falling = find_contour(batch, 16)
    assert torch.allclose(low, high, atol=0.1), "an octave and a half as long are no difference"
    assert low[-1] - low[0] > 1.3, "five times the logarithm of 1.4"
    assert falling[-1] - falling[0] < -2.0


def test_plain_torch_reads_the_weights_too(own_folder, tmp_path):
    own_folder(TEMPLATES)
    task = task_named("image_classification")
    made = saved(outline("networks:SmallCNN", task), task, tmp_path)
    plain = load_own("networks:SmallCNN")(num_labels=3, num_channels=1, image_size=8).eval()
    plain.load_state_dict(load_file(tmp_path / "model.safetensors"))
    pixels = inputs_of(task)["pixel_values"]
    assert torch.equal(plain(pixels), made(pixel_values=pixels).logits)


def test_the_weights_are_what_the_constructor_draws_of_the_seed(own_folder):
    own_folder(TEMPLATES)
    task = task_named("image_classification")
    model = outline("networks:SmallCNN", task)
    one, same, other = (first_weights(model, seed) for seed in (3, 3, 4))
    for name in model.state_dict():
        weight = one.read(name)
        assert torch.equal(weight, same.read(name))
        assert torch.equal(weight, one.read(name)), "asked for again"
    assert not torch.equal(
        one.read("own.classifier.1.weight"), other.read("own.classifier.1.weight")
    )


MODULES = """
import torch
from torch import nn
class Tied(nn.Module):
    def __init__(self, vocab_size, num_labels):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, 4)
        self.back = nn.Linear(4, vocab_size, bias=False)
        self.back.weight = self.embedding.weight
        self.scale = nn.Parameter(torch.full((1,), 2.0))
        self.register_buffer("angles", torch.linspace(0, 1, 4), persistent=False)
        self.head = nn.Linear(vocab_size, num_labels)
        assert float(torch.ones(1)) == 1.0  # which the meta device cannot tell
    def forward(self, tokens):
        x = self.embedding(tokens) + self.angles
        return {"logits": self.head(self.back(x).mean(1) * self.scale)}
class Flat(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(64, 5)
    def forward(self, x):
        return self.head(x.flatten(1))
class Wide(Flat):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(65, 3)
class Pair(Flat):
    def forward(self, x):
        return self.head(x.flatten(1)), x
class Mask(Flat):
    def forward(self, pixel_values, pixel_mask):
        return self.head(x)
class Empty(nn.Module):
    def forward(self, x):
        return x
class Failing(nn.Module):
    def __init__(self, num_labels):
        raise OSError("no disk")
class NoModule: pass
"""


@pytest.fixture
def modules(own_folder) -> Path:
    folder = own_folder()
    (folder / "own_networks.py").write_text(MODULES)
    return folder


def test_ties_buffers_and_values_asked_for_by_a_constructor_come_back(modules, tmp_path):
    task = task_named("text_classification")
    model = outline("own_networks:Tied", task)
    assert model.all_tied_weights_keys == {"own.back.weight": "own.embedding.weight"}
    made = saved(model, task, tmp_path / "model")
    assert torch.equal(made.own.angles, torch.linspace(0, 1, 4))
    assert made.own.back.weight is made.own.embedding.weight
    stored = load_file(tmp_path / "model/model.safetensors")
    assert sorted(stored) == ["embedding.weight", "head.bias", "head.weight", "scale"]
    loaded = load_model(tmp_path / "model", task)
    with torch.no_grad():
        assert torch.equal(loaded(**inputs_of(task)).logits, made(**inputs_of(task)).logits)
    again, weights = open_model(Location.parse(str(tmp_path / "model")), task)
    first = first_weights(again, 9, weights)
    assert torch.equal(first.read("own.head.weight"), stored["head.weight"])
    assert torch.equal(first.read("own.angles"), torch.linspace(0, 1, 4))


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("Flat", {}, r"gives logits of shape \(2, 5\), and image_classification needs \(2, 2\)"),
        ("Wide", {}, r"forward of .* ended in RuntimeError: .*given pixel_values \(2, 1, 8, 8\)"),
        ("Pair", {}, "the forward of Pair gives a tuple; it must give logits"),
        ("Mask", {}, "missing 1 required positional argument: 'pixel_mask'"),
        ("Empty", {}, "has no parameters"),
        ("Failing", {}, r"Failing\(num_labels=2\) ended in OSError: no disk"),
        ("Failing", {"num_lables": 2}, "did you mean 'num_labels'"),
        ("Tied", {}, "lacks vocab_size, which Tied takes"),
        ("NoModule", {}, "is the class NoModule; a model is a class derived from torch.nn.Module"),
        ("Falt", {}, "did you mean own_networks:Flat"),
    ],
)
def test_a_module_that_cannot_do_it_is_told_before_anything_starts(modules, name, arguments, said):
    fields = {"module": f"own_networks:{name}", "arguments": arguments, **IMAGES.facts()}
    question = Question(task="image_classification", architecture=OWN, fields=fields)
    [(_, message)] = answer(question.to_dict())["problems"]
    with pytest.raises(SpecError, match=said):
        raise SpecError(message)


def test_a_text_of_the_module_that_changed_is_asked_about_again(modules):
    fields = {"module": "own_networks:Flat", "arguments": {}}
    question = Question(task="image_classification", architecture=OWN, fields=fields)
    before = question.key()
    assert question.key() == before
    (modules / "own_networks.py").write_text(MODULES + "# changed")
    assert question.key() != before


def test_text_that_is_to_be_written_needs_a_model_with_a_cache(own_folder):
    own_folder(TEMPLATES)
    task = task_named("causal_lm", labels=())
    with pytest.raises(SpecError, match="causal_lm needs a model of transformers"):
        outline("networks:TextLSTM", task, num_labels=2)


def test_arguments_smaller_than_the_data_are_refused(own_folder):
    own_folder(TEMPLATES)
    task = task_named("text_classification")
    with pytest.raises(SpecError, match=r"config\.vocab_size is 5, but the data needs"):
        outline("networks:TextLSTM", task, vocab_size=5)


def test_an_adapter_beside_a_plain_module_is_refused(own_folder):
    own_folder(TEMPLATES)
    task = task_named("text_classification")
    model = outline("networks:TextLSTM", task)
    with pytest.raises(SpecError, match="a module of your own"):
        attach_adapter(model, AdapterSpec(lora=LoraSpec()), task)


def test_a_folder_whose_module_is_not_here_as_it_was_is_refused(own_folder, tmp_path):
    folder = own_folder(tmp_path)
    (folder / "kept_networks.py").write_text(MODULES)
    task = task_named("text_classification")
    saved(outline("kept_networks:Tied", task), task, tmp_path / "model")
    (folder / "kept_networks.py").write_text(MODULES + "# changed")
    with pytest.raises(ArtifactError, match="trained with another text of 'kept_networks:Tied'"):
        load_model(tmp_path / "model", task)
    (folder / "kept_networks.py").rename(folder / "elsewhere.py")
    with pytest.raises(ArtifactError, match="copy it to the working directory"):
        load_model(tmp_path / "model", task)


def test_a_forward_is_given_its_inputs_by_name_and_the_first_by_place(modules):
    (modules / "seen_networks.py").write_text(
        "import torch\nfrom torch import nn\nseen = []\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.head = nn.Linear(1, 3)\n"
        "class Any(Net):\n"
        "    def forward(self, x, **rest):\n"
        "        seen.append((x.shape, sorted(rest)))\n"
        "        return self.head(x.float().mean(1, keepdim=True))\n"
        "class Named(Net):\n"
        "    def forward(self, attention_mask, input_ids):\n"
        "        seen.append((input_ids.shape, ['attention_mask']))\n"
        "        return self.head(input_ids.float().mean(1, keepdim=True))\n"
    )
    task = task_named("text_classification")
    seen = load_own("seen_networks:seen")
    for name in ("Any", "Named"):
        model = outline(f"seen_networks:{name}", task)
        materialise(model, first_weights(model, 0), torch.float32)(**inputs_of(task))
        assert seen.pop() == ((2, 8), ["attention_mask"])
