"""Name maps and what is said about tensors that do not fit."""

import pytest
import torch

from oculox.errors import CheckpointError
from oculox.weights.interop.names import (
    check_state,
    export_state,
    import_state,
    paired_names,
    rules_map,
)

RENAME = rules_map(((r"^a\.", "b."), (r"\.w$", ".weight")))


def tensors(**shapes):
    return {name.replace("_", "."): torch.zeros(shape) for name, shape in shapes.items()}


def test_rules_apply_in_order():
    assert RENAME("a.x.w") == "b.x.weight"
    assert RENAME("c.a.x") == "c.a.x"
    assert rules_map(())("a.w") == "a.w"


def test_there_and_back():
    ours = tensors(a_w=(2,), c_bias=(3,))
    theirs = export_state(ours, RENAME)
    assert list(theirs) == ["b.weight", "c.bias"]
    back = import_state(theirs, ours, RENAME, where="x")
    assert list(back) == list(ours)
    assert all(back[key] is ours[key] for key in ours)
    assert import_state({}, {}, RENAME, where="x") == {}


def test_a_map_that_is_not_one_to_one_is_a_mistake_of_ours():
    with pytest.raises(ValueError, match=r"'a\.w' and 'b\.w' both map to 'b\.weight'"):
        paired_names(["b.w", "a.w"], RENAME)


def test_the_report_speaks_their_names():
    expected = tensors(a_w=(2,), a_bias=(3,), c_w=(4,))
    found = {"b.weight": torch.zeros(5), "c.weight": torch.zeros(4), "more": torch.zeros(1)}
    with pytest.raises(CheckpointError) as caught:
        import_state(found, expected, RENAME, where="file.pth")
    assert str(caught.value) == (
        "file.pth: tensors do not fit the network: 1 missing: b.bias; 1 extra: more; "
        "1 of another shape: b.weight (expected (2,), got (5,))"
    )


@pytest.mark.parametrize(
    ("names", "expected"), [("a", "1 missing: a"), ("abc", "a, b, c$"), ("abcd", "a, b, c, ...$")]
)
def test_long_reports_are_cut(names, expected):
    check_state({}, {}, where="x")
    with pytest.raises(CheckpointError, match=expected):
        check_state({name: torch.zeros(1) for name in names}, {}, where="x")
