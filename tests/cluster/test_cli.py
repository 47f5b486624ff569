"""The command line: its mistakes are one line and code 2, its help loads no Ray."""

import subprocess
import sys

import pytest

from cluster.cli import main


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["submit"], "no command to run"),
        (["submit", "--env", "NAME", "--", "true"], "--env wants NAME=VALUE"),
        (["submit", "--no-wait", "--", "true"], "--no-wait needs --address"),
        (["submit", "--address", "http://127.0.0.1:9", "--num-cpus", "2", "--", "true"], "--num-cpus is for a head"),
        (["submit", "--address", "http://127.0.0.1:9", "--", "true"], "no Ray job server answers"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(arguments, message, capsys, monkeypatch):
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    assert main(arguments) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line


def test_submit_passes_variables_and_arguments_and_returns_the_commands_exit_code(head, tmp_path, capfd):
    command = [
        sys.executable,
        "-c",
        "import os, sys; print(os.environ['COLOR'], sys.argv[1:]); sys.exit(5)",
        "--",
        "-x",
    ]
    arguments = ["submit", "--address", head, "--working-dir", str(tmp_path), "--env", "COLOR=a=b"]
    assert main([*arguments, "--", *command]) == 5
    assert "a=b ['--', '-x']" in capfd.readouterr().out


def test_without_waiting_the_submission_id_is_all_of_stdout(head, tmp_path, capfd):
    arguments = ["submit", "--address", head, "--working-dir", str(tmp_path), "--submission-id", "mine", "--no-wait"]
    assert main([*arguments, "--", "true"]) == 0
    assert capfd.readouterr().out == "mine\n"


def test_help_names_the_exit_codes_and_loads_no_ray(repository_environment):
    program = (
        "import sys; from cluster.cli import main\ntry: main(['--help'])\nfinally: assert 'ray' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=repository_environment, capture_output=True, text=True, check=True
    )
    assert "exit codes:" in done.stdout
