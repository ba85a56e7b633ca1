"""The model that serves a stream: exchanged for one that is whole and no worse, and for no other."""

import dataclasses
import gc
import os
import shutil
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest

from beam_vision import storage
from beam_vision.errors import UsageError
from beam_vision.images.codec import encode_png
from beam_vision.inference.bundle import _COPIES, read_bundle, set_latest, write_bundle
from beam_vision.inference.golden import pack_golden, read_golden
from beam_vision.inference.reading import EngineSettings
from beam_vision.inference.serving_history import Entry, add_entry
from beam_vision.inference.serving_load import ServingSettings, check_compatible, load_served
from beam_vision.inference.serving_watch import Watch, start_serving
from beam_vision.testing import models
from beam_vision.types import EncodedImage, ImageRef

COLOURS = {"red": (250, 0, 0), "green": (0, 250, 0), "blue": (0, 0, 250), "dark": (9, 9, 9)}
SAID = {"labels": models.LABELS, "scores_output": "scores", "embedding_output": "embedding"}
SETTINGS = EngineSettings(task="classify")


def picture(name):
    return encode_png(np.full((8, 8, 3), COLOURS[name], np.uint8))


def bundle(folder, *, save=models.save_saved_model, golden=True, **said):
    write_bundle(str(folder), save, {**SAID, **said})
    if golden:
        pack_golden(str(folder), [picture(name) for name in COLOURS] * 2, list(COLOURS) * 2)
    return str(folder)


@pytest.fixture(scope="module")
def v1(tmp_path_factory):
    return bundle(tmp_path_factory.mktemp("good") / "v1")


@pytest.fixture(scope="module")
def mistaken(tmp_path_factory):
    """Whole, of the right form, and wrong about every image: its labels are in another order."""
    labels = ("green", "blue", "dark", "red")
    return bundle(tmp_path_factory.mktemp("mistaken") / "v", labels=labels)


@pytest.fixture
def root(tmp_path, v1):
    shutil.copytree(v1, tmp_path / "v1")
    set_latest(str(tmp_path), "v1")
    return tmp_path


def serving_of(root, **how):
    how = ServingSettings(root=str(root), poll_sec=0.05, **{"try_apart": False, **how})
    path = str(root / "v1")
    watch = Watch(SETTINGS, how)
    serving = start_serving(path, read_bundle(path), SETTINGS, dataclasses.replace(how, root=""))
    serving.take()
    return watch, serving


def look(watch, serving):
    """One look: the events that came of it, as (outcome, version)."""
    watch.look(serving)
    served, events = serving.take()
    return served, events


def test_golden_images_are_no_part_of_the_digest(v1, tmp_path):
    bare = shutil.copytree(v1, tmp_path / "bare")
    shutil.rmtree(bare / "golden")
    assert read_bundle(str(bare)).model_digest == read_bundle(v1).model_digest
    golden = read_golden(v1)
    assert [image.label for image in golden.images] == list(COLOURS) * 2
    assert all(image.said.labels[0].label == image.label for image in golden.images)
    assert all(len(image.said.embedding) == 4 * models.EMBEDDING_DIM for image in golden.images)
    assert read_golden(str(bare)) is None


def test_golden_images_that_were_changed_are_refused(root):
    file = root / "v1" / "golden" / "000.png"
    file.write_bytes(picture("blue"))
    with pytest.raises(UsageError, match="was changed"):
        read_golden(str(root / "v1"))


def test_golden_images_without_their_list_are_refused(root):
    (root / "v1" / "golden" / "expected.json").unlink()
    with pytest.raises(UsageError, match="isn't whole"):
        read_golden(str(root / "v1"))


def test_packing_again_replaces(root):
    pack_golden(str(root / "v1"), [picture("red")])
    golden = read_golden(str(root / "v1"))
    assert [(image.label, image.boxes) for image in golden.images] == [(None, None)]
    assert sorted(os.listdir(root / "v1" / "golden")) == ["000.png", "expected.json"]


def test_a_model_that_fails_on_its_golden_images_isnt_packed(root):
    with pytest.raises(UsageError, match="fails on 2 of 2 golden images: not_an_image"):
        pack_golden(str(root / "v1"), [b"text", b"text"])


def test_a_good_candidate_is_swapped_in(root, v1):
    watch, serving = serving_of(root)
    first = serving.served
    assert look(watch, serving) == (first, [])
    shutil.copytree(v1, root / "v2")
    set_latest(str(root), "v2")
    served, (event,) = look(watch, serving)
    assert (served.version, event.version, event.outcome) == ("v2", "v2", "serving")
    assert event.model_digest == event.previous_digest == first.digest  # the same weights, in another folder
    assert "8 golden images gave what they gave" in event.reason
    assert "on the 8 golden images of v1 it reaches 100.0%" in event.reason
    assert look(watch, serving) == (served, [])
    set_latest(str(root), "v1")
    assert look(watch, serving)[0].version == "v1"


