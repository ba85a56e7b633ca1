"""``beam-vision train``: a model from a TFRecord dataset to a bundle, as one YAML file describes it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from beam_vision.errors import JobError, UsageError
from beam_vision.pipelines import job as jobs
from beam_vision.pipelines.options import make_parser, option, parse
from beam_vision.pipelines.train_launch import LaunchOptions, launch, launches, overrides_of
from beam_vision.records.manifest import DatasetManifest, read_manifest

if TYPE_CHECKING:
    from beam_vision.training.config import JobConfig
    from beam_vision.training.job import Trained

NAME = "train"
DESCRIPTION = (
    "Trains a classifier, an embedder or a detector. A job is described by a YAML file with the sections\n"
    "data, augmentation, model, optimizer, schedule, loss, detector, run, export, launch; --set changes a\n"
    "field of it, and some options below are short names of fields. Without a file a compact classifier\n"
    "(about 110,000 weights) is trained from nothing, on this machine."
)
EXAMPLE = "beam-vision train --dataset dataset/ --output model/ --image_size 64 --max_seconds 60"

SHORT = {
    "dataset": "data.dataset",
    "output": "export.output",
    "overwrite": "export.overwrite",
    "image_size": "data.image_size",
    "epochs": "run.epochs",
    "max_seconds": "run.max_seconds",
    "batch_size": "data.batch_size",
    "learning_rate": "optimizer.learning_rate",
    "seed": "run.seed",
    "work_dir": "run.work_dir",
    "versioned": "export.versioned",
    "gate": "export.gate",
}
"""Options that are short names of fields."""


@dataclass(frozen=True, kw_only=True)
class Options(LaunchOptions):
    """What ``train`` takes; what isn't said is as the file has it, or as the fields' defaults are."""

    config: str = option("", help="YAML file that describes the job", metavar="FILE")
    set: tuple[str, ...] = option(
        (), help="a field of the job, over the file: --set model.dropout=0.2", metavar="NAME=V", repeated=True
    )
    dataset: str = option("", help="the TFRecord dataset, as create-tfrecords writes it", metavar="DIR")
    output: str = option("", help="folder for the model bundle", metavar="BUNDLE")
    overwrite: bool = option(False, help="replace a bundle that is there, once the new one is whole")
    image_size: int | None = option(
        None, help="side of the model's square input in pixels (default: 64)", metavar="PX"
    )
    epochs: int | None = option(None, help="rounds over the train split, at most (default: 30)", metavar="N")
    max_seconds: float | None = option(
        None, help="train for so long at most; 0: no limit (default: 0)", metavar="SEC"
    )
    batch_size: int | None = option(None, help="images a step on each device (default: 64)", metavar="N")
    learning_rate: float | None = option(
        None, help="the highest; it rises at first and falls to 0 (default: 0.003)", metavar="RATE"
    )
    seed: int | None = option(
        None, help="of the first weights, the order and the augmentation (default: 0)", metavar="N"
    )
    work_dir: str = option(
        "", help="folder for checkpoints and curves; a run that was killed goes on from there", metavar="DIR"
    )
    versioned: bool = option(False, help="write a new version below --output; LATEST names it past the gate")
    gate: str = option("", help="what a version must meet to be LATEST, e.g. accuracy>=0.9", metavar="GATE")
    publish: str = option(
        "",
        help="train nothing: bring a bundle that was trained elsewhere, such as the one that a job on Vertex "
        "AI left below its staging folder, to --output, past the gate",
        metavar="BUNDLE",
    )
    preflight_only: bool = option(False, help="check everything, say what would be done, run nothing")


def job_of(options: Options) -> JobConfig:
    """The job that the options describe.

    Raises:
      UsageError: it can't be read, or a value is out of its range.
    """
    from beam_vision.training.config import load_job

    unsaid = {field.name: field.default for field in fields(options)}
    given = {name: getattr(options, name) for name in SHORT if getattr(options, name) != unsaid[name]}
    return load_job(
        options.config or None,
        overrides_of(options.set),
        {f"--{name} {SHORT[name]}": v for name, v in given.items()},
    )


def preflight(options: Options) -> dict[str, Any]:
    """Checks the dataset and the job, and says what would be done.

    Raises:
      UsageError: it can't be trained on, or a value is out of its range.
    """
    return plan_job(job_of(options))


def plan_job(config: JobConfig) -> dict[str, Any]:
    """What would be done; see :func:`preflight`."""
    from beam_vision.pipelines.train_export import check_export
    from beam_vision.training.backbone_weights import check_file
    from beam_vision.training.launch.settings import check_names
    from beam_vision.training.recipe import check_job
    from beam_vision.training.tune_space import read_space

    data = config.data
    if not data.dataset:
        raise UsageError("what to train on isn't said: give --dataset, or data.dataset")
    manifest = read_manifest(data.dataset)
    check_file(config.model.weights)
    check_names(config.launch)
    if config.tune:
        read_space(config)
    check_job(config, manifest)
    check_export(config.export, task=config.task)
    known = {name: split.images - split.unlabelled for name, split in manifest.splits.items()}
    if config.task == "detect":
        known = {name: split.images for name, split in manifest.splits.items()}
    return {
        "dataset": data.dataset,
        "dataset_digest": manifest.dataset_digest,
        "splits": {name: images for name, images in known.items() if images},
        "classes": manifest.box_classes if config.task == "detect" else manifest.classes,
        "output": config.export.output,
        "job": config.to_dict(),
        "job_digest": config.digest,
    }


def run(argv: list[str]) -> int:
    """Trains and writes the bundle; see :mod:`beam_vision.pipelines.cli` for the exit codes."""
    parser = make_parser(NAME, Options, description=DESCRIPTION, example=EXAMPLE, beam=False)
    options, _ = parse(parser, Options, argv, beam=False)
    config = job_of(options)
    if options.publish:
        from beam_vision.pipelines.train_publish import publish_bundle

        publish_bundle(config, options.publish, jobs.say)
        return 0
    if launches(options):
        return launch(options, config, argv, preflight_only=options.preflight_only)
    plan = plan_job(config)
    if options.preflight_only:
        return jobs.show_plan(plan)
    return train(config)


def train(config: JobConfig) -> int:
    """Trains on the train split, stops by the validation split, measures on the test split, exports.

    Returns:
      0; where SIGTERM ended the run before it was over, what a shell says of that: 143.
    """
    from beam_vision.training.job import train_job
    from beam_vision.training.stopping import Interrupted, StopRequest

    manifest = read_manifest(config.data.dataset)
    stop = StopRequest()
    try:
        trained = train_job(config, manifest, jobs.say, stop=stop)
    except Interrupted as error:
        kept = f"in {config.run.work_dir}; the same command goes on from there"
        lost = "nowhere that lasts, since run.work_dir isn't set: the same command begins anew"
        jobs.say(f"{error}: the checkpoint is {kept if config.run.work_dir else lost}")
        return stop.exit_code
    if trained.chief:
        finish(trained, manifest)
    return 0


def finish(trained: Trained, manifest: DatasetManifest) -> None:
    """Says how good the model is, and writes its bundle."""
    said = trained.evaluation
    if said is None:
        jobs.say("there is no test and no validation split: how good the model is was not measured")
    else:
        figures = ", ".join(f"{name} {value:.4g}" for name, value in said.items() if isinstance(value, float))
        jobs.say(f"{said['split']} split: {figures} on {said['images']:,} images")
    write(trained, manifest)


def write(trained: Trained, manifest: DatasetManifest) -> None:
    """Exports the bundle, with the run's history and curves in it.

    Raises:
      JobError: it is a version that missed its gate; it is kept, and ``LATEST`` is as before.
    """
    from beam_vision.pipelines.train_export import export_model
    from beam_vision.training.history import write_curves, write_history

    def add(folder: str) -> None:
        write_history(folder, trained.history)
        write_curves(folder, trained.history, best_epoch=trained.best_epoch)

    made = export_model(trained, manifest, jobs.say, add=add)
    if made.verdict is not None and not made.verdict.passed:
        raise JobError(f"{made.path} missed its gate: {made.verdict.reason}")
