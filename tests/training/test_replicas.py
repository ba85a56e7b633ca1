"""Several replicas for real: two devices in one process, and two processes on loopback."""

import contextlib
import json
import math
import os
import random
import signal
import socket
import time
from pathlib import Path

import numpy as np
import pytest

from beam_vision.errors import UsageError
from beam_vision.inference.bundle import read_bundle
from beam_vision.records.manifest import read_manifest
from beam_vision.testing.datasets import make_labelled
from beam_vision.training.config import from_dict
from beam_vision.training.job import train_recipe
from beam_vision.training.schedules import build_schedule
from beam_vision.training.strategy import Place

SIDE = 32
ENDS_SEC = 300
STEPS, RATE = 12, 0.005


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """With a validation split whose last batch, of 1 image, leaves a replica without any."""
    folder = str(tmp_path_factory.mktemp("labelled"))
    make_labelled(folder, {"train": 64, "validation": 17, "test": 18}, side_px=SIDE)
    return folder


def job(dataset, **run):
    """16 images a step, as two replicas of 8 or as one of 16."""
    return {
        "data": {"dataset": dataset, "image_size": SIDE, "batch_size": 8},
        "model": {"embedding_dim": 8},
        "augmentation": [{"translation": 0.1}],
        "optimizer": {"name": "adam", "learning_rate": RATE, "weight_decay": 0},
        "export": {"check_images": 0, "golden_images": 0, "keras": False},
        "run": {"steps": STEPS, "steps_per_epoch": 4, "checkpoint_every_steps": 2, "patience": 0, **run},
    }


class Run:
    """One or two processes of ``beam-vision train``, with their lines."""

    def __init__(self, warm, folder, values, kind, **env):
        folder.mkdir(exist_ok=True)
        self.work, self.model = folder / "work", folder / "model"
        argv = ["--config", str(folder / "job.json"), "--output", str(self.model)]
        (folder / "job.json").write_text(json.dumps(values))
        argv = ["train", *argv, "--work_dir", str(self.work)]
        if kind == "mirrored":
            asked = [["-m", "on_replicas", "2", *argv, "--set", "run.strategy=mirrored"]]
            environments = [{**os.environ, "PYTHONPATH": str(Path(__file__).parent)}]
        else:
            asked = [["-m", "beam_vision.pipelines.cli", *argv]] * 2
            environments = [{**os.environ, "TF_CONFIG": one} for one in two_workers()]
        self.logs = [folder / f"{time.monotonic_ns()}-{i}.log" for i in range(len(asked))]
        self.children = []
        for words, environment, log in zip(asked, environments, self.logs, strict=True):
            with log.open("w") as file:
                self.children.append(warm.start(words, stdout=file, stderr=file, env=environment))

    def said(self):
        return [log.read_text() for log in self.logs]

    def wait(self):
        try:
            return [child.wait(ENDS_SEC) for child in self.children]
        except TimeoutError:
            raise AssertionError("\n----\n".join(self.said())) from None
        finally:
            for child in self.children:
                child.kill()

    def stop_at(self, step):
        """SIGTERM to one process, once there is a checkpoint of ``step`` or later."""
        state = self.work / "state.json"
        deadline = time.monotonic() + ENDS_SEC
        while time.monotonic() < deadline and self.children[-1].poll() is None:
            if state.exists() and json.loads(state.read_text())["step"] >= step:
                self.children[-1].send_signal(signal.SIGTERM)
                return self.wait()
            time.sleep(0.005)
        raise AssertionError("\n----\n".join(self.said()))

    @property
    def state(self):
        return json.loads((self.work / "state.json").read_text())

    @property
    def weights(self):
        return read_weights(self.work / self.state["weights"])


def two_workers():
    """What each of two workers is told; their ports are none that the system gives to others unasked."""
    ports: list[int] = []
    while len(ports) < 2:
        port = random.SystemRandom().randrange(15_000, 30_000)
        with contextlib.suppress(OSError), socket.create_server(("", port)):
            ports.append(port)
    cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
    return [json.dumps({"cluster": cluster, "task": {"type": "worker", "index": i}}) for i in range(2)]


def read_weights(path):
    import h5py

    found = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.update({name: item[()]} if hasattr(item, "dtype") else {}))
    return found


def assert_close(ours, theirs, tolerance):
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        if value.dtype.kind == "f":
            np.testing.assert_allclose(value, theirs[name], atol=tolerance, err_msg=name)


@pytest.fixture(scope="module")
def whole(warm, dataset, tmp_path_factory):
    """Two devices in one process, from the beginning to the end."""
    run = Run(warm, tmp_path_factory.mktemp("whole"), job(dataset), "mirrored")
    assert run.wait() == [0], run.said()
    return run


def test_the_rate_and_the_batch_grow_with_the_replicas(whole):
    assert "training mirrored on 2 CPUs: 12 steps in 3 epochs" in whole.said()[0]
    epochs = whole.state["epochs"]
    assert [row["step"] for row in epochs] == [4, 8, 12]  # 4 steps of 16 are one pass over 64 images
    schedule = build_schedule(from_dict(job("")).schedule, 2 * RATE, STEPS)
    assert [row["learning_rate"] for row in epochs] == pytest.approx(
        [float(schedule(step)) for step in (4, 8, 12)], abs=1e-7
    )
    assert epochs[-1]["loss"] < epochs[0]["loss"] / 2
    assert all(math.isfinite(row["validation_loss"]) for row in epochs)
    assert read_bundle(str(whole.model)).metrics["test_accuracy"] > 0.8


@pytest.mark.parametrize("kind", ["mirrored", "workers"])
def test_a_run_that_is_asked_to_end_goes_on_at_its_step(warm, dataset, tmp_path, whole, kind):
    """And comes to what an uninterrupted run of two devices in one process comes to."""
    stopped = Run(warm, tmp_path / "run", job(dataset), kind)
    codes = stopped.stop_at(2)
    assert set(codes) == {128 + signal.SIGTERM}, stopped.said()
    step = stopped.state["step"]
    assert 2 <= step < STEPS, "it was asked too late to show anything"
    for text in stopped.said():
        assert f"asked to end: stopped after step {step} of 12: the checkpoint is in {stopped.work}" in text
    assert not stopped.model.exists()

    again = Run(warm, tmp_path / "run", job(dataset), kind)
    assert set(again.wait()) == {0}, again.said()
    for text in again.said():
        assert f"goes on at step {step} of 12" in text
    assert again.state["step"] == STEPS
    assert_close(again.weights, whole.weights, 1e-4)
    spec = read_bundle(str(again.model))
    assert spec.metrics["test_accuracy"] == read_bundle(str(whole.model)).metrics["test_accuracy"]


def test_workers_have_no_time_limit(dataset):
    place = Place("multi_worker", None, 2, True, "")
    config = from_dict(job(dataset, max_seconds=5))
    with pytest.raises(UsageError, match=r"run.max_seconds is 5.*set run.steps"):
        train_recipe(config, read_manifest(dataset), None, place)
