"""What ``beam-vision plan`` takes besides the options of the job that it plans."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from beam_vision.errors import UsageError
from beam_vision.pipelines import create_tfrecords, predict_options, stream_options
from beam_vision.pipelines.options import SourceOptions, option

if TYPE_CHECKING:
    from beam_vision.planning.prices import Prices


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """How a plan is made."""

    sample: int = option(200, help="look at so many images, spread over the listing", metavar="N")
    seed: int = option(0, help="another number takes another sample", metavar="N")
    repeats: int = option(
        3,
        help="time each step on each image so often, and the model on at least so many batches",
        metavar="N",
    )
    total_images: int = option(
        0, help="plan for so many images; 0: as many as are listed (and --limit allows)", metavar="N"
    )
    deadline_hours: float = option(
        1.0, help="the job is to be done in; decides how many workers there are", metavar="H"
    )
    prices: str = option(
        "", help="a price table of your own (default: the one that is installed)", metavar="FILE"
    )
    gpu_images_per_sec: tuple[str, ...] = option(
        (),
        help="a GPU's measured speed with this model, e.g. l4=1800; in place of the price table's factor",
        metavar="GPU=N",
        repeated=True,
    )
    efficiency: float = option(
        0.8,
        help="share of a vCPU's time that the job's steps get on a worker; the rest is waiting",
        metavar="SHARE",
    )
    vcpu_speed: float = option(
        1.0, help="speed of a worker's vCPU, in cores of this machine", metavar="FACTOR"
    )
    output_format: str = option("table", help="how the plan is printed", choices=("table", "json"))


_NO_PLAN = {
    "gpu_count": "a model uses one GPU, so workers with one are planned; leave it out",
    "right_fit": "workers of one kind are planned; leave it out",
    "metrics_file": "no job is run; give --summary FILE, or --output_format json",
}
"""Options of jobs that a plan refuses, and what to do."""

_NOT_WRITTEN = "not needed here: a plan writes nothing"


@dataclass(frozen=True, kw_only=True)
class PredictOptions(PlanOptions, predict_options.Options):
    """What ``plan predict`` takes: predict's options and the plan's."""

    output: str = option("", help=_NOT_WRITTEN, metavar="DEST")


@dataclass(frozen=True, kw_only=True)
class StreamOptions(PlanOptions, SourceOptions, stream_options.Options):
    """What ``plan stream`` takes: stream's options, the plan's, and images that are like its frames."""

    images_per_sec: float = option(
        help="plan for a stream of so many images a second, of all cameras", metavar="N"
    )
    input: str = option("", help="not needed here: --images says what frames are like", metavar="SRC")
    output: str = option("", help=_NOT_WRITTEN, metavar="DEST")


@dataclass(frozen=True, kw_only=True)
class TfrecordsOptions(PlanOptions, create_tfrecords.Options):
    """What ``plan create-tfrecords`` takes: create-tfrecords' options and the plan's."""

    output: str = option("", help=_NOT_WRITTEN, metavar="DIR")


def check(options: PlanOptions) -> None:
    """Checks the numbers.

    Raises:
      UsageError: one is out of range, or is the job's and decides nothing of a plan.
    """
    for name, instead in _NO_PLAN.items():
        default = type(options).__dataclass_fields__[name].default if hasattr(options, name) else None
        if getattr(options, name, None) != default:
            raise UsageError(f"--{name} decides nothing of a plan: {instead}")
    for name, least in (("sample", 2), ("repeats", 1), ("total_images", 0)):
        if getattr(options, name) < least:
            raise UsageError(f"--{name} is {getattr(options, name)}; it must be {least} or more")
    if not options.deadline_hours > 0:
        raise UsageError(f"--deadline_hours is {options.deadline_hours}; it must be more than 0")


def gpu_speeds(options: PlanOptions, prices: Prices) -> dict[str, float]:
    """The images/s of each GPU that was measured.

    Raises:
      UsageError: one isn't of the form ``l4=1800``, or names a GPU that has no price.
    """
    speeds: dict[str, float] = {}
    for text in options.gpu_images_per_sec:
        name, _, number = text.partition("=")
        try:
            rate = float(number)
        except ValueError:
            rate = math.nan
        if not 0 < rate < math.inf:
            raise UsageError(f"--gpu_images_per_sec {text} must be GPU=IMAGES_PER_SEC, e.g. l4=1800")
        if name not in prices.gpu_hour:
            known = ", ".join(sorted(prices.gpu_hour))
            raise UsageError(f"--gpu_images_per_sec {text}: no price for {name!r}; there are {known}")
        speeds[name] = rate
    return speeds
