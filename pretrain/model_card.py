"""The model card beside every export: what the weights are, what they were made of, and how to load them.

It claims nothing that is not in the settings or in the provenance; what is not known is said to be not known.
"""

from pathlib import Path
from typing import Any, Literal

import yaml
from jinja2 import Environment, StrictUndefined

from pretrain.augment import CLIP_MEAN, CLIP_STD
from pretrain.config import ModelSettings
from pretrain.provenance import Provenance, write_provenance
from sharding.files import write_durably

Format = Literal["open_clip", "pt", "hf", "onnx"]

CARD_NAME = "README.md"
TEMPLATE = Path(__file__).with_name("model_card.md.j2")
NAMES: dict[Format, str] = {
    "open_clip": "an open_clip folder (safetensors)",
    "pt": "an open_clip folder (torch state dict)",
    "hf": "a Hugging Face `CLIPModel`",
    "onnx": "two ONNX files, `image.onnx` and `text.onnx`",
}
LIBRARIES: dict[Format, str] = {"open_clip": "open_clip", "pt": "open_clip", "hf": "transformers", "onnx": "onnx"}
LABELS = {"r1": "R@1", "r5": "R@5", "r10": "R@10", "chance_r1": "R@1 of a random ranking"}
HUB_METRICS = {"r1": "recall_at_1", "r5": "recall_at_5", "r10": "recall_at_10", "mAP": "map"}

OPEN_CLIP = """\
import open_clip
import torch
from PIL import Image

folder = "path/to/this/folder"
model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
image = preprocess(Image.open("person.jpg"))[None]
with torch.no_grad():
    image_features = model.eval().encode_image(image, normalize=True)
    text_features = model.encode_text(tokenizer(["a man in a red coat"]), normalize=True)
similarity = image_features @ text_features.T"""

HUGGING_FACE = """\
import torch
from PIL import Image
from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

folder = "path/to/this/folder"
model = CLIPModel.from_pretrained(folder).eval()
image = CLIPImageProcessor.from_pretrained(folder)(Image.open("person.jpg"), return_tensors="pt")
tokenizer = CLIPTokenizer.from_pretrained(folder)
text = tokenizer(["a man in a red coat"], padding=True, truncation=True, return_tensors="pt")
with torch.no_grad():
    output = model(**image, **text%s)
similarity = output.image_embeds @ output.text_embeds.T"""

ONNX = """\
import numpy as np
import onnxruntime
import open_clip
from PIL import Image

folder = "path/to/this/folder"
image_tower = onnxruntime.InferenceSession(f"{folder}/image.onnx")
text_tower = onnxruntime.InferenceSession(f"{folder}/text.onnx")
image = Image.open("person.jpg").convert("RGB").resize((%d, %d), Image.Resampling.BICUBIC)  # width, height
pixels = np.asarray(image, dtype=np.uint8).transpose(2, 0, 1)[None]
ids = open_clip.SimpleTokenizer()(["a man in a red coat"], context_length=%d).numpy()
[image_features] = image_tower.run(None, {"images": pixels})
[text_features] = text_tower.run(None, {"ids": ids})
similarity = image_features @ text_features.T"""


def write_model_card(
    directory: Path, *, settings: ModelSettings, provenance: Provenance, parameters: int, format: Format = "open_clip"
) -> None:
    """Write README.md, and the provenance as JSON, into the folder of an export. One rank calls.

    parameters: how many numbers the encoder has. The README begins with YAML as the Hugging Face Hub reads it.
    """
    card = model_card(settings=settings, provenance=provenance, parameters=parameters, format=format)
    write_provenance(provenance, directory)
    write_durably(directory / CARD_NAME, card.encode())


def model_card(*, settings: ModelSettings, provenance: Provenance, parameters: int, format: Format) -> str:
    """The text of the card."""
    environment = Environment(
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, undefined=StrictUndefined
    )
    environment.filters["cell"] = _cell
    height, width = settings.vision_cfg.image_size
    return environment.from_string(TEMPLATE.read_text()).render(
        front_matter=yaml.safe_dump(_front_matter(provenance, format), sort_keys=False, allow_unicode=True),
        p=provenance,
        settings=settings,
        v=settings.vision_cfg,
        t=settings.text_cfg,
        height=height,
        width=width,
        side=max(height, width),
        parameters=f"{parameters:,}",
        format=format,
        format_name=NAMES[format],
        metrics=[(LABELS.get(name, name), f"{value:,.10g}") for name, value in _rounded(provenance.metrics)],
        settings_yaml=yaml.safe_dump(provenance.settings, sort_keys=False),
        mean=list(CLIP_MEAN),
        std=list(CLIP_STD),
        code=_code(settings, format),
    )


def _front_matter(provenance: Provenance, format: Format) -> dict[str, Any]:
    """What the Hub indexes. No licence and no Hub dataset is named: neither is known here."""
    matter: dict[str, Any] = {
        "language": ["en"],
        "library_name": LIBRARIES[format],
        "pipeline_tag": "feature-extraction",
        "tags": ["clip", "text-based-person-retrieval", "person-search", "dual-encoder"],
    }
    metrics = [
        {"type": HUB_METRICS[name], "name": LABELS.get(name, name), "value": value}
        for name, value in _rounded(provenance.metrics)
        if name in HUB_METRICS
    ]
    if metrics:
        where = provenance.evaluated_on or "unnamed benchmark"
        task = {"type": "text-to-image-retrieval", "name": "Text-based person retrieval"}
        result = {"task": task, "dataset": {"type": where.split()[0], "name": where}, "metrics": metrics}
        matter["model-index"] = [{"name": provenance.name, "results": [result]}]
    return matter


def _rounded(metrics: dict[str, float]) -> list[tuple[str, float]]:
    return [(name, round(value, 2)) for name, value in metrics.items()]


def _code(settings: ModelSettings, format: Format) -> str:
    height, width = settings.vision_cfg.image_size
    if format == "hf":
        return HUGGING_FACE % (", interpolate_pos_encoding=True" if height != width else "")
    if format == "onnx":
        return ONNX % (width, height, settings.text_cfg.context_length)
    return OPEN_CLIP


def _cell(text: str) -> str:
    """Text that stays inside one cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
