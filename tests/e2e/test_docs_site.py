"""The documentation builds as a site, with no page left out and no link into nothing."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.support.parts import environment

ROOT = Path(__file__).parents[2]
PACKAGE = "mkdocs-material==9.8.2"


def dead_links(page: Path) -> list[str]:
    """Links and pictures of a built page that lead to no file of the site."""
    targets = re.findall(r"<(?:a|img)\b[^>]*?(?:href|src)=[\"']?([^\"' >]+)", page.read_text("utf-8"))
    local = [target for target in targets if not re.match(r"[a-z]+:|//|#", target)]
    return [target for target in local if not (page.parent / unquote(target.partition("#")[0])).exists()]


@pytest.mark.slow
def test_the_site_builds_strictly(tmp_path: Path) -> None:
    mkdocs = environment("docs", PACKAGE) / "mkdocs"
    argv = [mkdocs, "build", "--strict", "-f", ROOT / ".mkdocs.yml", "-d", tmp_path / "site"]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for page in (tmp_path / "site").rglob("*.html"):  # it is read without the internet, too
        parts = re.findall(
            r"<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=[\"']?([^\"' >]+)", page.read_text("utf-8")
        )
        assert [part for part in parts if re.match(r"(https?:)?//", part)] == [], page.name
        if page.name != "404.html":  # whose links are from the root of a server
            assert dead_links(page) == [], page.name
    pages = {page.stem for page in (ROOT / "docs").glob("*.md")}
    assert pages <= {page.stem for page in (tmp_path / "site").glob("*.html")}
