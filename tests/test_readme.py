"""What the README promises is shown by tests that exist."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def test_every_promise_of_a_checkpoint_names_tests_that_exist():
    pytest.importorskip("resource", reason="Windows cannot import the faults")
    from faults.table import KINDS

    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## What a checkpoint of ours survives")[1]
    promises = section.split("|---|---|---|")[1].split("\n\n")[0].strip().splitlines()
    assert len(promises) > 10
    for promise in promises:
        for shown_by in promise.strip(" |").split(" | ")[2].split("; "):
            place, names = shown_by.split(": ", 1)
            if place == "`faults`":
                assert set(names.split(", ")) <= {kind.name for kind in KINDS}, shown_by
            else:
                code = (ROOT / "tests" / place.strip("`")).read_text(encoding="utf-8")
                assert f"def {names.strip('`')}(" in code, shown_by
