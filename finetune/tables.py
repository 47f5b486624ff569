"""Scores as tables for people: Markdown for the terminal, LaTeX (booktabs) for the paper.

One benchmark is a table of models x metrics; several are the cross-domain matrix, models x benchmarks, with the
metrics of each benchmark side by side. Each direction is a table of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from finetune.scores import COLUMNS, TEXT_TO_IMAGE, BenchmarkScores, ModelScores

MATRIX_COLUMNS = ("r1", "r5", "r10", "mAP", "mSD")  # as in UFineBench, Table 3
DIRECTION_NAMES = {"text_to_image": ("text", "image"), "image_to_text": ("image", "text")}
LATEX_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "–": "--",
    "±": r"$\pm$",
} | {sign: "\\" + sign for sign in "&%$#_{}"}


@dataclass(frozen=True, kw_only=True)
class Table:
    """groups: (benchmark, number of columns) over the columns, `rows` of cells below; the first cell is the model."""

    title: str
    groups: tuple[tuple[str, int], ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]


def tables(benchmarks: Sequence[BenchmarkScores], *, minmax: bool, legacy: bool) -> list[Table]:
    """One table for each direction; `minmax` and `legacy` add those forms of mSD."""
    extra = [name for name, asked in (("mSD_row", minmax), ("mSD_matrix", minmax), ("mSD_legacy", legacy)) if asked]
    few = [name for name in COLUMNS if not name.startswith("mSD_")]
    names = [*(MATRIX_COLUMNS if len(benchmarks) > 1 else few), *extra]
    return [_table(benchmarks, direction, names) for direction in benchmarks[0].chance_r1]


def as_markdown(table: Table) -> str:
    """The table for a terminal; several benchmarks are told apart in the column heads."""
    owners = [f"{name} " if len(table.groups) > 1 else "" for name, number in table.groups for _ in range(number)]
    heads = [owner + column for owner, column in zip(owners, table.columns, strict=True)]
    lines = [tuple(cell.replace("|", r"\|") for cell in line) for line in (("model", *heads), *table.rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads) + 1)]
    rule = ("-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:]))
    body = [_markdown_line(line, widths) for line in (lines[0], rule, *lines[1:])]
    return "\n".join([*([table.title, ""] if table.title else []), *body, "", *table.notes])


def as_latex(table: Table) -> str:
    r"""The table as a `tabular` that needs `\usepackage{booktabs}`; the notes stand above it as comments."""
    head = []
    if len(table.groups) > 1:
        spans, rules, first = [""], [], 2
        for name, number in table.groups:
            spans.append(rf"\multicolumn{{{number}}}{{c}}{{{escape_latex(name)}}}")
            rules.append(rf"\cmidrule(lr){{{first}-{first + number - 1}}}")
            first += number
        head = [_latex_line(spans), " ".join(rules)]
    head.append(_latex_line(["model", *(escape_latex(column) for column in table.columns)]))
    body = [_latex_line([escape_latex(cell) for cell in row]) for row in table.rows]
    comments = [f"% {line}" for line in (table.title, *table.notes) if line]
    begin = rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}"
    return "\n".join([*comments, begin, r"\toprule", *head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}"])


def escape_latex(text: str) -> str:
    """Text with LaTeX's own signs taken literally."""
    return "".join(LATEX_SPECIAL.get(sign, sign) for sign in text)


def _table(benchmarks: Sequence[BenchmarkScores], direction: str, names: list[str]) -> Table:
    chance = ["chance"]
    for benchmark in benchmarks:
        chance += [f"{benchmark.chance_r1[direction]:.2f}", *[""] * (len(names) - 1)]
    rows = [tuple(chance)]
    for number, model in enumerate(benchmarks[0].models):
        cells = [_cell(benchmark.models[number], direction, name) for benchmark in benchmarks for name in names]
        rows.append((model.name, *cells))
    source, target = DIRECTION_NAMES[direction]
    both = len(benchmarks[0].chance_r1) > 1 or direction != TEXT_TO_IMAGE
    return Table(
        title=f"{source} -> {target}" if both else "",
        groups=tuple((benchmark.name, len(names)) for benchmark in benchmarks),
        columns=tuple(COLUMNS[name] for name in names) * len(benchmarks),
        rows=tuple(rows),
        notes=tuple(_note(benchmark, direction, len(benchmarks) > 1) for benchmark in benchmarks),
    )


def _cell(model: ModelScores, direction: str, name: str) -> str:
    std = model.std(direction)
    return f"{model.mean(direction)[name]:.2f}" + (f" ± {std[name]:.2f}" if std else "")


def _note(benchmark: BenchmarkScores, direction: str, named: bool) -> str:
    counts = f"{benchmark.queries} queries, {benchmark.gallery} gallery images"
    if direction != TEXT_TO_IMAGE:
        counts = f"{benchmark.gallery} query images, {benchmark.queries} captions"
    seeds = max(len(model.seeds or ()) for model in benchmark.models)
    spread = f"; ± over {seeds} seeds" if seeds > 1 else ""
    return f"{f'{benchmark.name} {benchmark.split}: ' if named else ''}{counts}; percent{spread}"


def _markdown_line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
    return "| " + " | ".join([cells[0].ljust(widths[0]), *padded]) + " |"


def _latex_line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"
