"""The pages as the tests read them: code blocks, tables, headings and links of our Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
_FENCE: Final = re.compile(r"^```(\w*)\s*$")
_HEADING: Final = re.compile(r"^#{1,6} (.+)$")
_LINK: Final = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_FILE_NAME: Final = re.compile(r"^# ([\w./-]+\.\w+)$")
_CELL_BORDER: Final = re.compile(r"(?<!\\)\|")


@dataclass(frozen=True)
class Block:
    """One fenced block; `line` is that of its first line of text."""

    page: Path
    language: str
    line: int
    text: str

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def file_name(self) -> str | None:
        """The name in the comment of its first line: such a block is a whole file."""
        found = _FILE_NAME.match(self.text.partition("\n")[0])
        return found[1] if found else None


def pages() -> list[Path]:
    """Every page for users."""
    own = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "examples/thumbnails/photos/ORIGINS.md"]
    return [*own, *sorted((ROOT / "docs").rglob("*.md"))]


def page(name: str) -> Path:
    return ROOT / "docs" / name


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(path: Path) -> Iterator[Block]:
    language, start, gathered = "", 0, list[str]()
    inside = False
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        fence = _FENCE.match(line)
        if fence and not inside:
            inside, language, start, gathered = True, fence[1], number + 1, []
        elif line.startswith("```") and inside:
            inside = False
            yield Block(path, language, start, "\n".join(gathered) + "\n")
        elif inside:
            gathered.append(line)
    assert not inside, f"{path}: a code block has no end"


def prose(path: Path) -> str:
    """The page without its code blocks."""
    return re.sub(r"(?ms)^```.*?^```\s*?$", "", path.read_text(encoding="utf-8"))


def anchors(path: Path) -> set[str]:
    """The anchors of the headings, as GitHub spells them."""
    found = (_HEADING.match(line) for line in prose(path).splitlines())
    return {re.sub(r"[^\w\- ]", "", heading[1].lower()).replace(" ", "-") for heading in found if heading}


def links(path: Path) -> list[str]:
    without_code = re.sub(r"`[^`\n]*`", "", prose(path))
    return _LINK.findall(without_code)


def section(path: Path, heading: str) -> str:
    """The text under a heading, down to the next one of the same or a higher level."""
    text = path.read_text(encoding="utf-8")
    level = len(heading) - len(heading.lstrip("#"))
    _, found, after = f"\n{text}".partition(f"\n{heading}\n")
    assert found, f"{name_of(path)} has no heading {heading!r}"
    return re.split(rf"(?m)^#{{1,{level}}} ", after)[0]


def table(text: str, *, after: str = "") -> list[dict[str, str]]:
    """The rows of the first table of a text (behind `after`), as column -> cell."""
    _, _, rest = text.partition(after) if after else ("", "", text)
    lines = rest.splitlines()
    start = next((index for index, line in enumerate(lines) if line.startswith("|")), None)
    assert start is not None, f"there is no table{f' behind {after!r}' if after else ''}"
    columns = _cells(lines[start])
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append(dict(zip(columns, _cells(line), strict=True)))
    return rows


def code(cell: str) -> str:
    """The first piece of code of a cell."""
    found = re.search(r"`([^`]+)`", cell)
    assert found, f"no code in {cell!r}"
    return found[1]


def _cells(line: str) -> list[str]:
    return [cell.strip().replace("\\|", "|") for cell in _CELL_BORDER.split(line.strip())[1:-1]]
