"""The switched-off safeguards: each is still found where it is looked for. `make faults` runs them."""

from __future__ import annotations

import pytest

from tests.faults.mutations import MUTATIONS, ROOT, Mutant


@pytest.mark.parametrize("mutant", MUTATIONS, ids=lambda mutant: mutant.name)
def test_every_safeguard_is_found_once(mutant: Mutant) -> None:
    for edit in mutant.edits:
        assert (ROOT / edit.file).read_text().count(edit.old) == 1, f"{edit.old!r} in {edit.file}"
    assert (ROOT / mutant.test.partition("::")[0]).exists()
