"""``beam-vision synth-detection``: simulated scenes with exact boxes, as images and COCO annotations."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from beam_vision import deps, storage
from beam_vision.errors import JobError, UsageError
from beam_vision.pipelines import job as jobs
from beam_vision.pipelines.options import CommonOptions, make_parser, option, parse
from beam_vision.records.splits import parse_splits
from beam_vision.synth import layout
from beam_vision.synth.layout import Job
from beam_vision.synth.settings import IMAGE_FORMATS, SceneSettings

if TYPE_CHECKING:
    import apache_beam as beam

NAME = "synth-detection"
DESCRIPTION = (
    "Pastes cut-outs with alpha on backgrounds, and writes the scenes as images and annotations.json (COCO)\n"
    "with the exact boxes of what is visible of each object. Scene N depends on the seed, on N and on the\n"
    "material alone. Without folders of yours: scanned digits on photographs."
)
EXAMPLE = "beam-vision synth-detection --output scenes/ --count 1000 --cutouts cutouts/ --backgrounds photos/"
MATERIAL = "material"
DEFAULTS = SceneSettings()


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """What ``synth-detection`` takes."""

    output: str = option(help="folder for the scenes: empty, or with earlier ones", metavar="DIR")
    count: int = option(500, help="how many scenes", metavar="N")
    cutouts: str = option(
        "",
        help="folder of class folders with cut-outs: images with alpha; one without alpha is pasted whole "
        "(default: scanned digits)",
        metavar="DIR",
    )
    backgrounds: str = option(
        "", help="folder of images to paste on (default: photographs of scikit-image)", metavar="DIR"
    )
    size: str = option(
        f"{DEFAULTS.width_px}x{DEFAULTS.height_px}", help="of a scene in pixels", metavar="WIDTHxHEIGHT"
    )
    objects: str = option("1-6", help="the least and the most objects of a scene", metavar="A-B")
    scale: str = option(
        "0.15-0.45",
        help="the least and the greatest length of an object's longer side, as a share of the scene's "
        "shorter side",
        metavar="A-B",
    )
    rotation: float = option(DEFAULTS.rotation_deg, help="turn objects by up to so many degrees, either way")
    flip: bool = option(False, help="mirror half of the objects, left to right")
    brightness: float = option(
        DEFAULTS.brightness, help="make objects and backgrounds lighter or darker by up to this share"
    )
    min_visible: float = option(
        DEFAULTS.min_visible,
        help="the least share of an object that must stay visible; what would hide more is put elsewhere",
    )
    image_format: str = option(
        DEFAULTS.image_format, help="of the scenes' files", choices=tuple(IMAGE_FORMATS)
    )
    jpeg_quality: int = option(DEFAULTS.jpeg_quality, help="1 to 100", metavar="Q")
    splits: str = option(
        "",
        help="splits and their shares, as train=0.8,test=0.2: each image says its split, and no cut-out "
        "and no background is in two (default: no splits)",
    )
    seed: int = option(0, help="another number gives other scenes", metavar="N")


def scene_settings(options: Options) -> SceneSettings:
    """What the options ask for.

    Raises:
      UsageError: a value that doesn't read, or out of its range.
    """
    width_px, height_px = _pair(options.size, "size", "x", int)
    return SceneSettings(
        width_px=width_px,
        height_px=height_px,
        objects=_pair(options.objects, "objects", "-", int),
        scale=_pair(options.scale, "scale", "-", float),
        rotation_deg=options.rotation,
        flip=options.flip,
        brightness=options.brightness,
        min_visible=options.min_visible,
        image_format=options.image_format,
        jpeg_quality=options.jpeg_quality,
        seed=options.seed,
        splits=parse_splits(options.splits) if options.splits else {},
    )


def _pair(text: str, name: str, between: str, kind: Any) -> Any:
    """``A-B`` as two numbers; ``A`` alone stands for both."""
    first, found, second = text.lower().partition(between)
    try:
        return kind(first), kind(second if found else first)
    except ValueError as error:
        raise UsageError(f"--{name} {text!r} doesn't read as A{between}B with two numbers") from error


def plan_job(options: Options, *, run_id: str = "") -> Job:
    """What is asked for.

    Raises:
      UsageError: a value out of its range.
    """
    if options.count < 1:
        raise UsageError(f"--count {options.count} is less than 1")
    return Job(
        folder=storage.absolute(options.output),
        count=options.count,
        settings=scene_settings(options),
        resume=options.resume,
        run_id=run_id,
    )


def failures_folder(options: Options) -> str:
    """Where the dead letter goes."""
    return storage.absolute(options.failures or storage.join(options.output, "failures"))


def preflight(options: Options) -> dict[str, Any]:
    """Checks what can be checked before anything is made, and says what would be done.

    Raises:
      UsageError: the job can't run as asked.
    """
    job = plan_job(options)
    for name in ("cutouts", "backgrounds"):
        folder = getattr(options, name)
        if not folder:
            check_default_material()
        elif not storage.is_folder(storage.absolute(folder)):
            raise UsageError(f"--{name} {folder}: no such folder")
        elif f"{job.folder}/".startswith(f"{storage.absolute(folder).rstrip('/')}/"):
            raise UsageError(f"--output {job.folder} lies within --{name} {folder}; take a folder outside it")
    failures = failures_folder(options)
    inside = failures.removeprefix(job.folder + "/")
    also = [MATERIAL, *([inside.partition("/")[0]] if inside != failures else [])]
    layout.check_output(job.folder, also_allowed=also)
    return {
        "job": NAME,
        "output": job.folder,
        "count": job.count,
        "cutouts": options.cutouts or "scanned digits",
        "backgrounds": options.backgrounds or "photographs of scikit-image",
        "settings": job.settings.to_json(),
        "settings_digest": job.settings.digest,
        "resume": options.resume,
        "failures": failures,
    }


def check_default_material() -> None:
    """Raises UsageError unless what scenes are made of by default is installed."""
    for module in ("sklearn", "skimage"):
        if not deps.have(module):
            deps.need(module)


def material_folders(options: Options) -> dict[str, str]:
    """The folder of each kind of material; what isn't given is written below the output."""
    from beam_vision.pipelines.synth_material import write_material

    given = {"cutout": options.cutouts, "background": options.backgrounds}
    if not all(given.values()):
        own = write_material(storage.join(storage.absolute(options.output), MATERIAL))
        given = {kind: folder or default for (kind, folder), default in zip(given.items(), own, strict=True)}
    return {kind: storage.absolute(folder).rstrip("/") for kind, folder in given.items()}


