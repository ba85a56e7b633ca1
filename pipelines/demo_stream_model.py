"""The two model versions of the streaming demo, and a third that is half copied.

They tell photographs apart by crops of them: the second is the first, trained on.
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from beam_vision import deps, storage
from beam_vision.digest import settings_digest
from beam_vision.pipelines import job as jobs

if TYPE_CHECKING:
    import keras

SIDE_PX = 64
VIEW_ASPECT = 4 / 3
TRAIN, VALIDATION, GOLDEN = 60, 12, 3
"""Crops of each photograph."""
BATCH = 64
FIRST, SECOND, CUT = "v1", "v2", "v2-half-copied"
EPOCHS = {FIRST: 4, SECOND: 10}
MAX_SECONDS = 8.0
"""How long each is trained, at most, after its first step."""
SEED = 11
MARK = "demo-stream.json"


@dataclass(frozen=True)
class Crops:
    """Views of photographs with their class ids: uint8 ``[N, SIDE_PX, SIDE_PX, 3]`` and int64 ``[N]``."""

    images: np.ndarray
    ids: np.ndarray


def make_models(root: str, photos: Mapping[str, np.ndarray]) -> bool:
    """Trains and exports both versions, with golden images, and points ``LATEST`` at the first.

    Args:
      root: the folder for the versions; what is there is kept if it was made with the same settings.
      photos: uint8 ``[H, W, 3]`` by class name.

    Returns:
      Whether they were trained (False: they were there).
    """
    from beam_vision.inference.bundle import set_latest

    digest, mark = settings_of(photos), storage.join(root, MARK)
    kept = storage.exists(mark) and storage.read_json(mark).get("digest") == digest
    if not kept:
        shutil.rmtree(root, ignore_errors=True)
        _train(root, photos)
        storage.write_json(mark, {"digest": digest})
    cut_in_half(storage.join(root, SECOND), storage.join(root, CUT))
    set_latest(root, FIRST)
    return not kept


def settings_of(photos: Mapping[str, np.ndarray]) -> str:
    """Digest of what the versions are made with; in :data:`MARK` beside them."""
    return settings_digest([sorted(photos), SIDE_PX, TRAIN, EPOCHS, SEED])


def crops_of(photos: Mapping[str, np.ndarray], number: int, seed: int) -> Crops:
    """``number`` views of each photograph, of many places and sizes, as cameras see them."""
    rng = np.random.default_rng(seed)
    views, ids = [], []
    for i, name in enumerate(sorted(photos)):
        photo = Image.fromarray(photos[name])
        for _ in range(number):
            width = rng.uniform(0.35, 0.75) * min(photo.width, photo.height * VIEW_ASPECT)
            height = width / VIEW_ASPECT
            left, top = rng.uniform(0, photo.width - width), rng.uniform(0, photo.height - height)
            box = (left, top, left + width, top + height)
            view = np.asarray(photo.resize((SIDE_PX, SIDE_PX), Image.Resampling.BILINEAR, box=box))
            noise = rng.normal(0, 3, view.shape)
            views.append(np.clip(view + noise, 0, 255).astype(np.uint8))
            ids.append(i)
    return Crops(np.stack(views), np.asarray(ids))


def _train(root: str, photos: Mapping[str, np.ndarray]) -> None:
    from beam_vision.training.fit import FitSettings, fit
    from beam_vision.training.model import build_model

    labels = sorted(photos)
    train, validation = crops_of(photos, TRAIN, SEED), crops_of(photos, VALIDATION, SEED + 1)
    model = build_model(SIDE_PX, SIDE_PX, len(labels), seed=SEED)
    steps = -(-len(train.ids) // BATCH)
    for version, epochs in EPOCHS.items():
        settings = FitSettings(epochs=epochs, max_seconds=MAX_SECONDS)
        fit(model, _batches(train, shuffle=True), None, settings, steps=steps)
        accuracy = _export(model, storage.join(root, version), labels, validation)
        pack(storage.join(root, version), photos)
        jobs.say(f"  {version}: {accuracy:.1%} of {len(validation.ids):,} views right")


def _batches(crops: Crops, *, shuffle: bool = False) -> Any:
    tf = deps.need("tensorflow")
    data = tf.data.Dataset.from_tensor_slices((crops.images, crops.ids))
    if shuffle:
        data = data.shuffle(len(crops.ids), seed=SEED)
    return data.batch(BATCH).prefetch(1)


def _export(model: keras.Model, target: str, labels: Sequence[str], validation: Crops) -> float:
    from beam_vision.training.evaluate import evaluate
    from beam_vision.training.export import export

    found = evaluate(model, _batches(validation), len(labels))
    export(model, target, labels=labels, metrics={"validation_accuracy": found.accuracy}, training={})
    return found.accuracy


def pack(bundle: str, photos: Mapping[str, np.ndarray]) -> None:
    """Packs views of all photographs, with their names as the truth, as the bundle's golden images."""
    from beam_vision.inference.golden import pack_golden

    golden = crops_of(photos, GOLDEN, SEED + 2)
    files = []
    for pixels in golden.images:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        files.append(file.getvalue())
    labels = sorted(photos)
    pack_golden(bundle, files, [labels[i] for i in golden.ids])


def cut_in_half(source: str, target: str) -> None:
    """Copies a bundle as a copy that was interrupted leaves it: its largest file ends half way."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    largest = max(storage.list_tree(target), key=os.path.getsize)
    os.truncate(largest, os.path.getsize(largest) // 2)
