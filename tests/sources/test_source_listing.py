import fnmatch
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_vision import storage
from beam_vision.errors import UsageError
from beam_vision.sources.files import is_image_name, is_shard_name
from beam_vision.sources.listing import (
    Skipped,
    escape,
    glob_regex,
    has_wildcard,
    list_folder,
    list_patterns,
    unescape,
)
from beam_vision.types import Failure, ImageRef

ODD_NAMES = [
    "with space.jpg",
    "quote'\".jpg",
    "ünïcødé 猫.jpg",
    "new\nline.jpg",
    "100%.jpg",
    "a,b.jpg",
    "[1]*?.jpg",
    "noextension",
    "x.unknown",
    b"latin-\xe9.jpg",
]


def labels_of(found, root):
    refs = [ref for ref in found if isinstance(ref, ImageRef)]
    return {os.path.relpath(storage.local(ref.uri), root): ref.label for ref in refs}


def test_the_label_is_the_first_folder_below_the_root(tmp_path, make_files):
    root = make_files(tmp_path, {"top.jpg": b"", "cat/1.jpg": b"", "dog/deep/er/2.png": b"", "dog/3": b""})
    assert labels_of(list_folder(root + "/"), root) == {
        "top.jpg": None,
        "cat/1.jpg": "cat",
        "dog/deep/er/2.png": "dog",
        "dog/3": "dog",
    }


@pytest.mark.parametrize("folder", ["lake", "[x] *?", "a,b", "ü"])
def test_odd_names_are_listed_and_open_by_their_uri(tmp_path, make_files, folder):
    names = {os.fsdecode(name): bytes(str(i), "ascii") for i, name in enumerate(ODD_NAMES)}
    root = make_files(tmp_path / folder, {f"cat/{name}": data for name, data in names.items()})
    refs = list(list_folder(root))
    assert len(refs) == len(names)
    for ref in refs:
        ref.uri.encode("utf-8")  # what a coder does
        assert ref.key == ref.uri
        path = storage.local(ref.uri)
        assert Path(path).read_bytes() == names[os.path.basename(path)]


def test_a_label_that_is_not_utf8_is_spelt_out(tmp_path, make_files):
    root = make_files(tmp_path, {b"caf\xe9/1.jpg": b""})
    assert [ref.label for ref in list_folder(root)] == ["caf\\xe9"]


def test_hidden_files_side_cars_and_pipes_are_skipped_and_told(tmp_path, make_files):
    skipped = [".DS_Store", "._1.jpg", "Thumbs.db", "labels.CSV", "a.json", "x.tfrecord", "y.zip", "z.npy"]
    make_files(tmp_path, {f"cat/{name}": b"" for name in [*skipped, "1.jpg"]})
    make_files(tmp_path, {".git/1.jpg": b"", "__MACOSX/1.jpg": b"", "cat/@eaDir/1.jpg": b""})
    os.mkfifo(tmp_path / "cat" / "pipe.jpg")
    found = list(list_folder(str(tmp_path)))
    assert labels_of(found, tmp_path) == {"cat/1.jpg": "cat"}
    told = sorted(os.path.basename(f.path) for f in found if isinstance(f, Skipped))
    assert told == sorted([*skipped, "pipe.jpg"])


def test_a_root_below_a_hidden_folder_is_listed(tmp_path, make_files):
    root = make_files(tmp_path / ".cache" / "lake", {"cat/1.jpg": b""})
    assert labels_of(list_folder(root), root) == {"cat/1.jpg": "cat"}
    refs = list(list_patterns([f"{root}/**"]))
    assert len(refs) == 1


def test_loops_of_links_end_and_real_names_win(tmp_path, make_files):
    root = make_files(tmp_path / "lake", {"zebra/1.jpg": b""})
    outside = make_files(tmp_path / "outside", {"2.jpg": b""})
    os.symlink(root, f"{root}/zebra/up")
    os.symlink(f"{root}/zebra", f"{root}/a-link")
    os.symlink(outside, f"{root}/linked")
    os.symlink(f"{root}/nowhere.jpg", f"{root}/zebra/broken.jpg")
    os.symlink("circle.jpg", f"{root}/zebra/circle.jpg")
    assert labels_of(list_folder(root), root) == {
        "zebra/1.jpg": "zebra",
        "zebra/broken.jpg": "zebra",
        "zebra/circle.jpg": "zebra",
        "linked/2.jpg": "linked",
    }


def test_a_folder_that_may_not_be_read_is_a_failure(make_files):
    code = (
        "import os, sys\nfrom beam_vision.sources.listing import list_folder\n"
        "if os.geteuid() == 0: os.setuid(65534)  # root may read anything\n"
        "for found in list_folder(sys.argv[1]):\n"
        "    print(type(found).__name__, found.key, getattr(found, 'reason', ''))"
    )
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        make_files(Path(folder), {"cat/1.jpg": b"", "locked/2.jpg": b""})
        os.chmod(f"{folder}/locked", 0)
        done = subprocess.run(
            [sys.executable, "-c", code, folder], capture_output=True, text=True, check=True, cwd="/"
        )
        os.chmod(f"{folder}/locked", 0o755)
    lines = sorted(done.stdout.splitlines())
    assert lines == [f"Failure {folder}/locked forbidden", f"ImageRef {folder}/cat/1.jpg "]


