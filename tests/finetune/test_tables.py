"""Scores and their tables: Markdown, LaTeX that balances, JSON."""

import json
import re
from statistics import stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.scores import BenchmarkScores, ModelScores, RequirementError, as_json, require
from finetune.tables import as_latex, as_markdown, escape_latex, tables

NAMES = ("r1", "r5", "r10", "mAP", "mINP", "mSD", "mSD_row", "mSD_matrix", "mSD_legacy")
T2I, I2T = "text_to_image", "image_to_text"


def model(name, *values, seeds=None, directions=(T2I,)):
    runs = tuple({metric: value + i for i, metric in enumerate(NAMES)} for value in values)
    hashes = tuple("0" * 64 for _ in values)
    return ModelScores(
        name=name, weights=name, weights_sha256=hashes, seeds=seeds, runs=dict.fromkeys(directions, runs)
    )


def benchmark(name, *models):
    return BenchmarkScores(
        name=name, data=f"shards/{name}", split="test", root_hash="f" * 64, queries=20, gallery=10,
        chance_r1=dict.fromkeys(models[0].runs, 1.5), models=models,
    )  # fmt: skip


SEEDED = model("runs/cfam-{seed}", 10.0, 12.0, 17.0, seeds=(0, 1, 2))


def test_a_markdown_table_has_a_row_for_chance_and_each_model():
    [table] = tables([benchmark("cuhk_pedes", model("a", 1.0), SEEDED)], minmax=False, legacy=False)
    lines = as_markdown(table).splitlines()
    heads = ["model", "R@1", "R@5", "R@10", "mAP", "mINP", "mSD"]
    assert [cell.strip() for cell in lines[0].split("|")[1:-1]] == heads
    assert [line.split("|")[1].strip() for line in lines[2:5]] == ["chance", "a", "runs/cfam-{seed}"]
    assert f"13.00 ± {stdev([10, 12, 17]):.2f}" in lines[4]
    assert len({len(line) for line in lines[:5]}) == 1
    assert lines[-1] == "20 queries, 10 gallery images; percent; ± over 3 seeds"


def test_a_bar_in_a_name_stays_in_its_cell():
    [table] = tables([benchmark("cuhk_pedes", model("a|b", 1.0))], minmax=False, legacy=False)
    lines = as_markdown(table).splitlines()
    assert lines[3].startswith(r"| a\|b   |")
    assert len({len(line) for line in lines[:4]}) == 1


def test_the_other_forms_of_msd_are_columns_when_asked_for():
    scores = [benchmark("cuhk_pedes", model("a", 1.0))]
    [table] = tables(scores, minmax=True, legacy=True)
    assert table.columns[-3:] == ("mSD (min–max, row)", "mSD (min–max, matrix)", "mSD (legacy)")
    assert table.rows[1][-1] == "9.00"


def test_each_direction_is_a_table_with_a_title():
    both = model("a", 1.0, directions=(T2I, I2T))
    shown = tables([benchmark("cuhk_pedes", both)], minmax=False, legacy=False)
    assert [table.title for table in shown] == ["text -> image", "image -> text"]
    assert shown[1].notes == ("10 query images, 20 captions; percent",)


def test_latex_is_a_balanced_booktabs_tabular_with_literal_underscores():
    scores = [benchmark(name, model("runs/a_b", 1.0), SEEDED) for name in ("cuhk_pedes", "icfg_pedes")]
    text = as_latex(tables(scores, minmax=False, legacy=False)[0])
    lines = [line for line in text.splitlines() if not line.startswith("%")]
    source = "\n".join(lines)
    assert re.findall(r"\\(begin|end)\{(\w+)\}", source) == [("begin", "tabular"), ("end", "tabular")]
    assert [lines[1], lines[-2]] == [r"\toprule", r"\bottomrule"]
    assert r"\multicolumn{5}{c}{cuhk\_pedes} & \multicolumn{5}{c}{icfg\_pedes} \\" in source
    assert r"\cmidrule(lr){2-6} \cmidrule(lr){7-11}" in source
    assert r"runs/a\_b & 1.00" in source
    assert r"13.00 $\pm$ 3.61" in source
    assert not re.search(r"(?<!\\)[_#]", source)
    columns = len(re.search(r"\{(lr+)\}", source)[1])
    rows = [line for line in lines if line.endswith(r"\\") and "multicolumn" not in line]
    assert {len(re.split(r"(?<!\\)&", line)) for line in rows} == {columns}


@given(st.text(alphabet=r"\{}_%$#&~^ab–±"))
def test_escaped_text_leaves_latex_nothing_to_interpret(text):
    escaped = escape_latex(text)
    for command in (r"\textbackslash{}", r"\textasciitilde{}", r"\textasciicircum{}", r"$\pm$"):
        escaped = escaped.replace(command, "")
    assert not re.search(r"[\\{}_%$#&~^]", re.sub(r"\\[{}_%$#&]", "", escaped))


def test_json_names_everything_a_machine_needs():
    scores = [benchmark("cuhk_pedes", model("a", 1.0), SEEDED)]
    [found] = json.loads(as_json(scores))["benchmarks"]
    plain, seeded = found["models"]
    assert {key: found[key] for key in ("name", "data", "split", "queries", "gallery", "chance_r1")} == {
        "name": "cuhk_pedes", "data": "shards/cuhk_pedes", "split": "test", "queries": 20, "gallery": 10,
        "chance_r1": 1.5,
    }  # fmt: skip
    assert (plain["seeds"], plain["weights_sha256"]) == (None, "0" * 64)
    assert "std" not in plain
    assert seeded["seeds"] == [0, 1, 2]
    assert seeded["std"][T2I]["r1"] == stdev([10, 12, 17])
    assert [run["r1"] for run in seeded["per_seed"][T2I]] == [10, 12, 17]


def test_a_requirement_concerns_the_last_model_on_every_benchmark():
    scores = [benchmark("cuhk_pedes", model("a", 1.0), SEEDED), benchmark("icfg_pedes", SEEDED, model("b", 11.0))]
    require(scores, {"r1": 11.0})
    with pytest.raises(RequirementError) as error:
        require(scores, {"r1": 12.5, "mAP": 14.5})
    assert error.value.exit_code == 4
    assert str(error.value).splitlines() == [
        "r1 of b on icfg_pedes is 11, 1.5 below the required 12.5",
        "mAP of b on icfg_pedes is 14, 0.5 below the required 14.5",
    ]