def test_a_candidate_without_golden_images_is_told_apart(root, v1):
    watch, serving = serving_of(root)
    shutil.copytree(v1, root / "v2")
    shutil.rmtree(root / "v2" / "golden")
    set_latest(str(root), "v2")
    served, (event,) = look(watch, serving)
    assert served.version == "v2"
    assert "has no golden images" in event.reason


def refused(root, serving, watch, reason):
    before = serving.served
    served, (event,) = look(watch, serving)
    assert served is before
    assert event.outcome == "refused"
    assert reason in event.reason, event.reason
    assert event.previous_digest == before.digest
    assert look(watch, serving) == (before, [])  # not tried again
    return event


def test_a_version_that_isnt_there_is_refused(root):
    watch, serving = serving_of(root)
    (root / "LATEST").write_text("v9\n")
    assert refused(root, serving, watch, "no model at").version == "v9"


def test_an_empty_pointer_is_being_written(root):
    watch, serving = serving_of(root)
    (root / "LATEST").write_text("")
    assert look(watch, serving)[1] == []


def test_a_half_copied_candidate_is_refused_and_taken_once_it_is_whole(root, v1):
    watch, serving = serving_of(root)
    shutil.copytree(v1, root / "v2")
    weights = root / "v2" / "saved_model.pb"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    (root / "LATEST").write_text("v2\n")
    event = refused(root, serving, watch, "digests differ")
    assert event.model_digest == serving.served.digest  # what it says of itself
    weights.write_bytes(whole[:-1])
    assert look(watch, serving)[1] == []  # something moves
    weights.write_bytes(whole)
    assert look(watch, serving)[1] == []
    assert look(watch, serving)[0].version == "v2"


def test_a_candidate_without_its_spec_isnt_whole(root, v1):
    watch, serving = serving_of(root)
    shutil.copytree(v1, root / "v2", ignore=shutil.ignore_patterns("model_spec.json"))
    (root / "LATEST").write_text("v2\n")
    refused(root, serving, watch, "no model_spec.json, as v1 has: it isn't whole")


def test_a_worse_candidate_is_refused_but_for_a_rollback(root, mistaken):
    watch, serving = serving_of(root)
    shutil.copytree(mistaken, root / "v2")
    set_latest(str(root), "v2")
    refused(root, serving, watch, "it reaches 0.0% and v1 100.0%: worse than the model that serves")
    common = {"time": "t", "version": "v2", "previous": "v1"}
    add_entry(str(root), Entry(action="promote", **common))
    set_latest(str(root), "v2")
    assert look(watch, serving)[1] == []  # written anew: waits for it to be the same twice
    assert look(watch, serving)[1][0].outcome == "refused"
    add_entry(str(root), Entry(action="rollback", may_be_worse=True, **common))
    set_latest(str(root), "v2")
    look(watch, serving)
    served, (event,) = look(watch, serving)
    assert served.version == "v2"
    assert "it reaches 0.0%" in event.reason


def test_a_candidate_that_says_something_else_than_it_did_is_refused(root, v1):
    watch, serving = serving_of(root)
    shutil.copytree(v1, root / "v2")
    expected = root / "v2" / "golden" / "expected.json"
    expected.write_text(expected.read_text().replace('"red"', '"puce"'))
    set_latest(str(root), "v2")
    refused(
        root, serving, watch, "of 2 of its 8 golden images (000.png, 004.png) it doesn't say what it said"
    )


def test_a_candidate_of_another_form_is_refused(root, v1):
    spec = read_bundle(v1)
    for task, like, wrong, reason in (
        (
            "embed",
            {"embedding_dim": 12},
            {"embedding_dim": 8},
            "8 numbers, and that of the model that serves has 12",
        ),
        ("classify", {}, {"labels": ()}, "has no labels"),
        ("classify", {}, {"scores_output": ""}, "no output of scores"),
    ):
        other = dataclasses.replace(spec, **wrong)
        with pytest.raises(UsageError, match=reason):
            check_compatible(other, dataclasses.replace(spec, **like), EngineSettings(task=task))
    check_compatible(spec, dataclasses.replace(spec, labels=()), SETTINGS)


def test_a_candidate_that_kills_its_process_hurts_nobody(root):
    watch, serving = serving_of(root, try_apart=True)
    bundle(root / "v2", save=lambda folder: models.save_troubled(folder, "abort"), golden=False)
    set_latest(str(root), "v2")
    refused(root, serving, watch, "the model killed its process")


