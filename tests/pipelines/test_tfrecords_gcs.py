"""Create, verify and resume a dataset on ``gs://``, against a Cloud Storage emulator."""

import pytest

from beam_vision import storage
from beam_vision.pipelines import cli
from beam_vision.records.manifest import read_manifest
from beam_vision.testing.images import make_lake


@pytest.mark.slow
def test_from_a_bucket_to_a_bucket(gcs, tmp_path, capfd):
    lake, out = storage.join(gcs, "records-lake"), storage.join(gcs, "records-out")
    for file in make_lake(tmp_path, per_class=2):
        storage.write_bytes(storage.join(lake, file.label, file.path.name), file.path.read_bytes())
    argv = ["create-tfrecords", "--images", lake, "--output", out, "--splits", "a=0.5,b=0.5"]
    assert cli.main(argv) == 0
    manifest = read_manifest(out)
    assert (manifest.images, manifest.classes) == (6, ["blue", "green", "red"])
    names = storage.list_folder(out)
    assert not [name for name in names if name.endswith(".tmp")]
    shards = sorted(manifest.shards)
    expected = [*shards, *(f"{shard}.json" for shard in shards), "manifest.json", "schema.pbtxt"]
    assert names == sorted(expected)
    storage.delete(storage.join(out, shards[0]))
    assert cli.main(["verify-tfrecords", out]) == 1
    assert f"{shards[0]}: missing" in capfd.readouterr().out
    assert cli.main([*argv, "--resume"]) == 0
    assert read_manifest(out).already_done == manifest.shards[shards[1]].images
    assert read_manifest(out).dataset_digest == manifest.dataset_digest
    assert cli.main(["verify-tfrecords", out]) == 0
