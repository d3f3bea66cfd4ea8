"""The short form: every kind of trial, a few times each. `make faults` runs the long one and prints the counts."""

from unittest.mock import patch

import pytest
import torch

pytest.importorskip("resource", reason="Windows has neither these signals nor these limits")

from faults import damage  # noqa: E402
from faults.table import KINDS  # noqa: E402
from faults.trials import EXACT, TRIED, WRONG, NotPossibleHere  # noqa: E402


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_nothing_goes_wrong(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_DATA", "drawn")
    try:
        counts = kind.run(tmp_path, *kind.short)
    except NotPossibleHere as reason:
        pytest.skip(str(reason))
    assert counts[TRIED] > 0 and counts[WRONG] == 0, dict(counts)


def test_a_loader_that_believes_every_byte_would_be_caught(tmp_path):
    with patch.object(damage, "load_checkpoint", lambda path: torch.load(path, weights_only=True)):
        counts = damage.files(tmp_path, every=20)
    assert counts[WRONG] > 0 and counts[EXACT] > 0
