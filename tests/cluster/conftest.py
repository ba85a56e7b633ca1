"""Two worker processes behind Beam's local runner, for all tests of this folder."""

import os

import pytest

from beam_vision import metrics
from beam_vision.pipelines import cli
from beam_vision.testing import images


@pytest.fixture(scope="session")
def both_pools(warm, gcs_server, tmp_path_factory):
    """Started once; they see the storage emulator."""
    from beam_vision.testing.worker_pools import WorkerPools

    env = {"STORAGE_EMULATOR_HOST": gcs_server}
    with WorkerPools(warm, tmp_path_factory.mktemp("pools"), env=env) as pools:
        yield pools


@pytest.fixture
def pools(both_pools):
    """The :class:`~beam_vision.testing.worker_pools.WorkerPools`, both alive, having counted nothing."""
    both_pools.replace_dead()
    both_pools.clear()
    return both_pools


@pytest.fixture
def shared(pools):
    """Runs a job in the pools and gives its exit code; both did some of its work, and this process none."""

    def run(argv, *, by=metrics.DONE, total=None, both=True):
        pools.clear()
        metrics.TALLY.clear()
        code = cli.main([*map(str, argv), *pools.beam_args])
        done = {pid: counts.get(by, 0) for pid, counts in pools.counts().items()}
        assert len(done) == 2
        assert os.getpid() not in done
        assert all(done.values()) or not both, done
        assert total is None or sum(done.values()) == total, done
        assert metrics.TALLY.counts() == {}
        return code

    return run


@pytest.fixture(scope="session")
def lake(tmp_path_factory):
    """Eighteen good images of mixed formats in three classes, and two that are broken."""
    folder = tmp_path_factory.mktemp("cluster") / "lake"
    folder.mkdir()
    images.make_lake(folder, per_class=6)
    (folder / "red" / "cut.jpg").write_bytes(images.hostile_files()["cut.jpeg"][0])
    (folder / "blue" / "text.jpg").write_bytes(b"this is not an image\n")
    return folder