def test_a_root_that_vanished_is_a_failure(tmp_path):
    (failure,) = list_folder(str(tmp_path / "gone"))
    assert (failure.reason, failure.uri) == ("not_found", str(tmp_path / "gone"))


LAKE = dict.fromkeys(
    [
        *("a.jpg", "b.png", "cat/1.jpg", "cat/2.png", "cat/deep/3.jpg", "dog/4.jpg", "dog/x.json"),
        *("[odd]/5.jpg", "dog/deep/more/6.jpeg"),
    ],
    b"",
)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.jpg", ["a.jpg"]),
        ("*/*.jpg", ["[odd]/5.jpg", "cat/1.jpg", "dog/4.jpg"]),
        ("**/*.jpg", ["[odd]/5.jpg", "a.jpg", "cat/1.jpg", "cat/deep/3.jpg", "dog/4.jpg"]),
        ("**.png", ["b.png", "cat/2.png"]),
        ("cat/**", ["cat/1.jpg", "cat/2.png", "cat/deep/3.jpg"]),
        ("cat/**/3.jpg", ["cat/deep/3.jpg"]),
        ("c?t/[12].*", ["cat/1.jpg", "cat/2.png"]),
        ("c?t/[!1].*", ["cat/2.png"]),
        ("[[]odd]/*", ["[odd]/5.jpg"]),
        ("*/deep/**/*.jp*", ["cat/deep/3.jpg", "dog/deep/more/6.jpeg"]),
        ("dog/4.jpg", ["dog/4.jpg"]),
    ],
)
def test_patterns(tmp_path, make_files, pattern, expected):
    root = make_files(tmp_path, LAKE)
    found = list(list_patterns([f"{root}/{pattern}"]))
    assert sorted(labels_of(found, root)) == expected
    assert set(labels_of(found, root).values()) == {None}


def test_several_patterns_list_a_file_once_and_name_the_one_that_matches_nothing(tmp_path, make_files):
    root = make_files(tmp_path, LAKE)
    patterns = [f"{root}/*.jpg", f"{root}/a.*", f"{root}/none*", f"{root}/a.jpg", f"{root}/dog/*.json"]
    found = list(list_patterns(patterns))
    assert [type(f) for f in found] == [ImageRef, Failure, Skipped]
    assert (found[1].key, found[1].reason) == (f"{root}/none*", "not_found")


def test_a_pattern_brings_what_an_earlier_one_left_out(tmp_path, make_files):
    root = make_files(tmp_path, {"1.jpg": b"", "x.json": b"", ".hidden/2.jpg": b""})
    found = list_patterns([f"{root}/**", f"{root}/.hidden/*", f"{root}/x.json"])
    assert sorted(labels_of(found, root)) == [".hidden/2.jpg", "1.jpg", "x.json"]


def test_a_pattern_walks_no_folder_that_cannot_match(tmp_path, make_files):
    root = make_files(tmp_path, {"cat/1.jpg": b"", "dog/2.jpg": b"", "cat/deep/3.jpg": b""})
    os.mkfifo(tmp_path / "dog" / "pipe")  # whoever walks past it tells of it
    os.mkfifo(tmp_path / "cat" / "deep" / "pipe")
    assert [type(found) for found in list_patterns([f"{root}/c*/*"])] == [ImageRef]
    told = [found.path for found in list_patterns([f"{root}/c*/**"]) if isinstance(found, Skipped)]
    assert told == [f"{root}/cat/deep/pipe"]


def test_a_single_file_is_taken_whatever_its_name(tmp_path, make_files):
    root = make_files(tmp_path, {".hidden [1].json": b""})
    (ref,) = list_patterns([escape(f"{root}/.hidden [1].json")])
    assert ref.uri == f"{root}/.hidden [1].json"


def test_a_bad_set_of_characters_is_a_usage_error():
    with pytest.raises(UsageError, match="not a pattern"):
        glob_regex("/x/[z-a].jpg")


@given(st.text(alphabet="ab[]*?!-^\\./\n é", max_size=12))
def test_an_escaped_path_matches_just_itself(path):
    assert glob_regex(escape(path)).fullmatch(path)
    assert not glob_regex(escape(path)).fullmatch(path + "x")
    assert not has_wildcard(escape(path))
    assert unescape(escape(path)) == path


@given(st.text(alphabet="ab*?.[]!^", max_size=8), st.text(alphabet="ab.![]^", max_size=6))
def test_within_a_folder_patterns_mean_what_fnmatch_means(pattern, name):
    if "**" in pattern:
        return
    expected = re.match(fnmatch.translate(pattern), name) is not None
    assert (glob_regex(pattern).fullmatch(name) is not None) == expected


@pytest.mark.parametrize(
    ("name", "image", "shard"),
    [
        ("1.jpg", True, False),
        ("1.JPEG", True, False),
        ("no_extension", True, False),
        ("photo.xyz", True, False),
        ("1.JSON", False, False),
        (".1.jpg", False, False),
        ("thumbs.db", False, False),
        ("train.tfrecord", False, True),
        ("train-00000-of-00002.tfrecord", False, True),
        ("train.tfrecord-00000-of-00002", False, True),
        ("train.tfrecord.gz", False, True),
        ("train.tfrecord.json", False, False),
        ("train.tfrecord.0a1b2c3d.tmp", False, False),
    ],
)
def test_names(name, image, shard):
    assert is_image_name(name) == image
    assert is_shard_name(name) == shard
