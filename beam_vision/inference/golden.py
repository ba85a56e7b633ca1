"""Golden images: a few images packed with a model, their truth, and what the model itself said of them.

In a bundle::

    golden/expected.json     truth and what was said, by image
    golden/000.jpg, ...      the images, as they were given

They are no part of the model's digest. Before a model serves, it must say of them what it said when they were
packed (so that its files, its preprocessing and its surroundings are what they were), and it may not do worse
on those of the model that it replaces.
"""

from __future__ import annotations

import base64
import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from beam_vision import storage
from beam_vision.digest import content_digest, settings_digest
from beam_vision.errors import UsageError
from beam_vision.inference.bundle import find_files, read_bundle
from beam_vision.inference.engine import Engine, warm_up
from beam_vision.inference.loader import LoadedModel, load
from beam_vision.inference.reading import EngineSettings
from beam_vision.inference.spec import ModelSpec
from beam_vision.types import Box, EncodedImage, ImageRef, Label, Prediction

FOLDER = "golden"
EXPECTED_FILE = "expected.json"
KIND = "beam-vision golden images"

MOST_FAILED = 0.1
"""At most this share of the images may be such that the model fails on them."""

Truth = str | Sequence[Box] | None
"""Of an image: its label; or its boxes, xyxy in pixels of the upright image; or unknown."""


@dataclass(frozen=True)
class Said:
    """What a model says of one image; all empty where it fails on it.

    Attributes:
      labels: highest score first.
      embedding: little-endian float32 bytes of a unit vector, or None.
      boxes: with their labels and scores.
      failed: why it has no answer; empty when it has.
    """

    labels: tuple[Label, ...] = ()
    embedding: bytes | None = None
    boxes: tuple[Box, ...] = ()
    failed: str = ""


@dataclass(frozen=True)
class GoldenImage:
    """One of them.

    Attributes:
      name: of its file.
      data: its bytes.
      label: the true label, or None.
      boxes: the true boxes, or None.
      said: by the model it is packed with.
    """

    name: str
    data: bytes
    label: str | None
    boxes: tuple[Box, ...] | None
    said: Said


@dataclass(frozen=True)
class Golden:
    """The golden images of a bundle, and how what its model gave was read (:func:`reading`)."""

    images: tuple[GoldenImage, ...]
    reading: str


def reading(spec: ModelSpec) -> str:
    """Digest of what turns a model's numbers into what it says: only with the same are answers compared."""
    return settings_digest([spec.preprocessing_digest, spec.labels, spec.class_offset, spec.threshold])


def say(model: LoadedModel, images: Sequence[GoldenImage]) -> list[Said]:
    """What a loaded, warm model says of golden images: all that it can say, at its default settings."""
    spec = model.spec
    task = "detect" if spec.detector else "classify" if spec.scores_output else "embed"
    engine = Engine(spec, EngineSettings(task=task, with_embedding=bool(spec.embedding_output)))
    asked = [EncodedImage(ImageRef(image.name, image.name), image.data) for image in images]
    results, _ = engine.predict(asked, model)
    return [
        Said(tuple(item.labels), item.embedding, tuple(item.boxes))
        if isinstance(item, Prediction)
        else Said(failed=f"{item.reason}: {item.detail}")
        for item in results
    ]


def pack_golden(bundle: str, images: Sequence[bytes], truths: Sequence[Truth] | None = None) -> Golden:
    """Packs golden images with a bundle: runs its model over them and writes all to its folder ``golden``.

    Golden images that are there already are replaced. 16 to 32 images of all classes are a good number.

    Args:
      bundle: the folder, local.
      images: image files, as cameras send them.
      truths: of each image; None: nothing is known.

    Returns:
      What was written.

    Raises:
      UsageError: there is no model, or it fails on more than a tenth of the images.
    """
    files = find_files(bundle)
    truths = [None] * len(images) if truths is None else truths
    spec = read_bundle(bundle)
    model = load(bundle, spec)
    warm_up(model)
    packed = tuple(
        _image(number, data, truth) for number, (data, truth) in enumerate(zip(images, truths, strict=True))
    )
    said = say(model, packed)
    failed = [item.failed for item in said if item.failed]
    if len(failed) > MOST_FAILED * len(said):
        raise UsageError(f"the model fails on {len(failed)} of {len(said)} golden images: {failed[0]}")
    golden = Golden(
        tuple(
            GoldenImage(image.name, image.data, image.label, image.boxes, item)
            for image, item in zip(packed, said, strict=True)
        ),
        reading(spec),
    )
    _write(files.folder, golden)
    return golden


