"""Tables read back, joined with the truth; what is missing, unknown or broken."""

import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_vision.evaluation import findings
from beam_vision.evaluation.detected import Detected, check_table, read_detected
from beam_vision.evaluation.findings import Finding, Findings
from beam_vision.evaluation.images import EvaluatedImage
from beam_vision.evaluation.joining import join, truth_of_image
from beam_vision.testing.detections import write_detections
from beam_vision.types import Box, BoxFrame, Failure, ImageRef

CAT, DOG = Box(1, 2, 30, 40, "cat", 0.75), Box(5, 6, 70, 80, "dog", 0.5)


@pytest.mark.parametrize("rows", ["images", "boxes"])
def test_a_table_is_read_back(tmp_path, rows):
    folder = str(tmp_path / "table")
    boxes = {"a": [CAT, DOG], "b": [], "c": [DOG]}
    write_detections(folder, boxes, size_px=(90, 100), orientation=8, rows=rows)
    found = check_table(folder)
    read = [detected for path in found.paths for detected in read_detected(path)]
    assert {one.key: list(one.boxes) for one in read} == boxes
    assert {(one.width_px, one.height_px, one.orientation) for one in read} == {(90, 100, 8)}
    assert found.manifest.model_digest == "model-a"


def test_a_table_made_elsewhere_is_read_too(tmp_path):
    numbers = {"xmin": 1.0, "ymin": 2.0, "xmax": 3.0, "ymax": 4.0}
    rows = [
        {
            "key": "a",
            "boxes": [{**numbers, "label": None, "score": 0.5}, {**numbers, "label": "cat", "score": None}],
        },
        {"key": "b", "boxes": [{**numbers, "label": "cat", "score": math.nan}]},
        {"key": "c", "boxes": None},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet")
    read = list(read_detected(check_table(str(tmp_path)).paths[0]))
    assert read == [
        Detected("a", "a", 0, 0, 1, [Box(1, 2, 3, 4, "", 0.5)], unusable=1),
        Detected("b", "b", 0, 0, 1, [], unusable=1),
        Detected("c", "c", 0, 0, 1, []),
    ]


def test_boxes_of_one_image_in_two_places_come_together_in_their_order():
    ref = ImageRef("a", "a", boxes=(CAT,))
    rows = [Detected("a", "a", 90, 90, 1, (DOG,), first=1), Detected("a", "a", 90, 90, 1, (CAT,), unusable=2)]
    image = next(each for each in join("a", [ref], rows) if isinstance(each, EvaluatedImage))
    assert list(image.detections) == [CAT, DOG]
    assert Finding(findings.UNUSABLE, 2, "a") in list(join("a", [ref], rows))


def relative(**frame):
    box = Box(0.25, 0.5, 0.75, 1.0, "cat")
    return ImageRef("a", "a", boxes=(box,), frame=BoxFrame(relative=True, **frame))


@pytest.mark.parametrize(
    ("ref", "row", "corners"),
    [
        (relative(), Detected("a", "a", 200, 100, 1), (50, 50, 150, 100)),
        (relative(width_px=40, height_px=20), None, (10, 10, 30, 20)),
        (relative(width_px=40, height_px=20), Detected("a", "a", 0, 0, 1), (10, 10, 30, 20)),
        (ImageRef("a", "a", boxes=(DOG,)), None, (5, 6, 70, 80)),
        (ImageRef("a", "a", boxes=(DOG,)), Detected("a", "a", 60, 60, 1), (5, 6, 60, 60)),
    ],
)
def test_truth_takes_the_size_that_is_known(ref, row, corners):
    (box,) = truth_of_image(ref, row).boxes
    assert (box.xmin, box.ymin, box.xmax, box.ymax) == pytest.approx(corners)
    assert not math.isnan(box.area_px)


def test_relative_truth_of_an_unknown_size_has_no_area():
    image, found = None, Findings()
    for each in join("a", [relative()], []):
        if isinstance(each, EvaluatedImage):
            image = each
        else:
            found.add(each)
    assert image.missing
    assert math.isnan(image.truth[0].area_px)
    assert found.numbers == {"images": 1, "truths": 1, "size_unknown": 1, "missing": 1}
    assert found.examples == {"size_unknown": ["a"], "missing": ["a"]}


def test_of_several_refs_of_a_key_one_is_kept_whatever_their_order():
    refs = [ImageRef("a", "a", boxes=(box,)) for box in (CAT, DOG)]
    kept = set()
    for order in (refs, refs[::-1]):
        joined = list(join("a", order, []))
        (image,) = (each for each in joined if isinstance(each, EvaluatedImage))
        (failed,) = (each for each in joined if isinstance(each, Failure))
        assert failed.reason == "duplicate_key"
        kept.add(image.truth[0].label)
    assert len(kept) == 1


def test_findings_add_up_in_any_order():
    some = [Finding("missing", example=f"{i}.jpg") for i in (7, 3, 9, 1, 8, 2)] + [Finding("truths", 5)]
    one, other = Findings(), Findings()
    for finding in some:
        one.add(finding)
    for finding in reversed(some):
        other.absorb(Findings().add(finding))
    assert one == other
    assert one.numbers == {"missing": 6, "truths": 5}
    assert one.examples == {"missing": ["1.jpg", "2.jpg", "3.jpg", "7.jpg", "8.jpg"]}
    assert one.number("never") == 0
