"""The tf.data reader: the pixels are exactly those of our decoder, in an order that can be had again."""

import re
from dataclasses import replace

import numpy as np
import pytest
from records_builder import make_dataset, refs_of

from beam_vision.errors import UsageError
from beam_vision.images import codec
from beam_vision.images.geometry import normalize
from beam_vision.records.encode import EncodeSettings
from beam_vision.records.example import from_example, to_example
from beam_vision.records.manifest import read_manifest
from beam_vision.records.reader import decode_settings, load_dataset
from beam_vision.records.splits import SplitRule
from beam_vision.testing.images import make_lake
from beam_vision.tfrecord_io import Example, read_records, write_record

SIZE = (24, 32)
ALL = {"rule": SplitRule({"all": 1.0, "none": 0.0}), "target_shard_bytes": 20_000}


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lake")
    make_lake(folder, per_class=8)
    return folder


@pytest.fixture(scope="module")
def dataset(lake, tmp_path_factory):
    folder = tmp_path_factory.mktemp("dataset")
    manifest = make_dataset(folder, refs_of(lake), **ALL)
    assert len(manifest.splits["all"].shards) > 1
    return str(folder)


def load(folder, split="all", **options):
    return load_dataset(folder, split, **{"batch_size": 5, "image_size": SIZE, **options})


def batches(data):
    return [(images.numpy(), labels.numpy()) for images, labels in data]


def joined(data):
    images, labels = zip(*batches(data), strict=True)
    return np.concatenate(images), np.concatenate(labels)


def stored(folder, split="all"):
    """(records, in the order of shards)."""
    found = []
    for shard in read_manifest(folder).splits[split].shards:
        with open(f"{folder}/{shard.name}", "rb") as file:
            found += [from_example(Example.FromString(data)) for data in read_records(file)]
    return found


def as_set(images, labels):
    return sorted((image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True))


@pytest.mark.parametrize("value_range", ["0..255", "0..1", "-1..1", "imagenet"])
@pytest.mark.parametrize("resize", ["stretch", "letterbox", "center_crop"])
def test_pixels_are_exactly_those_of_the_decoder(dataset, resize, value_range):
    images, labels = joined(load(dataset, resize=resize, value_range=value_range))
    settings = decode_settings(SIZE, resize=resize)
    expected = [
        (normalize(codec.decode(record.data, settings).pixels, value_range), record.label_ids[0])
        for record in stored(dataset)
    ]
    assert images.dtype == np.float32
    assert images.shape == (24, *SIZE, 3)
    assert labels.dtype == np.int64
    assert as_set(images, labels) == as_set(*zip(*expected, strict=True))


def test_interpolation_is_heeded(dataset):
    nearest = joined(load(dataset, interpolation="nearest"))[0]
    assert not np.array_equal(nearest, joined(load(dataset))[0])
    assert decode_settings(SIZE, interpolation="nearest").digest != decode_settings(SIZE).digest


def test_lossless_files_give_the_pixels_of_the_originals(dataset, lake):
    """What was encoded anew on the way (GIF, TIFF, ...) is what serving would see of the file itself."""
    found = {image.tobytes() for image in joined(load(dataset))[0]}
    settings = decode_settings(SIZE)
    for path in lake.rglob("*"):
        if path.suffix in (".png", ".gif", ".bmp", ".tiff", ".jpg"):
            assert normalize(codec.decode(path.read_bytes(), settings).pixels, "0..255").tobytes() in found, (
                path
            )


def test_the_order_is_the_same_each_time_without_shuffle(dataset):
    first, second = joined(load(dataset)), joined(load(dataset, num_parallel=3))
    np.testing.assert_array_equal(first[0], second[0])


def test_shuffle_is_another_order_each_pass_and_the_same_for_a_seed(dataset):
    plain = joined(load(dataset))
    data, again = load(dataset, shuffle=True, seed=7), load(dataset, shuffle=True, seed=7)
    passes = [joined(data) for _ in range(2)]
    for images, labels in passes:
        assert as_set(images, labels) == as_set(*plain)
    assert not np.array_equal(passes[0][0], passes[1][0])
    assert not np.array_equal(passes[0][0], plain[0])
    for ours, theirs in zip(passes, [joined(again) for _ in range(2)], strict=True):
        np.testing.assert_array_equal(ours[0], theirs[0])
        np.testing.assert_array_equal(ours[1], theirs[1])
    other = joined(load(dataset, shuffle=True, seed=8))
    assert not np.array_equal(other[0], passes[0][0])


@pytest.mark.parametrize(("drop", "sizes"), [(False, [5, 5, 5, 5, 4]), (True, [5, 5, 5, 5])])
@pytest.mark.parametrize("cache", [False, True])
def test_batches_and_their_number(dataset, drop, sizes, cache):
    data = load(dataset, drop_remainder=drop, cache=cache)
    assert [len(images) for images, _ in batches(data)] == sizes
    assert int(data.cardinality()) == len(sizes)


