"""Buckets from end to end, on a Cloud Storage emulator: images, a dataset, tables and an index, made by
workers in other processes; and what Dataflow is given is staged there."""

import io
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from apache_beam.portability.api import beam_runner_api_pb2

from beam_vision import metrics, storage, table
from beam_vision.pipelines import cli
from beam_vision.records.manifest import read_manifest
from beam_vision.sinks.failures import read_failures
from beam_vision.testing import models


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return models.save_saved_model(str(tmp_path_factory.mktemp("models") / "colours"))


@pytest.fixture
def bucket(gcs, tmp_path):
    """An empty folder of a bucket."""
    return f"{gcs}/{tmp_path.name}"


@pytest.fixture
def images(gcs, lake):
    """The images of the lake in a bucket; written once."""
    folder = f"{gcs}/{lake.parent.name}"
    if not storage.is_folder(folder):
        for path in lake.rglob("*.*"):
            storage.write_bytes(f"{folder}/{path.parent.name}/{path.name}", path.read_bytes())
    return folder


def rows(folder):
    assert table.read_manifest(folder).rows
    parts = [pq.read_table(io.BytesIO(storage.read_bytes(path))) for path in table.part_paths(folder)]
    found = {row["key"]: row for part in parts for row in part.to_pylist()}
    assert len(found) == sum(part.num_rows for part in parts)
    return found


def embed(images, output, model):
    argv = ["predict", "--task", "embed", "--images", images, "--output", output, "--model", model]
    return [*argv, "--no-check_model"]


def test_from_images_to_neighbours_all_in_a_bucket(shared, bucket, images, model, tmp_path, capfd):
    data, out = f"{bucket}/data", f"{bucket}/table"
    argv = ["create-tfrecords", "--images", images, "--output", data, "--target_shard_bytes", 20_000]
    assert shared(argv, total=18) == 0
    manifest = read_manifest(data)
    assert (manifest.inputs, manifest.outputs, manifest.failed) == (20, 18, 2)
    assert len(manifest.shards) >= 4
    assert len(list(read_failures(f"{data}/failures"))) == 2

    assert shared(embed(data, out, model), by=metrics.INFERRED, total=18) == 0
    found = rows(out)
    assert shared(embed(images, f"{bucket}/other", model), by=metrics.INFERRED, total=18) == 0
    other = rows(f"{bucket}/other")
    assert found.keys() == other.keys()
    assert not [path for path in storage.list_tree(bucket) if ".tmp" in path or ".staging" in path]

    capfd.readouterr()
    key = min(found)
    index = f"{bucket}/index"
    argv = ["build-index", "--table", f"{bucket}/other", "--output", index, "--backend", "exact"]
    assert shared([*argv, "--shards", 4], total=18) == 0
    for path in storage.list_tree(index):  # a search wants it near
        storage.write_bytes(
            str(tmp_path / "index" / path.removeprefix(f"{index}/")), storage.read_bytes(path)
        )
    capfd.readouterr()
    argv = ["search", "--index", str(tmp_path / "index"), "--key", key, "--k", "3"]
    assert cli.main([*argv, "--output_format", "json"]) == 0
    near = json.loads(capfd.readouterr().out)
    vectors = {name: np.array(row["embedding"]) for name, row in other.items()}
    best = sorted((-float(vectors[key] @ vector) for name, vector in vectors.items() if name != key))[:3]
    np.testing.assert_allclose([-one["score"] for one in near], best, atol=1e-5)


def test_a_table_in_a_bucket_is_completed(shared, bucket, images, model):
    out = f"{bucket}/table"
    assert shared([*embed(images, out, model), "--limit", 12], by=metrics.INFERRED) == 0
    some = rows(out)
    argv = [*embed(images, out, model), "--resume"]
    assert shared(argv, by=metrics.INFERRED, total=18 - len(some)) == 0
    found = rows(out)
    assert len(found) == 18
    assert {key: found[key] for key in some} == some


def test_a_job_for_dataflow_is_staged_in_a_bucket(bucket, images, model):
    argv = embed(images, f"{bucket}/table", model)
    argv += ["--runner=DataflowRunner", "--no_auth", "--dataflow_endpoint=http://localhost"]
    argv += [
        "--sdk_container_image=gcr.io/my-project/beam-vision:1",
        "--project=my-project",
        "--region=us-central1",
        "--job_name=job",
    ]
    argv += [f"--staging_location={bucket}/staging", f"--temp_location={bucket}/temp"]
    assert cli.main([*argv, f"--template_location={bucket}/job.json"]) == 0
    environment = json.loads(storage.read_text(f"{bucket}/job.json"))["environment"]
    staged = [path for path in storage.list_tree(f"{bucket}/staging") if path.endswith("/pipeline.pb")]
    assert len(staged) == 1
    assert environment["sdkPipelineOptions"]["options"]["pipelineUrl"] == staged[0]
    proto = beam_runner_api_pb2.Pipeline.FromString(storage.read_bytes(staged[0]))
    names = {item.unique_name.split("/")[0] for item in proto.components.transforms.values()}
    assert {"OpenImages", "Infer", "WriteTable"} <= names
