"""Jobs on Vertex AI: made where there is room, waited for, listed, cancelled.

A request for a job that got no answer may have made one, and it costs money. So each submission has a label
of its own, and the job is looked for by it before it is asked for again.
"""

from __future__ import annotations

import datetime
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from beam_vision import storage
from beam_vision.errors import JobError
from beam_vision.training.config import JobConfig
from beam_vision.training.launch import quota
from beam_vision.training.launch.base import Launched, State
from beam_vision.training.launch.settings import LaunchSettings, Placement, without_env
from beam_vision.training.launch.vertex_api import Api, errors, explain, message_of, passing
from beam_vision.training.launch.vertex_jobs import CUSTOM, TUNING, kind_of, location_of, to_launched
from beam_vision.training.launch.vertex_logs import LogReader
from beam_vision.training.launch.vertex_spec import (
    JOB_FILE,
    SUBMISSION_LABEL,
    custom_job,
    job_folder,
    tuning_job,
)
from beam_vision.training.tune_space import Space

RPC_SEC = 60.0
_ATTEMPTS = 5
_LONGEST_WAIT_SEC = 60.0


class OutOfRoomError(Exception):
    """There is no quota or no free machine at one placement; the message says of what."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How a job is waited for.

    Attributes:
      poll_sec: between looks at it.
      retry_sec: before the first repetition of a request that failed; doubled each time, at most a minute.
      sleep: waits so many seconds.
      clock: seconds, that only go forward.
    """

    poll_sec: float = 10.0
    retry_sec: float = 1.0
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic


class Launcher:
    """Runs one description as a job on Vertex AI.

    Args:
      api: connections to the project.
      config: the job's description.
      settings: its section ``launch``.
      space: its section ``tune``, for a tuning job; None: a custom job.
      tell: is called with each line for the person who watches.
      timing: how it waits.
    """

    def __init__(
        self,
        api: Api,
        config: JobConfig,
        settings: LaunchSettings,
        *,
        space: Space | None = None,
        tell: Callable[[str], None],
        timing: Timing = Timing(),
    ) -> None:
        self._api = api
        self._config = config
        self._settings = settings
        self._space = space
        self._tell = tell
        self._timing = timing
        self._kind = CUSTOM if space is None else TUNING

    def run(self, *, wait: bool = True) -> Launched:
        """Makes the job at the first placement that has room for it, and waits for its end.

        Without ``wait`` only requests that are refused at once lead to the next placement.

        Returns:
          The job, ended where it was waited for.

        Raises:
          JobError: no placement has room.
          UsageError: Vertex AI refused the request for another reason.
        """
        reasons = []
        for place in self._settings.placements():
            try:
                job = self._submit(place)
                self._tell(f"job {job.name} on {place}; its model comes to {job.output}")
                return self._follow(job, place) if wait else job
            except OutOfRoomError as error:
                reasons.append(f"{place}: {error}")
                self._tell(f"no room on {place}: {error}")
        raise JobError("there is room at no placement: " + "; ".join(reasons))

    def request(self, place: Placement, submission: str) -> dict[str, Any]:
        """What Vertex AI is asked for, as plain values."""
        if self._space is None:
            return custom_job(self._config, self._settings, place, submission=submission)
        return tuning_job(self._config, self._settings, place, self._space, submission=submission)

    def _submit(self, place: Placement) -> Launched:
        submission = uuid.uuid4().hex[:16]
        path = storage.join(job_folder(self._config, self._settings, submission), JOB_FILE)
        storage.write_json(path, without_env(self._config).to_dict())
        client = self._api.jobs(place.region)
        parent = f"projects/{self._api.project}/locations/{place.region}"
        request = self._kind.made_of(self.request(place, submission))
        wait_sec = self._timing.retry_sec
        for attempt in range(_ATTEMPTS):
            try:
                return to_launched(self._kind.create(client, parent, request, timeout=RPC_SEC))
            except errors() as error:
                refusal = self._refusal(error, place)
                if refusal is not None:
                    raise refusal from error
                found = self._find(client, parent, submission)
                if found is not None:
                    return found
                if attempt + 1 == _ATTEMPTS:
                    raise explain(error, f"project {self._api.project}") from error
            self._timing.sleep(wait_sec)
            wait_sec = min(2 * wait_sec, _LONGEST_WAIT_SEC)
        raise AssertionError("the last attempt returns or raises")

    def _refusal(self, error: Exception, place: Placement) -> Exception | None:
        """What to raise for an error of a request; None where the same may do when asked again."""
        from google.api_core.exceptions import ResourceExhausted, TooManyRequests

        said = message_of(error)
        if quota.is_out_of_room(said):
            return OutOfRoomError(self._why(said, place))
        if isinstance(error, (ResourceExhausted, TooManyRequests, *passing())):
            return None
        return explain(error, f"project {self._api.project}")

    def _why(self, said: str, place: Placement) -> str:
        metrics = quota.exceeded(said)
        if not metrics:
            return said
        return quota.explain(metrics, place, self._settings.replicas, self._api.project)

    def _find(self, client: Any, parent: str, submission: str) -> Launched | None:
        """The job of a submission that got no answer, where there is one."""
        try:
            found = self._kind.list(
                client, parent, f'labels.{SUBMISSION_LABEL}="{submission}"', timeout=RPC_SEC
            )
            return next(map(to_launched, found), None)
        except passing():
            return None

    def _follow(self, job: Launched, place: Placement) -> Launched:
        """Waits for a job's end.

        Raises:
          OutOfRoomError: it ended without having begun, or was cancelled since it didn't begin in time.
        """
        follower = Follower(self._api, job, tell=self._tell, timing=self._timing)
        ended = follower.wait(self._settings.max_wait_sec)
        if not ended.state.is_end:
            waited = f"no machine was free in {self._settings.max_wait_sec} s"
            cancel(self._api, job.name)
            raise OutOfRoomError(f"{waited}; job {job.name} was cancelled")
        if ended.state is State.FAILED and not ended.started and quota.is_out_of_room(ended.error):
            raise OutOfRoomError(self._why(ended.error, place))
        return ended


