"""webdataset's version and every sample of the given tars: [version, [[key, sha256 of the image, text, JSON] …]]."""

import hashlib
import json
import sys

import webdataset


def main() -> None:
    samples = []
    for sample in webdataset.WebDataset(sys.argv[1:], shardshuffle=False):
        image = sample["jpg"] if "jpg" in sample else sample["png"]
        text, told = sample["txt"].decode(), json.loads(sample["json"])
        samples.append([sample["__key__"], hashlib.sha256(image).hexdigest(), text, told])
    print(json.dumps([webdataset.__version__, samples]))


main()
