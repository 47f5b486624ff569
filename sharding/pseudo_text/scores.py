"""The file of scores between `pretrain score-phrases` and `sharding pseudo-text`: Parquet, a row an image.

Columns: `key`, and for each attribute a list of float32 cosines as long as it has columns (`Attribute.columns`: its
phrases, then the sentences of absence). No row group spans two shards. The schema's metadata says of what data, weights
and phrases they are.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sharding.dataset import Dataset
from sharding.errors import UserError
from sharding.pseudo_text.vocabulary import Vocabulary

if TYPE_CHECKING:
    import pyarrow

FORMAT = 1
METADATA = b"pseudo_text_scores"
Matrix = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Origin:
    """All that scores depend on, by hashes (sha256, hex), and what to read them with.

    root_hash: of the packed dataset. split: the one that was scored, None for all. weights: of the model's tensors and
    architecture. phrases: `Vocabulary.phrases_hash`. scale: the model's 1 / temperature.
    """

    root_hash: str
    split: str | None
    weights: str
    phrases: str
    scale: float


def schema(words: Vocabulary, origin: Origin) -> "pyarrow.Schema":
    """The columns of the file, with the origin in the metadata."""
    import pyarrow as pa

    fields = [pa.field("key", pa.string())]
    fields += [pa.field(a.name, pa.list_(pa.float32(), len(a.columns))) for a in words.attributes]
    return pa.schema(fields, metadata={METADATA: json.dumps({"format": FORMAT, **asdict(origin)})})


def table(words: Vocabulary, origin: Origin, keys: list[str], cosines: Matrix) -> "pyarrow.Table":
    """A table of scores; cosines: float32 [images, columns of all attributes one after another]."""
    import pyarrow as pa

    arrays: list[Any] = [pa.array(keys, pa.string())]
    start = 0
    for attribute in words.attributes:
        end = start + len(attribute.columns)
        values = pa.array(np.ascontiguousarray(cosines[:, start:end]).reshape(-1), pa.float32())
        arrays.append(pa.FixedSizeListArray.from_arrays(values, end - start))
        start = end
    assert start == cosines.shape[1], "a cosine for every column"
    return pa.Table.from_arrays(arrays, schema=schema(words, origin))


def read_origin(path: Path) -> Origin:
    """What a file of scores was made from; UserError if it is missing or no such file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise UserError(f"there are no scores at {path}")
    try:
        content = json.loads((pq.read_schema(path).metadata or {})[METADATA])
        if content.pop("format") != FORMAT:
            raise UserError(f"{path} was written by another version of `pretrain score-phrases`; score again")
        return Origin(**content)
    except (OSError, pa.ArrowException, KeyError, TypeError, AttributeError, ValueError):
        raise UserError(f"{path} holds no scores of `pretrain score-phrases`") from None


def check_origin(path: Path, dataset: Dataset, words: Vocabulary) -> Origin:
    """The origin of the scores at `path`; UserError, in one line, unless they are of this dataset and these phrases."""
    origin = read_origin(path)
    if origin.root_hash != dataset.root_hash:
        raise UserError(
            f"{path} holds scores of another dataset (root hash {origin.root_hash[:12]}…), "
            f"{dataset.store} has {dataset.root_hash[:12]}…"
        )
    if origin.phrases != words.phrases_hash:
        raise UserError(f"{path} was scored with other phrases than attributes.yaml has now; run score-phrases again")
    return origin


def read_groups(path: Path, words: Vocabulary) -> Iterator[tuple[list[str], dict[str, Matrix]]]:
    """The keys [n] and, by attribute, the cosines [n, columns] of one row group after another.

    UserError where the file turns out to be damaged, or a score is no number.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            for number in range(file.num_row_groups):
                group = file.read_row_group(number)
                cosines = {a.name: _matrix(group.column(a.name), len(a.columns)) for a in words.attributes}
                if not all(np.isfinite(matrix).all() for matrix in cosines.values()):
                    raise UserError(f"{path} holds scores that are no numbers")
                yield group.column("key").to_pylist(), cosines
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise UserError(f"{path} is damaged: {(str(error).splitlines() or ['?'])[0]}") from None


def _matrix(column: Any, width: int) -> Matrix:
    values = column.combine_chunks().flatten().to_numpy()
    return values.reshape(len(column), width)
