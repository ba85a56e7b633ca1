"""The steps of an augmentation as YAML has them: short and full forms, and mistakes."""

import pytest

from beam_vision.errors import UsageError
from beam_vision.training.augmentation_steps import read_steps


def test_values_in_short_and_in_full():
    short, full = read_steps([{"crop": 0.5}, {"crop": {"area": "5e-1", "probability": 0.3}}], task="detect")
    assert short.values == {"area": 0.5, "ratio": 0.25, "fill": "constant", "probability": 1.0}
    assert full.values == {"area": 0.5, "ratio": 0.25, "fill": "constant", "probability": 0.3}
    (flip,) = read_steps([{"flip": None}], task="embed")
    assert flip.values == {"direction": "horizontal", "probability": 0.5}


@pytest.mark.parametrize(
    ("steps", "task", "message"),
    [
        ([{"flp": "horizontal"}], "classify", r"augmentation\[0\] has no 'flp': did you mean 'flip'"),
        (
            [{"flip": None}, {"zoom": {"factr": 1}}],
            "classify",
            r"\[1\]\.zoom has no 'factr': did you mean 'fac",
        ),
        ([{"rotation": 0.7}], "classify", r"rotation\.factor must be a number of 0 to 0\.5, not 0\.7"),
        ([{"rotation": True}], "classify", "not True"),
        ([{"randaugment": 1.5}], "classify", "count must be a whole number of 1 to 8"),
        ([{"flip": "sideways"}], "classify", "one of horizontal, vertical, both, not 'sideways'"),
        ([{"flip": None, "zoom": None}], "classify", "must be one step"),
        (["flip"], "classify", "must be one step"),
        ([{"mixup": 0.2}], "embed", "mixup is not for the task embed"),
        ([{"cutmix": None}], "detect", "leave it out"),
        ([], "segment", "task 'segment'"),
    ],
)
def test_mistakes_are_named_with_their_place(steps, task, message):
    with pytest.raises(UsageError, match=message):
        read_steps(steps, task=task)