class Follower:
    """Waits for a job's end, and passes on what its replicas say.

    Args:
      api: connections.
      job: the job.
      tell: is called with each line.
      timing: how it waits.
    """

    def __init__(
        self,
        api: Api,
        job: Launched,
        *,
        tell: Callable[[str], None],
        timing: Timing = Timing(),
    ) -> None:
        since = datetime.datetime.fromtimestamp(job.created_sec, datetime.timezone.utc)
        self._api = api
        self._job = job
        self._tell = tell
        self._timing = timing
        self._logs = LogReader(api, since)
        self._said_problem = False

    def wait(self, max_wait_sec: float = 0) -> Launched:
        """Waits.

        Args:
          max_wait_sec: ends, too, where the job hasn't begun after so long; 0: it may wait for ever.

        Returns:
          The job; not ended where it didn't begin in time.

        Raises:
          UsageError: it can't be looked at any more.
        """
        start, state = self._timing.clock(), None
        while True:
            job = self._look()
            if job.state is not state:
                self._tell(f"job {job.name.rpartition('/')[2]} is {job.state.value}")
                state = job.state
            self._pass_on(job)
            if job.state.is_end:
                return job
            waited = self._timing.clock() - start
            if max_wait_sec and job.state is State.WAITING and waited > max_wait_sec:
                return job
            self._timing.sleep(self._timing.poll_sec)

    def _look(self) -> Launched:
        wait_sec = self._timing.retry_sec
        for attempt in range(_ATTEMPTS):
            try:
                return look(self._api, self._job.name)
            except passing() as error:
                if attempt + 1 == _ATTEMPTS:
                    raise explain(error, f"job {self._job.name}") from error
            except errors() as error:
                raise explain(error, f"job {self._job.name}") from error
            self._timing.sleep(wait_sec)
            wait_sec = min(2 * wait_sec, _LONGEST_WAIT_SEC)
        raise AssertionError("the last attempt returns or raises")

    def _pass_on(self, job: Launched) -> None:
        for line in self._logs.read(log_ids(job)):
            self._tell(line)
        if self._logs.problem and not self._said_problem:
            self._said_problem = True
            self._tell(f"its log can't be read, and it goes on all the same: {self._logs.problem}")


def log_ids(job: Launched) -> list[str]:
    """The ids by which Cloud Logging knows a job, or a tuning job's trials."""
    names = [str(trial["job"]) for trial in job.trials if trial["job"]] if job.trials else []
    return [name.rpartition("/")[2] for name in (names or [job.name])]


def look(api: Api, name: str) -> Launched:
    """A job as it stands; raises one of :func:`~beam_vision.training.launch.vertex_api.errors`."""
    return to_launched(kind_of(name).get(api.jobs(location_of(name)), name, timeout=RPC_SEC))


def cancel(api: Api, name: str) -> None:
    """Asks for a job's end, which takes a while.

    Raises:
      UsageError: there is no such job, or it may not be cancelled.
    """
    try:
        kind_of(name).cancel(api.jobs(location_of(name)), name, timeout=RPC_SEC)
    except errors() as error:
        raise explain(error, f"job {name}") from error


def list_jobs(api: Api, regions: Sequence[str], *, limit: int = 50) -> list[Launched]:
    """The project's jobs of this program in some regions, the latest first.

    Raises:
      UsageError: they may not be listed.
    """
    found: list[Launched] = []
    for region in dict.fromkeys(regions):
        parent = f"projects/{api.project}/locations/{region}"
        try:
            for kind in (CUSTOM, TUNING):
                found += map(
                    to_launched,
                    kind.list(api.jobs(region), parent, f"labels.{SUBMISSION_LABEL}:*", timeout=RPC_SEC),
                )
        except errors() as error:
            raise explain(error, f"project {api.project}") from error
    return sorted(found, key=lambda job: -job.created_sec)[:limit]
