"""The page of a streaming job: its figures from the tables, each row once; whole, escaped, self-contained."""

import re

import numpy as np
import pytest
import stream_builder as build
from test_report_page import HOSTILE, Page

from beam_vision import stream_table
from beam_vision.errors import UsageError
from beam_vision.reports import stream, stream_charts, stream_collect, stream_timeline
from beam_vision.reports.stream_data import Alert, CameraStory, Percentiles, Span, StreamStory, Window


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("stream") / "tables"
    build.write_all(path)
    return path


@pytest.fixture(scope="module")
def text(folder):
    stream.write_stream_report(str(folder / "page.html"), str(folder), title="Two cameras")
    return (folder / "page.html").read_text()


def camera(story, name):
    return next(item for item in story.cameras if item.name == name)


def test_all_messages_are_accounted_for(folder):
    story = stream_collect.collect(str(folder))
    assert (story.rows, story.gated, story.duplicates, story.failed) == (764, 192, 0, 5)
    assert (story.counted_rows, story.counted_failed) == (764, 4)
    assert sum(camera(story, "moving").rows_by_bin) == 480
    assert camera(story, "moving").rows_by_bin[:3] == [8, 8, 8]
    assert (story.start_sec, story.end_sec, story.bin_sec) == (build.START, build.START + 60, 1)
    assert story.runs == [build.RUN]


def test_states_come_from_alerts_and_cover_the_run(folder):
    spans = camera(stream_collect.collect(str(folder)), "freezing").spans
    assert [(span.state, span.start_sec - build.START, span.end_sec - build.START) for span in spans] == [
        ("ok", 0, 25),
        ("frozen", 25, 44),
        ("ok", 44, 50),
        ("black", 50, 60),
    ]


def test_without_alerts_a_camera_is_as_its_windows_say():
    span = (10.0, 20.0)
    assert stream_collect.spans_of([], [], span) == [Span(10, 20, "ok")]
    assert stream_collect.spans_of([], [{"state": "frozen"}], span) == [Span(10, 20, "frozen")]
    early = [Alert(5.0, "c", "black", "ok", ""), Alert(99.0, "c", "ok", "black", "")]
    assert stream_collect.spans_of(early, [], span) == [Span(10, 20, "black")]


def test_rollouts_have_the_rows_of_their_model(folder):
    rollouts = stream_collect.collect(str(folder)).rollouts
    assert [(item.version, item.swapped) for item in rollouts] == [
        ("v1", True),
        ("v2-cut", False),
        ("v2", True),
    ]
    assert rollouts[0].rows + rollouts[2].rows == 764
    assert rollouts[1].rows == 0
    assert rollouts[2].rows > 300


def test_rows_written_twice_and_corrected_windows_count_once(tmp_path):
    rows = [build.prediction("c", i / 2) for i in range(20)]
    build.write(tmp_path, "predictions", rows, part="part-a")
    build.write(tmp_path, "predictions", rows[5:15], part="part-b")
    build.write(tmp_path, "health", [build.health("c", 0, rows=18, gated=1)], part="part-a")
    build.write(tmp_path, "health", [build.health("c", 0, rows=20, gated=2, pane=1)], part="part-b")
    for pane, count in ((0, 18), (1, 20)):
        counts = [build.windowed("c", 0, pane=pane, **{"class": "cat", "count": count})]
        build.write(tmp_path, "counts", counts, part=f"part-{pane}")
    story = stream_collect.collect(str(tmp_path))
    assert (story.rows, story.counted_rows, story.gated) == (20, 20, 2)
    assert story.classes[0].counts == [[20]]
    assert "every row is in its window" in stream.render(story, "t")


def test_rows_that_no_window_counted_are_said(tmp_path):
    build.write(tmp_path, "predictions", [build.prediction("c", i) for i in range(10)])
    build.write(tmp_path, "health", [build.health("c", 0, rows=7)])
    assert "3 rows are in no window" in stream.render(stream_collect.collect(str(tmp_path)), "t")
    build.write(tmp_path, "health", [build.health("c", 0, rows=12)])
    assert "2 rows that the table lacks" in stream.render(stream_collect.collect(str(tmp_path)), "t")


