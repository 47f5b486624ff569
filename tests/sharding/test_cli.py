"""What a user of the `sharding` command meets: one line on failure, documented exit codes, help at once."""

import json
import subprocess
import sys

import pytest

from sharding.cli import main
from sharding.synthetic import SOURCE_OF


def run(*arguments):
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as stop:
        return stop.code


HELP = """
import sys
from sharding.cli import main
try:
    main(["--help"])
finally:
    heavy = {"torch", "ray", "pyarrow", "numpy", "PIL", "rich"} & set(sys.modules)
    assert not heavy, heavy
"""


def test_help_answers_without_any_heavy_import():
    done = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "exit codes: 0 done" in done.stdout
    assert "sharding pack --source pretrain_110k" in done.stdout


def test_pack_prints_a_table_and_json_on_request(pretrain, tmp_path, capsys):
    folder = pretrain(6, {2: {"captions": []}})
    arguments = ("pack", "--source", "pretrain_110k", "--input", folder, "--out", tmp_path / "out")
    assert run(*arguments) == 0
    table = capsys.readouterr()
    assert "all splits            5          10           3" in table.out
    assert "1  captions: empty" in table.out
    assert "images/s" in table.out
    assert table.err == ""
    assert run(*arguments, "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["images"], summary["already_complete"], summary["reject_reasons"]) == (
        5,
        True,
        {"captions: empty": 1},
    )


def test_the_table_says_how_many_reasons_it_leaves_out(pretrain, tmp_path, capsys):
    odd = [[], 3, None, {}, True, 0.5, ["\ud800"], [3], [None], [True], [{}], [[]]]
    folder = pretrain(14, {row: {"captions": value} for row, value in enumerate(odd)})
    assert run("pack", "--source", "pretrain_110k", "--input", folder, "--out", tmp_path / "out") == 0
    assert "…  and 2 more reasons (rejects.parquet)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["pack", "--source", "cuhk_pedes", "--input", "none", "--out", "out"], "none is not a directory"),
        (["pack", "--source", "cuhk_pedes", "--input", ".", "--out", "out"], "reid_raw.json"),
        (["pack", "--source", "cuhk-pedes", "--input", ".", "--out", "out"], "did you mean cuhk_pedes?"),
        (["pack", "--source", "syncpr", "--out", "out"], "--input"),
        (["pack", "--source", "syncpr", "--input", ".", "--out", "out", "--shard-size", "6X"], "64M"),
        (["pack", "--source", "syncpr", "--input", ".", "--out", "out", "--shard-samples", "0"], "at least 1"),
        (["synth", "--layout", "luperson", "--people", "1", "--out", "out"], "did you mean luperson_t?"),
        (["synth", "--layout", "jsonl", "--people", "1", "--out", "s3://b/c"], "s3://b/c is no folder"),
        (["pakc"], "pack"),
        ([], "COMMAND"),
    ],
)
def test_bad_input_is_one_line_exit_code_2_and_leaves_nothing(tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("sharding: ")
    assert error.count("\n") == 1
    assert said in error
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_says_how_to_resume_and_exits_130(pretrain, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sharding.packing.shard.prepare_image", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert run("pack", "--source", "pretrain_110k", "--input", pretrain(2), "--out", tmp_path / "out") == 130
    assert capsys.readouterr().err == "sharding: interrupted; run the same command again to resume\n"


@pytest.mark.parametrize("layout", ["luperson_t_json", "cuhk_pedes_original", "itcpr", "jsonl", "folder"])
def test_synthetic_people_can_be_packed_with_nothing_rejected(tmp_path, capsys, layout):
    raw, source = tmp_path / "raw", SOURCE_OF.get(layout, layout)
    assert run("synth", "--layout", layout, "--people", 3, "--out", raw, "--seed", 1) == 0
    drawn = int(capsys.readouterr().out.split()[0])
    assert run("pack", "--source", source, "--name", "own", "--input", raw, "--out", tmp_path / "out", "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["images"], summary["rejects"], summary["name"]) == (drawn, 0, "own")


def test_every_shard_is_told_with_verbose(pretrain, tmp_path):
    command = [
        sys.executable,
        "-m",
        "sharding",
        "pack",
        "--source",
        "pretrain_110k",
        "--verbose",
        "--shard-samples",
        "3",
    ]
    command += ["--input", str(pretrain(6)), "--out", str(tmp_path / "out")]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stderr.splitlines()
    assert len(told) == 3
    assert "pretrain_110k-train-000000: 3 of 3 images" in told[0]


def test_a_copy_of_another_size_than_published_is_told(pretrain, tmp_path, capsys):
    arguments = ("pack", "--source", "pretrain_110k", "--input", pretrain(6), "--out", tmp_path / "out")
    assert run(*arguments) == 0
    assert (
        "note       not the published dataset: all splits has 6 images (published: 109,937)" in capsys.readouterr().out
    )
    assert run(*arguments, "--json") == 0
    assert not json.loads(capsys.readouterr().out)["as_published"]
