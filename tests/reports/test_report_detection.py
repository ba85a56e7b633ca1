"""The detection page: every scene once, boxes where they are, hostile names as text, blanks that say why."""

import re
from collections import Counter
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from beam_vision.reports import detection as d
from beam_vision.reports.curves import path
from beam_vision.reports.data import Report, StageRun
from beam_vision.reports.page import render as render_page
from beam_vision.reports.page import write_report as write_page
from beam_vision.reports.scenes import COLOURS, counted
from beam_vision.reports.thumbnails import Picture, load_pictures

HOSTILE = [
    "<script>alert(1)</script>",
    'x" onerror="alert(1)" y=\'',
    "</style></title></svg><img src=x onerror=alert(1)>",
    "\udcff not utf-8",
    "right\u202eto left",
    "&amp; already",
]
PICTURE = Picture("data:image/jpeg;base64,AA==", 400, 200)
CURVE = [1.0] * 31 + [0.5] * 30 + [0.0] * 40


class Page(HTMLParser):
    """Every element with its attributes, the text, and whether what is opened is closed."""

    VOID = ("meta", "img", "br", "hr", "link")

    def __init__(self, text):
        super().__init__()
        self.elements, self.text, self.open, self.unbalanced = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.unbalanced.append(tag)

    def handle_data(self, data):
        self.text.append(data)

    def of(self, tag, class_=None):
        return [a for t, a in self.elements if t == tag and class_ in (None, *(a.get("class") or "").split())]


def box(kind="hit", label="cat", xyxy=(40, 20, 120, 90), score=0.5):
    return d.DrawnBox(xyxy, label, None if kind in ("miss", "truth", "crowd") else score, kind)


def scene(name="a.jpg", boxes=(), width=400, height=200):
    return d.Scene(f"lake/{name}", f"/lake/{name}", width, height, boxes)


def full_report(words):
    """A report with one of ``words`` in every field that holds text."""
    word = (words * 9)[:9]
    scenes = [
        scene(name, [box(kind, name) for kind in ("hit", "miss", "false_alarm", "crowd")]) for name in words
    ]
    return d.DetectionReport(
        title=word[0],
        subtitle=word[1],
        headlines=[d.Headline(word[0], 0.4321, word[2]), d.Headline(word[1], None)],
        classes=[d.ClassRow(name, 9, 8, 0.1, 0.2, 0.3, None) for name in words],
        curves=[d.Curve(name, iou, CURVE) for name in (None, *words) for iou in (0.5, 0.75)],
        sheets=[d.Sheet(word[2], word[0], scenes, 50), d.Sheet(word[1], word[3], scenes[:2])],
        accounts=d.Accounts(evaluated=7, missing=2, without_truth=1, faults=3, faults_by_reason={word[0]: 3}),
        score_threshold=0.3,
        match_iou=0.5,
        notes=[word[2]],
    )


def pictures_of(report):
    return {each.uri: PICTURE for each in d.scenes_of(report)}


def render(report):
    return d.render(report, pictures_of(report))


@pytest.mark.parametrize("whole", [False, True])
def test_hostile_names_stay_text(whole):
    report = full_report(HOSTILE)
    text = (
        render_page(Report(title="t", detection=report), {}, pictures_of(report)) if whole else render(report)
    )
    seen = Page(text)
    assert seen.unbalanced == []
    assert seen.open == []
    assert not {"script", "img"} & {tag for tag, _ in seen.elements}
    assert not [name for _, attributes in seen.elements for name in attributes if name.startswith("on")]
    said = "".join(seen.text)
    assert "<script>alert(1)</script>" in said
    assert "&amp; already" in said


def test_nothing_is_fetched_and_links_lead_somewhere():
    text = render(full_report(HOSTILE))
    seen = Page(text)
    links = [a["href"] for _, a in seen.elements if "href" in a]
    ids = [a["id"] for _, a in seen.elements if "id" in a]
    assert links
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in links if not link.startswith("data:image/")} <= set(ids)
    assert all(link.startswith(("data:image/", "#")) for link in links)
    assert not re.search(r"url\(|@import|https?:", text)


