"""From a trained model to a bundle: checked against serving, measured, published past the gate."""

import itertools
import shutil

import keras
import numpy as np
import pytest

from beam_vision import storage
from beam_vision.digest import content_digest
from beam_vision.errors import JobError, UsageError
from beam_vision.images.codec import encode_jpeg, encode_png
from beam_vision.inference.bundle import read_bundle
from beam_vision.inference.golden import read_golden
from beam_vision.inference.serving_history import read_history
from beam_vision.pipelines.train_check import check_serving, some_records
from beam_vision.pipelines.train_export import check_export, export_model, publish
from beam_vision.pipelines.train_measure import measure
from beam_vision.records.example import Record, to_example
from beam_vision.records.manifest import DatasetManifest, Shard, Split
from beam_vision.tfrecord_io import write_record
from beam_vision.training.config import DataConfig, ExportConfig, JobConfig
from beam_vision.training.export import export
from beam_vision.training.job import Trained
from beam_vision.training.model import EMBEDDING, SCORES

SIDE = 32
LABELS = ("red", "green", "blue")


def pictures(number, seed):
    """Noise on a flat colour, of several sizes; the class is the channel that is brightest."""
    rng = np.random.default_rng(seed)
    for i in range(number):
        height, width = rng.integers(20, 150, 2)
        pixels = rng.integers(0, 120, (height, width, 3))
        pixels[..., i % 3] += 100
        yield pixels.astype(np.uint8), i % 3


def records(number, seed):
    for i, (pixels, label) in enumerate(pictures(number, seed)):
        data = encode_jpeg(pixels) if i % 2 else encode_png(pixels)
        height, width = pixels.shape[:2]
        yield Record(
            key=f"{seed}-{i:03d}",
            uri=f"/{i}",
            data=data,
            format="jpeg" if i % 2 else "png",
            width_px=width,
            height_px=height,
            content_sha256=content_digest(data),
            labels=[LABELS[label]],
            label_ids=[label],
        )


