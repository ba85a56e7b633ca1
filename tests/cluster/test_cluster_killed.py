"""A worker's process is killed in the middle of a job: the job ends, and its re-run completes the result."""

import os
import signal

import apache_beam as beam
import pyarrow.parquet as pq
import pytest
from cluster_gate import Gate, wait_until

from beam_vision import metrics, table
from beam_vision.errors import JobError
from beam_vision.pipelines import cli, job
from beam_vision.records.manifest import read_manifest
from beam_vision.search.index import open_index, open_table
from beam_vision.testing import images, models
from beam_vision.testing.tables import clustered, write_embeddings

END_SEC = 60.0


@pytest.fixture
def start(warm, pools, tmp_path):
    """Starts a job of the command line's, whose work is done in the pools; gives its process."""

    def start(argv):
        pools.clear()
        with open(tmp_path / "stderr", "w") as stderr:
            words = ["-m", "beam_vision.pipelines.cli", *map(str, argv), *pools.beam_args]
            return warm.start(words, stderr=stderr)

    return start


@pytest.fixture
def ends(tmp_path):
    """Waits for a job's end, which has to come; it must be a failed one, said in one line."""

    def ends(child):
        assert child.wait(END_SEC) == 1
        said = (tmp_path / "stderr").read_text().splitlines()
        assert said[-1].startswith("failed: the worker at localhost:")
        assert "its process was killed" in said[-1]
        assert not [line for line in said if "Traceback" in line]

    return ends


@pytest.fixture
def lake(tmp_path):
    folder = tmp_path / "lake"
    folder.mkdir()
    images.make_lake(folder, per_class=8)
    return folder


def last_image(lake):
    return sorted(path for path in lake.rglob("*.*"))[-1]


def total(pools, name):
    return sum(counts.get(name, 0) for counts in pools.counts().values())


def test_predict_goes_on_where_it_was(start, ends, pools, lake, tmp_path):
    model, out = models.save_saved_model(str(tmp_path / "model")), tmp_path / "table"
    argv = ["predict", "--task", "embed", "--images", lake, "--model", model, "--no-check_model"]
    argv += ["--output", out]
    with Gate(last_image(lake)) as gate:
        child = start([*argv, "--flush_sec", 0])
        wait_until(gate.reached.is_set, child)
        wait_until(lambda: list(out.glob(".staging/*/rows/*.parquet")), child)
        pools.kill(pools.pids[0])
        ends(child)
        pools.kill(pools.pids[1])  # it would go on with its images, behind our back
    staged = list(out.glob(".staging/*/rows/*.parquet"))
    assert table.read_manifest(str(out)) is None
    assert list(out.glob("*.parquet")) == []
    done = {key for path in staged for key in pq.read_table(path)["key"].to_pylist()}
    assert 0 < len(done) < 24

    assert pools.replace_dead() == 2
    pools.clear()
    assert cli.main([*map(str, argv), "--resume", *pools.beam_args]) == 0
    assert total(pools, metrics.INFERRED) == 24 - len(done)
    manifest = table.read_manifest(str(out))
    assert (manifest.inputs, manifest.already_done, manifest.outputs) == (24, len(done), 24 - len(done))
    keys = [key for path in table.part_paths(str(out)) for key in pq.read_table(path)["key"].to_pylist()]
    assert sorted(keys) == sorted(str(path) for path in lake.rglob("*.*"))
    assert not (out / ".staging").exists()


def test_create_tfrecords_keeps_the_shards_that_it_has(start, ends, pools, lake, tmp_path):
    out = tmp_path / "data"
    argv = ["create-tfrecords", "--images", lake, "--target_shard_bytes", 20_000, "--output", out]
    assert cli.main([*map(str, argv[:-1]), str(tmp_path / "plain")]) == 0
    plain = read_manifest(str(tmp_path / "plain"))
    held = last_image(lake)
    other = sorted(path for path in lake.rglob("*.*"))[0]
    with Gate(held) as listing:  # all files are read twice: for their digests, and to be written
        child = start(argv)
        wait_until(lambda: listing.reached.is_set() and total(pools, metrics.READ) == 23, child)
        with Gate(other) as writing:
            listing.open()
            wait_until(writing.reached.is_set, child)
            wait_until(lambda: list(out.glob("*.tfrecord.json")), child)
            pools.kill(pools.pids[1])
            ends(child)
            pools.kill(pools.pids[0])  # it would go on with its shards, behind our back
    assert not (out / "manifest.json").exists()
    kept = len(list(out.glob("*.tfrecord.json")))
    assert 0 < kept < len(plain.shards)

    assert pools.replace_dead() == 2
    assert cli.main([*map(str, argv), "--resume", *pools.beam_args]) == 0
    made = read_manifest(str(out))
    assert 0 < made.already_done < 24
    assert (made.inputs, made.dataset_digest) == (24, plain.dataset_digest)
    assert cli.main(["verify-tfrecords", str(out)]) == 0


def test_an_index_is_built_by_the_re_run(start, ends, pools, tmp_path):
    rows, out = tmp_path / "table", tmp_path / "index"
    write_embeddings(str(rows), clustered(200, 8), parts=2)
    argv = ["build-index", "--table", rows, "--shards", 3, "--output", out]
    first, last = sorted(rows.glob("*.parquet"))
    with Gate(last) as gate:  # planning opens it after the first; then only workers open any
        child = start(argv)
        wait_until(gate.reached.is_set, child)
        gate.open()
        with Gate(first) as reading:
            wait_until(reading.reached.is_set, child)
            pools.kill(pools.pids[0])
            ends(child)
    assert not (out / "manifest.json").exists()

    assert pools.replace_dead() == 1
    assert cli.main([*map(str, argv), "--resume", *pools.beam_args]) == 0
    asked = clustered(5, 8, seed=3)
    assert open_index(str(out)).search(asked, 9).neighbors == open_table(str(rows)).search(asked, 9).neighbors
    assert sorted(path.name[:6] for path in out.iterdir()) == [".lock", "manife", *["shard-"] * 3]


def test_a_model_that_kills_its_process_ends_the_job(pools, lake, tmp_path, capfd):
    model, out = models.save_troubled(str(tmp_path / "bad"), "abort"), tmp_path / "table"
    argv = ["predict", "--task", "embed", "--images", lake, "--model", model, "--no-check_model"]
    assert cli.main([*map(str, argv), "--output", str(out), *pools.beam_args]) == 1
    assert "failed: the worker at localhost:" in capfd.readouterr().err
    assert table.read_manifest(str(out)) is None


def test_a_worker_lost_in_the_last_step_ends_the_job(pools):
    """From a step without an output Beam's runner gets no data to miss, and waits for ever."""

    def build(pipeline):
        numbers = pipeline | beam.Create(range(8)) | beam.Reshuffle()
        _ = numbers | beam.Map(lambda _: os.kill(os.getpid(), signal.SIGKILL))

    with pytest.raises(JobError, match=r"the worker at localhost:\d+ is gone"):
        job.execute(build, pools.beam_args)


def test_a_pool_that_is_not_there_is_named(tmp_path):
    with pytest.raises(JobError, match="worker pool at localhost:1 doesn't answer: UNAVAILABLE"):
        job.execute(
            lambda pipeline: pipeline | beam.Create([1]) | beam.Map(str),
            ["--environment_type=EXTERNAL", "--environment_config=localhost:1"],
        )
