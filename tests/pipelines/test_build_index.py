"""``beam-vision build-index``, as it is called."""

import json
import re

import numpy as np
import pytest

from beam_vision import deps
from beam_vision.pipelines.cli import main
from beam_vision.search.index import open_index
from beam_vision.testing.tables import clustered, write_embeddings


@pytest.fixture
def place(tmp_path):
    write_embeddings(str(tmp_path / "table"), clustered(310, 8)[:300])
    return ["--table", str(tmp_path / "table"), "--output", str(tmp_path / "index")]


def test_builds_an_index_and_prints_what_it_is(place, tmp_path, capsys):
    summary = str(tmp_path / "summary.json")
    assert main(["build-index", *place, "--summary", summary]) == 0
    shown = capsys.readouterr()
    assert re.search(r"rows +300 of 8 dimensions \(300 added, 0 replaced, 0 deleted\)", shown.out)
    assert re.search(r"backend +exact\n", shown.out)
    assert re.search(r"recall@10 +1\.000 on 256 queries, at least 0\.95 was asked for", shown.out)
    assert "model model-a, preprocessing prep-a" in shown.out
    assert "reading 300 rows" in shown.err
    with open(summary) as file:
        said = json.load(file)
    assert (said["inputs"], said["outputs"], said["failed"], said["failed_by_reason"]) == (300, 300, 0, {})
    assert said["digests"] == {"model": "model-a", "preprocessing": "prep-a"}
    assert len(open_index(place[3])) == 300


@pytest.mark.skipif(not deps.have("scann"), reason="there is no ScaNN for this platform")
def test_a_backend_and_target_can_be_asked_for_and_stay(place, capsys):
    assert main(["build-index", *place, "--backend", "scann_tree", "--recall_target", "0.8"]) == 0
    assert re.search(
        r"backend +scann_tree \(leaves 17, reorder \d+, leaves_to_search \d+\)", capsys.readouterr().out
    )
    vectors = clustered(310, 8)[:301]
    write_embeddings(place[1], vectors)
    assert main(["build-index", *place, "--incremental"]) == 0
    shown = capsys.readouterr().out
    assert "not trained again" in shown
    manifest = open_index(place[3]).manifest
    assert (manifest.backend, manifest.recall_target, manifest.rows) == ("scann_tree", 0.8, 301)


def test_update_says_what_changed(place, capsys):
    assert main(["build-index", *place]) == 0
    write_embeddings(place[1], clustered(310, 8)[20:], keys=[f"lake/{i:05d}.jpg" for i in range(20, 310)])
    assert main(["build-index", *place, "--incremental"]) == 0
    assert "290 of 8 dimensions (10 added, 0 replaced, 20 deleted)" in capsys.readouterr().out


def test_bad_vectors_end_it_unless_they_may_be_left_out(place, tmp_path, capsys):
    vectors = clustered(300, 8)
    vectors[7] = 0
    write_embeddings(place[1], vectors)
    assert main(["build-index", *place]) == 2
    assert "1 zero (lake/00007.jpg); leave them out with --skip_bad_vectors" in capsys.readouterr().err
    summary = str(tmp_path / "summary.json")
    assert main(["build-index", *place, "--skip_bad_vectors", "--summary", summary]) == 0
    assert re.search(r"left out +1 vectors zero", capsys.readouterr().out)
    with open(summary) as file:
        said = json.load(file)
    assert (said["inputs"], said["outputs"], said["failed"]) == (300, 299, 1)


def test_preflight_says_what_would_be_done_and_does_nothing(place, tmp_path, capsys):
    assert main(["build-index", *place, "--preflight_only"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["rows"], plan["dimension"], plan["backend"], plan["does"]) == (300, 8, "exact", "create")
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--incremental"], "no index at"),
        (["--recall_target", "1.5"], "--recall_target is a share"),
        (["--table", "nowhere"], "no table at nowhere"),
        (["--output", "gs://bucket/index"], "an index is a local folder"),
        (["--backnd", "exact"], "did you mean --backend?"),
        (["--runner", "DataflowRunner"], "unknown option --runner"),
    ],
)
def test_wrong_arguments_end_with_exit_code_2(place, capsys, arguments, message):
    assert main(["build-index", *place, *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_table_without_embeddings_says_how_to_make_them(place, capsys):
    path = f"{place[1]}/manifest.json"
    with open(path) as file:
        manifest = json.load(file)
    with open(path, "w") as file:
        json.dump({**manifest, "embedding_dim": None}, file)
    assert main(["build-index", *place]) == 2
    assert "predict --task embed" in capsys.readouterr().err


def test_help_shows_types_choices_defaults_and_an_example(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["build-index", "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert "{auto,exact,scann_ah,scann_tree}" in shown
    assert "default: 0.95" in shown
    assert "beam-vision build-index --table embedded/" in shown
    assert "Apache Beam" not in shown


def test_a_non_finite_vector_is_named(place, capsys):
    vectors = clustered(300, 8)
    vectors[11, 3] = np.inf
    write_embeddings(place[1], vectors)
    assert main(["build-index", *place, "--backend", "exact"]) == 2
    assert "1 not finite (lake/00011.jpg)" in capsys.readouterr().err
