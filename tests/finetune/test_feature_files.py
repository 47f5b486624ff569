"""Features from `.npy` and Parquet files: the metrics of the features, or one line on what is wrong with them."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from finetune.cli import main
from finetune.feature_files import read_pair
from pretrain.retrieval import retrieval_metrics
from sharding.errors import UserError

DRAW = np.random.default_rng(0)
QUERY, GALLERY = (DRAW.standard_normal((rows, 8)).astype(np.float32) for rows in (12, 9))
QUERY_IDS, GALLERY_IDS = np.arange(12) % 3, np.arange(9) % 3
EXPECTED = retrieval_metrics(*map(torch.from_numpy, (QUERY, QUERY_IDS, GALLERY, GALLERY_IDS)))


def arrays(folder, **changed):
    """The four arguments, with the files they name written."""
    contents = {
        "query-features": QUERY,
        "query-ids": QUERY_IDS,
        "gallery-features": GALLERY,
        "gallery-ids": GALLERY_IDS,
    }
    arguments = []
    for name, content in contents.items():
        path = folder / f"{name}.npy"
        np.save(path, changed.get(name.replace("-", "_"), content))
        arguments += [f"--{name}", str(path)]
    return arguments


def parquet(path, features, ids):
    pq.write_table(pa.table({"feature": pa.array(list(features)), "id": pa.array(ids)}), path)
    return str(path)


def scores(arguments, capsys):
    assert main(["evaluate", *arguments, "--json"]) == 0
    [benchmark] = json.loads(capsys.readouterr().out)["benchmarks"]
    return benchmark


def test_arrays_give_the_metrics_of_their_features(tmp_path, capsys):
    found = scores(arrays(tmp_path), capsys)
    assert (found["queries"], found["gallery"], found["root_hash"]) == (12, 9, None)
    assert found["chance_r1"] == EXPECTED.chance_r1
    [model] = found["models"]
    assert model["weights_sha256"] is None
    assert model["text_to_image"]["mAP"] == EXPECTED.mAP


@pytest.mark.parametrize("kind", [np.float16, np.float64, ">f4"])
def test_any_float_type_will_do(tmp_path, capsys, kind):
    arguments = arrays(tmp_path, query_features=QUERY.astype(kind), gallery_features=GALLERY.astype(kind))
    found = scores(arguments, capsys)["models"][0]["text_to_image"]
    assert found["mSD"] == pytest.approx(EXPECTED.mSD, abs=0.1)


def test_parquet_files_hold_features_and_ids(tmp_path, capsys):
    query = parquet(tmp_path / "q.parquet", QUERY, [f"person {i}" for i in QUERY_IDS])
    gallery = parquet(tmp_path / "g.parquet", GALLERY, [f"person {i}" for i in GALLERY_IDS])
    found = scores(["--query-features", query, "--gallery-features", gallery], capsys)
    assert found["models"][0]["text_to_image"]["mAP"] == EXPECTED.mAP


def test_a_table_and_an_array_go_together_and_directions_swap_them(tmp_path, capsys):
    query = parquet(tmp_path / "q.parquet", QUERY, QUERY_IDS)
    arguments = ["--query-features", query, *arrays(tmp_path)[4:], "--direction", "i2t"]
    swapped = retrieval_metrics(*map(torch.from_numpy, (GALLERY, GALLERY_IDS, QUERY, QUERY_IDS)))
    assert scores(arguments, capsys)["models"][0]["image_to_text"]["mAP"] == swapped.mAP


def test_a_negative_id_is_a_distractor(tmp_path):
    ids = np.where(np.arange(9) < 6, GALLERY_IDS, -1)
    np.save(tmp_path / "q.npy", QUERY), np.save(tmp_path / "g.npy", GALLERY)
    np.save(tmp_path / "qi.npy", QUERY_IDS), np.save(tmp_path / "gi.npy", ids)
    np.save(tmp_path / "six.npy", GALLERY[:6]), np.save(tmp_path / "si.npy", GALLERY_IDS[:6])
    query = tmp_path / "q.npy", tmp_path / "qi.npy"
    with_distractors = read_pair(*query, tmp_path / "g.npy", tmp_path / "gi.npy").features
    without = read_pair(*query, tmp_path / "six.npy", tmp_path / "si.npy").features
    assert without.metrics().gallery == 6
    assert with_distractors.metrics().chance_r1 == without.metrics().chance_r1 * 6 / 9
    np.save(tmp_path / "qi.npy", np.full(12, -1))
    with pytest.raises(UserError, match="has no image of its id"):
        read_pair(*query, tmp_path / "g.npy", tmp_path / "gi.npy").features.metrics()


def with_nan():
    spoilt = QUERY.copy()
    spoilt[5, 2] = np.nan
    return spoilt


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"query_features": QUERY[0]}, "has shape [8]; features are [rows, width]"),
        ({"query_features": QUERY[:0]}, "has shape [0, 8]"),
        ({"query_features": QUERY[:, :5]}, "features of width 5"),
        ({"query_features": QUERY.astype(int)}, "holds int64"),
        ({"query_features": with_nan()}, "row 5 holds a value that is not finite"),
        ({"query_features": np.zeros_like(QUERY)}, "query feature 0 is zero"),
        ({"query_ids": QUERY_IDS[:7]}, "have shape [7], the features 12 rows"),
        ({"query_ids": QUERY_IDS.astype(float)}, "are float64"),
        ({"query_ids": QUERY_IDS.astype(str)}, "nothing can match"),
        ({"query_ids": QUERY_IDS + 7}, "query 0, 7 (id 7) has no image of its id"),
        (
            {"query_ids": np.array(["mallory", *"ab" * 5, "a"]), "gallery_ids": np.array([*"ab" * 4, "a"])},
            "query 0, mallory (id 2) has no image",
        ),
        ({"query_ids": np.array([None] * 12)}, "is not an array that numpy.save wrote"),
    ],
)
def test_an_unfit_array_is_one_line_and_code_2(tmp_path, capsys, changed, message):
    assert main(["evaluate", *arrays(tmp_path, **changed)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"feature": [[1.0], [2.0]]}, "has no column id"),
        ({"feature": [1.0, 2.0], "id": [1, 2]}, "not lists of numbers"),
        ({"feature": [[1.0], [2.0, 3.0]], "id": [1, 2]}, "differ in length: 1 to 2"),
        ({"feature": [[1.0], None], "id": [1, 2]}, "without a feature or an id"),
        ({"feature": [[1.0], [2.0]], "id": [1, None]}, "without a feature or an id"),
        ({"feature": [["a"], ["b"]], "id": [1, 2]}, "not floats"),
        ({"feature": [[1.0, None], [1.0, 2.0]], "id": [1, 2]}, "1 nulls"),
        ({"feature": [[1.0], [2.0]], "id": [1.5, 2.5]}, "whole numbers or strings"),
    ],
)
def test_an_unfit_table_is_one_line_and_code_2(tmp_path, capsys, columns, message):
    path = tmp_path / "q.parquet"
    pq.write_table(pa.table(columns), path)
    assert main(["evaluate", "--query-features", str(path), "--gallery-features", str(path)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line


def test_a_missing_damaged_or_idless_file_is_one_line_and_code_2(tmp_path, capsys):
    (tmp_path / "text.npy").write_text("no array"), (tmp_path / "text.parquet").write_text("no table")
    np.save(tmp_path / "q.npy", QUERY)
    for name, message in (
        ("no.npy", "holds no ids"),
        ("no.parquet", "there is no file"),
        ("text.parquet", "is not a Parquet file"),
        ("q.npy", "holds no ids"),
    ):
        path = str(tmp_path / name)
        assert main(["evaluate", "--query-features", path, "--gallery-features", path]) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert message in line
    for name, message in (("no.npy", "there is no file"), ("text.npy", "is not an array")):
        path = str(tmp_path / name)
        assert main(["evaluate", *arrays(tmp_path), "--query-features", path]) == 2
        assert message in capsys.readouterr().err
