"""The GPU's benchmark, tried where there may be none."""

import json

import pytest

from beam_vision.testing import images
from benchmarks import gpu


def test_it_runs_and_writes_a_row_for_each_way(tmp_path, capsys):
    (tmp_path / "class_0").mkdir()
    for i in range(8):
        data = images.encode(images.photo(i, 64, 48), "jpeg")
        (tmp_path / "class_0" / f"{i}.jpg").write_bytes(data)
    sizes = ("--lake", str(tmp_path), "--images", "8", "--side_px", "32", "--steps", "2", "--rounds", "1")
    ways = ("--models", "mobilenet_v2", "--batch_sizes", "2", "4", "--decode_threads", "1", "2")
    assert gpu.main(["--folder", str(tmp_path), *sizes, *ways]) == 0
    found = json.loads((tmp_path / "gpu-figures.json").read_text())
    assert "TensorFlow" in found["machine"]
    told = {(row["task"], row["batch_size"], row["decode_threads"]) for row in found["rows"]}
    assert told == {(task, size, n) for task in ("classify", "embed") for size in (2, 4) for n in (1, 2)}
    for row in found["rows"]:
        assert min(row[name] for name in ("resident", "copied", "decode", "handler")) > 0
        assert 0 <= row["waited_share"] <= 1
    written = (tmp_path / "gpu-figures.md").read_text()
    assert written.count("| mobilenet_v2 |") == 8
    assert written in capsys.readouterr().out + "\n"


def test_the_limit_is_the_slower_of_model_and_decoding():
    row = {"model": "resnet50", "task": "embed", "batch_size": 8, "decode_threads": 4, "waited_share": 0.25}
    text = gpu.table([row | {"resident": 1000.0, "copied": 900.0, "decode": 400.0, "handler": 300.0}])
    assert text.splitlines()[-1] == "| resnet50 | embed | 8 | 4 | 1,000 | 900 | 400 | 300 | 75% | 25% |"


def test_an_unknown_model_is_an_argument_error():
    with pytest.raises(SystemExit):
        gpu.parse(["--models", "nothing"])
