"""Features that another program has written: `.npy` arrays, or Parquet tables with columns `feature` and `id`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pretrain.features import Features
from sharding.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Features float [N, E] and the id of each row, all int64 or all str, as one file or two hold them."""

    features: NDArray[Any]
    ids: NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class FilePair:
    """Features of both sides with common identities, and the ids as the files have them, for errors."""

    features: Features
    query: Rows
    gallery: Rows

    def query_name(self, row: int) -> str:
        """What an error calls a row of the queries."""
        return f"{row}, {self.query.ids[row]!s}"

    def gallery_name(self, row: int) -> str:
        """What an error calls a row of the gallery, where that is the query."""
        return f"{row}, {self.gallery.ids[row]!s}"


def read_pair(query: Path, query_ids: Path | None, gallery: Path, gallery_ids: Path | None) -> FilePair:
    """Queries and gallery, fp32 (float64 where the files have it).

    Ids are whole numbers or strings, of one kind on both sides; a negative number, as of a distractor, matches nothing.
    Raises UserError in one line for what cannot be read, other shapes, lengths or types, and values not finite.
    """
    queries, images = read_rows(query, query_ids), read_rows(gallery, gallery_ids)
    if queries.features.shape[1] != images.features.shape[1]:
        raise UserError(
            f"{query} has features of width {queries.features.shape[1]}, {gallery} of {images.features.shape[1]}"
        )
    if queries.ids.dtype.kind != images.ids.dtype.kind:
        kinds = [("whole numbers" if rows.ids.dtype.kind == "i" else "strings") for rows in (queries, images)]
        raise UserError(f"the ids of {query} are {kinds[0]}, those of {gallery} {kinds[1]}: nothing can match")
    codes = _codes(np.concatenate([queries.ids, images.ids]))
    features = Features(
        query=torch.from_numpy(queries.features),
        query_ids=codes[: len(queries.ids)],
        gallery=torch.from_numpy(images.features),
        gallery_ids=codes[len(queries.ids) :],
    )
    return FilePair(features=features, query=queries, gallery=images)


def read_rows(features: Path, ids: Path | None) -> Rows:
    """The features of one side and their ids, from `ids` or from the column of a Parquet table; UserError as above."""
    if features.suffix == ".parquet":
        values, owners = _read_parquet(features)
        if ids is not None:
            owners = _read_npy(ids)
    else:
        if ids is None:
            raise UserError(f"{features} holds no ids: name the file that does")
        values, owners = _read_npy(features), _read_npy(ids)
    checked = _checked(values, features)
    return Rows(features=checked, ids=_checked_ids(owners, ids or features, len(checked)))


def _read_npy(path: Path) -> NDArray[Any]:
    try:
        return np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"there is no file {path}") from None
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} is not an array that numpy.save wrote: {_line(error)}") from None


def _read_parquet(path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    """Columns `feature`, lists of equal length, and `id`."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    if not path.is_file():
        raise UserError(f"there is no file {path}")
    try:
        table = pq.read_table(path, use_threads=False).combine_chunks()
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path} is not a Parquet file: {_line(error)}") from None
    if missing := {"feature", "id"} - set(table.column_names):
        raise UserError(f"{path} has no column {' and no column '.join(sorted(missing))}")
    if not table.num_rows:
        raise UserError(f"{path} has no rows")
    column = table["feature"].combine_chunks()
    kind = column.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        raise UserError(f"column feature of {path} holds {kind}, not lists of numbers")
    if column.null_count or table["id"].null_count:
        raise UserError(f"{path} has rows without a feature or an id")
    lengths = pc.unique(pc.list_value_length(column)).to_pylist()
    if len(lengths) != 1:
        raise UserError(f"the features of {path} differ in length: {min(lengths)} to {max(lengths)}")
    values = column.flatten()
    if values.null_count or not pa.types.is_floating(values.type):
        raise UserError(f"column feature of {path} holds {values.type} with {values.null_count} nulls, not floats")
    ids = table["id"].combine_chunks()
    ids = np.array(ids.to_pylist()) if pa.types.is_string(ids.type) or pa.types.is_large_string(ids.type) else ids
    return values.to_numpy(zero_copy_only=False).reshape(-1, lengths[0]), np.asarray(ids)


def _checked(values: NDArray[Any], path: Path) -> NDArray[Any]:
    """Features [N, E] as native float32 or float64."""
    if values.ndim != 2 or 0 in values.shape:
        raise UserError(f"{path} has shape {list(values.shape)}; features are [rows, width]")
    if values.dtype.kind != "f":
        raise UserError(f"{path} holds {values.dtype}; features are floating-point numbers")
    values = np.require(values, np.float64 if values.dtype.itemsize == 8 else np.float32, ["C", "W"])
    # By the extremes, which any NaN or infinity would be: a mask of all values would take a quarter of their memory.
    bad = ~(np.isfinite(values.min(axis=1)) & np.isfinite(values.max(axis=1)))
    if bad.any():
        raise UserError(f"{path} row {int(bad.argmax())} holds a value that is not finite ({int(bad.sum())} such rows)")
    return values


def _checked_ids(ids: NDArray[Any], path: Path, rows: int) -> NDArray[Any]:
    """Ids [N] as int64 or str."""
    if ids.ndim != 1 or len(ids) != rows:
        raise UserError(f"the ids of {path} have shape {list(ids.shape)}, the features {rows} rows")
    if ids.dtype.kind in "iu":
        return ids.astype(np.int64)
    if ids.dtype.kind != "U":
        raise UserError(f"the ids of {path} are {ids.dtype}; whole numbers or strings are expected")
    return ids


def _codes(ids: NDArray[Any]) -> torch.Tensor:
    """int64, equal where the ids are: numbers as they stand, strings by their place among all."""
    numbers = ids if ids.dtype.kind == "i" else np.unique(ids, return_inverse=True)[1].reshape(-1)
    return torch.from_numpy(numbers.astype(np.int64))


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
