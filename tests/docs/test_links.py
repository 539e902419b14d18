"""Every link of a page leads to a file that is there, and to a heading that is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.pages import ROOT, anchors, links, name_of, pages

_ELSEWHERE = ("https://", "http://", "mailto:")


@pytest.mark.parametrize("path", pages(), ids=name_of)
def test_links_lead_to_something_that_is_there(path: Path) -> None:
    assert [link for link in links(path) if (reason := broken(path, link)) and reason] == []


def test_every_page_is_reached_from_the_readme() -> None:
    reached: set[Path] = set()
    ahead = [ROOT / "README.md"]
    while ahead:
        path = ahead.pop()
        if path in reached or not path.exists():
            continue
        reached.add(path)
        ahead += [target(path, link)[0] for link in links(path) if link.partition("#")[0].endswith(".md")]
    unreached = [name_of(path) for path in (ROOT / "docs").rglob("*.md") if path not in reached]
    assert unreached == []


def target(path: Path, link: str) -> tuple[Path, str]:
    file, _, anchor = link.partition("#")
    return ((path.parent / file).resolve() if file else path), anchor


def broken(path: Path, link: str) -> str:
    if link.startswith(_ELSEWHERE):
        return ""
    file, anchor = target(path, link)
    if not file.exists():
        return f"there is no {link}"
    if anchor and anchor not in anchors(file):
        return f"{name_of(file)} has no heading #{anchor}"
    return ""
