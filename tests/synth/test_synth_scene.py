"""Scenes: the same wherever they are made, as the settings say, with boxes that can be seen in the pixels."""

import dataclasses
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from synth_builder import png, shape

from beam_vision.errors import UsageError
from beam_vision.synth.material import Asset, Loader, Share, gather, share_out, split_of
from beam_vision.synth.scene import encode_scene, make_scene
from beam_vision.synth.settings import SceneSettings

SETTINGS = SceneSettings(width_px=96, height_px=72, rotation_deg=20, image_format="png")


def files(classes=("bar", "disc"), each=4, backgrounds=3):
    found = {}
    for number, label in enumerate(classes):
        for i in range(each):
            kind = "disc" if label == "disc" else "bar"
            found[f"{label}/{i}.png"] = png(shape(kind, (255, 60 * i, 40 * number)))
    for i in range(backgrounds):
        found[f"{i}.jpg"] = png(Image.new("RGB", (200, 150), (0, 30 * i, 90)), "JPEG")
    return found


def material_of(found):
    return gather(
        Asset(name, name, "cutout" if "/" in name else "background", name.rpartition("/")[0], "0")
        for name in found
    )


def scenes(numbers, settings=SETTINGS, found=None):
    found = found or files()
    share = share_out(material_of(found), settings)[""]
    load = Loader(found.__getitem__, settings)
    return {number: make_scene(number, share, load, settings) for number in numbers}


def test_a_scene_depends_on_the_seed_and_its_number_alone():
    forth, back = scenes(range(1, 9)), scenes(reversed(range(1, 9)))
    for number, scene in forth.items():
        assert encode_scene(scene, SETTINGS) == encode_scene(back[number], SETTINGS)
        assert scene.objects == back[number].objects
    assert len({encode_scene(scene, SETTINGS) for scene in forth.values()}) == 8
    other = scenes([1], dataclasses.replace(SETTINGS, seed=1))[1]
    assert not np.array_equal(other.pixels, forth[1].pixels)


def test_numbers_and_sizes_are_as_asked():
    settings = dataclasses.replace(SETTINGS, objects=(2, 4), scale=(0.2, 0.3), rotation_deg=0, min_visible=1)
    made = scenes(range(1, 40), settings).values()
    assert {len(scene.objects) + scene.left_out for scene in made} == {2, 3, 4}
    sides = [
        max(item.box[2] - item.box[0], item.box[3] - item.box[1]) for scene in made for item in scene.objects
    ]
    assert min(sides) >= round(0.2 * 72) - 1
    assert max(sides) <= round(0.3 * 72)
    assert {item.visible for scene in made for item in scene.objects} == {1.0}
    assert all(scene.pixels.shape == (72, 96, 3) for scene in made)


def test_what_finds_no_room_is_counted():
    settings = dataclasses.replace(SETTINGS, objects=(12, 12), scale=(0.6, 0.7), min_visible=0.9)
    made = scenes(range(1, 6), settings).values()
    assert all(len(scene.objects) + scene.left_out == 12 for scene in made)
    assert all(scene.objects and scene.left_out for scene in made)


def test_at_least_the_asked_share_of_each_object_is_visible():
    settings = dataclasses.replace(SETTINGS, objects=(6, 8), scale=(0.3, 0.5), min_visible=0.4)
    shares = [item.visible for scene in scenes(range(1, 20), settings).values() for item in scene.objects]
    assert 0.4 <= min(shares) < 0.9


def test_boxes_enclose_what_differs_from_the_background():
    """Red objects on a background without red."""
    settings = dataclasses.replace(SETTINGS, objects=(1, 1), brightness=0)
    for scene in scenes(range(1, 15), settings).values():
        rows, columns = np.nonzero(scene.pixels[..., 0] >= 128)
        found = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert np.abs(np.subtract(found, scene.objects[0].box)).max() <= 1
        assert scene.objects[0].area_px == pytest.approx(len(rows), rel=0.05)