def _image(number: int, data: bytes, truth: Truth) -> GoldenImage:
    kind = ".png" if data.startswith(b"\x89PNG") else ".jpg" if data.startswith(b"\xff\xd8") else ".image"
    label = truth if isinstance(truth, str) else None
    boxes = None if truth is None or isinstance(truth, str) else tuple(truth)
    return GoldenImage(f"{number:03d}{kind}", data, label, boxes, Said())


def _write(folder: str, golden: Golden) -> None:
    """Aside, then in the place of what is there."""
    if storage.is_remote(folder):
        raise UsageError(
            f"golden images are packed with a local bundle, not {folder}; copy it when it is done"
        )
    target = os.path.join(storage.local(folder), FOLDER)
    aside = f"{target}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        for image in golden.images:
            storage.write_bytes(os.path.join(aside, image.name), image.data)
        storage.write_json(os.path.join(aside, EXPECTED_FILE), _to_json(golden))
        shutil.rmtree(target, ignore_errors=True)
        os.rename(aside, target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def read_golden(bundle: str) -> Golden | None:
    """The golden images of a bundle, local or remote; None where it has none.

    Raises:
      UsageError: they aren't whole, or were changed.
    """
    folder = storage.join(find_files(bundle).folder, FOLDER)
    names = storage.list_folder(folder)
    if EXPECTED_FILE not in names:
        if names:
            raise UsageError(f"{folder} holds no {EXPECTED_FILE}: it isn't whole")
        return None
    path = storage.join(folder, EXPECTED_FILE)
    try:
        value = storage.read_json(path)
        images = tuple(_image_of_json(folder, item) for item in value["images"])
        return Golden(images, value["reading"])
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise UsageError(f"{path} can't be read: {type(error).__name__}: {error}") from error


def _to_json(golden: Golden) -> dict[str, Any]:
    return {
        "kind": KIND,
        "reading": golden.reading,
        "images": [
            {
                "file": image.name,
                "sha256": content_digest(image.data),
                "label": image.label,
                "boxes": None if image.boxes is None else [_box_to_json(box) for box in image.boxes],
                "said": {
                    "labels": [[item.label, item.score] for item in image.said.labels],
                    "embedding": base64.b64encode(image.said.embedding or b"").decode(),
                    "boxes": [_box_to_json(box) for box in image.said.boxes],
                    "failed": image.said.failed,
                },
            }
            for image in golden.images
        ],
    }


def _image_of_json(folder: str, value: Mapping[str, Any]) -> GoldenImage:
    data = storage.read_bytes(storage.join(folder, value["file"]))
    if content_digest(data) != value["sha256"]:
        raise UsageError(
            f"golden image {storage.join(folder, value['file'])} was changed after it was packed"
        )
    said = value["said"]
    return GoldenImage(
        value["file"],
        data,
        value["label"],
        None if value["boxes"] is None else tuple(map(_box_of_json, value["boxes"])),
        Said(
            tuple(Label(label, score) for label, score in said["labels"]),
            base64.b64decode(said["embedding"]) or None,
            tuple(map(_box_of_json, said["boxes"])),
            said["failed"],
        ),
    )


def _box_to_json(box: Box) -> list[Any]:
    return [box.xmin, box.ymin, box.xmax, box.ymax, box.label, box.score]


def _box_of_json(value: Sequence[Any]) -> Box:
    xmin, ymin, xmax, ymax, label, score = value
    return Box(float(xmin), float(ymin), float(xmax), float(ymax), str(label), float(score))
