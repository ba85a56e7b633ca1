"""Splits: fractions, stability, no straddling."""

import hashlib
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_vision.errors import Reason, UsageError, VisionError
from beam_vision.records.splits import DEFAULT_SPLITS, SplitRule, parse_splits
from beam_vision.types import ImageRef

SPLITS = parse_splits(DEFAULT_SPLITS)
NAMES = list(SPLITS)


def ref(key, split=None, **attributes):
    return ImageRef(key=key, uri=key, split=split, attributes=attributes)


def test_parse():
    assert parse_splits("train=0.7, test=0.3") == {"train": 0.7, "test": 0.3}
    assert list(parse_splits("b=0.5,a=0.5")) == ["b", "a"]
    assert parse_splits("train,val") == {"train": 0.5, "val": 0.5}
    assert parse_splits("all=1") == {"all": 1.0}


@pytest.mark.parametrize(
    "text",
    ["", ",", "train=0.5,test=0.4", "train=1.5,test=-0.5", "train=x", "train=1,train=0", "Train=1", "a b=1"],
)
def test_splits_that_are_none(text):
    with pytest.raises(UsageError, match="--splits"):
        parse_splits(text)


@pytest.mark.parametrize("by", ["", "contents", "group:", "group", "column", "split"])
def test_split_by_that_is_none(by):
    with pytest.raises(UsageError, match="--split_by"):
        SplitRule(SPLITS, by)


def drawn(text, seed=0):
    """The split of a text, worked out anew."""
    number = int(hashlib.sha256(f"{seed}:{text}".encode()).hexdigest()[:16], 16) / 2**64
    return "train" if number < 0.8 else "validation" if number < 0.9 else "test"


@given(st.text(min_size=1), st.text(min_size=1), st.integers(0, 3))
def test_each_way_draws_from_its_own_text(key, other, seed):
    image = ref(key, patient=other)
    assert SplitRule(SPLITS, "content", seed).wanted(image, other) == drawn(other, seed)
    assert SplitRule(SPLITS, "uri", seed).wanted(image, other) == drawn(key, seed)
    assert SplitRule(SPLITS, "group:patient", seed).wanted(image, "") == drawn(other, seed)


def test_fractions_come_out():
    counts = Counter(SplitRule(SPLITS).wanted(ref("k"), str(n)) for n in range(20_000))
    assert counts["train"] == pytest.approx(16_000, abs=300)
    assert counts["validation"] == pytest.approx(2_000, abs=200)
    assert counts["test"] == pytest.approx(2_000, abs=200)


def test_a_split_of_fraction_nothing_gets_nothing():
    rule = SplitRule({"train": 1.0, "test": 0.0})
    assert {rule.wanted(ref("k"), str(n)) for n in range(1000)} == {"train"}


@given(st.sets(st.sampled_from(NAMES), min_size=1), st.sets(st.sampled_from(NAMES)))
def test_more_copies_only_ever_move_towards_what_is_held_out(wanted, added):
    rule = SplitRule(SPLITS, "uri")
    before, after = rule.resolve(wanted), rule.resolve(wanted | added)
    assert before in wanted
    assert after in wanted | added
    assert NAMES.index(after) >= NAMES.index(before)


def test_named_splits():
    assert SplitRule(SPLITS, "manifest").wanted(ref("k", split="test"), "") == "test"
    assert SplitRule(SPLITS, "column:part").wanted(ref("k", part="validation"), "") == "validation"


@pytest.mark.parametrize(
    ("by", "image", "reason", "said"),
    [
        ("manifest", ref("k"), Reason.UNKNOWN_SPLIT, "is empty"),
        ("manifest", ref("k", split="val"), Reason.UNKNOWN_SPLIT, "the nearest is 'validation'"),
        ("column:part", ref("k", part="zzz"), Reason.UNKNOWN_SPLIT, "none of train, validation, test"),
        ("column:part", ref("k"), Reason.UNKNOWN_SPLIT, "column 'part' is empty"),
        ("group:patient", ref("k"), Reason.BAD_MANIFEST_ROW, "no value in column 'patient'"),
        ("group:patient", ref("k", patient=""), Reason.BAD_MANIFEST_ROW, "no value in column 'patient'"),
    ],
)
def test_images_that_name_no_split(by, image, reason, said):
    with pytest.raises(VisionError, match=said) as caught:
        SplitRule(SPLITS, by).wanted(image, "")
    assert caught.value.reason is reason
