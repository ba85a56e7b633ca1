"""A job as Dataflow would get it: submitted by Beam's own code, but into a file.

``--template_location`` makes Beam write the job and send nothing; an endpoint that reads ``localhost`` lets
it stage into local folders, without credentials.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apache_beam.portability.api import beam_runner_api_pb2

from beam_vision.errors import JobError

IMAGE = "us-docker.pkg.dev/my-project/images/beam-vision:1"
PROJECT = "my-project"
REGION = "us-central1"


@dataclass(frozen=True)
class Submitted:
    """What the service would have been sent.

    Attributes:
      job: the job, as JSON: ``environment`` holds the machines.
      proto: the pipeline.
      staged: names of the files staged for the workers.
    """

    job: dict[str, Any]
    proto: beam_runner_api_pb2.Pipeline
    staged: tuple[str, ...]

    @property
    def pool(self) -> dict[str, Any]:
        """The worker pool."""
        return self.job["environment"]["workerPools"][0]

    @property
    def experiments(self) -> list[str]:
        """Beam's and the service's."""
        return self.job["environment"].get("experiments", [])

    @property
    def service_options(self) -> list[str]:
        """``--dataflow_service_options``, accelerators among them."""
        return self.job["environment"].get("serviceOptions", [])

    @property
    def images(self) -> set[str]:
        """Container images of the workers."""
        return {one["containerImage"] for one in self.pool["sdkHarnessContainerImages"]}

    @property
    def steps(self) -> set[str]:
        """Names of the outermost steps."""
        transforms = self.proto.components.transforms.values()
        return {item.unique_name.split("/")[0] for item in transforms}

    def hints(self) -> dict[str, dict[str, str]]:
        """Resource hints by the full name of each step that has any; ``{urn: value}``."""
        environments = self.proto.components.environments
        found = {}
        for item in self.proto.components.transforms.values():
            hints = environments[item.environment_id].resource_hints if item.environment_id else {}
            if hints:
                found[item.unique_name] = {urn: value.decode() for urn, value in hints.items()}
        return found


def dataflow_args(folder: Path, *, endpoint: str = "http://localhost") -> list[str]:
    """Beam's arguments for a submission that reaches no cloud; makes the folders that they name.

    Args:
      folder: what is staged and written goes below it.
      endpoint: of the service; its host must read ``localhost``.
    """
    args = ["--runner=DataflowRunner", "--no_auth", f"--dataflow_endpoint={endpoint}"]
    args += [f"--project={PROJECT}", f"--region={REGION}", "--job_name=job", f"--sdk_container_image={IMAGE}"]
    for name in ("staging", "temp"):
        (folder / name).mkdir(exist_ok=True)
        args.append(f"--{name}_location={folder}/{name}")
    return args


def submitted(run: Callable[[list[str]], int], argv: list[str], tmp_path: Path) -> Submitted:
    """Runs a job with DataflowRunner, up to what it would send.

    Args:
      run: the job's ``run(argv)``.
      argv: its arguments, without those of :func:`dataflow_args`; they win over those.
      tmp_path: a folder that is used for nothing else.

    Raises:
      UsageError: the job refuses its arguments.
      JobError: it ended with an exit code other than 0.
    """
    template = tmp_path / "job.json"
    code = run([*dataflow_args(tmp_path), f"--template_location={template}", *argv])
    if code:
        raise JobError(f"the job ended with exit code {code} and was not submitted")
    written = next((tmp_path / "staging").rglob("pipeline.pb"))
    staged = tuple(sorted(one.name for one in written.parent.iterdir()))
    proto = beam_runner_api_pb2.Pipeline.FromString(written.read_bytes())
    return Submitted(json.loads(template.read_text()), proto, staged)
