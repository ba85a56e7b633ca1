"""A run of the batch sink, step by step and without Beam, for tests that stop it anywhere."""

import numpy as np

from beam_vision.sinks import failures as dead_letter
from beam_vision.sinks import parts
from beam_vision.sinks import warehouse_commit as committing
from beam_vision.sinks import warehouse_load as loading
from beam_vision.sinks.commit import plan_commit
from beam_vision.sinks.letters import letter_of
from beam_vision.sinks.rows import RowSettings
from beam_vision.types import Failure, ImageRef, Label, Prediction

DIGESTS = {"model_digest": "m", "preprocessing_digest": "p"}
SETTINGS = RowSettings(task="classify", embedding_dim=2, **DIGESTS)
RUNS = [f"202501{day:02d}T000000000000Z" for day in range(1, 31)]


def prediction(key, label="cat", vector=(1, 0)):
    ref = ImageRef(key, f"/lake/{key}", (label,), attributes={"camera": "7"})
    return Prediction(ref, 8, 6, (Label("cat", 0.5),), np.array(vector, "<f4").tobytes(), (), "m", "p")


def failure(key):
    return Failure(key, f"/lake/{key}", "read", "not_found", "it isn't there")


def run(name, staging, run_id, images, failed=(), *, settings=SETTINGS, resume=False):
    """Writes images (each one or several rows) and failures, as a pipeline does; gives the report."""
    plan = committing.plan_warehouse(name, run_id, settings, staging=str(staging), resume=resume)
    letter = letter_of(name.sibling("failures").uri, output=name.uri, staging=str(staging))
    found = [parts.read_kept(path, settings, is_part=False) for path in plan.output.staged]
    kept = [each for each in found if each is not None]
    done = {key for _, keys in kept for key in keys}
    if plan.reads_keys:
        done |= set(committing.done_keys(name, settings))
    images = [image if isinstance(image, tuple) else (image,) for image in images]
    todo = [image for image in images if settings.image_key(image[0]) not in done]
    staged = [parts.stage(plan.output.staging("rows"), todo, settings, run_id)] if todo else []
    decided = plan_commit(
        plan.output,
        settings,
        staged=staged,
        kept=[file for file, _ in kept],
        failures=[dead_letter.stage(letter.folder, run_id, failed)],
        inputs=len(images) + len(failed),
        already_done=len(images) - len(todo),
    )
    folder = plan.output.staging("parts")
    written = [loading.write_part(task, folder, settings) for task in decided.tasks]
    report = committing.commit(plan, settings, decided, written, letter=letter, job="predict")
    committing.clean(plan, letter=letter)
    assert committing.take_report(plan) == report
    return report
