"""Flink and Prism, fetched and built once, with Python workers in a process of their own.

Not part of `make test`: `make test-cluster` runs this folder. What can't be had here skips its tests,
with the reason.
"""

import os
import sys
from pathlib import Path

import pytest

from beam_vision import metrics
from beam_vision.pipelines import cli
from beam_vision.testing import flink_cluster, images, models, prism
from beam_vision.testing.jars import MissingError

POOL_HOSTS = ("127.0.0.1", "127.0.0.2")
sys.path.append(str(Path(__file__).parent.parent / "cluster"))  # its gate


def fetched(fetch):
    """What ``fetch`` gives; skips the test where it can't be had."""
    try:
        return fetch()
    except MissingError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def prism_program():
    return fetched(prism.build_prism)


@pytest.fixture
def prism_service(prism_program, tmp_path):
    """A running :class:`~beam_vision.testing.prism.Prism`."""
    with prism.Prism(prism_program, tmp_path) as running:
        yield running


@pytest.fixture(scope="session")
def flink(tmp_path_factory):
    """A running :class:`~beam_vision.testing.flink_cluster.FlinkCluster`: two TaskManagers of a slot each."""
    jars = fetched(flink_cluster.fetch_flink)
    folder = tmp_path_factory.mktemp("flink")
    with flink_cluster.FlinkCluster(jars, folder, pool_hosts=POOL_HOSTS) as running:
        yield running


@pytest.fixture(scope="session")
def job_server():
    return fetched(flink_cluster.fetch_job_server)


@pytest.fixture(scope="session")
def flink_pools(warm, tmp_path_factory):
    """Two worker pools, of which each TaskManager sees one, both as ``pool`` at the same port."""
    from beam_vision.testing.worker_pools import WorkerPools

    port = prism.free_port()
    with WorkerPools(warm, tmp_path_factory.mktemp("pools"), hosts=POOL_HOSTS, port=port) as pools:
        yield pools


@pytest.fixture
def flink_args(job_server, flink, flink_pools):
    """What every job on Flink is given."""
    flink_pools.clear()
    metrics.TALLY.clear()
    port = flink_pools.addresses[0].rpartition(":")[2]
    return [
        *("--runner=FlinkRunner", f"--flink_job_server_jar={job_server}", f"--flink_master={flink.address}"),
        *("--parallelism=2", "--environment_type=EXTERNAL", f"--environment_config=pool:{port}"),
    ]


@pytest.fixture(scope="session")
def one_pool(warm, tmp_path_factory):
    """Worker pools in other processes, of which only the first is used: such a runner knows one address."""
    from beam_vision.testing.worker_pools import WorkerPools

    with WorkerPools(warm, tmp_path_factory.mktemp("pool")) as pools:
        yield pools


@pytest.fixture
def pool_args(one_pool):
    """What a job is given to have its work done there."""
    one_pool.replace_dead()
    one_pool.clear()
    metrics.TALLY.clear()
    return ["--environment_type=EXTERNAL", f"--environment_config={one_pool.addresses[0]}"]


@pytest.fixture
def done_elsewhere(one_pool):
    """Asserts that the pool's process, and not this one, counted so many images."""

    def check(name, total):
        counts = one_pool.counts()
        assert os.getpid() not in counts
        assert counts[one_pool.pids[0]].get(name) == total
        assert metrics.TALLY.counts() == {}

    return check


@pytest.fixture(scope="session")
def lake(tmp_path_factory):
    """Eighteen good images in three classes, and one that is cut off."""
    folder = tmp_path_factory.mktemp("lake") / "lake"
    images.make_lake(folder, per_class=6)
    (folder / "red" / "cut.jpg").write_bytes(images.hostile_files()["cut.jpeg"][0])
    return folder


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    return models.save_onnx(str(tmp_path_factory.mktemp("models") / "colours.onnx"))


@pytest.fixture
def argv_of(lake, model, tmp_path):
    """The command line of each job, into a folder of ``tmp_path``."""

    def argv(job, output="out"):
        where = ["--images", str(lake), "--output", str(tmp_path / output)]
        if job == "create-tfrecords":
            return [job, *where, "--target_shard_bytes", "6000"]
        return ["predict", "--task", job, "--model", model, *where]

    return argv


@pytest.fixture
def rows_of():
    """What a job wrote, in an order of its own: to be held equal to another run's."""

    def rows(job, folder):
        if job == "create-tfrecords":
            found = [path for path in folder.iterdir() if path.suffix == ".tfrecord"]
            assert len(found) > 1
            return sorted((path.name, path.read_bytes()) for path in found)
        import pyarrow.dataset as ds

        table = ds.dataset([str(path) for path in folder.glob("part-*.parquet")]).to_table()
        mine = ("run_id", "predicted_at")
        return sorted(
            (str({k: v for k, v in row.items() if k not in mine}) for row in table.to_pylist()),
        )

    return rows


@pytest.fixture
def plain(argv_of, rows_of, tmp_path):
    """What a plain run of a job on this machine gives."""

    def rows(job):
        assert cli.main(argv_of(job, "plain")) == 0
        metrics.TALLY.clear()
        return rows_of(job, tmp_path / "plain")

    return rows