def write_split(folder, name, number, seed):
    shards, left = [], records(number, seed)
    for i in range(2):
        path = f"{name}-{i:05d}-of-00002.tfrecord"
        some = list(itertools.islice(left, number // 2))
        with storage.open_write(storage.join(folder, path)) as file:
            size = sum(write_record(file, to_example(record)) for record in some)
        shards.append(Shard(path, len(some), size, ""))
    classes = dict.fromkeys(LABELS, number // 3)
    return Split(number, sum(s.bytes for s in shards), shards, classes, 0, [0.0] * 3, [1.0] * 3)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("dataset"))
    splits = {"train": write_split(folder, "train", 24, 1), "test": write_split(folder, "test", 36, 2)}
    counts = {"inputs": 60, "outputs": 60, "failed": 0, "already_done": 0}
    manifest = DatasetManifest(
        run_id="1",
        dataset_digest="d",
        splits=splits,
        classes=list(LABELS),
        multi_label=False,
        split_settings={},
        encode_settings={},
        encode_digest="e",
        moved_duplicates=0,
        encoded_anew=0,
        **counts,
    )
    storage.write_json(f"{folder}/manifest.json", manifest.to_json())
    return folder, manifest


def colour_model(sharpness=0.02):
    """A model whose answers are known: probabilities from the mean of each channel."""
    image = keras.Input((SIDE, SIDE, 3), dtype="uint8", name="image")
    x = keras.layers.Rescaling(1.0)(image)
    mean = keras.layers.GlobalAveragePooling2D()(x)
    dense = keras.layers.Dense(3, use_bias=False, name="logits")
    scores = keras.layers.Softmax(name=SCORES)(dense(mean))
    embedding = keras.layers.UnitNormalization(name=EMBEDDING)(mean)
    model = keras.Model(image, {SCORES: scores, EMBEDDING: embedding})
    dense.set_weights([np.eye(3, dtype=np.float32) * sharpness])
    return model


def trained(dataset, output, *, model=None, metrics=None, **export):
    config = JobConfig(
        data=DataConfig(dataset=dataset[0], image_size=SIDE),
        export=ExportConfig(output=str(output), **export),
    )
    metrics = {"test_accuracy": 1.0, "test_loss": 0.1} if metrics is None else metrics
    return Trained(
        config=config,
        model=model or colour_model(),
        labels=LABELS,
        multi_label=False,
        history=[],
        steps=1,
        best_epoch=0,
        stopped="",
        evaluation={"split": "test"},
        metrics=metrics,
        facts={"a": 1},
    )


@pytest.fixture(scope="module")
def exported(dataset, tmp_path_factory):
    said = []
    output = tmp_path_factory.mktemp("models") / "m"
    job = trained(dataset, output, tflite=("float16", "int8"), golden_images=6)
    return export_model(job, dataset[1], said.append), said


def test_the_bundle_is_whole(exported):
    made, said = exported
    assert read_bundle(made.path) == made.spec
    assert (made.spec.signature, made.spec.labels) == ("pixels", LABELS)
    kept = {"golden", "keras", "tflite", "training.json", "serving_check.json", "model_spec.json"}
    assert kept <= set(storage.list_entries(made.path))
    golden = read_golden(made.path)
    assert [image.label for image in golden.images] == [image.said.labels[0].label for image in golden.images]
    assert len(golden.images) == 6
    assert any("serving gives what the trainer gives" in line for line in said)


def test_all_paths_say_what_the_trainer_says(exported):
    check = exported[0].check
    assert check.images == 32
    assert set(check.differences) == {
        "the signature 'pixels'",
        "the signature 'serving_default'",
        "the RunInference pipeline",
    }
    assert all(set(each) == {SCORES, EMBEDDING} for each in check.differences.values())
    assert check.largest < 1e-5  # decoded inside the graph to the same bytes, so only sums differ
    assert 0 < max(check.stated["TensorFlow Lite int8"].values()) < 0.5


@pytest.mark.parametrize("kind", ["float16", "int8"])
def test_lite_models_are_measured_and_run_as_bundles_do(exported, dataset, kind):
    made = exported[0]
    path = f"{made.path}/tflite/{kind}.tflite"
    spec = read_bundle(path)
    assert (spec.model_format, spec.labels) == ("tflite", LABELS)
    assert spec.metrics == made.lite[kind]
    assert made.lite[kind]["test_accuracy"] >= 0.95
    assert measure(path, *dataset, "test", task="classify")["accuracy"] == made.lite[kind]["test_accuracy"]


def test_the_keras_model_is_a_bundle_too(exported, dataset):
    path = f"{exported[0].path}/keras/model.keras"
    assert read_bundle(path).labels == LABELS
    assert measure(path, *dataset, "test", task="classify") == {"accuracy": 1.0}


def test_another_resize_than_in_training_is_found(exported, dataset):
    made = exported[0]
    records = some_records(*dataset, "test", 8)
    assert len(set(records)) == 8
    other = DataConfig(image_size=SIDE, resize="letterbox")
    found = check_serving(colour_model(), made.path, made.spec, records, dataset[1], other, lite={})
    assert found.largest > 0.01
    with pytest.raises(JobError, match="no bundle was written"):
        found.verify()


def test_nothing_is_left_of_a_bundle_that_serves_otherwise(dataset, tmp_path):
    class Other(keras.layers.Layer):
        """Says something else when it is called outside of a graph, as a trainer does."""

        def call(self, x):
            import tensorflow as tf

            return x * (1.5 if tf.executing_eagerly() else 1.0)

    plain = colour_model()
    scores = keras.layers.Softmax(name=SCORES)(Other()(plain.get_layer("logits").output))
    model = keras.Model(plain.input, {SCORES: scores, EMBEDDING: plain.output[EMBEDDING]})
    with pytest.raises(JobError, match="training and serving differ"):
        export_model(trained(dataset, tmp_path / "m", model=model, keras=False), dataset[1])
    assert list(tmp_path.iterdir()) == []


def test_latest_moves_only_past_the_gate(exported, dataset, tmp_path):
    backwards = tmp_path / "v3"
    export(colour_model(sharpness=-0.02), str(backwards), labels=LABELS, metrics={}, training={})

    def offer(gate, version, **metrics):
        if not (tmp_path / version).exists():
            shutil.copytree(exported[0].path, tmp_path / version)
        return publish(
            trained(dataset, tmp_path, metrics=metrics, gate=gate), dataset[1], str(tmp_path), version
        )

    assert not offer("accuracy>=0.9", "v1", test_accuracy=0.5).passed
    assert not (tmp_path / "LATEST").exists()
    assert offer("accuracy>=0.9, not_worse", "v2", test_accuracy=0.95).passed
    assert (tmp_path / "LATEST").read_text().strip() == "v2"
    third = offer("not_worse", "v3", test_accuracy=1.0)
    assert (third.passed, "0 is worse than 1" in third.reason) == (False, True)
    assert (tmp_path / "LATEST").read_text().strip() == "v2"
    assert offer("not_worse", "v4", test_accuracy=0.1).passed
    history = read_history(str(tmp_path))
    assert [(item.previous, item.version) for item in history] == [("", "v2"), ("v2", "v4")]
    assert (
        read_bundle(str(tmp_path)).model_digest == exported[0].spec.model_digest == history[-1].model_digest
    )


def test_a_version_is_a_new_folder(dataset, tmp_path):
    (tmp_path / "v7").mkdir()
    job = trained(dataset, tmp_path, versioned=True, keras=False, check_images=0, golden_images=0)
    places = []
    made = export_model(job, dataset[1], add=lambda folder: places.append(storage.list_entries(folder)))
    assert "model_spec.json" in places[0]
    assert (made.path, made.verdict.passed, made.check) == (str(tmp_path / "v8"), True, None)
    assert read_bundle(str(tmp_path)) == made.spec
    assert sorted(path.name for path in tmp_path.iterdir()) == ["LATEST", "rollout.jsonl", "v7", "v8"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"output": "m", "gate": "accuracy>=0.9"}, "export.versioned"),
        ({"output": "m", "gate": "accuracy=0.9", "versioned": True}, "it takes bounds"),
        ({"output": "gs://bucket/m"}, "local folder"),
        ({}, "isn't said"),
    ],
)
def test_refusals_before_the_training(config, message):
    with pytest.raises(UsageError, match=message):
        check_export(ExportConfig(**config))


def test_recall_at_1_of_embeddings(exported, dataset):
    assert measure(exported[0].path, *dataset, "test", task="embed")["recall_at_1"] > 0.9
