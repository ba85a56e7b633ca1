"""The page of a streaming job, from the tables that it wrote: one HTML file that fetches nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from beam_vision import storage
from beam_vision.errors import Stage
from beam_vision.failures import Guard
from beam_vision.reports import stream_sections as sections
from beam_vision.reports.shell import Part, document
from beam_vision.reports.stream_collect import collect
from beam_vision.reports.stream_data import BrokenGroup, StreamStory
from beam_vision.reports.stream_style import CSS
from beam_vision.reports.thumbnails import picture
from beam_vision.types import Failure, ImageRef

PICTURE_BYTES = 2_000_000
"""Bytes of data URIs on one page, at most."""
END_OF_JPEG = b"\xff\xd9"


def write_stream_report(path: str, folder: str, *, title: str = "Camera streams") -> int:
    """Reads a job's tables, draws the page and writes it, aside and then renamed.

    Args:
      path: of the page.
      folder: of the tables; the job may be running.
      title: of the page.

    Returns:
      Its size in bytes.

    Raises:
      UsageError: there are no tables in ``folder``.
    """
    data = render(collect(folder), title).encode("utf-8")
    storage.write_bytes(path, data)
    return len(data)


def render(story: StreamStory, title: str) -> str:
    """The page."""
    return document(title, sections.header(story, title), _parts(story), [_note(story)], css=CSS)


def _parts(story: StreamStory) -> list[Part]:
    drawn = [
        ("timelines", "Cameras over time", bool(story.cameras), lambda: sections.timelines(story)),
        ("health", "Health", bool(story.cameras), lambda: sections.health(story)),
        ("latency", "Latency", bool(story.stages), lambda: sections.latency(story)),
        ("counts", "What they saw", bool(story.columns), lambda: sections.classes(story)),
        ("rollouts", "Model versions", bool(story.rollouts), lambda: sections.rollouts(story.rollouts)),
        (
            "failures",
            "Failures",
            bool(story.broken),
            lambda: sections.broken(story.broken, payload_pictures(story.broken)),
        ),
    ]
    return [(anchor, name, draw()) for anchor, name, present, draw in drawn if present]


def _note(story: StreamStory) -> str:
    return f"Runs: {', '.join(story.runs)}. Times are UTC; those of a frame are its camera's."


def payload_pictures(groups: Sequence[BrokenGroup]) -> Mapping[int, str]:
    """``data:`` URIs of the payloads that can be drawn, by ``id`` of the failure.

    Of a JPEG that was cut off, what there is of it is drawn.
    """
    guard = Guard(lambda data: picture(data).data_uri, Stage.DECODE)
    found, left = {}, PICTURE_BYTES
    for example in (example for group in groups for example in group.examples if example.data):
        ref = ImageRef(example.key, "")
        tries = (guard(ref, data) for data in (example.data, example.data + END_OF_JPEG))
        drawn = next((made for made in tries if not isinstance(made, Failure)), "")
        if drawn and len(drawn) <= left:
            found[id(example)] = drawn
            left -= len(drawn)
    return found