def test_repeat_goes_on_forever(dataset):
    data = load(dataset, repeat=True)
    assert int(data.cardinality()) == -1
    assert len(list(data.take(12))) == 12


@pytest.mark.parametrize("cache", [True, "memory", "file"])
def test_cached_pixels_are_the_same_and_need_no_second_decode(dataset, tmp_path, monkeypatch, cache):
    decoded = []
    decode = codec.decode
    monkeypatch.setattr(codec, "decode", lambda data, settings: decoded.append(1) or decode(data, settings))
    data = load(dataset, cache=str(tmp_path / "pixels") if cache == "file" else cache, shuffle=True)
    first, second = joined(data), joined(data)
    assert len(decoded) == 24
    assert as_set(*first) == as_set(*second)
    assert not np.array_equal(first[0], second[0])
    assert bool(list(tmp_path.glob("pixels*"))) is (cache == "file")


def test_augment_is_given_whole_batches(dataset):
    import tensorflow as tf

    def flip(images, labels):
        assert images.shape[1:] == (*SIZE, 3)
        return tf.reverse(images, [2]), labels + 10

    images, labels = joined(load(dataset, augment=flip))
    plain = joined(load(dataset))
    np.testing.assert_array_equal(images, plain[0][:, :, ::-1])
    np.testing.assert_array_equal(labels, plain[1] + 10)


def test_several_labels_become_ones_and_zeros(lake, tmp_path):
    refs = refs_of(lake)[:6]
    refs[1] = replace(refs[1], labels=("blue", "red"))
    refs[2] = replace(refs[2], labels=())
    refs[3] = replace(refs[3], labels=("green",))
    make_dataset(tmp_path, refs, rule=SplitRule({"all": 1.0}), target_shard_bytes=10**9)
    labels = joined(load(str(tmp_path)))[1]
    assert labels.dtype == np.float32
    np.testing.assert_array_equal(labels, [[1, 0, 0], [1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 0, 0], [1, 0, 0]])


def test_an_image_without_a_label_has_minus_one(lake, tmp_path):
    refs = [replace(ref, labels=() if n % 2 else ref.labels) for n, ref in enumerate(refs_of(lake)[:4])]
    make_dataset(tmp_path, refs, rule=SplitRule({"all": 1.0}), target_shard_bytes=10**9)
    assert joined(load(str(tmp_path)))[1].tolist() == [0, -1, 0, -1]
    make_dataset(tmp_path, [replace(r, labels=()) for r in refs], rule=SplitRule({"all": 1.0}))
    assert joined(load(str(tmp_path)))[1].tolist() == [-1] * 4


def test_a_split_without_images_has_no_batches(dataset):
    assert batches(load(dataset, "none")) == []
    assert batches(load(dataset, "none", shuffle=True, cache=True)) == []


def test_shapes_are_known_to_the_graph(dataset):
    images, labels = load(dataset).element_spec
    assert (images.shape.as_list(), images.dtype) == ([None, *SIZE, 3], "float32")
    assert (labels.shape.as_list(), labels.dtype) == ([None], "int64")


def test_a_model_trains_on_it(dataset):
    import keras

    model = keras.Sequential([keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss)
    history = model.fit(load(dataset, shuffle=True, value_range="0..1"), epochs=2, verbose=0)
    assert all(np.isfinite(history.history["loss"]))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"split": "trian"}, "has no split 'trian', only all, none"),
        ({"value_range": "0..2"}, "value_range '0..2'"),
        ({"resize": "fold"}, "resize"),
        ({"image_size": (0, 3)}, "height_px"),
    ],
)
def test_mistakes(dataset, options, said):
    with pytest.raises(UsageError, match=said):
        load(dataset, **options)


def test_no_dataset(tmp_path):
    with pytest.raises(UsageError, match="no TFRecord dataset"):
        load(str(tmp_path))


def test_an_image_that_can_not_be_decoded_is_named(lake, tmp_path):
    """It can't get into a dataset; but a reader may ask for more than was asked when it was made."""
    refs = refs_of(lake)[:2]
    make_dataset(tmp_path, refs, rule=SplitRule({"all": 1.0}), settings=EncodeSettings(encode="png"))
    path = next(tmp_path.glob("all*.tfrecord"))
    bad = replace(stored(str(tmp_path))[0], data=b"not an image")
    with path.open("wb") as file:
        write_record(file, to_example(bad))
    with pytest.raises(Exception, match=re.escape(f"image {bad.key}: not_an_image")):
        batches(load(str(tmp_path)))
