"""What runs in a container on Vertex AI: ``python -m beam_vision.training.launch.worker --config gs://...``.

It trains in a child process on the local disk and then copies the model to ``AIP_MODEL_DIR``, its
``model_spec.json`` last, so that no half of a model looks like a whole one. Checkpoints go to
``AIP_CHECKPOINT_DIR`` through the mounted bucket, so that a replica that was taken away goes on where it was.
In a tuning job it takes the trial's values as options and tells the objective of each epoch as it comes.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence

from beam_vision import storage
from beam_vision.errors import UsageError
from beam_vision.training.config import JobConfig, load_job
from beam_vision.training.history import HISTORY_FILE
from beam_vision.training.launch.local import run_local
from beam_vision.training.launch.trial_report import TrialReport

MOUNT = "/gcs"
"""Where Vertex AI mounts all buckets by Cloud Storage FUSE: ``/gcs/BUCKET/...``."""
_LAST = ("model_spec.json",)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(argv: Sequence[str], env: Mapping[str, str] = os.environ, tell: Callable[[str], None] = _say) -> int:
    """Trains the job that the command line describes.

    Args:
      argv: ``--config``, of a tuning job ``--objective``, and the trial's values.
      env: as Vertex AI sets it.
      tell: is called with each line that the training says.

    Returns:
      The training's exit code.
    """
    parser = argparse.ArgumentParser(prog="worker", allow_abbrev=False)
    parser.add_argument("--config", required=True)
    parser.add_argument("--objective", default="")
    given, rest = parser.parse_known_args(argv)
    config = load_job(given.config, trial_values(rest))
    with tempfile.TemporaryDirectory(prefix="beam-vision-job-") as folder:
        model = os.path.join(folder, "model")
        path = os.path.join(folder, "job.json")
        job = here(config, model, env)
        if given.objective and not job.run.work_dir:
            job = job.replace(run={"work_dir": os.path.join(folder, "work")})
        storage.write_json(path, job.to_dict())
        report = TrialReport(
            given.objective if is_chief(env) else "", storage.join(job.run.work_dir, HISTORY_FILE), env
        )

        def pass_on(line: str) -> None:
            if line.startswith("epoch"):
                report.look()
            tell(line)

        code = run_local(["train", "--config", path], pass_on)
        if code or not is_chief(env):
            return code
        report.end()
        target = env.get("AIP_MODEL_DIR", "")
        if target:
            upload(model, target)
            tell(f"the model is in {target}")
    return 0


def trial_values(rest: Sequence[str]) -> dict[str, str]:
    """A trial's values by dotted name, from options such as ``--optimizer__learning_rate=0.01``.

    Raises:
      UsageError: something else is there.
    """
    values = {}
    for word in rest:
        name, is_set, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not is_set:
            raise UsageError(f"unexpected argument {word!r}; a trial's values come as --SECTION__FIELD=VALUE")
        values[name.replace("__", ".")] = value
    return values


def here(config: JobConfig, model: str, env: Mapping[str, str], mount: str = MOUNT) -> JobConfig:
    """The job as it runs in the container: its model on the local disk, its checkpoints in the bucket.

    Args:
      config: as described.
      model: a local folder.
      env: Vertex AI's, with ``AIP_CHECKPOINT_DIR``.
      mount: where buckets are mounted.
    """
    run = {}
    bucket, _, path = env.get("AIP_CHECKPOINT_DIR", "").removeprefix("gs://").partition("/")
    if not config.run.work_dir and bucket and os.path.isdir(os.path.join(mount, bucket)):
        run["work_dir"] = os.path.join(mount, bucket, path)
    export = {"output": model, "versioned": False, "gate": ""}
    return dataclasses.replace(config, launch={}, tune={}).replace(export=export, run=run)


def is_chief(env: Mapping[str, str]) -> bool:
    """Whether this replica exports the model, by ``TF_CONFIG``: the chief, else the first worker."""
    told = json.loads(env.get("TF_CONFIG") or "{}")
    task = told.get("task", {})
    if "chief" in told.get("cluster", {}):
        return task.get("type") == "chief"
    return not task or (task.get("type") == "worker" and int(task.get("index", 0)) == 0)


def upload(folder: str, target: str) -> None:
    """Copies a bundle to another place, what makes it whole last."""
    names = [os.path.relpath(path, folder) for path in storage.list_tree(folder)]
    for name in sorted(names, key=lambda name: (name in _LAST, name)):
        storage.write_bytes(
            storage.join(target, *name.split(os.sep)), storage.read_bytes(os.path.join(folder, name))
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
