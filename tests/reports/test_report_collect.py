"""From rows and failures to the bounded samples of a report."""

import json
import random

import pyarrow as pa
import pyarrow.parquet as pq

from beam_vision import table
from beam_vision.reports import collect
from beam_vision.reports.data import Shown
from beam_vision.types import Failure


def rows(number, *, classes=3, wrong_every=5):
    for i in range(number):
        label = f"class {i % classes}"
        prediction = f"class {(i + 1) % classes}" if i % wrong_every == 0 else label
        yield Shown(f"key {i}", f"uri {i}", label, prediction, 0.5 + (i % 50) / 100)


def test_sample_does_not_depend_on_order():
    given = list(rows(300))
    shuffled = random.Random(1).sample(given, len(given))
    assert collect.overview(given) == collect.overview(shuffled)
    assert collect.query_images(given, 2) == collect.query_images(shuffled, 2)


def test_counts_and_bounds():
    found = collect.overview(rows(3000))
    assert (found.labelled, found.correct) == (3000, 2400)
    assert [sheet.name for sheet in found.sheets] == ["class 0", "class 1", "class 2"]
    for sheet in found.sheets:
        assert (sheet.total, sheet.correct) == (1000, 800)
        assert len(sheet.images) == collect.IMAGES_PER_CLASS
        assert [image.wrong for image in sheet.images] == [True] * collect.MAX_WRONG_PER_CLASS + [False] * 6
    assert len(found.uncertain) == collect.MAX_UNCERTAIN
    assert {image.score for image in found.uncertain} == {0.5}


def test_least_certain_come_lowest_first():
    given = [Shown(str(i), str(i), None, "a", score) for i, score in enumerate([0.9, 0.2, 0.6, 0.4])]
    assert [image.score for image in collect.overview(given).uncertain] == [0.2, 0.4, 0.6, 0.9]


def test_of_many_classes_those_most_often_wrong_are_kept():
    given = [Shown(f"{name} {i}", "u", name, name, 1.0) for name in "abcdef" for i in range(3)]
    given += [Shown("wrong e", "u", "e", "a", 0.9), Shown("wrong c", "u", "c", "a", 0.9)]
    found = collect.overview(given, max_classes=2)
    assert [sheet.name for sheet in found.sheets] == ["c", "e"]
    assert found.classes == 6


def test_rows_without_truth_are_grouped_by_prediction():
    found = collect.overview([Shown("k", "u", None, "cat", 0.9), Shown("l", "u", None, None, None)])
    assert [(sheet.name, sheet.total, sheet.correct) for sheet in found.sheets] == [
        ("(no label)", 1, None),
        ("cat", 1, None),
    ]
    assert found.labelled == 0


def test_failures_are_grouped_and_bounded():
    failures = [Failure(f"k{i:02d}", "u", "decode", "empty", "no bytes") for i in range(20)]
    failures.append(Failure("x", "u", "decode", "truncated", "cut"))
    groups = collect.group_failures(reversed(failures))
    assert [(group.reason, group.total) for group in groups] == [("empty", 20), ("truncated", 1)]
    assert [failure.key for failure in groups[0].examples] == ["k00", "k01", "k02", "k03", "k04"]


def test_query_images_are_of_different_classes():
    found = collect.query_images(rows(100, classes=8), 5)
    assert len({image.label for image in found}) == 5


def test_rows_are_read_from_the_parts_that_the_manifest_lists(tmp_path):
    schema = table.schema(predictions=True, embedding_dim=2)
    values = {name: [None, None] for name in schema.names}
    values |= {"key": ["a", "b"], "uri": ["ua", "ub"], "label": ["x", None], "prediction": ["y", "y"]}
    values |= {"score": [0.5, 0.75], "embedding": [[0.0, 1.0], [1.0, 0.0]]}
    pq.write_table(pa.table(values, schema=schema), tmp_path / "part-1-00000.parquet")
    pq.write_table(pa.table(values, schema=schema), tmp_path / "left-behind.parquet")
    manifest = table.TableManifest([table.Part("part-1-00000.parquet", 2)], 2, "1", "classify")
    (tmp_path / table.MANIFEST).write_text(json.dumps(manifest.to_json()))
    assert list(collect.read_rows(str(tmp_path))) == [
        Shown("a", "ua", "x", "y", 0.5),
        Shown("b", "ub", None, "y", 0.75),
    ]


def test_an_embedding_table_without_predictions_can_be_read(tmp_path):
    schema = table.schema(predictions=False, embedding_dim=1)
    values = {name: [None] for name in schema.names} | {"key": ["a"], "uri": ["u"], "embedding": [[1.0]]}
    pq.write_table(pa.table(values, schema=schema), tmp_path / "p.parquet")
    assert list(collect.read_rows(str(tmp_path))) == [Shown("a", "u")]
