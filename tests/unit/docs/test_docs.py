"""What the documentation says exists: configurations load, links lead somewhere, commands can be typed."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
import typer

from backends.workers.gpu_watch import FAMILIES as GPU_FAMILIES
from backends.workers.supervisor_report import FAMILIES as WORKER_FAMILIES
from gateway.cli import app
from gateway.config.loader import load
from gateway.observe.exposition import FAMILIES

ROOT = Path(__file__).parents[3]
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "deploy" / "README.md", *(ROOT / "docs").glob("*.md")]
)
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: Directories of the machine that a text was written on, never those of a reader's.
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:work|home|Users|root|tmp|mnt)/")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def blocks(page: Path, language: str) -> list[str]:
    return [body for info, body in FENCE.findall(page.read_text("utf-8")) if info.strip() == language]


def prose(page: Path) -> str:
    """The page without fenced blocks."""
    return FENCE.sub("", page.read_text("utf-8"))


def code_lines(page: Path) -> Iterator[str]:
    """Every command line: those of shell blocks, continuations joined, and inline code."""
    for block in blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            yield line.partition(" #")[0].strip()
    for code in re.findall(r"`([^`]+)`", prose(page)):
        yield " ".join(code.split())


def anchors(page: Path) -> set[str]:
    """A page's headings as GitHub turns them into anchors."""
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in HEADING.findall(prose(page))}


def environment(text: str) -> dict[str, str]:
    """Values, all different, for the variables that have no default."""
    return {name: f"value-of-{name}" for name in re.findall(r"\$\{(\w+)\}", text)}


CONFIGURATIONS = [
    pytest.param(text, id=f"{page.relative_to(ROOT).as_posix()}-{number}")
    for page in PAGES
    for number, text in enumerate(blocks(page, "yaml"), 1)
]


@pytest.mark.parametrize("text", CONFIGURATIONS)
def test_a_yaml_example_is_a_whole_configuration_that_loads(text: str) -> None:
    loaded = load(text, "gateway.yaml", environment(text))
    assert loaded.config is not None, "\n".join(map(str, loaded.problems))


@each_page
def test_relative_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        found = (page.parent / name).resolve() if name else page
        assert found.exists(), f"{target} does not exist"
        assert found.is_relative_to(ROOT), f"{target} leads out of the project"
        if anchor:
            assert anchor in anchors(found), f"{target}: no such heading"


@each_page
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    for line in code_lines(page):
        words = [word for word in line.split() if not re.match(r"[A-Z_]+=", word)]
        if len(words) > 1 and words[0] == "make":
            assert words[1] in targets, line


def seawall_arguments(line: str) -> list[str] | None:
    """The arguments of a `seawall` command line; None if it is another command."""
    try:
        words = shlex.split(line)
    except ValueError:  # inline code that is no command line
        return None
    words = words[next((at for at, word in enumerate(words) if not re.match(r"[A-Z_]+=", word)), 0) :]
    return words[1:] if words and words[0].rpartition("/")[2] == "seawall" else None


def check_arguments(arguments: list[str]) -> None:
    """Raises AssertionError for a command or an option that does not exist."""
    command, words = typer.main.get_command(app), list(arguments)
    while (commands := getattr(command, "commands", None)) and words and not words[0].startswith("-"):
        assert words[0] in commands, f"no command {words[0]}"
        command = commands[words.pop(0)]
    known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)} | {"--help"}
    if "--" in words:
        words = words[: words.index("--")]
    unknown = {word.partition("=")[0] for word in words if word.startswith("--")} - known
    assert not unknown, f"no option {unknown}"


@each_page
def test_seawall_commands_and_their_options_exist(page: Path) -> None:
    for line in code_lines(page):
        arguments = seawall_arguments(line)
        if arguments is not None:
            check_arguments(arguments)


@pytest.mark.parametrize("line", ["seawall fly", ".venv/bin/seawall serve --fast", "seawall worker cobol"])
def test_a_command_that_does_not_exist_is_found(line: str) -> None:
    arguments = seawall_arguments(line)
    assert arguments is not None
    with pytest.raises(AssertionError, match="no "):
        check_arguments(arguments)


@each_page
def test_metrics_exist(page: Path) -> None:
    families = (*FAMILIES, *WORKER_FAMILIES, *GPU_FAMILIES)
    known = {name + suffix for name in families for suffix in ("", "_bucket", "_sum", "_count")}
    assert set(re.findall(r"\bseawall_[a-z_]+\b", page.read_text("utf-8"))) - known == set()


@each_page
def test_no_machine_paths(page: Path) -> None:
    found = MACHINE_PATH.search(page.read_text("utf-8"))
    assert found is None, f"a path of some machine: {found[0]}"


def test_the_diagrams_are_what_the_script_draws(tmp_path: Path) -> None:
    script = ROOT / "docs" / "diagrams" / "build.py"
    shutil.copy(script, tmp_path)
    subprocess.run([sys.executable, tmp_path / "build.py"], check=True)
    drawn = {path.name: path.read_text("utf-8") for path in tmp_path.glob("*.svg")}
    assert drawn == {path.name: path.read_text("utf-8") for path in script.parent.glob("*.svg")}
    for text in drawn.values():
        assert ElementTree.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"
        assert "http" not in text.replace("http://www.w3.org/2000/svg", "")  # nothing is fetched


def test_no_diagram_needs_a_script() -> None:
    for page in PAGES:
        assert "```mermaid" not in page.read_text("utf-8"), page


def test_every_page_is_reachable_from_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text("utf-8")
    missing = [page.name for page in (ROOT / "docs").glob("*.md") if page.name != "index.md" and page.name not in index]
    assert missing == []
