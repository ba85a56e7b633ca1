"""The gate's language, its verdicts, and the versions of a root."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_vision.errors import JobError, UsageError
from beam_vision.training.gate import Bound, Gate, find_metric, judge, parse_gate
from beam_vision.training.publish import latest_version, next_version, promote, put_in_place
from beam_vision.training.serving_check import compare

FIGURES = {"test_accuracy": 0.93, "test_loss": 0.2, "validation_accuracy": 0.95}
SIGNS = ("<", "<=", ">", ">=")


@given(
    st.lists(
        st.builds(Bound, st.sampled_from(["accuracy", "mAP@0.5"]), st.sampled_from(SIGNS), st.floats(0, 1))
    ),
    st.booleans(),
)
def test_a_gate_is_read_back_as_it_was_written(bounds, not_worse):
    text = ", ".join([f"{b.metric} {b.sign} {b.value!r}" for b in bounds] + ["not_worse"] * not_worse)
    assert parse_gate(text) == Gate(tuple(bounds), not_worse)


@pytest.mark.parametrize("text", ["accuracy", "accuracy=0.9", ">=0.9", "accuracy>=", "a>=1..2", "better"])
def test_what_is_no_gate_is_refused(text):
    with pytest.raises(UsageError, match=r"export\.gate"):
        parse_gate(text)


@pytest.mark.parametrize(
    ("gate", "passed"),
    [
        ("", True),
        ("test_accuracy>=0.93", True),
        ("test_accuracy>0.93", False),
        ("test_loss<0.2", False),
        ("loss<=0.2", True),
        ("test_accuracy>=0.9,loss<0.1", False),
        ("not_worse", True),
    ],
)
def test_bounds(gate, passed):
    assert judge(parse_gate(gate), FIGURES).passed is passed


@pytest.mark.parametrize(
    ("name", "message"),
    [("accuracy", "test_accuracy and validation_accuracy"), ("recall", "was not measured")],
)
def test_a_figure_that_is_unclear_is_an_error(name, message):
    with pytest.raises(UsageError, match=message):
        find_metric(name, FIGURES)


@pytest.mark.parametrize(
    ("pair", "passed"),
    [
        ({"accuracy": (0.9, 0.9)}, True),
        ({"accuracy": (0.89, 0.9)}, False),
        ({"test_loss": (0.1, 0.2)}, True),
        ({"test_loss": (0.3, 0.2)}, False),
    ],
)
def test_not_worse_is_about_the_same_figure_of_both(pair, passed):
    verdict = judge(parse_gate("not_worse"), FIGURES, pair)
    assert verdict.passed is passed
    assert ("worse than" in verdict.reason) is True
    assert judge(parse_gate("accuracy>=0"), {"accuracy": 1.0}, pair).passed  # wasn't asked


def test_versions_are_counted_by_number(tmp_path):
    root = str(tmp_path)
    assert (next_version(root), latest_version(root)) == ("v1", "")
    for name in ("v2", "v10", "v9", "other", "v11.1234.tmp"):
        (tmp_path / name).mkdir()
    assert next_version(root) == "v11"


def test_a_folder_without_a_model_is_never_latest(tmp_path):
    (tmp_path / "v1").mkdir()
    with pytest.raises(UsageError, match="no model"):
        promote(str(tmp_path), "v1", model_digest="", reason="")
    assert [path.name for path in tmp_path.iterdir()] == ["v1"]


def test_a_bundle_is_replaced_only_when_asked(tmp_path):
    for name in ("new", "old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    with pytest.raises(UsageError, match="is there already"):
        put_in_place(str(tmp_path / "new"), str(tmp_path / "old"))
    put_in_place(str(tmp_path / "new"), str(tmp_path / "old"), overwrite=True)
    assert [(path.name, (path / "file").read_text()) for path in tmp_path.iterdir()] == [("old", "new")]


def test_differences_of_serving_are_found_by_path_and_output():
    import numpy as np

    trainer = {"a": np.zeros((2, 3)), "b": np.ones((2, 1))}
    off = np.zeros((2, 3))
    off[1, 2] = -0.002
    hidden = np.ma.array(off, mask=off != 0)
    found = compare(trainer, {"good": trainer, "masked": {"a": hidden}}, {"int8": {"a": off}})
    found.verify()
    assert found.stated == {"int8": {"a": 0.002}}
    assert (found.images, found.largest) == (2, 0)
    with pytest.raises(JobError, match=r"the other gives a off by 0\.002"):
        compare(trainer, {"the other": {"a": off}}).verify()
    with pytest.raises(JobError, match="off by nan"):
        compare(trainer, {"x": {"a": np.full((2, 3), np.nan)}}).verify()
    with pytest.raises(JobError, match="gives none of a, b"):
        compare(trainer, {"x": {"c": off}})
    with pytest.raises(JobError, match=r"shape \[2, 2\], the trainer \[2, 3\]"):
        compare(trainer, {"x": {"a": off[:, :2]}})


def test_a_figure_whose_name_ends_like_another():
    figures = {"test_recall_at_1": 0.9, "test_pixels_recall_at_1": 0.6}
    assert find_metric("recall_at_1", figures) == 0.9
    assert find_metric("pixels_recall_at_1", figures) == 0.6
