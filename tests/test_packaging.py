"""What is installed is what is in the checkout, and the documents say what is there."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest
import setuptools
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import recbole_mm
from recbole_mm.cli.catalogue import shared_options
from recbole_mm.config.shared import SHARED_OPTIONS
from recbole_mm.host.compat import installed_repairs

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted(file.name for file in ROOT.glob("run_*.py"))
README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands() -> list[str]:
    return re.findall(r"^python3 -m venv .*$", README, flags=re.MULTILINE)


@pytest.fixture(scope="module")
def metadata() -> dict[str, Any]:
    """The arguments that setup.py passes to setuptools."""
    given: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setuptools, "setup", given.update)
        source = (ROOT / "setup.py").read_text(encoding="utf-8")
        patch.chdir(ROOT)
        exec(compile(source, "setup.py", "exec"), {"__file__": str(ROOT / "setup.py")})
    return given


def requirements(metadata: dict[str, Any], *extras: str) -> list[Requirement]:
    lines = [*metadata["install_requires"], *(line for extra in extras for line in metadata["extras_require"][extra])]
    return [Requirement(line) for line in lines]


# --- documents


def test_ci_runs_the_test_command_of_the_readme():
    run, test = commands()
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert [line for line in script if line.startswith("python3 -m venv")] == [test]
    assert run.endswith("run_recbole_mm.py --model=MMGCN")
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_commands_install_the_tested_versions():
    assert all("pip install -q -c constraints.txt -e " in command for command in commands())


def test_every_shared_option_has_a_default_and_says_what_it_means():
    """The documentation's table of options is made of this file."""
    defaults = yaml.safe_load((ROOT / "properties" / "overall.yaml").read_text(encoding="utf-8"))
    assert set(defaults) == set(SHARED_OPTIONS)
    described = {option.name: option for option in shared_options()}
    assert all(described[name].kind and described[name].meaning for name in defaults)


def test_the_documentation_lists_every_extra(metadata):
    text = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)` \|", text, flags=re.MULTILINE)) == set(metadata["extras_require"])


def test_the_documentation_lists_every_repair():
    text = (ROOT / "docs" / "repairs.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)` \|", text, flags=re.MULTILINE)) == set(installed_repairs())


def test_readme_names_no_model_that_does_not_exist():
    section = README.split("## Models")[1].split("\n## ")[0]
    named = re.findall(r"^\| (\w+) \|", section, flags=re.MULTILINE)[1:]
    assert named and set(named) <= set(recbole_mm.registered_models())


def test_files_that_the_readme_names_exist():
    links = re.findall(r"\]\((?!http)([^)#]+)", README)
    assert links and all((ROOT / link).exists() for link in links)


def test_every_model_has_its_three_files():
    """The three that CONTRIBUTING.md asks for, and no yaml without a model."""
    models = {name: cls.__module__ for name, cls in recbole_mm.registered_models().items()}
    ours = {name: module for name, module in models.items() if module.startswith("recbole_mm.")}
    assert {file.stem for file in ROOT.glob("properties/model/*.yaml")} == set(ours)
    # A file named after the model, or a folder with that file in it.
    homes = {name: f"recbole_mm.model.{name.lower()}" for name in ours}
    assert all(module in (homes[name], f"{homes[name]}.{name.lower()}") for name, module in ours.items())
    tests = {file.stem for file in ROOT.glob("tests/model/test_*.py")}
    assert {f"test_{name.lower()}" for name in ours} <= tests


def test_one_version_everywhere(metadata):
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert metadata["version"] == recbole_mm.__version__ == citation["version"]


# --- requirements


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pinned.items()}


def test_constraints_satisfy_every_requirement(metadata):
    pinned = constraints()
    for requirement in requirements(metadata, "test"):
        applies = requirement.marker is None or requirement.marker.evaluate({"python_version": "3.11"})
        if applies:
            assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), str(requirement)


def test_constraints_install_with_every_python_3_11():
    from importlib.metadata import distributions

    pinned = constraints()
    for installed in distributions():
        if pinned.get(canonicalize_name(installed.metadata["Name"])) == installed.version:
            wanted = installed.metadata.get("Requires-Python") or ""
            assert SpecifierSet(wanted).contains("3.11.0"), f"{installed.metadata['Name']}: {wanted}"


def test_ranges_are_not_pins(metadata):
    assert all("==" not in str(requirement.specifier) for requirement in requirements(metadata))


def test_recbole_is_bounded_and_left_out_where_pip_cannot_install_it(metadata):
    (recbole,) = (r for r in requirements(metadata) if r.name == "recbole")
    assert recbole.specifier.contains("1.2.1")
    assert not recbole.specifier.contains("1.2.0") and not recbole.specifier.contains("1.3.0")
    for version, applies in (("3.9", True), ("3.11", True), ("3.12", False), ("3.13", False)):
        assert recbole.marker.evaluate({"python_version": version}) is applies


