"""Beam's local runner with its workers in other processes, on this machine or on others.

``--runner=FnApiRunner --environment_type=EXTERNAL --environment_config=HOST:PORT,HOST:PORT`` runs a job's
steps in the worker pools that listen there, one worker in each (``--direct_num_workers`` asks for more). A
pool is Beam's own, in a Python environment that has this package::

    python -m apache_beam.runners.worker.worker_pool_main --service_port PORT

This process plans and shuffles; images are read, decoded and put through the model in the pools. Pools call
this machine back by its full host name, on ports that the system chooses, and see the same files as it: take
``gs://`` or a shared folder. The link is not encrypted and asks for no password, so both sides belong in one
trusted network.

Beam's runner by itself waits for ever for a worker that is lost at the wrong moment; here that ends the job.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import threading
import uuid
from collections.abc import Iterable, Iterator
from typing import Any

import grpc
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, PortableOptions
from apache_beam.pipeline import Pipeline
from apache_beam.portability.api import (
    beam_fn_api_pb2,
    beam_fn_api_pb2_grpc,
    beam_runner_api_pb2,
    endpoints_pb2,
)
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.portability.fn_api_runner.worker_handlers import (
    ControlConnection,
    ExternalWorkerHandler,
    WorkerHandler,
)
from apache_beam.transforms.environments import ExternalEnvironment, python_sdk_capabilities

from beam_vision.errors import JobError, UsageError

START_SEC = 120.0
"""A worker that hasn't called back by then is given up: it imports TensorFlow first, on a cold machine."""
STOP_SEC = 5.0
POOL_COMMAND = "python -m apache_beam.runners.worker.worker_pool_main --service_port PORT"
_KEEPALIVE = (  # so that a machine that is gone without a word is noticed, too
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.client_idle_timeout_ms", 2**31 - 1),
)
_ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")


def pools_of(options: PipelineOptions) -> tuple[str, ...]:
    """The worker pools that Beam's options name: ``HOST:PORT`` each; none where they ask for none.

    Raises:
      UsageError: the options don't go with the local runner, or are no addresses.
    """
    given = options.view_as(PortableOptions)
    kind, config = given.environment_type, given.environment_config or ""
    if not kind and not config:
        return ()
    if (kind or "").upper() != "EXTERNAL":
        raise UsageError(
            f"--environment_type {kind or '(none)'}: the local runner knows only EXTERNAL (worker pools at "
            "--environment_config HOST:PORT,...); other kinds go with --runner PortableRunner or FlinkRunner"
        )
    mode = options.view_as(DirectOptions).direct_running_mode
    if mode != "in_memory":
        raise UsageError(f"--direct_running_mode {mode} doesn't go with worker pools; leave it out")
    pools = tuple(part.strip() for part in config.split(",") if part.strip())
    wrong = [pool for pool in pools if not is_address(pool)]
    if wrong or not pools or len(set(pools)) < len(pools):
        what = wrong[0] if wrong else config or "(none)"
        raise UsageError(
            f"--environment_config {what}: give the addresses of worker pools as HOST:PORT,HOST:PORT, each "
            f"once; a pool is started with `{POOL_COMMAND}`"
        )
    return pools


def is_address(text: str) -> bool:
    """Whether ``text`` is ``HOST:PORT``, with a port that there is."""
    found = _ADDRESS.fullmatch(text)
    return bool(found) and 0 < int(found.group(2)) < 2**16  # type: ignore[union-attr]


class Crew:
    """The workers of a run. One that is lost ends the run, so nothing more is awaited of the others.

    Attributes:
      lost: why the first was lost; empty as long as none is.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connections: list[WatchedConnection] = []
        self._is_closing = False
        self.lost = ""

    def add(self, connection: WatchedConnection) -> None:
        """Takes in a worker."""
        with self._lock:
            self._connections.append(connection)

    def close(self) -> None:
        """From now on a worker that ends is none that was lost."""
        with self._lock:
            self._is_closing = True

    def lose(self, why: str) -> None:
        """Ends the run, unless it is ending."""
        with self._lock:
            if self._is_closing or self.lost:
                return
            self.lost = why
            connections = list(self._connections)
        for connection in connections:
            connection.answer_all(why)


class WatchedConnection(ControlConnection):
    """How a worker is told what to do; once the crew lost one, whatever is waited for gets an error."""

    def __init__(self, place: str, crew: Crew) -> None:
        super().__init__()
        self._place = place
        self._crew = crew
        crew.add(self)

    @property
    def has_begun(self) -> bool:
        """Whether the worker has called back."""
        return self._input is not None

    def answer_all(self, why: str) -> None:
        """Answers, with an error, everything that is waited for."""
        for number in list(self._futures_by_id):
            future = self._futures_by_id.pop(number, None)
            if future is not None:
                future.set(beam_fn_api_pb2.InstructionResponse(instruction_id=number, error=why))

    def push(self, req: Any) -> Any:
        """As Beam's; a lost crew's answer is there at once."""
        future = super().push(req)
        if self._crew.lost:
            self.answer_all(self._crew.lost)
        return future

    def close(self) -> None:
        """As Beam's."""
        self._crew.close()
        super().close()

    def set_input(self, input: Iterable) -> None:
        """As Beam's, of answers."""
        super().set_input(until_lost(input, self._place, self._crew))

    def _read(self) -> None:
        with contextlib.suppress(KeyError):  # an answer that came after we had given one
            super()._read()


