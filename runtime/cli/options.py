"""The options that every command has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

from cyclopts import Parameter

from runtime.cli.output import Output

STANDARD_INPUT: Final = "@-"
"""What a bare ``-`` has become when a command sees it: the parser would take that for an option."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Common:
    """Where Redis is, and how the answer is printed."""

    url: Annotated[str | None, Parameter(metavar="URL")] = None
    """Redis to use; else PENSTOCK_REDIS_URL, the running `penstock dev`, localhost:6379."""

    json: Annotated[bool, Parameter(negative=(), show_default=False)] = False
    """Print JSON only: one document, or one a line where there are many."""

    @property
    def output(self) -> Output:
        """How this command prints."""
        return Output(as_json=self.json)


COMMON = Common()
"""The defaults, as a signature needs them."""
