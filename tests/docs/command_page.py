"""docs/reference/command.md, made of the command's own help: `python -m tests.docs.command_page` writes it anew."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import Final

from tests.docs.pages import ROOT, page

PAGE: Final = page("reference/command.md")
_COMMON: Final = {"--url", "--json"}
_END: Final = "\0"
_ASK: Final = f"""
import contextlib, sys
from runtime.cli import main
for name in sys.argv[1].split(","):
    with contextlib.suppress(SystemExit):
        main([*name.split(), "--help"])
    print({_END!r})
"""
_ROW: Final = re.compile(r"^│ (?:\*  )?(.+?)(?: {2,}(.*?))? *│$")
_LISTED: Final = re.compile(r"^│ (\w+)  +(.+?) *│$")

_INTRODUCTION: Final = """\
# The command

`penstock COMMAND --help` says all this too. What each command does, a program does with the [SDK](queues.md).

| option of every command | meaning |
|---|---|
{common}

Results go to standard output, remarks and errors to standard error. With `--json` standard output has nothing but JSON:
one document, or one a line where there are many; an error is `{{"error": <code>, "message": …}}` with a
[code](errors.md). Which Redis is used: [settings](settings.md#which-redis-is-used).

A payload or body is the text itself, `@FILE`, or `-` for standard input.

| exit status | meaning |
|---|---|
| 0 | done; `dev`, `runtime` and `broker`: stopped by a signal |
| 1 | it failed, and one line says why; `dev`, `runtime` and `broker`: they could not start, nothing is left running |
| 2 | it was typed wrongly |
| 130 | Ctrl-C |
| 141 | whoever read the output has gone |

`runtime` and `broker` end with 0 also where a grace period was over or a second signal came: what was cut off is given
back. 137 is the platform's word for SIGKILL ([stops](../guides/running.md#stops-and-exit-statuses)).

| command | what it does |
|---|---|
{listed}
"""


def help_texts(names: list[str]) -> list[str]:
    """What `penstock NAME --help` prints, for each name; '' is the command itself."""
    done = subprocess.run(
        [sys.executable, "-c", _ASK, ",".join(names)],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "300", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split(_END)[:-1]


def command_page() -> str:
    """The whole page."""
    (overview,) = help_texts([""])
    summaries = {found[1]: found[2] for line in overview.splitlines() if (found := _LISTED.match(line))}
    texts = dict(zip(summaries, help_texts(list(summaries)), strict=True))
    common = [row for row in _rows(next(iter(texts.values()))) if row[0].split()[0] in _COMMON]
    listed = "\n".join(f"| [`{name}`](#penstock-{name}) | {summary} |" for name, summary in summaries.items())
    introduction = _INTRODUCTION.format(common="\n".join(map(_table_row, common)), listed=listed)
    return "\n".join([introduction, *(_section(name, text) for name, text in texts.items())])


def _section(name: str, text: str) -> str:
    usage, *paragraphs = text.partition("╭")[0].strip().split("\n\n")
    described = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    options = [row for row in _rows(text) if row[0].startswith("--") and row[0].split()[0] not in _COMMON]
    arguments = [row for row in _rows(text) if not row[0].startswith("--") and "choices" in row[1]]
    examples = [line.strip() for line in text.partition("For example:")[2].splitlines() if line.strip()]
    table = ["| option | meaning |", "|---|---|", *map(_table_row, [*arguments, *options]), ""]
    return "\n".join(
        [
            f"## penstock {name}\n",
            f"`{usage.removeprefix('Usage: ').strip()}`\n",
            f"{described}\n",
            *(table if options or arguments else ()),
            "```sh",
            *examples,
            "```",
            "",
        ]
    )


def _rows(text: str) -> list[tuple[str, str]]:
    found = (_ROW.match(line) for line in text.splitlines())
    return [(row[1].strip(), (row[2] or "").strip()) for row in found if row]


def _table_row(row: tuple[str, str]) -> str:
    option, meaning = row
    spelled = option.replace(" [", "` [").strip() if " [" in option else f"{option}`"
    return f"| `{spelled} | {meaning} |"


if __name__ == "__main__":
    PAGE.write_text(command_page(), encoding="utf-8")
