"""Every sample of a `wids.json`, asked for by number, the last first: [[key, sha256 of the image, text, JSON] …]."""

import contextlib
import hashlib
import json
import sys

import wids


def main() -> None:
    with contextlib.redirect_stdout(sys.stderr):
        dataset = wids.ShardListDataset(sys.argv[1], transformations=dict)
        samples = [dataset[number] for number in reversed(range(len(dataset)))]
    found = []
    for sample in samples[::-1]:
        image, text, told = (
            next(sample[extension].read() for extension in extensions if extension in sample)
            for extensions in ((".jpg", ".png"), (".txt",), (".json",))
        )
        found.append([sample["__key__"], hashlib.sha256(image).hexdigest(), text.decode(), json.loads(told)])
    print(json.dumps(found))


main()
