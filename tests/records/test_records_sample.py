"""A few images of a dataset, even over its classes."""

from hypothesis import given
from hypothesis import strategies as st
from records_builder import make_dataset, refs_of

from beam_vision.records.encode import EncodeSettings
from beam_vision.records.manifest import read_manifest
from beam_vision.records.sample import _shares, sample_images
from beam_vision.records.splits import SplitRule


@given(st.dictionaries(st.text(max_size=3), st.integers(1, 30), max_size=8), st.integers(0, 60))
def test_shares_are_even_and_use_all_that_is_asked_for(available, number):
    shares = _shares(available, number)
    assert sum(shares.values()) == min(number, sum(available.values()))
    assert all(shares[name] <= available[name] for name in shares)
    most = max(shares.values(), default=0)
    assert all(shares.get(name, 0) >= min(most - 1, n) for name, n in available.items())


def test_a_sample_of_a_dataset(lake, tmp_path):
    make_dataset(tmp_path, refs_of(lake), rule=SplitRule({"all": 1.0}), settings=EncodeSettings(encode="png"))
    manifest = read_manifest(str(tmp_path))
    found = sample_images(str(tmp_path), manifest, "all", 7)
    counts = sorted([record.labels[0] for record in found].count(name) for name in manifest.classes)
    assert counts == [2, 2, 3]
    assert len({record.key for record in found}) == 7
    assert found == sample_images(str(tmp_path), manifest, "all", 7)
    assert len(sample_images(str(tmp_path), manifest, "all", 1000)) == manifest.splits["all"].images