def test_percentiles_by_stage_are_exact(tmp_path):
    rows = [build.prediction("c", i, total_ms=float(i)) for i in range(101)]
    rows[3]["total_ms"] = None
    build.write(tmp_path, "predictions", rows)
    story = stream_collect.collect(str(tmp_path))
    known = [i for i in range(101) if i != 3]
    assert story.stages["total"] == tuple(np.percentile(known, (50, 95, 99)))
    assert story.stages["decode"] == (4.0, 4.0, 4.0)
    assert list(story.stages) == list(stream_table.STAGES)


def test_any_one_table_is_enough_and_none_is_not(tmp_path):
    with pytest.raises(UsageError, match="no tables of a streaming job"):
        stream.write_stream_report(str(tmp_path / "p.html"), str(tmp_path / "empty"))
    for name, rows in (
        ("failures", [build.failure(None, 1, "bad_message", b"{")]),
        ("alerts", [build.alert("c", 1, "ok", "silent")]),
        ("rollouts", [build.rollout(1, "v1", "d", "refused", "why")]),
        ("health", [build.health("c", 0, failed=2)]),
        ("predictions", [build.prediction("c", 1)]),
    ):
        build.write(tmp_path / name, name, rows)
        seen = Page(stream.render(stream_collect.collect(str(tmp_path / name)), "t"))
        assert (seen.open, seen.unbalanced) == ([], [])


def test_what_a_running_job_has_staged_is_not_read(folder, tmp_path):
    build.write(tmp_path, "predictions", [build.prediction("c", 1)])
    staged = tmp_path / ".staging" / "predictions"
    staged.mkdir(parents=True)
    (staged / "x.parquet").write_bytes(b"half")
    (tmp_path / "part-9.parquet.abc.tmp").write_bytes(b"half")
    assert stream_collect.collect(str(tmp_path)).rows == 1


def test_a_time_far_off_does_not_squeeze_the_others(tmp_path):
    rows = [build.prediction("c", i / 10) for i in range(600)] + [build.prediction("c", -80_000.0)]
    build.write(tmp_path, "predictions", rows)
    story = stream_collect.collect(str(tmp_path))
    assert (story.end_sec - story.start_sec, story.outside) == (60, 1)
    assert "1 row with far-off times not drawn" in stream.render(story, "t")


def test_long_runs_have_wider_bars_and_joined_windows(tmp_path):
    build.write(tmp_path, "predictions", [build.prediction("c", 60.0 * i) for i in range(1440)])
    counts = [build.windowed("c", 60 * i, span=60, **{"class": "cat", "count": 1}) for i in range(1440)]
    build.write(tmp_path, "counts", counts)
    story = stream_collect.collect(str(tmp_path))
    assert len(story.cameras[0].rows_by_bin) <= stream_collect.MAX_BINS
    assert sum(story.cameras[0].rows_by_bin) == 1440
    assert len(story.columns) == 16
    assert story.classes[0].counts == [[90] * 16]
    assert "A column for 5400 seconds" in stream.render(story, "t")


def test_the_page_shows_it_all_and_is_well_formed(text):
    seen = Page(text)
    assert (seen.open, seen.unbalanced) == ([], [])
    said = "".join(seen.text)
    for words in ("Two cameras", "v2 serves", "v2-cut \u2717 refused", "frozen", "black", "half copied"):
        assert words in said
    assert "961" in said
    assert "5.8 s" in said


def test_nothing_is_fetched_and_nothing_runs(text):
    seen = Page(text)
    links = [value for _, name, value in seen.attributes if name in ("src", "href", "action", "srcset")]
    assert links
    assert all(link.startswith(("data:", "#")) for link in links)
    assert not re.search(r"url\(|@import|https?:", text)
    assert "script" not in seen.tags
    assert [v for _, n, v in seen.attributes if n == "content" and "default-src 'none'" in v]


def test_payloads_are_drawn_as_far_as_they_go_or_told(text):
    assert text.count('src="data:image/jpeg') == 3  # two cut off, one whole
    assert "HTTP/1.1 503 &lt;b&gt;" in text
    assert "{broken" in text


def test_payloads_that_are_no_text_are_told_in_hex(tmp_path):
    build.write(tmp_path, "failures", [build.failure("c", 1, "not_an_image", bytes(range(256)))])
    assert "00 01 02 03" in stream.render(stream_collect.collect(str(tmp_path)), "t")