def test_every_scene_stands_once_on_its_sheet_and_its_bytes_once_on_the_page():
    scenes = [scene(f"{i}.jpg", [box()]) for i in range(5)]
    report = d.DetectionReport(
        title="t", sheets=[d.Sheet("one", "", scenes), d.Sheet("two", "", scenes[1:3])]
    )
    seen = Page(render(report))
    titles = Counter(a["title"] for a in seen.of("figure"))
    assert titles == {"lake/0.jpg": 1, "lake/1.jpg": 2, "lake/2.jpg": 2, "lake/3.jpg": 1, "lake/4.jpg": 1}
    assert len(seen.of("image")) == 5
    assert len(seen.of("use")) == 2


def test_boxes_are_drawn_at_their_pixels():
    boxes = [box("hit", xyxy=(40, 20, 120, 90)), box("miss", xyxy=(300, 150, 400, 200))]
    seen = Page(render(d.DetectionReport(title="t", sheets=[d.Sheet("s", "", [scene(boxes=boxes)])])))
    frame = next(a["viewbox"] for a in seen.of("svg") if a.get("role") == "img")
    _, _, width, height = map(float, frame.split())
    assert width / height == pytest.approx(2, rel=0.01)
    drawn = [tuple(float(a[k]) for k in ("x", "y", "width", "height")) for a in seen.of("rect", "line")][-2:]
    scale = width / 400
    expected = [(40, 20, 80, 70), (300, 150, 100, 50)]
    for found, pixels in zip(sorted(drawn), expected, strict=True):
        assert found == pytest.approx([v * scale for v in pixels], abs=0.02)


def test_kinds_have_styles_of_their_own_and_stand_in_the_legend():
    kinds = ["hit", "false_alarm", "miss", "truth", "crowd"]
    text = render(
        d.DetectionReport(title="t", sheets=[d.Sheet("s", "", [scene(boxes=[box(k) for k in kinds])])])
    )
    seen = Page(text)
    groups = Counter(a["class"] for a in seen.of("g", "box"))
    assert groups == {f"box {kind.replace('_', '-')}": 2 for kind in kinds}  # one in the legend
    corners = [a["class"] for a in seen.of("path", "corner")]
    assert corners == ["corner false-alarm"] * 3  # legend, picture, enlarged picture
    style = text[text.index("<style>") : text.index("</style>")]
    colours = [re.search(rf"\.{kind.replace('_', '-')} {{ --c: (#\w+)", style)[1] for kind in kinds]
    assert len(set(colours)) == len(kinds)
    assert "stroke-dasharray" in re.search(r"\.miss \.line {([^}]*)", style)[1]


def test_detections_without_truth_are_coloured_by_label_and_need_no_legend():
    labels = [f"label {i}" for i in range(COLOURS + 1)]
    report = d.DetectionReport(
        title="t", sheets=[d.Sheet("s", "", [scene(boxes=[box("detection", x) for x in labels])])]
    )
    seen = Page(render(report))
    used = [re.search(r"c\d", a["class"])[0] for a in seen.of("g", "box")]
    assert len(set(used)) == COLOURS
    assert not seen.of("div", "legend")


def test_a_detection_beside_judged_ones_has_no_colour_of_a_label():
    seen = Page(
        render(
            d.DetectionReport(
                title="t", sheets=[d.Sheet("s", "", [scene(boxes=[box("hit"), box("detection")])])]
            )
        )
    )
    assert {a["class"] for a in seen.of("g", "box")} == {"box hit", "box detection"}


def test_figures_and_accounts_are_said():
    said = "".join(Page(render(full_report(["cat"]))).text)
    assert "0.432" in said
    assert "9 images with truth" in said
    assert "7 evaluated" in said
    assert "2 without a row" in said
    assert "count as missed" in said
    assert "3 annotations could not be used (cat 3)" in said
    assert "1 of 50 are shown" in said
    good = d.DetectionReport(title="t", accounts=d.Accounts(evaluated=3))
    assert "every image with truth was evaluated" in d.render(good)


def test_a_metric_that_is_not_defined_is_a_dash_and_no_zero():
    report = d.DetectionReport(title="t", headlines=[d.Headline("AP large", None)])
    said = "".join(Page(d.render(report)).text)
    assert "\u2013" in said
    assert "0.000" not in said


