"""The project as a newcomer meets it: README, requirements, help, and the two commands in a clean folder."""

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from conftest import call, make_table

import rnagen

ROOT = Path(rnagen.__file__).parent
README = (ROOT / "README.md").read_text()


def run_in_clean_folder(folder: Path, command: str) -> subprocess.CompletedProcess:
    """Run a README command on a copy of the script alone in an empty folder."""
    shutil.copy(ROOT / "rnagen.py", folder)
    words = command.split()
    assert words[0] == "python"
    return subprocess.run([sys.executable, *words[1:]], cwd=folder, capture_output=True, text=True, env=os.environ)


@pytest.mark.parametrize("command", ["python rnagen.py --top_k_types 10 --n_samples 10000", "python rnagen.py --plot"])
def test_the_two_commands(command: str, tmp_path: Path) -> None:
    assert command in README
    run = run_in_clean_folder(tmp_path, command)
    assert run.returncode == 0, run.stderr
    assert len(run.stderr.splitlines()) == 1
    assert "the data are simulated" in run.stderr
    assert run.stdout.startswith("Data: simulated cohort: 15198 samples, 942 genes, 33 types\nTypes: type_01 ")
    plots = "--plot" in command
    assert run.stdout.count("# epochs = ") == (20 if plots else 0)
    assert len(list(tmp_path.glob("test-accuracy-comparison-20-types-simulated.*"))) == (2 if plots else 0)
    evaluations = re.findall(
        r"^loss: [\d.]+ - accuracy: [\d.]+ \(sd [\d.]+ over 5 trainings\)$", run.stdout, re.MULTILINE
    )
    assert len(evaluations) == 2
    accuracy = float(re.search(r"Same training steps on real data alone: ([\d.]+)", run.stdout)[1])
    assert accuracy > 0.4
    assert "95% interval of that gain, on this one split: " in run.stdout


@pytest.mark.parametrize(("arguments", "code"), [(["--help"], 0), (["--version"], 0), (["-k", "0"], 2)])
def test_help_and_usage_errors_import_nothing_heavy(arguments: list[str], code: int) -> None:
    """So that they answer at once: tests/benchmarks/commands.py says how fast."""
    run = subprocess.run([sys.executable, "-X", "importtime", ROOT / "rnagen.py", *arguments], capture_output=True)
    assert run.returncode == code
    for heavy in (b"tensorflow", b"keras", b"pandas", b"matplotlib", b"sklearn", b"scipy", b"anndata", b"pyarrow"):
        assert heavy not in run.stderr.replace(b"/rnagen.py", b"")


def test_version() -> None:
    assert call("--version").out == f"rnagen {rnagen.__version__}\n"


def test_help_fits_80_columns_and_states_every_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = call("--help").out
    assert max(map(len, text.splitlines())) <= 80
    for action in rnagen.build_parser()._actions:
        if not {"-h", "--version"} & set(action.option_strings):
            assert "(default: " in action.help, action.option_strings


def test_readme_options_are_the_parsers() -> None:
    section = " ".join(README.split("## Options")[1].split("\n## ")[0].split())
    documented = dict(re.findall(r"`(-[^`]+)` \(([^()]+)\)", section))
    parser = rnagen.build_parser()
    flags = {", ".join(action.option_strings): action for action in parser._actions}
    assert {row.split(" ")[0].rstrip(",") for row in documented} == {
        action.option_strings[0] for action in flags.values()
    }
    for row, default in documented.items():
        action = next(a for a in flags.values() if row.startswith(", ".join(a.option_strings)))
        if action.default not in (None, False, "==SUPPRESS=="):
            assert default.strip() == str(action.default)


def test_readme_commands_are_usage() -> None:
    """Those that run are tested below; of the others at least the flags are right."""
    commands = re.findall(r"^(?:srun )?python rnagen\.py ?(.*)$", README.replace("\\\n", ""), re.MULTILINE)
    assert len(commands) >= 5
    for command in commands:
        words = command.replace("$SLURM_ARRAY_TASK_ID", "1").split(" > ")[0]
        rnagen.parse_arguments(shlex.split(words, comments=True))


def test_readme_uses_of_the_samples_work(working_directory: Path) -> None:
    section = README.split("## Keep and release synthetic samples")[1].split("\n## ")[0]
    commands = re.findall(r"^python rnagen.py (.+)$", section.replace("\\\n", ""), re.MULTILINE)
    make_table(types=("BLCA", "Uterine CS")).to_parquet("cohort.parquet")
    *commands, one_of_many = commands
    assert len(commands) == 2
    for command in commands:
        run = call(*shlex.split(command))
        assert run.code == 0, run.err
    Path("parts").mkdir()
    for part in range(1, 17):
        command = one_of_many.replace("$SLURM_ARRAY_TASK_ID", str(part)).replace("1000000", "20000")
        assert call(*shlex.split(command)).code == 0
    assert pd.read_parquet("parts")["Sample"].nunique() == 20_000
    blocks = re.findall(r"^```python\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 1
    found: dict = {}
    exec(blocks[0], found)
    assert found["rare"].shape == (200, 20)
    assert found["classifier"].score(found["real"].drop(columns="type"), found["real"]["type"]) == 1


BENCHMARKS = sorted(path for path in (ROOT / "tests" / "benchmarks").glob("*.py") if path.stem != "harness")


@pytest.mark.parametrize("script", BENCHMARKS, ids=lambda path: path.stem)
def test_benchmarks_have_the_flags_that_they_show(script: Path) -> None:
    shown = re.search(rf"python tests/benchmarks/{script.name}(.*)", script.read_text())[1]
    run = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    options = run.stdout.split("\noptions:\n")[1]
    assert set(re.findall(r"--\w+", shown)) <= set(re.findall(r"^  (--\w+)", options, re.MULTILINE))


@pytest.mark.parametrize("script", sorted((ROOT / "tests").rglob("*.py")), ids=lambda path: path.stem)
def test_scripts_use_what_is_there(script: Path) -> None:
    nodes = ast.walk(ast.parse(script.read_text()))
    used = (node for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name))
    assert [node.attr for node in used if node.value.id == "rnagen" and not hasattr(rnagen, node.attr)] == []


def test_script_metadata_equals_requirements() -> None:
    text = (ROOT / "rnagen.py").read_text()
    block = re.search(r"^# /// script\n(.*?)^# ///$", text, re.MULTILINE | re.DOTALL)[1]
    dependencies = re.findall(r'^#     "(.+)",$', block, re.MULTILINE)
    assert dependencies == (ROOT / "requirements.txt").read_text().split()
    assert '# requires-python = ">=3.10"' in block


def test_packages_are_imported_in_one_place() -> None:
    tree = ast.parse((ROOT / "rnagen.py").read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    imports = [
        f"{function.name}, line {node.lineno}"
        for function in functions
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert imports == []


def test_code_is_clean() -> None:
    for command in (["format", "--check"], ["check"]):
        run = subprocess.run([sys.executable, "-m", "ruff", *command, ROOT], capture_output=True, text=True)
        assert run.returncode == 0, run.stdout


def test_top_level_holds_nothing_else() -> None:
    expected = {"rnagen.py", "README.md", "requirements.txt", "test-accuracy-comparison-20-types.png", "tests"}
    found = subprocess.run(["git", "ls-tree", "--name-only", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    if found.returncode:
        pytest.skip("not a git checkout")
    assert {name for name in found.stdout.split() if not name.startswith(".")} <= expected
