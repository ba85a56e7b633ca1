import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_vision.errors import UsageError
from beam_vision.sources.boxes_csv import has_corners, read_boxes_csv
from beam_vision.types import Box, BoxFrame, Failure, ImageRef


def write(folder, text):
    path = folder / "boxes.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(path)


def read(path, **options):
    return list(read_boxes_csv(path, **options))


def test_the_rows_of_an_image_make_one_ref_wherever_they_stand(tmp_path):
    path = write(
        tmp_path,
        "Filename,width,height,class,XMin,ymin,xmax,ymax,iscrowd,area,split,camera,note\n"
        "a.jpg,640,480,cat,1,2,3,4.5,,,train,c1,x\n"
        "b.jpg,,,,,,,,,,,c2,\n"
        "./a.jpg,640,480,dog|wolf,5,6,7,8,1,3.5,train,c1,y\n"
        "gs://b/c.jpg,10,,, -1,0,5,5,0,,,,\n",
    )
    assert read(path) == [
        ImageRef(
            key=f"{tmp_path}/a.jpg",
            uri=f"{tmp_path}/a.jpg",
            split="train",
            boxes=(Box(1, 2, 3, 4.5, "cat"), Box(5, 6, 7, 8, "dog|wolf", crowd=True, area_px=3.5)),
            attributes={"camera": "c1"},
            frame=BoxFrame("upright", False, 640, 480),
        ),
        ImageRef(
            key=f"{tmp_path}/b.jpg",
            uri=f"{tmp_path}/b.jpg",
            attributes={"width": "", "height": "", "camera": "c2", "note": ""},
        ),
        ImageRef(
            key="gs://b/c.jpg",
            uri="gs://b/c.jpg",
            boxes=(Box(-1, 0, 5, 5),),
            attributes={"width": "10", "height": "", "camera": "", "note": ""},
        ),
    ]
    assert {ref.frame.pixels_of for ref in read(path, boxes_on="stored")} == {"stored"}
    assert read(path, root="/r")[0].uri == "/r/a.jpg"


@pytest.mark.parametrize(
    ("row", "detail"),
    [
        ("a.jpg,x,1,2,,4", "xmax is missing"),
        ("a.jpg,x,1,2,three,4", "xmax is 'three'"),
        ("a.jpg,x,1,2,inf,4", "xmax is 'inf'"),
        ("a.jpg,x,5,2,3,4", "inverted"),
        ("a.jpg,x,1,2,1,4", "no area"),
    ],
)
def test_a_bad_row_is_a_fault_of_its_image(tmp_path, row, detail):
    path = write(tmp_path, f"uri,label,xmin,ymin,xmax,ymax\na.jpg,x,1,2,3,4\n{row}\nb.jpg,,,,,\n")
    a, b = read(path)
    assert (len(a.boxes), len(a.faults), b.boxes, b.faults) == (1, 1, (), ())
    assert (a.faults[0].place, a.faults[0].reason) == ("boxes.csv:3", "bad_box")
    assert detail in a.faults[0].detail


def test_a_row_of_no_image_is_a_failure(tmp_path):
    path = write(
        tmp_path,
        b"uri,split,xmin,ymin,xmax,ymax\na.jpg,train,1,2,3,4\n,,1,2,3,4\na.jpg,test,5,6,7,8\nx,y\n\xff,,1,2,3,4\n",
    )
    found = read(path)
    failed = {item.key: item.detail for item in found if isinstance(item, Failure)}
    assert list(failed) == [f"boxes.csv#{line}" for line in (3, 4, 5, 6)]
    assert "its uri is empty" in failed["boxes.csv#3"]
    assert "split 'test' of" in failed["boxes.csv#4"]
    assert "'train' at boxes.csv:2" in failed["boxes.csv#4"]
    assert [ref.boxes for ref in found if isinstance(ref, ImageRef)] == [(Box(1, 2, 3, 4),)]


def test_four_corner_columns_decide(tmp_path):
    assert has_corners(write(tmp_path, "uri,xmin,YMIN,xmax,ymax\n"))
    assert not has_corners(write(tmp_path, "uri,xmin,ymin,xmax\n"))
    with pytest.raises(UsageError, match="also boxes"):
        has_corners(write(tmp_path, "uri,xmin,ymin,xmax,ymax,boxes\n"))
    with pytest.raises(UsageError, match="no column 'uri'"):
        has_corners(write(tmp_path, "xmin,ymin,xmax,ymax\n"))


CELL = st.sampled_from(["", "1", "2", "nan", "x", '"', "a.jpg", "\n", ",", "1e999"])


@given(st.lists(st.lists(CELL, min_size=6, max_size=7).map(",".join), max_size=6))
def test_any_rows_are_read_and_told(tmp_path_factory, rows):
    text = "\n".join(["uri,label,xmin,ymin,xmax,ymax", *rows])
    for item in read(write(tmp_path_factory.mktemp("csv"), text)):
        assert isinstance(item, ImageRef | Failure)
        if isinstance(item, ImageRef):
            assert all(box.xmin < box.xmax and box.ymin < box.ymax for box in item.boxes)
