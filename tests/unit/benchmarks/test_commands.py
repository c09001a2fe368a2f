"""Every benchmark and tool starts, by the command that its docstring and the docs name."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

from benchmarks.cpu_model import PEERS as SCRIPTS_FOLDER
from benchmarks.fidelity.others import PEERS, SCRIPTS

ROOT = Path(__file__).parents[3]
COMMAND = re.compile(r"python -m ((?:benchmarks|tools)\.[\w.]*\w)")


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


MODULES = [
    module_of(path)
    for folder in ("benchmarks", "tools")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if 'if __name__ == "__main__":' in path.read_text(encoding="utf-8")
    and path.parent.name != "peers"  # they start in environments of their own
]


@pytest.mark.parametrize("module", MODULES)
def test_help(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", [module, "--help"])
    with pytest.raises(SystemExit) as ended:
        import_module(module).main()
    assert ended.value.code == 0
    assert capsys.readouterr().out.lower().startswith("usage: ")


def test_documented_commands_exist() -> None:
    named = {}
    for path in (
        ROOT / "README.md",
        *(ROOT / "docs").glob("*.md"),
        *ROOT.glob("exporter/demo/*/*.md"),
    ):
        text = path.read_text(encoding="utf-8")
        assert "python benchmarks/" not in text, path
        named.update(dict.fromkeys(COMMAND.findall(text), path))
    assert len(named) > 8
    for name, path in named.items():
        assert {name, f"{name}.__main__"} & set(MODULES), f"{path} names {name}"


@pytest.mark.parametrize("module", MODULES)
def test_the_docstring_names_the_command(module: str) -> None:
    commands = COMMAND.findall(import_module(module).__doc__ or "")
    assert set(commands) == {module.removesuffix(".__main__")}


def test_scripts_of_peers_exist() -> None:
    assert SCRIPTS == SCRIPTS_FOLDER
    for peer in PEERS.values():
        assert (SCRIPTS / peer.script).is_file()