def test_without_recbole_its_other_requirements_are_ours(metadata):
    from importlib.metadata import requires

    theirs = {canonicalize_name(r.name) for r in map(Requirement, requires("recbole")) if r.marker is None}
    ours = {
        canonicalize_name(r.name)
        for r in requirements(metadata)
        if r.marker is None or r.marker.evaluate({"python_version": "3.12"})
    }
    assert theirs - ours == {"ray"}


@pytest.mark.skipif(sys.version_info < (3, 10), reason="needs sys.stdlib_module_names")
def test_every_import_is_required(metadata):
    """A package that the code imports, anywhere in a function too, is a requirement or an extra."""
    declared = requirements(metadata, *sorted(set(metadata["extras_require"]) - {"test"}))
    known = {canonicalize_name(r.name) for r in declared if r.marker is None or r.name == "recbole"}
    modules = {"pyyaml": "yaml", "scikit-learn": "sklearn", "pillow": "pil"}
    known = {modules.get(name, name.replace("-", "_")) for name in known} | {"recbole_mm", "run_recbole_mm"}
    imported: dict[str, Path] = {}
    for file in [*ROOT.glob("recbole_mm/**/*.py"), *ROOT.glob("run_*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported.update({alias.name.split(".")[0]: file for alias in node.names})
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                imported[node.module.split(".")[0]] = file
    strangers = {name.lower() for name in imported} - set(sys.stdlib_module_names) - known
    assert not strangers, {name: str(file) for name, file in imported.items() if name.lower() in strangers}


# --- the wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy: a build leaves files beside setup.py."""
    folder = tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("recbole_mm", "properties", "dataset_atomic"):
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=ignored)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", *SCRIPTS):
        shutil.copy(ROOT / name, folder / "source")
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run([*pip, str(folder / "source")], check=True, timeout=300)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``bin`` folder of an environment with the wheel, whose other packages are those of this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", str(wheel)], check=True, timeout=300)
    packages = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    # a path file within this path is not followed, so an editable install of this environment stays out
    (Path(packages) / "host.pth").write_text(sysconfig.get_paths()["purelib"] + "\n", encoding="utf-8")
    return folder / "bin"


def run(command: list[str | Path], folder: Path) -> str:
    """Output of a command in ``folder``, without what leads back to the checkout."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "COV", "PYTEST"))}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_wheel_holds_the_package_and_its_data_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    source = wheel.parent / "source"
    code = [
        *source.glob("recbole_mm/**/*.py"),
        *source.glob("recbole_mm/report/templates/*.html"),
        source / "recbole_mm" / "py.typed",
        *(source / name for name in SCRIPTS),
    ]
    data = [*source.glob("properties/**/*.yaml"), *source.glob("dataset_atomic/*/*.*")]
    # The scripts that wrote the data stay behind; the one that makes a shop to try is part of what is given.
    data = [file for file in data if file.suffix != ".py" or file.name.startswith("make_")]
    expected = {file.relative_to(source).as_posix() for file in code}
    assert names == expected | {f"recbole_mm/{file.relative_to(source).as_posix()}" for file in data}


@pytest.mark.slow
def test_installed_package_finds_everything_from_an_empty_folder(installed, tmp_path):
    script = """
import recbole_mm
from pathlib import Path
from recbole.config import Config
from recbole.data import create_dataset
from recbole_mm.paths import properties_dir
package = Path(recbole_mm.__file__).parent
config = Config(model="MMGCN", dataset="mm-toy", config_dict={"state": "ERROR"})
config["checkpoint_dir"] = str(Path.cwd() / "saved")
print(package, properties_dir(), config["data_path"], sep="\\n")
print(*recbole_mm.registered_models())
print(*sorted(create_dataset(config).features.item))
"""
    package, properties, data, models, modalities = run([installed / "python", "-c", script], tmp_path).splitlines()[
        -5:
    ]
    assert Path(package).is_relative_to(installed.parent)
    assert Path(properties) == Path(package) / "properties"
    assert Path(data) == Path(package) / "dataset_atomic" / "mm-toy"
    assert models.split() == sorted(recbole_mm.registered_models())
    assert modalities.split() == ["audio", "image", "text"]


@pytest.mark.slow
def test_console_script_trains_from_an_empty_folder(installed, tmp_path):
    (tmp_path / "empty").mkdir()
    output = run(
        [installed / "recbole-mm", "--model=MMGCN", "--dataset=mm-toy", "--epochs=1", "--show_progress=False"],
        tmp_path / "empty",
    )
    assert "MMGCN on mm-toy" in output and "ndcg@10" in output
    assert "--params_file" in run([installed / "recbole-mm-hyper", "--help"], tmp_path)
    listed = run([installed / "recbole-mm", "--list-models"], tmp_path).split()
    assert {*recbole_mm.registered_models(), "LightGCN"} <= set(listed)
