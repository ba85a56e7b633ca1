"""On what a model is trained: found from the hardware, and said in words."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from beam_vision import deps
from beam_vision.errors import UsageError

if TYPE_CHECKING:
    import tensorflow as tf

TF_CONFIG = "TF_CONFIG"
TPU_NAME = "TPU_NAME"
MULTI_WORKER, TPU = "multi_worker", "tpu"
_WORKERS = ("chief", "worker")


@dataclass(frozen=True)
class Place:
    """Where the steps run.

    Attributes:
      name: ``one_device``, ``mirrored``, ``multi_worker`` or ``tpu``.
      strategy: TensorFlow's, in whose scope the model is built.
      replicas: copies of the model that each take a batch at once.
      chief: whether this process is the one that writes what all have made.
      words: for the person who watches.
    """

    name: str
    strategy: tf.distribute.Strategy
    replicas: int
    chief: bool
    words: str


def find_place(asked: str = "auto") -> Place:
    """The strategy that is asked for, or that fits what is there.

    ``auto`` is ``multi_worker`` where ``TF_CONFIG`` names more than one worker, ``tpu`` where ``TPU_NAME`` is
    set, ``mirrored`` where there are two GPUs or more, else ``one_device``.

    Args:
      asked: a name of :data:`beam_vision.training.config.STRATEGIES`.

    Raises:
      UsageError: it needs something that isn't there.
    """
    workers = read_workers(os.environ.get(TF_CONFIG, ""))
    name = asked if asked != "auto" else _fitting(workers)
    if name == MULTI_WORKER:
        return _multi_worker(workers)
    if name == TPU:
        return _tpu()
    return _mirrored() if name == "mirrored" else _one_device()


@dataclass(frozen=True)
class Workers:
    """What ``TF_CONFIG`` says: how many workers there are, the chief among them, and which this is."""

    number: int = 1
    kind: str = "chief"
    place: int = 0
    has_chief: bool = True

    @property
    def is_chief(self) -> bool:
        """The task of type chief, or the first worker where there is none."""
        return self.kind == "chief" or (self.kind == "worker" and self.place == 0 and not self.has_chief)


def read_workers(text: str) -> Workers:
    """The workers of a ``TF_CONFIG``; one where there is none.

    Raises:
      UsageError: it isn't JSON of the known form.
    """
    if not text:
        return Workers()
    try:
        said = json.loads(text)
        cluster, task = said.get("cluster", {}), said.get("task", {})
        number = sum(len(cluster.get(kind, ())) for kind in _WORKERS)
        has_chief = bool(cluster.get("chief"))
        return Workers(max(number, 1), str(task.get("type", "chief")), int(task.get("index", 0)), has_chief)
    except (ValueError, AttributeError, TypeError) as error:
        raise UsageError(
            f"{TF_CONFIG} must be JSON with a cluster (workers by kind) and a task (type, index): {error}"
        ) from error


def _fitting(workers: Workers) -> str:
    tf = deps.need("tensorflow")
    if workers.number > 1:
        return MULTI_WORKER
    if os.environ.get(TPU_NAME):
        return TPU
    return "mirrored" if len(tf.config.list_physical_devices("GPU")) > 1 else "one_device"


def _one_device() -> Place:
    tf = deps.need("tensorflow")
    gpus = tf.config.list_physical_devices("GPU")
    words = f"on {_gpu_name(gpus[0])}" if gpus else f"on the processor ({os.cpu_count()} cores), no GPU found"
    return Place("one_device", tf.distribute.get_strategy(), 1, True, words)


def _mirrored() -> Place:
    tf = deps.need("tensorflow")
    gpus = tf.config.list_logical_devices("GPU")
    devices = [device.name for device in gpus or tf.config.list_logical_devices("CPU")]
    strategy = tf.distribute.MirroredStrategy(devices)
    replicas = strategy.num_replicas_in_sync
    return Place("mirrored", strategy, replicas, True, f"mirrored on {replicas} {'GPUs' if gpus else 'CPUs'}")


def _multi_worker(workers: Workers) -> Place:
    if workers.number < 2:
        raise UsageError(
            f"run.strategy multi_worker needs {TF_CONFIG} in the environment with two workers or more; "
            f"it names {workers.number} (Vertex AI sets it where replicas are more than 1)"
        )
    tf = deps.need("tensorflow")
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    replicas = strategy.num_replicas_in_sync
    words = f"mirrored on {workers.number} workers with {replicas} replicas; this is {workers.kind} "
    return Place(MULTI_WORKER, strategy, replicas, workers.is_chief, f"{words}{workers.place}")


def _tpu() -> Place:
    tf = deps.need("tensorflow")
    name = os.environ.get(TPU_NAME, "")
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(name)
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        strategy = tf.distribute.TPUStrategy(resolver)
    except (ValueError, RuntimeError, tf.errors.OpError) as error:
        raise UsageError(
            f"run.strategy tpu: no TPU named {name or '(TPU_NAME is not set)'} can be reached; set TPU_NAME, "
            f"or run.strategy to auto: {str(error).splitlines()[0]}"
        ) from error
    replicas = strategy.num_replicas_in_sync
    return Place(TPU, strategy, replicas, True, f"on TPU {name} with {replicas} cores")


def _gpu_name(gpu: Any) -> str:
    details = deps.need("tensorflow").config.experimental.get_device_details(gpu)
    return details.get("device_name", "a GPU")