def test_a_model_that_says_something_else_doesnt_start(root):
    expected = root / "v1" / "golden" / "expected.json"
    expected.write_text(expected.read_text().replace('"red"', '"puce"'))
    path = str(root / "v1")
    with pytest.raises(UsageError, match="doesn't say what it said"):
        load_served(path, read_bundle(path), SETTINGS)


def test_a_worker_that_starts_late_takes_what_serves_now(root, v1):
    """On Dataflow: a worker that comes when ``LATEST`` has moved on, and one that comes when it is broken."""
    shutil.copytree(v1, root / "v2")
    set_latest(str(root), "v2")
    how = ServingSettings(root=str(root), try_apart=False, poll_sec=100)
    path = str(root / "v1")
    serving = start_serving(path, read_bundle(path), SETTINGS, how)
    assert [(event.outcome, event.version) for event in serving.take()[1]] == [("serving", "v2")]
    (root / "v2" / "saved_model.pb").write_bytes(b"")
    serving = start_serving(path, read_bundle(path), SETTINGS, how)
    served, events = serving.take()
    assert [(event.outcome, event.version) for event in events] == [("serving", "v1"), ("refused", "v2")]
    assert served.version == "v1"


def test_the_thread_swaps_and_ends_with_the_model(root, v1):
    how = ServingSettings(root=str(root), try_apart=False, poll_sec=0.02)
    path = str(root / "v1")
    serving = start_serving(path, read_bundle(path), SETTINGS, how)
    shutil.copytree(v1, root / "v2")
    set_latest(str(root), "v2")
    deadline = time.monotonic() + 30
    while serving.served.version != "v2" and time.monotonic() < deadline:
        time.sleep(0.02)
    assert [event.version for event in serving.take()[1]] == ["v1", "v2"]
    threads = [t for t in threading.enumerate() if t.name == "beam-vision-rollout"]
    assert threads
    del serving
    gc.collect()
    for thread in threads:
        thread.join(timeout=30)
        assert not thread.is_alive()


def resident_bytes():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def save_heavy(folder):
    """A model whose weights weigh 4 MB, so that some that are kept show."""
    import tensorflow as tf

    module = tf.Module()
    module.weights = tf.Variable(tf.random.stateless_uniform([1_000_000], [1, 2]))

    @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 3], tf.float32, name="images")])
    def call(images):
        outputs = models._outputs(images)
        return {name: value + 0 * module.weights[0] for name, value in outputs.items()}

    module.serve = call
    tf.saved_model.save(module, folder, signatures={"serving_default": call})


def test_memory_stays_flat_over_twenty_swaps(tmp_path):
    bundle(tmp_path / "v1", save=save_heavy)
    shutil.copytree(tmp_path / "v1", tmp_path / "v2")
    set_latest(str(tmp_path), "v1")
    watch, serving = serving_of(tmp_path)
    image = EncodedImage(ImageRef("k", "u"), picture("red"))
    used, gone = [], []
    for swap in range(22):
        gone.append(weakref.ref(serving.served.model))
        set_latest(str(tmp_path), ("v2", "v1")[swap % 2])
        served, events = look(watch, serving)
        assert events[0].outcome == "serving"
        results, _ = served.engine.results([image], served.model)
        assert results[0].labels[0].label == "red"
        del served
        if swap % 4 == 1:
            gc.collect()
            used.append(resident_bytes())
    assert all(reference() is None for reference in gone)
    assert used[-1] - used[1] < 24 * 2**20, [round(u / 2**20) for u in used]


def test_versions_in_a_bucket_are_watched_too(gcs, v1, tmp_path):
    """And what is copied of them to the local disk goes when it is in memory."""
    for name in ("v1", "v2"):
        for path in sorted(Path(v1).rglob("*")):
            if path.is_file():
                storage.write_bytes(f"{gcs}/models/{name}/{path.relative_to(v1)}", path.read_bytes())
    root = f"{gcs}/models"
    set_latest(root, "v1")
    how = ServingSettings(root=root, try_apart=False)
    path = f"{root}/v1"
    watch, serving = Watch(SETTINGS, how), start_serving(path, read_bundle(path), SETTINGS, ServingSettings())
    serving.take()
    assert look(watch, serving)[1] == []
    set_latest(root, "v2")
    served, (event,) = look(watch, serving)
    assert (served.version, event.outcome) == ("v2", "serving")
    assert "8 golden images gave what they gave" in event.reason
    assert not [folder for folder in _COPIES.values() if folder.endswith("v2")]
    storage.write_bytes(f"{root}/v1/saved_model.pb", b"x")
    set_latest(root, "v1")
    assert look(watch, serving)[1][0].outcome == "refused"
    assert look(watch, serving)[1] == []
