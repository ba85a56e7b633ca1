"""Workers that reach the job over a network, each from a network of its own."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from beam_vision import metrics
from beam_vision.pipelines import cli
from beam_vision.records.manifest import read_manifest
from beam_vision.testing.worker_pools import WorkerPools

SUBNETS = "198.18"  # set aside for tests of networks (RFC 2544)


def ip(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=60)


class Network:
    """A network namespace, joined to ours by a pair of virtual cards; it knows this machine by its name."""

    def __init__(self, number):
        name = uuid.uuid4().hex[:8]
        self.name, self._card = f"bv-{name}", f"bv{name}a"
        subnet = f"{SUBNETS}.{200 + number}"
        self.host, ours = f"{subnet}.2", f"{subnet}.1"
        self._files = Path("/etc/netns") / self.name
        inside = f"bv{name}b"
        try:
            ip("netns", "add", self.name)
            ip("link", "add", self._card, "type", "veth", "peer", "name", inside, "netns", self.name)
            ip("address", "add", f"{ours}/30", "dev", self._card)
            ip("link", "set", self._card, "up")
            ip("-n", self.name, "address", "add", f"{self.host}/30", "dev", inside)
            ip("-n", self.name, "link", "set", inside, "up")
            ip("-n", self.name, "link", "set", "lo", "up")
            self._files.mkdir(parents=True)
            names = f"{ours} {socket.getfqdn()} {socket.gethostname()}\n127.0.0.1 localhost\n"
            (self._files / "hosts").write_text(names)  # `ip netns exec` puts it in the place of /etc/hosts
        except BaseException:
            self.close()
            raise

    def close(self):
        with contextlib.suppress(subprocess.CalledProcessError):
            ip("netns", "delete", self.name)  # its cards go with it
        shutil.rmtree(self._files, ignore_errors=True)


class InNetworks:
    """Starts each further Python in the next of some networks; cold, so that imports are tested, too."""

    def __init__(self, networks):
        self._networks = iter(networks)

    def start(self, argv, *, stderr, env):
        words = ["ip", "netns", "exec", next(self._networks).name, sys.executable, *argv]
        return subprocess.Popen(words, stderr=stderr, env=env)


@pytest.fixture
def networks():
    if os.name != "posix" or os.geteuid() or not shutil.which("ip"):
        pytest.skip("network namespaces need root and iproute2")
    with contextlib.ExitStack() as stack:
        made = []
        for number in range(2):
            try:
                made.append(Network(number))
            except subprocess.CalledProcessError as error:
                pytest.skip(f"no network namespaces here: {error.stderr.decode().strip()}")
            stack.callback(made[-1].close)
        yield made


def network_of(pid):
    return os.stat(f"/proc/{pid}/ns/net").st_ino


@pytest.mark.slow
def test_workers_in_other_networks_make_the_dataset(networks, lake, tmp_path):
    folder = tmp_path / "pools"
    folder.mkdir()
    argv = ["create-tfrecords", "--images", str(lake), "--target_shard_bytes", "20000", "--output"]
    assert cli.main([*argv, str(tmp_path / "plain")]) == 0
    hosts = tuple(network.host for network in networks)
    with WorkerPools(InNetworks(networks), folder, hosts=hosts) as pools:
        assert len({network_of(pid) for pid in (*pools.pids, os.getpid())}) == 3
        assert cli.main([*argv, str(tmp_path / "shared"), *pools.beam_args]) == 0
        done = {pid: counts.get(metrics.DONE, 0) for pid, counts in pools.counts().items()}
    assert all(done.values()), done
    assert (len(done), sum(done.values())) == (2, 18)
    made, plain = (read_manifest(str(tmp_path / name)) for name in ("shared", "plain"))
    assert len(made.shards) >= 4
    assert (made.inputs, made.dataset_digest) == (20, plain.dataset_digest)
