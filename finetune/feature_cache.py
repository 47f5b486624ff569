"""Features kept by what they are computed from: weights, architecture, data, precision; nothing else names them.

One safetensors file an entry, written under a temporary name and renamed, its tensors hashed in its own header. What
does not match its hash is computed again, never used.
"""

import json
import logging
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from pretrain.config import ModelSettings, open_clip_config
from pretrain.tensor_hash import tensors_hash
from sharding.files import rename_durably, sync
from sharding.index import content_hash

log = logging.getLogger(__name__)

FORMAT = 1  # raise it when the same weights and data come to give other features


@dataclass(frozen=True, kw_only=True)
class FeatureKey:
    """All that the features of one split depend on."""

    weights: str  # as from `tensors_hash`
    model: ModelSettings
    root_hash: str  # of the packed dataset
    split: str
    precision: str

    @property
    def hash(self) -> str:
        """sha256 (hex) of the key; the image size and the context length stand in the model's settings."""
        return content_hash(
            {
                "format": FORMAT,
                "weights": self.weights,
                "model": open_clip_config(self.model),
                "root_hash": self.root_hash,
                "split": self.split,
                "precision": self.precision,
            }
        )


def default_directory() -> Path:
    """`person-pretrain/features` below $XDG_CACHE_HOME, or below ~/.cache where that is not set."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "person-pretrain" / "features"


class FeatureCache:
    """The entries below one directory. One rank calls."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, key: FeatureKey) -> Path:
        """Where the entry of `key` lies."""
        return self.directory / key.hash[:2] / f"{key.hash}.safetensors"

    def load(self, key: FeatureKey, rows: dict[str, int]) -> dict[str, Tensor] | None:
        """The tensors of an entry, fp32 with as many `rows` as expected of each; None if there is no sound entry."""
        path = self.path(key)
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
                expected = (file.metadata() or {}).get("sha256")
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, ValueError) as error:
            log.warning("cached features %s cannot be read (%s); computing them again", path, _line(error))
            return None
        shapes = {name: (tensor.dtype, len(tensor)) for name, tensor in tensors.items()}
        if shapes != {name: (torch.float32, number) for name, number in rows.items()}:
            log.warning("cached features %s have other shapes than the data; computing them again", path)
            return None
        if expected != tensors_hash(tensors):
            log.warning("cached features %s do not match their sha256; computing them again", path)
            return None
        return tensors

    def save(self, key: FeatureKey, tensors: dict[str, Tensor]) -> None:
        """Keep the tensors; a cache that cannot be written is a warning, not a failure."""
        path = self.path(key)
        metadata = {"sha256": tensors_hash(tensors), "key": json.dumps(_readable(key))}
        temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")  # two evaluations may write the same entry
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with temporary.open("wb") as file:
                    file.write(save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata))
                    sync(file)
                rename_durably(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            log.warning("the features are not kept: %s", error)


def _readable(key: FeatureKey) -> dict[str, Any]:
    """The key for whoever looks into the file."""
    return {**asdict(key), "model": open_clip_config(key.model)}


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