def until_lost(stream: Iterable, place: str, crew: Crew) -> Iterator:
    """What a worker sends; its end, orderly or not, is a loss unless the run is ending."""
    with contextlib.suppress(grpc.RpcError):
        yield from stream
    crew.lose(gone(place))


def gone(place: str) -> str:
    """What is said of a worker that was lost."""
    return (
        f"the worker at {place} is gone: its process was killed or ran out of memory, or its machine can't "
        "be reached; nothing half-written looks finished, and --resume goes on from what is done"
    )


class PoolWorkerHandler(ExternalWorkerHandler):
    """A worker in the pool at ``place``, watched from its start to its end."""

    def __init__(self, place: str, crew: Crew, *given: Any) -> None:
        super().__init__(*given)
        self._place = place
        self._crew = crew
        self._connection = WatchedConnection(place, crew)
        self.control_conn = self._connection
        self.control_handler._connections_by_worker_id[self.worker_id] = self._connection
        take = self.data_conn.set_inputs
        self.data_conn.set_inputs = lambda stream: take(until_lost(stream, place, crew))
        self._channel = grpc.insecure_channel(place, options=_KEEPALIVE)
        self._pool = beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolStub(self._channel)
        self._was_ready = False
        self._late = threading.Timer(START_SEC, self._give_up)
        self._late.daemon = True

    def start_worker(self) -> None:
        """Asks the pool for a worker.

        Raises:
          JobError: the pool can't be reached, or can't start one.
        """
        control = endpoints_pb2.ApiServiceDescriptor(url=self.control_address)
        request = beam_fn_api_pb2.StartWorkerRequest(
            worker_id=self.worker_id,
            control_endpoint=control,
            artifact_endpoint=control,
            provision_endpoint=control,
            logging_endpoint=self.logging_api_service_descriptor(),
        )
        try:
            error = self._pool.StartWorker(request, timeout=START_SEC).error
        except grpc.RpcError as failed:
            raise JobError(
                f"the worker pool at {self._place} doesn't answer: {failed.code().name}"
            ) from failed
        if error:
            raise JobError(f"the worker pool at {self._place} can't start a worker: {error.strip()}")
        self._channel.subscribe(self._changed)
        self._late.start()

    def stop_worker(self) -> None:
        """Lets the pool end the worker, as far as it can be reached."""
        self._late.cancel()
        with contextlib.suppress(grpc.RpcError):
            request = beam_fn_api_pb2.StopWorkerRequest(worker_id=self.worker_id)
            self._pool.StopWorker(request, timeout=STOP_SEC)
        self._channel.unsubscribe(self._changed)  # not close(): gRPC fails on that while it watches

    def _changed(self, state: grpc.ChannelConnectivity) -> None:
        is_ready = state is grpc.ChannelConnectivity.READY
        if self._was_ready and not is_ready:
            self._crew.lose(gone(self._place))
        self._was_ready = is_ready

    def _give_up(self) -> None:
        if not self._connection.has_begun:
            self._crew.lose(
                f"the worker at {self._place} didn't call back within {START_SEC:.0f} s: can its machine "
                f"reach this one as {self.host_from_worker()}, and has its Python the same versions of Beam "
                "and of this package?"
            )


class _PoolsEnvironment(ExternalEnvironment):
    """An external environment that our handler, and not Beam's, takes care of."""

    def __init__(self, urn: str) -> None:
        super().__init__(urn, capabilities=python_sdk_capabilities())

    def to_runner_api_parameter(self, context: Any) -> tuple[str, Any]:
        place = endpoints_pb2.ApiServiceDescriptor(url=self.url)
        return self.url, beam_runner_api_pb2.ExternalPayload(endpoint=place)


class WorkerPoolRunner(FnApiRunner):
    """Beam's local runner over the worker pools at ``pools``, taken in turn."""

    def __init__(self, pools: tuple[str, ...]) -> None:
        self._urn = f"beam_vision:env:worker_pools:{uuid.uuid4().hex}"
        super().__init__(default_environment=_PoolsEnvironment(self._urn))
        self._pools = pools

    def run_pipeline(self, pipeline: Pipeline, options: PipelineOptions) -> Any:
        """Runs a pipeline to its end.

        Raises:
          JobError: a worker was lost, or couldn't be started.
        """
        direct = options.view_as(DirectOptions)
        direct.direct_num_workers = max(direct.direct_num_workers or os.cpu_count() or 1, len(self._pools))
        direct.direct_running_mode = "in_pools"  # none of those for which Beam has environments of its own
        with self._workers() as crew:
            try:
                return super().run_pipeline(pipeline, options)
            except RuntimeError as error:
                if crew.lost:
                    raise JobError(crew.lost) from error
                raise

    @contextlib.contextmanager
    def _workers(self) -> Iterator[Crew]:
        """While the block runs, Beam makes its workers for our environment in the pools."""
        crew, turns = Crew(), itertools.cycle(self._pools)

        def make(*given: Any) -> PoolWorkerHandler:
            return PoolWorkerHandler(next(turns), crew, *given)

        WorkerHandler.register_environment(self._urn, beam_runner_api_pb2.ExternalPayload)(make)
        try:
            yield crew
        finally:
            WorkerHandler._registered_environments.pop(self._urn, None)
