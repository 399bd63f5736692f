"""For mkdocs: takes what lies outside of docs/ and is linked from it into the site, and turns the links to it."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
#: Pages of the repository, by their place there, and what they are in the site.
PAGES = {"README.md": "tour.md", "deploy/README.md": "deploy.md", "CHANGELOG.md": "changes.md"}
_FILES = ("LICENSE", "deploy/**/*", "benchmarks/results/*.svg")
_LINK = re.compile(r"\]\(([^)\s#]+)(#[^)\s]*)?\)")
_FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages and files."""
    for source, target in PAGES.items():
        files.append(File.generated(config, target, content=(ROOT / source).read_text("utf-8")))
    for pattern in _FILES:
        for path in ROOT.glob(pattern):
            name = path.relative_to(ROOT).as_posix()
            if path.is_file() and name not in PAGES and "__pycache__" not in name:
                files.append(File.generated(config, f"files/{name}", content=path.read_bytes()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turns links as they are in the repository into those of the site; code is left as it is."""
    sources = {target: source for source, target in PAGES.items()}
    here = posixpath.dirname(sources.get(page.file.src_uri, f"docs/{page.file.src_uri}"))
    parts = _FENCE.split(markdown)
    parts[::2] = [_LINK.sub(lambda found: _turned(found, here), part) for part in parts[::2]]
    return "".join(parts)


def _turned(found: re.Match[str], here: str) -> str:
    target, anchor = found[1], found[2] or ""
    if re.match(r"[a-z]+:", target):
        return found[0]
    path = posixpath.normpath(posixpath.join(here, target))
    if path.startswith("docs/"):
        return f"]({path.removeprefix('docs/')}{anchor})"
    if (ROOT / path).is_dir():  # a folder is told of by the page beside it
        return f"]({PAGES['deploy/README.md']})"
    return f"]({PAGES.get(path, f'files/{path}')}{anchor})"