def test_flips_only_when_asked():
    lopsided = Image.new("RGBA", (40, 40), (255, 0, 0, 255))
    lopsided.paste((0, 255, 0, 255), (20, 0, 40, 40))
    found = {"a/0.png": png(lopsided), "0.jpg": png(Image.new("RGB", (200, 150)), "JPEG")}
    settings = dataclasses.replace(SETTINGS, objects=(1, 1), rotation_deg=0)

    def flipped(settings):
        made = scenes(range(1, 20), settings, found).values()
        return [scene.pixels[:, scene.objects[0].box[0] + 3, 1].max() > 100 for scene in made]

    assert not any(flipped(settings))
    assert 4 < sum(flipped(dataclasses.replace(settings, flip=True))) < 16


def test_classes_come_equally_often():
    found = {**files(("bar",), each=30), **files(("disc",), each=1)}
    labels = Counter(
        item.label for scene in scenes(range(1, 200), found=found).values() for item in scene.objects
    )
    assert 0.8 < labels["bar"] / labels["disc"] < 1.25


def test_splits_share_neither_cutouts_nor_backgrounds():
    settings = dataclasses.replace(SETTINGS, splits={"train": 0.6, "test": 0.4})
    material = material_of(files(each=10, backgrounds=5))
    shares = share_out(material, settings)
    for kind in ("cutouts", "backgrounds"):
        sets = [
            {asset for part in getattr(share, kind) for asset in (part if kind == "cutouts" else [part])}
            for share in shares.values()
        ]
        assert not sets[0] & sets[1]
        assert sets[0] | sets[1] == set(getattr(material, kind))
    assert [len(of_class) for of_class in shares["train"].cutouts] == [6, 6]
    splits = Counter(split_of(number, settings) for number in range(1, 2001))
    assert 0.55 < splits["train"] / 2000 < 0.65
    assert sum(splits.values()) == splits["train"] + splits["test"]


def test_too_few_for_a_split_are_used_by_all():
    settings = dataclasses.replace(SETTINGS, splits={"train": 0.9, "test": 0.1})
    material = material_of(files(each=2, backgrounds=1))
    shares = share_out(material, settings)
    assert shares["train"] == shares["test"] == Share(shares["train"].cutouts, material.backgrounds)


def test_the_loader_keeps_little():
    found = files()
    read = []
    loader = Loader(lambda uri: read.append(uri) or found[uri], SETTINGS, most_bytes=1)
    one, two = material_of(found).cutouts[:2]
    assert loader(one) is loader(one)
    loader(two)
    loader(one)
    assert read == [one.uri, two.uri, one.uri]


@pytest.mark.parametrize(
    "wrong",
    [
        {"width_px": 4},
        {"objects": (3, 2)},
        {"scale": (0.0, 0.5)},
        {"scale": (0.5, 1.5)},
        {"rotation_deg": -1},
        {"brightness": 2},
        {"min_visible": 1.1},
        {"image_format": "gif"},
        {"jpeg_quality": 0},
        {"seed": -1},
    ],
)
def test_settings_out_of_range(wrong):
    with pytest.raises(UsageError):
        SceneSettings(**wrong)


def test_every_setting_changes_the_digest():
    others = {
        "width_px": 97,
        "height_px": 73,
        "objects": (1, 7),
        "scale": (0.15, 0.4),
        "rotation_deg": 5.0,
        "flip": True,
        "brightness": 0.1,
        "min_visible": 0.5,
        "image_format": "jpeg",
        "jpeg_quality": 80,
        "seed": 1,
        "splits": {"train": 1.0},
    }
    assert set(others) == {field.name for field in dataclasses.fields(SceneSettings)}
    digests = {dataclasses.replace(SETTINGS, **{name: value}).digest for name, value in others.items()}
    assert len(digests | {SETTINGS.digest}) == len(others) + 1