def test_of_large_payloads_only_the_reason_is_shown(tmp_path, monkeypatch):
    monkeypatch.setattr("beam_vision.reports.stream_parts.MAX_EXAMPLE_BYTES", 100)
    broken = [build.failure("c", 1, "too_small", build.jpeg()), build.failure("c", 2, "empty", b"tiny")]
    build.write(tmp_path, "failures", broken)
    groups = stream_collect.collect(str(tmp_path)).broken
    assert {group.reason: group.examples[0].data for group in groups} == {"too_small": b"", "empty": b"tiny"}


def test_hostile_names_stay_text(tmp_path):
    for i, name in enumerate(HOSTILE):
        if name.isprintable():
            part = f"part-{i}"
            row = build.prediction(name, i, label=name, digest=name)
            build.write(tmp_path, "predictions", [row], part=part)
            counted = build.windowed(name, 0, **{"class": name, "count": 3})
            build.write(tmp_path, "counts", [counted], part=part)
            build.write(tmp_path, "health", [build.health(name, 0, rows=1, state=name)], part=part)
            build.write(tmp_path, "alerts", [build.alert(name, i, name, name, name)], part=part)
            build.write(tmp_path, "rollouts", [build.rollout(i, name, name, name, name)], part=part)
            failed = build.failure(name, i, name, name.encode(), detail=name)
            build.write(tmp_path, "failures", [failed], part=part)
    seen = Page(stream.render(stream_collect.collect(str(tmp_path)), HOSTILE[0]))
    assert (seen.open, seen.unbalanced) == ([], [])
    assert "script" not in seen.tags
    assert not [item for item in seen.attributes if item[1].startswith("on")]
    assert "<script>alert(1)</script>.jpg" in "".join(seen.text)


def story_of(cameras):
    return StreamStory(folder="/t", start_sec=0.0, end_sec=60.0, bin_sec=1.0, cameras=cameras)


def test_of_many_cameras_those_with_trouble_are_drawn():
    calm = [CameraStory(name=f"calm{i:02d}", spans=[Span(0, 60, "ok")]) for i in range(40)]
    ill = CameraStory(name="zebra", spans=[Span(0, 30, "ok"), Span(30, 60, "frozen")])
    text = stream.render(story_of([*calm, ill]), "t")
    lanes = text[text.index('id="timelines"') : text.index('id="health"')]
    assert "24 of 41 cameras" in lanes
    assert "zebra" in lanes
    assert lanes.count("calm") == 23


def test_bars_are_as_high_as_their_rates():
    one = CameraStory(name="c", rows_by_bin=[4, 0, 8], windows=[Window(0, 3, rows=12, gated=12)])
    drawn = str(stream_timeline.lanes(story_of([one]), [one]))
    heights = [float(h) for h in re.findall(r"v-([\d.]+)h", drawn)]
    assert heights == [stream_timeline.RATE / 2, stream_timeline.RATE]
    area = re.search(r'class="gated" y="[\d.]+" height="([\d.]+)"', drawn)
    assert float(area[1]) == stream_timeline.RATE


@pytest.mark.parametrize(
    ("span", "ticks"),
    [
        (60.0, ["0:00", "0:05", "0:10"]),
        (3600.0, ["0:00", "5:00", "10:00"]),
        (86_400.0, ["0:00", "2:00", "4:00"]),
    ],
)
def test_ticks_are_round_times_since_the_start(span, ticks):
    axis = stream_timeline.Axis(1000.0, 1000.0 + span, 0, 100)
    found = axis.ticks(12)
    assert [label for _, label in found][:3] == ticks
    assert all(1000 <= at <= 1000 + span for at, _ in found)
    assert (axis(0.0), axis(1e12)) == (0, 100)


def test_a_latency_chart_holds_any_figures():
    for figures in ((0.0, 0.0, 0.0), (1.0, 2.0, 3.0), (5.0, 90_000.0, 9e7), (-3.0, 1.0, 2.0)):
        one = CameraStory(name="c", latency=[Percentiles(0, 10, *figures)])
        drawn = str(stream_charts.latency_chart(story_of([one]), one))
        places = [float(y) for y in re.findall(r"[MV][\d.]+ ?(-?[\d.]+)", drawn)]
        assert "nan" not in drawn
        assert all(-1 <= y <= stream_charts.WIDTH for y in places)
