"""The pipeline says what plain Python says, and what pycocotools says; nothing is lost in the join."""

import random
from dataclasses import replace

import apache_beam as beam
import numpy as np
import pytest
from evaluation_scenes import make_images, reference

from beam_vision.evaluation import findings
from beam_vision.evaluation.detected import Detected
from beam_vision.evaluation.images import EvaluatedImage, evaluate
from beam_vision.evaluation.summary import headlines
from beam_vision.evaluation.transforms import JoinTruth, MeasureClasses, PickPictures
from beam_vision.testing.pipelines import collect
from beam_vision.types import Box, BoxFrame, Failure, Fault, ImageRef


def ref_of(image):
    return ImageRef(f"lake/{image.id}.jpg", "", boxes=image.truth, attributes={"image_id": str(image.id)})


def row_of(image):
    return Detected(f"lake/{image.id}.jpg", "", 640, 480, 1, image.detections)


def run(truth, rows):
    """(images, failed, findings, classes, sheets) of a pipeline."""

    def build(pipeline):
        both = (pipeline | "T" >> beam.Create(truth, reshuffle=True), pipeline | "R" >> beam.Create(rows))
        joined = both | JoinTruth(run_id="run-1")
        classes = joined.images | MeasureClasses()
        sheets = (joined.images, classes) | PickPictures()
        return *joined, classes, sheets

    images, failed, found, classes, sheets = collect(build)
    assert len(found) == 1
    return images, failed, found[0], sorted(classes, key=lambda each: each.label), sheets


def test_a_pipeline_equals_plain_python_and_pycocotools():
    images = make_images(5, 60)
    expected = reference(images).stats
    shuffled = random.Random(1).sample(images, len(images))
    joined, failed, found, classes, sheets = run(list(map(ref_of, shuffled)), list(map(row_of, images)))
    plain = evaluate(
        EvaluatedImage("", "", image.id, 640, 480, image.truth, image.detections) for image in images
    )
    assert classes == plain
    np.testing.assert_allclose(list(headlines(classes).values()), expected, atol=1e-6, rtol=0)
    assert (len(joined), failed) == (60, [])
    assert found.number(findings.IMAGES) == found.number(findings.COMMON) == found.number(findings.ROWS) == 60
    assert found.number(findings.DETECTIONS) == sum(len(image.detections) for image in images)
    assert 1 < len(sheets) <= 12
    errors = [worst.errors for _, worst in sheets]
    assert errors == sorted(errors, reverse=True)
    assert all(len(worst.kept) <= 6 for _, worst in sheets)


def test_an_image_without_a_row_counts_as_without_detections():
    images = [image for image in make_images(6, 40) if image.truth]
    gone = {image.id for image in images[::4]}
    rows = [row_of(image) for image in images if image.id not in gone]
    _, _, found, classes, _ = run(list(map(ref_of, images)), rows)
    expected = reference([replace(i, detections=()) if i.id in gone else i for i in images]).stats
    np.testing.assert_allclose(list(headlines(classes).values()), expected, atol=1e-6, rtol=0)
    assert found.number(findings.MISSING) == len(gone)
    assert found.examples[findings.MISSING] == sorted(f"lake/{i}.jpg" for i in gone)[:5]


def test_rows_without_truth_are_left_out_and_a_key_that_comes_twice_is_a_failure():
    box = Box(10, 10, 50, 50, "cat")
    refs = [ImageRef("a", "a", boxes=(box,)), ImageRef("b", "b", boxes=(box,))]
    again = ImageRef("b", "b", boxes=(replace(box, xmax=60.0),))
    broken = Failure("c.json#3", "c.json", "source", "bad_manifest_row", "no file_name")
    rows = [Detected(key, key, 100, 100, 1, (box,)) for key in "abz"]
    images, failed, found, classes, _ = run([*refs, again, broken], rows)
    assert sorted(image.key for image in images) == ["a", "b"]
    assert sorted((each.key, each.reason, each.run_id) for each in failed) == [
        ("b", "duplicate_key", "run-1"),
        ("c.json#3", "bad_manifest_row", "run-1"),
    ]
    assert found.numbers[findings.WITHOUT_TRUTH] == 1
    assert found.examples[findings.WITHOUT_TRUTH] == ["z"]
    assert found.number(findings.ROWS) == 3
    assert [each.numbers["mAP"] for each in classes] == [pytest.approx(1)]


def test_truth_is_turned_as_the_row_says_and_faults_are_counted():
    stored = Box(0, 0, 10, 20, "cat")
    ref = ImageRef(
        "a",
        "a",
        boxes=(stored, Box(0, 0, 0, 5, "cat")),
        frame=BoxFrame(pixels_of="stored"),
        faults=(Fault("boxes.csv:3", "unknown_category", "no category 9"),),
    )
    upright = Box(80, 0, 100, 10, "cat", 0.5)  # 6: the stored image of 60 x 100 stands turned right
    images, _, found, classes, _ = run([ref], [Detected("a", "a", 100, 60, 6, (upright,))])
    assert [each.numbers["AP75"] for each in classes] == [pytest.approx(1)]
    assert (images[0].width_px, images[0].height_px) == (100, 60)
    assert found.faults() == {"bad_box": 1, "unknown_category": 1}
    assert found.examples["fault:unknown_category"] == ["boxes.csv:3: no category 9"]


def test_nothing_at_all():
    images, failed, found, classes, sheets = run([], [])
    assert (images, failed, classes, sheets) == ([], [], [], [])
    assert found.numbers == {}
