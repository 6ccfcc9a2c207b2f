"""Every example of the documentation does what the page says: YAML is loaded, Python is run, commands exist."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from doc_blocks import PAGES, ROOT, Block, blocks
from rewardmesh.cli.app import app
from rewardmesh.cli.kinds import KINDS
from rewardmesh.cli.mesh_file import MeshFile
from rewardmesh.gateway.program import parse_program
from rewardmesh.judge.constitutions import read_constitution
from rewardmesh.judge.template import read_template
from rewardmesh.panel.document import load_panel
from rewardmesh.trainer.recipe import Recipe
from rewardmesh.verifier import VerifierConfig, create_server

CONTRIBUTING = (ROOT / "CONTRIBUTING.md",)


@pytest.fixture
async def verifier_address() -> AsyncIterator[str]:
    fields: dict[str, Any] = {"workers": 1, "drain_seconds": 2.0}
    server = await create_server(VerifierConfig(**fields))
    await server.start()
    yield server.address
    await server.stop()


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_yaml_loads(block: Block, tmp_path: Path) -> None:
    document: dict[str, Any] = yaml.safe_load(block.text)
    match document:
        case {"signals": _, "reward": _}:
            assert parse_program(block.text, str(block)).name == document["name"]
        case {"principles": _}:
            (tmp_path / "constitution.yaml").write_text(block.text)
            assert read_constitution(tmp_path / "constitution.yaml").name == document["name"]
        case {"labels": _, "text": _} | {"extends": _}:
            (tmp_path / "template.yaml").write_text(block.text)
            assert read_template(tmp_path / "template.yaml").name == document["name"]
        case {"policy": _, "prompts": _}:
            assert Recipe.model_validate(document).steps == document["steps"]
        case {"members": _, "name": _}:
            (tmp_path / "panel.yaml").write_text(block.text)
            assert load_panel(tmp_path / "panel.yaml", {}).rules
        case {"services": _}:
            assert MeshFile.parse(document, str(block)).services
        case _:
            pytest.fail(f"{block}: is no program, template, recipe or mesh; the test does not know how to load it")


@pytest.mark.parametrize("block", blocks("python", tuple(page for page in PAGES if page not in CONTRIBUTING)), ids=str)
async def test_python_runs(block: Block, verifier_address: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = compile(block.text.replace("127.0.0.1:50051", verifier_address), str(block), "exec")
    await asyncio.to_thread(exec, code, {})
    if block.page.name == "README.md":
        printed = capsys.readouterr().out  # the server's log is in it too
        assert "worked 1.0 None\nwrong 0.0 None\n" in printed
        assert re.search(r"^unanswerable None Absence\(.*NOT_APPLICABLE", printed, re.MULTILINE)


def test_recipes_for_contributors_work_in_a_copy(tmp_path: Path) -> None:
    for folder in ("services", "trainer", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    files = [block for language in ("python", "yaml") for block in blocks(language, CONTRIBUTING)]
    for block in files:
        assert block.path, f"{block}: does not say which file it is"
        assert not (tmp_path / block.path).exists(), f"{block}: {block.path} is there already"
        (tmp_path / block.path).write_text(block.text)
    tests = [block.path for block in files if block.path and block.path.startswith("tests/")]
    assert len(tests) == 5
    environment = os.environ | {"PYTHONPATH": f"{tmp_path / 'services'}:{tmp_path / 'trainer'}"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout
    text = CONTRIBUTING[0].read_text(encoding="utf-8")
    for path in tests:
        assert re.search(rf"^pytest .*{re.escape(path)}", text, re.MULTILINE), f"the page does not say how to run {path}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_options_exist(page: Path) -> None:
    known: Any = typer.main.get_command(app)
    shell = "".join(block.text for block in blocks("bash", (page,)))
    inline = re.findall(r"`rewardmesh ([a-z][^`\n]*)`", page.read_text(encoding="utf-8"))
    for line in [*re.findall(r"^rewardmesh ([^#\n]*)", shell, re.MULTILINE), *inline]:
        command, *rest = line.split()
        assert command in known.commands, line
        if command == "serve":
            assert rest[0] in {*KINDS, "KIND"}, line
            continue
        found = known.commands[command]
        while hasattr(found, "commands"):  # a group, such as audit
            assert rest[0] in found.commands, line
            found = found.commands[rest.pop(0)]
        options = {option for parameter in found.params for option in (*parameter.opts, *parameter.secondary_opts)}
        used = {word for word in rest if word.startswith("--")}
        assert used <= options | {"--help"}, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_tree_of_the_readme_names_what_is_there() -> None:
    tree = next(block.text for block in blocks("", (ROOT / "README.md",)) if block.text.startswith("protos/"))
    folders = [Path()]
    for line in tree.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        names = [word for word in line.split("  ")[depth:][0].split() if word.endswith("/")] if line.strip() else []
        for name in names:
            folders = [*folders[: depth + 1], folders[depth] / name]
            assert (ROOT / folders[-1]).is_dir(), f"{folders[-1]} is in the README's tree and not in the repository"
