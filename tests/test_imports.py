"""The import arrows of the four packages point one way."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALLOWED = {
    "sharding": set(),
    "cluster": set(),
    "pretrain": {"sharding", "cluster"},
    "finetune": {"pretrain", "sharding", "cluster"},
}
ONLY_IN = {
    "deepspeed": {"pretrain/engine.py"},
    "ray": {"cluster/launch.py", "cluster/submit.py", "cluster/head.py", "sharding/pool.py"},
    "boto3": {"sharding/s3_client.py"},
}
TOKENIZER = "sharding/bpe.py"  # captions are encoded by open_clip's own code, loaded when the first one is
HEAVY = ("torch", "ray", "deepspeed", "open_clip", "transformers")


def imported(path):
    """Top-level names of everything a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


def files(package):
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("package", ALLOWED)
def test_a_package_imports_only_what_lies_before_it(package):
    forbidden = set(ALLOWED) - ALLOWED[package] - {package}
    assert files(package)
    assert [(str(path), name) for path in files(package) for name in imported(path) if name in forbidden] == []


@pytest.mark.parametrize("library", ONLY_IN)
def test_a_heavy_library_has_one_door(library):
    users = {str(path.relative_to(ROOT)) for package in ALLOWED for path in files(package) if library in imported(path)}
    assert users
    assert users <= ONLY_IN[library]


def test_sharding_never_imports_torch():
    others = [path for path in files("sharding") if path != ROOT / TOKENIZER]
    assert [str(path) for path in others if set(imported(path)) & (set(HEAVY) - {"ray"})] == []
    assert set(imported(ROOT / TOKENIZER)) & set(HEAVY) == {"open_clip"}


@pytest.mark.parametrize("command", ["sharding", "cluster", "pretrain", "finetune"])
def test_help_pays_for_no_heavy_import(command):
    code = (
        f"import sys\nfrom {command}.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        f"assert not set({HEAVY}) & set(sys.modules), set({HEAVY}) & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "examples:" in done.stdout
    assert "exit codes:" in done.stdout
