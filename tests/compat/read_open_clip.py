"""One epoch of open_clip's own training loader: [size it was told, [sha256 of the pixels, tokens of the text] …]."""

import hashlib
import json
import sys

import numpy as np
import open_clip
import torch
from open_clip_train.data import get_data, get_dataset_size
from open_clip_train.params import parse_args


def main() -> None:
    shards, batch = sys.argv[1:]
    args = parse_args(["--train-data", shards, "--dataset-type", "webdataset", "--batch-size", batch, "--workers", "1"])
    args.distributed, args.rank, args.world_size = False, 0, 1

    def pixels(image):
        return torch.from_numpy(np.asarray(image).copy())

    data = get_data(args, (pixels, pixels), epoch=0, tokenizer=open_clip.get_tokenizer("ViT-B-32"))
    samples = []
    for images, texts in data["train"].dataloader:
        for image, text in zip(images, texts, strict=True):
            samples.append([hashlib.sha256(image.numpy().tobytes()).hexdigest(), text.tolist()])
    print(json.dumps([get_dataset_size(shards)[0], samples]))


main()
