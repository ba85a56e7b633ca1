"""Storage on ``gs://``, against a Cloud Storage emulator."""

import pytest

from beam_vision import storage


def test_write_read_list_rename_delete(gcs):
    folder = storage.join(gcs, "storage-test")
    storage.write_bytes(storage.join(folder, "a.bin"), b"\x00\x01")
    storage.write_json(storage.join(folder, "deep", "b.json"), {"b": 1})
    assert storage.read_bytes(storage.join(folder, "a.bin")) == b"\x00\x01"
    assert storage.read_json(storage.join(folder, "deep", "b.json")) == {"b": 1}
    assert storage.list_folder(folder) == ["a.bin"]
    assert storage.list_tree(folder) == [f"{folder}/a.bin", f"{folder}/deep/b.json"]
    assert storage.is_folder(folder)
    assert not storage.is_folder(storage.join(gcs, "nowhere"))
    storage.rename(storage.join(folder, "a.bin"), storage.join(folder, "deep", "b.json"))
    assert storage.read_bytes(storage.join(folder, "deep", "b.json")) == b"\x00\x01"
    assert not storage.exists(storage.join(folder, "a.bin"))
    storage.delete(storage.join(folder, "a.bin"))
    storage.delete_folder(folder)
    assert storage.list_tree(folder) == []


def test_a_write_that_fails_leaves_nothing(gcs):
    path = storage.join(gcs, "half", "a.bin")
    with pytest.raises(RuntimeError), storage.open_write(path) as file:
        file.write(b"half")
        raise RuntimeError
    assert storage.list_tree(storage.join(gcs, "half")) == []


def test_a_name_that_looks_compressed_is_read_as_stored(gcs):
    path = storage.join(gcs, "as-stored", "a.gz")
    storage.write_bytes(path, b"not gzip")
    assert storage.read_bytes(path) == b"not gzip"
