"""The report page: complete, escaped, self-contained, bounded; from plain data and real image files."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from beam_vision.reports import charts, page, thumbnails
from beam_vision.reports.data import (
    ClassSheet,
    Confusion,
    Facts,
    FailureGroup,
    Hit,
    Query,
    Report,
    Shown,
    StageRun,
)
from beam_vision.reports.markup import Markup, escape, join, tag
from beam_vision.types import Failure

HOSTILE = [
    "<script>alert(1)</script>.jpg",
    'x" onerror="alert(1)" y=\'.jpg',
    "</style></title><img src=x onerror=alert(1)>.png",
    "\udcff not utf-8.jpg",
    "right\u202eto left.jpg",
    "&amp; already.jpg",
]


class Page(HTMLParser):
    """Collects what a browser would see, and whether every element that is opened is closed."""

    VOID = ("meta", "img", "br", "hr", "link")

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text, self.open, self.unbalanced = [], [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.unbalanced.append(tag)

    def handle_data(self, data):
        self.text.append(data)


def hostile_report():
    """A report with a hostile text in every field that can hold one."""
    images = [Shown(name, f"/lake/{name}", name, HOSTILE[0], 0.5) for name in HOSTILE]
    failures = [Failure(name, name, name, name, name) for name in HOSTILE]
    return Report(
        title=HOSTILE[0],
        subtitle=HOSTILE[1],
        highlights=[(HOSTILE[0], HOSTILE[2])],
        stages=[
            StageRun(name=HOSTILE[0], command=HOSTILE[2], inputs=3, outputs=2, failed=1, note=HOSTILE[1])
        ],
        classes=[ClassSheet(name, 6, 3, images) for name in HOSTILE],
        classes_in_all=99,
        uncertain=images,
        queries=[Query(images[0], [Hit(image, 0.9) for image in images], command=HOSTILE[2])],
        failures=[FailureGroup(name, 9, failures) for name in HOSTILE],
        confusion=Confusion(HOSTILE, [[1] * len(HOSTILE)] * len(HOSTILE), HOSTILE[0]),
        facts=[Facts(HOSTILE[0], [(HOSTILE[1], HOSTILE[2])])],
        notes=[HOSTILE[2]],
    )


def test_hostile_names_stay_text():
    seen = Page(page.render(hostile_report(), {"/lake/" + HOSTILE[0]: "data:image/jpeg;base64,AA=="}))
    assert "script" not in seen.tags
    assert not [item for item in seen.attributes if item[1].startswith("on")]
    assert "<script>alert(1)</script>.jpg" in "".join(seen.text)
    assert "&amp; already.jpg" in "".join(seen.text)


def test_page_is_well_formed():
    seen = Page(page.render(hostile_report(), {}))
    assert seen.unbalanced == []
    assert seen.open == []


def test_nothing_is_fetched_from_anywhere():
    text = page.render(hostile_report(), {"/lake/" + HOSTILE[0]: "data:image/jpeg;base64,AA=="})
    seen = Page(text)
    links = [value for _, name, value in seen.attributes if name in ("src", "href", "action", "srcset")]
    assert links
    assert all(link.startswith(("data:", "#")) for link in links)
    assert not re.search(r"url\(|@import|https?:", text)
    policies = [value for tag_, name, value in seen.attributes if name == "content" and "src" in value]
    assert "default-src 'none'" in policies[0]


def test_a_picture_that_is_no_data_uri_is_not_shown():
    report = Report(title="t", uncertain=[Shown("k", "u")])
    assert "img" not in Page(page.render(report, {"u": "https://example.invalid/x.jpg"})).tags


def test_accounts_that_do_not_balance_are_said_to():
    good = StageRun(name="predict", command="", inputs=10, outputs=7, failed=1, already_done=2)
    bad = StageRun(name="lossy", command="", inputs=10, outputs=7, failed=1)
    assert "accounted for, at every stage" in page.render(Report(title="t", stages=[good]), {})
    text = page.render(Report(title="t", stages=[bad, good]), {})
    assert "unaccounted for: lossy" in text
    assert "at every stage" not in text


def test_empty_parts_are_left_out():
    seen = Page(page.render(Report(title="nothing"), {}))
    assert "section" not in seen.tags
    assert "nothing" in seen.text


def test_links_lead_to_sections():
    seen = Page(page.render(hostile_report(), {}))
    ids = {value for tag_, name, value in seen.attributes if name == "id"}
    assert {value[1:] for tag_, name, value in seen.attributes if name == "href"} == ids


def test_wrong_predictions_and_other_neighbours_are_marked():
    right, wrong = Shown("r", "r", "cat", "cat", 0.9), Shown("w", "w", "cat", "dog", 0.6)
    report = Report(title="t", uncertain=[right, wrong], queries=[Query(right, [Hit(wrong, 0.8)])])
    text = page.render(report, {})
    assert text.count('class="wrong"') == 1
    assert "\u2717 dog" in text
    assert "1 of 1 neighbours have the label" in text
    other = Report(title="t", queries=[Query(right, [Hit(Shown("d", "d", "dog"), 0.8)])])
    assert "0 of 1 neighbours" in page.render(other, {})
    assert "\u2717 dog" in page.render(other, {})


def test_confusion_matrix_counts():
    matrix = Confusion(["a", "b", "c"], [[5, 1, 0], [0, 4, 2], [0, 0, 0]])
    assert charts.total_and_correct(matrix.counts) == (12, 9)
    assert charts.mistakes(matrix) == [("b", "c", 2), ("a", "b", 1)]
    assert charts.mistakes(matrix, most=1) == [("b", "c", 2)]
    assert "a taken for a: 5 (83%)" in charts.confusion_matrix(matrix)


def test_many_classes_give_a_list_of_mistakes_and_no_matrix():
    labels = [f"class {i}" for i in range(200)]
    counts = [[int(i == j) for j in range(200)] for i in range(200)]
    counts[3][4] = 7
    text = page.render(Report(title="t", confusion=Confusion(labels, counts)), {})
    assert "<svg" not in text
    assert "class 4" in text
    assert len(text) < 50_000


def test_written_page_is_bounded_and_shows_pictures(tmp_path):
    rng = np.random.default_rng(0)
    images = []
    for i in range(30):
        path = tmp_path / f"{i}.png"
        Image.fromarray(rng.integers(0, 256, (200, 200, 3), dtype=np.uint8)).save(path)
        images.append(Shown(str(path), str(path), "a", "a", 0.5))
    images.append(Shown("gone", str(tmp_path / "gone.png"), "a", "a", 0.5))
    target = tmp_path / "out" / "report.html"
    size = page.write_report(str(target), Report(title="t", uncertain=images))
    text = target.read_text()
    assert size == len(text.encode())
    assert Page(text).tags.count("img") == 30
    assert text.count("no preview") == 1
    bounded = thumbnails.thumbnails([image.uri for image in images], budget_bytes=100_000)
    assert 1 < len(bounded) < 30
    assert sum(map(len, bounded.values())) <= 100_000


def test_thumbnail_is_small_and_keeps_its_shape(tmp_path):
    path = tmp_path / "wide.jpg"
    Image.new("RGB", (400, 100), (200, 30, 30)).save(path)
    import base64
    import io

    uri = thumbnails.picture(path.read_bytes()).data_uri
    small = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    assert small.size == (112, 28)
    red, green, blue = small.getpixel((50, 10))
    assert red > 180
    assert green < 60
    assert blue < 60


@pytest.mark.parametrize("text", HOSTILE)
def test_escape_gives_no_markup(text):
    escaped = escape(text)
    assert isinstance(escaped, Markup)
    assert not set("<>\"'") & set(escaped)
    assert escape(escaped) == escaped
    escaped.encode("utf-8")


def test_tag_attributes_and_children():
    assert tag("p", "a<b", ["c", None], class_="x y", title='"') == (
        '<p class="x y" title="&quot;">a&lt;bc</p>'
    )
    assert tag("img", src="s", alt=None, loading=False) == '<img src="s">'
    assert join([tag("b", "x"), [[" & "]]]) == "<b>x</b> &amp; "
