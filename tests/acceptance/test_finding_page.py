"""docs/finding.md: its snippet runs and prints what it says, and its links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.acceptance.test_metadata_page import test_snippet as run_snippet

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "finding.md").read_text()
SNIPPETS = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("code", SNIPPETS, ids=range(len(SNIPPETS)))
def test_snippet(code: str, tmp_path: Path) -> None:
    run_snippet(code, tmp_path)


def test_its_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)#([^)]+)\)", PAGE)
    assert links
    for page, section in links:
        headings = re.findall(r"^#+ (.*)$", (DOCS / page).read_text(), re.MULTILINE)
        assert section in [heading.lower().replace(" ", "-") for heading in headings], section
