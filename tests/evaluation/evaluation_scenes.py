"""Seeded truth and detections, full of what evaluations disagree on; and what pycocotools says of them."""

import contextlib
import io
from dataclasses import dataclass

import numpy as np

from beam_vision.types import Box

CLASSES = tuple(f"class {i:02d}" for i in range(20))
NEVER_TRUE = {"class 03"}
NEVER_DETECTED = {"class 07"}
ONLY_CROWDS = {"class 11"}


@dataclass(frozen=True)
class SceneImage:
    """One image: its id and its boxes."""

    id: int
    truth: tuple[Box, ...]
    detections: tuple[Box, ...]


def make_images(seed, number=120):
    """Images with ids in no order; few distinct scores, and corners on a coarse grid: ties abound."""
    rng = np.random.default_rng(seed)
    ids = rng.permutation(10 * number)[:number] + 1
    return [make_image(int(i), rng, crowded=n == 5) for n, i in enumerate(ids)]


def make_image(id, rng, *, crowded):
    if rng.random() < 0.06:
        return SceneImage(id, (), ())
    truth = tuple(make_truth(rng) for _ in range(rng.integers(0, 13)))
    truth = tuple(box for box in truth if box.label not in NEVER_TRUE)
    found = [near(box, rng) for box in truth for _ in range(rng.integers(0, 4))]
    found += [make_detection(rng) for _ in range(rng.integers(0, 16))]
    if rng.random() < 0.06:
        found = []
    if crowded:
        same = [Box(*corners(rng), CLASSES[0]) for _ in range(20)]
        truth += tuple(same)
        found += [near(same[i % 20], rng) for i in range(150)]
    kept = [box for box in found if box.label not in NEVER_DETECTED]
    return SceneImage(id, truth, tuple(kept[i] for i in rng.permutation(len(kept))))


def corners(rng):
    side = rng.choice([8, 24, 32, 60, 96, 150], 2)
    x, y = rng.integers(0, 60, 2) * 4
    return float(x), float(y), float(x + side[0]), float(y + side[1])


def make_truth(rng):
    xmin, ymin, xmax, ymax = corners(rng)
    label = CLASSES[rng.integers(len(CLASSES))]
    crowd = bool(rng.random() < 0.1) or label in ONLY_CROWDS
    share = rng.choice([1.0, 0.5, 0.8])
    return Box(
        xmin, ymin, xmax, ymax, label, crowd=crowd, area_px=float((xmax - xmin) * (ymax - ymin) * share)
    )


def score(rng):
    return float(np.float32(rng.integers(1, 12) / 12))


def near(box, rng):
    move = rng.choice([0.0, 0.0, 1.0, 2.0, 5.0], 4) * rng.choice([-1, 1], 4)
    xmin, ymin, xmax, ymax = np.array([box.xmin, box.ymin, box.xmax, box.ymax]) + move
    label = box.label if rng.random() < 0.9 else CLASSES[rng.integers(len(CLASSES))]
    return Box(xmin, ymin, max(xmax, xmin + 1), max(ymax, ymin + 1), label, score(rng))


def make_detection(rng):
    return Box(*corners(rng), CLASSES[rng.integers(len(CLASSES))], score(rng))


def xywh(box):
    return [box.xmin, box.ymin, box.xmax - box.xmin, box.ymax - box.ymin]


def annotations(images):
    """The truth as COCO JSON has it."""
    number = {name: i + 1 for i, name in enumerate(CLASSES)}
    boxes = [(image.id, box) for image in images for box in image.truth]
    return {
        "images": [
            {"id": image.id, "width": 640, "height": 480, "file_name": f"{image.id}.jpg"} for image in images
        ],
        "categories": [{"id": i, "name": name} for name, i in number.items()],
        "annotations": [
            {
                "id": i + 1,
                "image_id": image_id,
                "category_id": number[box.label],
                "bbox": xywh(box),
                "area": box.area_px or (box.xmax - box.xmin) * (box.ymax - box.ymin),
                "iscrowd": int(box.crowd),
            }
            for i, (image_id, box) in enumerate(boxes)
        ],
    }


def reference(images):
    """``COCOeval`` after evaluate, accumulate and summarize."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    number = {name: i + 1 for i, name in enumerate(CLASSES)}
    results = [
        {"image_id": image.id, "category_id": number[box.label], "bbox": xywh(box), "score": box.score}
        for image in images
        for box in image.detections
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = annotations(images)
        truth.createIndex()
        made = COCOeval(truth, truth.loadRes(results), "bbox")
        made.evaluate()
        made.accumulate()
        made.summarize()
    return made
