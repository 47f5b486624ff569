"""Tiny exported models, for tests that need weights but no skill."""

import torch

from pretrain.config import ModelSettings, TextSettings, VisionSettings
from pretrain.model import DualEncoder
from pretrain.weights import export_open_clip

VISION = VisionSettings(image_size=(32, 16), patch_size=8, width=16, layers=1, head_width=8)
TINY = ModelSettings(embed_dim=16, vision_cfg=VISION, text_cfg=TextSettings(width=16, heads=2, layers=1))


def tiny_export(folder, seed):
    """An open_clip folder with random weights by `seed`; returns it."""
    torch.manual_seed(seed)
    export_open_clip(DualEncoder(TINY).state_dict(), TINY, folder)
    return folder