def test_many_classes_are_bounded_to_the_worst():
    rows = [d.ClassRow(f"class {i}", 1, 1, i / 500, 0.5, 0.5, 0.5) for i in range(300)]
    curves = [d.Curve(row.label, 0.5, [row.ap] * 101) for row in rows]
    text = d.render(d.DetectionReport(title="t", classes=rows, curves=curves))
    assert "80 of 300 classes" in text
    assert "23 of 300 classes" in text
    assert ">class 79<" in text
    assert ">class 80<" not in text


def test_a_curve_is_drawn_as_steps():
    curve = d.Curve("a", 0.5, [1.0, 1.0, 0.5], (0.0, 0.5, 1.0))
    assert curve.ap == pytest.approx(2.5 / 3)
    assert path(curve) == "M40.0 8.0H136.0V75.0H232.0"


def test_empty_parts_are_left_out():
    seen = Page(d.render(d.DetectionReport(title="nothing")))
    assert not seen.of("section")
    assert not seen.of("nav")
    assert "nothing" in seen.text


def test_images_that_cannot_be_opened_are_blanks_that_say_why(tmp_path):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (60, 90, 3), dtype=np.uint8)).save(tmp_path / "good.png")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    names = ["good.png", "gone.png", "broken.jpg"]
    scenes = [d.Scene(name, str(tmp_path / name), 90, 60, [box(xyxy=(5, 5, 40, 40))]) for name in names]
    target = tmp_path / "out" / "report.html"
    size = d.write_report(str(target), d.DetectionReport(title="t", sheets=[d.Sheet("s", "", scenes)]))
    text = target.read_text()
    seen = Page(text)
    assert size == len(text.encode())
    assert len(seen.of("figure")) == 3
    assert len(seen.of("image")) == 1
    assert len(seen.of("div", "blank")) == 2
    assert f"not found: there is no file at {tmp_path}/gone.png" in text
    assert text.count("1 found") >= 3


def test_boxes_lie_on_the_upright_image(tmp_path):
    stored = np.zeros((40, 80, 3), np.uint8)
    path_ = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(stored).save(path_, exif=exif)
    (picture,) = load_pictures([str(path_)]).values()
    assert (picture.width_px, picture.height_px) == (40, 80)


def test_a_size_that_is_not_known_is_the_files_and_one_that_changed_is_said():
    unknown = scene("u.jpg", [box(xyxy=(0, 0, 400, 200))], 0, 0)
    changed = scene("c.jpg", [box()], 800, 400)
    seen = Page(render(d.DetectionReport(title="t", sheets=[d.Sheet("s", "", [unknown, changed])])))
    assert float(seen.of("rect", "line")[1]["width"]) == pytest.approx(
        float(seen.of("image")[0]["width"]), abs=0.02
    )
    said = "".join(seen.text)
    assert said.count("400 x 200 now") == 1
    assert "not 800 x 400" in said


def test_counts_are_in_words():
    several = [box("hit"), box("hit"), box("truth"), box("miss"), box("false_alarm"), box("false_alarm")]
    assert counted(scene(boxes=several)) == "2 found, 1 missed, 2 false alarms"
    assert counted(scene(boxes=[box("truth")])) == "1 true object"
    assert counted(scene()) == "no boxes"


def test_the_page_of_a_run_has_it_as_one_section(tmp_path):
    Image.new("RGB", (90, 60), (10, 120, 200)).save(tmp_path / "a.png")
    shown = d.Scene("a.png", str(tmp_path / "a.png"), 90, 60, [box(xyxy=(5, 5, 40, 40))])
    report = d.DetectionReport(
        title="unused", headlines=[d.Headline("mAP", 0.25)], sheets=[d.Sheet("s", "", [shown])]
    )
    run = Report(
        title="run", stages=[StageRun(name="predict", command="", inputs=1, outputs=1)], detection=report
    )
    write_page(str(tmp_path / "r.html"), run)
    seen = Page((tmp_path / "r.html").read_text())
    assert "detection" in {a["id"] for a in seen.of("section")}
    assert len(seen.of("image")) == 1
    assert "0.250" in seen.text
    assert "#detection" in {a["href"] for a in seen.of("a")}