def build(pipeline: beam.Pipeline, options: Options, folders: dict[str, str], *, run_id: str) -> None:
    """Adds the job to a pipeline.

    Args:
      pipeline: takes it.
      options: the job's.
      folders: of the material, as :func:`material_folders` gives them.
      run_id: this run.
    """
    import apache_beam as beam

    from beam_vision.sinks.transforms import WriteFailures
    from beam_vision.sources.files import read_image
    from beam_vision.sources.listing import list_folder
    from beam_vision.synth.transforms import CommitScenes, FindMaterial, MakeScenes

    job = plan_job(options, run_id=run_id)
    found = pipeline | "FindMaterial" >> FindMaterial(
        folders, job.settings, list_=list_folder, read=read_image, run_id=run_id
    )
    made = found.material | "MakeScenes" >> MakeScenes(job, read_image)
    report = (
        (found.failed, made.failed)
        | "AllFailed" >> beam.Flatten()
        | WriteFailures(failures_folder(options), run_id=run_id, job=NAME, output=job.folder)
    )
    refused = found.failed | "CountRefused" >> beam.combiners.Count.Globally()
    made.good | "CommitScenes" >> CommitScenes(job, material=found.material, refused=refused, report=report)


def summarise(options: Options, run_id: str, wall_sec: float) -> jobs.Summary:
    """The accounts of a run, from what it committed."""
    folder = storage.absolute(options.output)
    made = layout.read_accounts(folder)
    if made is None or made["run_id"] != run_id:
        raise JobError(f"another run has written to {folder} since this one began")
    return jobs.Summary(
        job=NAME,
        run_id=run_id,
        **{name: made[name] for name in ("inputs", "outputs", "failed", "already_done", "failed_by_reason")},
        images_per_sec=made["inputs"] / max(wall_sec, 1e-9),
        wall_sec=wall_sec,
        stage_sec={"make scenes": made["make_sec"]},
        digests={"settings": made["settings_digest"], "material": made["material_digest"]},
        output=folder,
        failures=failures_folder(options),
        notes=_notes(made),
    )


def _notes(made: dict[str, Any]) -> list[str]:
    notes = [
        f"{made['objects']:,} objects of {len(made['labels'])} classes, from {made['cutouts']:,} cut-outs "
        f"on {made['backgrounds']:,} backgrounds"
    ]
    if made["splits"]:
        notes.append(
            ", ".join(f"{name}: {scenes:,} scenes" for name, scenes in sorted(made["splits"].items()))
        )
    if made["files_refused"]:
        notes.append(f"{made['files_refused']:,} cut-outs and backgrounds failed; they count as inputs, too")
    if made["cutouts_opaque"]:
        notes.append(f"{made['cutouts_opaque']:,} cut-outs have no alpha and were pasted whole")
    if made["objects_left_out"]:
        notes.append(f"{made['objects_left_out']:,} objects found no room in their scene and were left out")
    return notes


def run(argv: list[str]) -> int:
    """Runs the job; see :mod:`beam_vision.pipelines.cli` for the exit codes."""
    parser = make_parser(NAME, Options, description=DESCRIPTION, example=EXAMPLE)
    options, beam_args = parse(parser, Options, argv)
    plan = preflight(options)
    if options.preflight_only:
        return jobs.show_plan(plan)
    run_id, start = jobs.new_run_id(), time.monotonic()
    layout.begin(plan_job(options, run_id=run_id))
    folders = material_folders(options)
    names = ("output", "failures", "cutouts", "backgrounds")
    ran = jobs.execute(
        lambda pipeline: build(pipeline, options, folders, run_id=run_id),
        beam_args,
        paths={f"--{name}": getattr(options, name) for name in names},
    )
    if ran.template:
        return jobs.written(ran)
    summary = summarise(options, run_id, time.monotonic() - start)
    return jobs.finish(summary, options, ran)
