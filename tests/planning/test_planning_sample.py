"""The sample: seeded, spread, as large as asked for, of every kind of source."""

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_vision.planning.sample import spread, take_sample
from beam_vision.sources import tfrecord
from beam_vision.sources.spec import resolve
from beam_vision.testing import images
from beam_vision.testing.datasets import make_labelled


@given(st.integers(0, 400), st.integers(1, 40), st.integers(0, 9))
def test_a_sample_is_as_large_as_can_be_in_order_and_counts_all(n, count, seed):
    picked, total = spread(iter(range(n)), count, seed)
    assert total == n
    assert len(picked) == min(n, count)
    assert picked == sorted(set(picked))
    assert (picked, total) == spread(range(n), count, seed)


def test_a_sample_is_spread_over_the_listing_and_no_item_is_favoured():
    drawn = Counter()
    for seed in range(600):
        picked, _ = spread(range(100), 10, seed)
        drawn.update(picked)
        assert picked[0] < 60
        assert picked[-1] >= 40
    assert len(drawn) == 100
    assert all(20 <= drawn[i] <= 120 for i in range(100)), drawn  # 60 on average, sd about 7.3


def test_a_period_of_the_listing_does_not_show_in_the_sample():
    drawn = Counter()
    for seed in range(200):
        drawn.update(i % 6 for i in spread(range(181), 60, seed)[0])
    assert max(drawn.values()) < 1.15 * min(drawn.values()), drawn


def test_a_folder_is_sampled(tmp_path):
    files = images.make_lake(tmp_path / "lake", per_class=10)
    sample = take_sample(resolve(str(tmp_path / "lake")), 7, seed=3)
    assert len(sample.images) == 7
    assert (sample.total, sample.exact, dict(sample.failed)) == (30, True, {})
    assert {item.uri for item in sample.images} <= {str(file.path) for file in files}
    assert take_sample(resolve(str(tmp_path / "lake")), 7, limit=12).total == 12


def test_rows_that_say_nothing_are_counted_as_failed(tmp_path):
    images.make_lake(tmp_path / "lake", classes=("red",), per_class=2, formats=("jpeg",))
    rows = [{"uri": "lake/red/0000.jpg"}, {"label": "no uri"}, {"uri": "lake/red/0001.jpg"}]
    manifest = tmp_path / "rows.jsonl"
    manifest.write_text("\n".join(map(json.dumps, rows)))
    sample = take_sample(resolve(str(manifest)), 10)
    assert sample.total == 2
    assert sample.failed == {"bad_manifest_row": 1}


@pytest.mark.parametrize("count", [3, 100])
def test_records_are_sampled(tmp_path, count):
    dataset = str(tmp_path / "dataset")
    make_labelled(dataset, {"train": 12})
    sample = take_sample(resolve(dataset), count)
    assert sample.total == 12
    assert sample.exact
    assert len(sample.images) == min(count, 12)
    assert all(isinstance(item, tfrecord.RecordRef) for item in sample.images)
