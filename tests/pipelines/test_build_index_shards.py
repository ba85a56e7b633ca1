"""``beam-vision build-index --shards``, as it is called."""

import json
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest

from beam_vision import storage
from beam_vision.pipelines.cli import main
from beam_vision.search import shards
from beam_vision.search.index import open_index, open_table
from beam_vision.testing.tables import clustered, write_embeddings
from beam_vision.testing.warehouse_tables import copy_table

ROWS, DIMENSION = 300, 8


@pytest.fixture
def place(tmp_path):
    write_embeddings(str(tmp_path / "table"), clustered(ROWS, DIMENSION), parts=2)
    return ["--table", str(tmp_path / "table"), "--output", str(tmp_path / "index")]


def answers(index):
    return index.search(clustered(20, DIMENSION, seed=6), 7, where="label = 'odd'").neighbors


def test_an_index_in_shards_is_the_table_and_says_what_it_is(place, tmp_path, capsys):
    asked = ["--summary", str(tmp_path / "s.json"), "--metrics_file", str(tmp_path / "m.json")]
    assert main(["build-index", *place, "--shards", "3", *asked]) == 0
    shown = capsys.readouterr()
    assert re.search(r"rows +300 of 8 dimensions\n", shown.out)
    assert re.search(r"shards +3 \(3 made, 0 kept as they were\), at most \d+ rows", shown.out)
    assert re.search(r"recall@10 +1\.000 over all shards on 256 queries, at least 0\.95", shown.out)
    assert "model model-a, preprocessing prep-a" in shown.out
    assert "3 shards, read in 2 tasks" in shown.err
    said = json.loads((tmp_path / "s.json").read_text())
    assert (said["inputs"], said["outputs"], said["failed"], said["already_done"]) == (300, 300, 0, 0)
    assert json.loads((tmp_path / "m.json").read_text())["counters"]["images_done"]["value"] == 300
    assert answers(open_index(place[3])) == answers(open_table(place[1]))
    left = set(os.listdir(place[3])) - {each.name for each in shards.read_manifest(place[3]).shards}
    assert left == {".lock", "manifest.json"}


def test_search_and_check_index_take_it(place, tmp_path, capsys):
    assert main(["build-index", *place, "--shards", "auto", "--shard_rows", "100"]) == 0
    assert main(["build-index", *place[:3], str(tmp_path / "plain"), "--backend", "exact"]) == 0
    capsys.readouterr()
    found = []
    for index in ("index", "plain"):
        asked = ["--key", "lake/00004.jpg", "--k", "4", "--output_format", "json", "--table", place[1]]
        assert main(["search", "--index", str(tmp_path / index), *asked]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[0] == found[1]
    assert len(found[0]) == 4
    checked = ["--table", place[1], "--index", place[3], "--sample", "10", "--output_format", "json"]
    assert main(["check-index", *checked]) == 0
    ways = {each["way"]: each for each in json.loads(capsys.readouterr().out)["ways"]}
    assert ways["index (exact, 3 shards)"]["recall_at_k"] == 1.0
    assert ways["index (exact, 3 shards)"]["worst_score_difference"] == 0.0


def test_an_update_makes_only_the_shard_whose_rows_changed(place, capsys):
    assert main(["build-index", *place, "--shards", "4", "--recall_target", "0.9"]) == 0
    vectors = clustered(ROWS, DIMENSION)
    vectors[40] = -vectors[40]
    write_embeddings(place[1], vectors)
    capsys.readouterr()
    assert main(["build-index", *place, "--incremental"]) == 0  # it knows that it is in shards
    assert re.search(r"shards +4 \(1 made, 3 kept as they were\)", capsys.readouterr().out)
    assert shards.read_manifest(place[3]).recall_target == 0.9
    assert answers(open_index(place[3])) == answers(open_table(place[1]))
    write_embeddings(place[1], vectors, model_digest="model-b")
    assert main(["build-index", *place, "--incremental"]) == 2
    assert "model digests differ: expected model-a, found model-b" in capsys.readouterr().err
    assert answers(open_index(place[3])) == answers(open_table(place[1]))
    write_embeddings(place[1], clustered(ROWS, 4))
    assert main(["build-index", *place, "--incremental"]) == 2
    assert "holds vectors of 8, the table of 4 dimensions" in capsys.readouterr().err


CHILD = """
import os, signal, sys
from beam_vision.pipelines.cli import main
from beam_vision.search import shard_build
publish, done = shard_build.shards.publish_shard, []
def and_die(*arguments):
    if len(done) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    done.append(publish(*arguments))
    return done[-1]
shard_build.shards.publish_shard = and_die
main(sys.argv[1:])
"""


def test_a_killed_build_leaves_the_old_index_and_goes_on_from_where_it_was(place, capsys):
    assert main(["build-index", *place, "--shards", "2"]) == 0
    before = answers(open_index(place[3]))
    write_embeddings(place[1], clustered(ROWS, DIMENSION, seed=4))
    argv = ["build-index", *place, "--shards", "5"]
    killed = subprocess.run([sys.executable, "-c", CHILD, *argv], timeout=240, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert answers(open_index(place[3])) == before
    finished = {name for name in os.listdir(place[3]) if name.startswith("shard-")}
    finished -= {each.name for each in shards.read_manifest(place[3]).shards}
    assert len(finished) == 2
    capsys.readouterr()
    assert main([*argv, "--resume"]) == 0
    assert re.search(r"shards +5 \(3 made, 2 kept as they were\)", capsys.readouterr().out)
    manifest = shards.read_manifest(place[3])
    assert finished < {each.name for each in manifest.shards}
    assert answers(open_index(place[3])) == answers(open_table(place[1])) != before
    assert sorted(os.listdir(place[3])) == sorted(
        [".lock", "manifest.json", *(each.name for each in manifest.shards)]
    )


def test_bad_vectors_end_it_unless_they_may_be_left_out(place, tmp_path, capsys):
    vectors = clustered(ROWS, DIMENSION)
    vectors[7], vectors[9, 1] = 0, np.inf
    write_embeddings(place[1], vectors, parts=2)
    assert main(["build-index", *place, "--shards", "2"]) == 2
    shown = capsys.readouterr().err
    assert "1 not finite (lake/00009.jpg); 1 zero (lake/00007.jpg); leave them out with --skip_bad" in shown
    assert not shards.is_sharded(place[3])
    summary = str(tmp_path / "s.json")
    assert main(["build-index", *place, "--shards", "2", "--skip_bad_vectors", "--summary", summary]) == 0
    said = storage.read_json(summary)
    assert (said["inputs"], said["outputs"], said["failed"]) == (300, 298, 2)
    assert said["failed_by_reason"] == {"not finite": 1, "zero": 1}


def test_preflight_says_what_would_be_done_and_does_nothing(place, tmp_path, capsys):
    asked = ["--shards", "auto", "--shard_rows", "70", "--preflight_only", "--runner", "DataflowRunner"]
    assert main(["build-index", *place, *asked]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["rows"], plan["dimension"], plan["shards"], plan["does"]) == (300, 8, 5, "create")
    assert plan["read_tasks"] == 2
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shards", "zero"], "--shards is a number in 1..10,000 or auto, not 'zero'"),
        (["--shards", "2", "--incremental"], "no index at"),
        (["--shards", "2", "--since", "last"], "--since is for an index of one piece"),
        (["--shards", "2", "--compact"], "--compact goes with --incremental"),
        (["--shards", "2", "--recall_target", "0"], "--recall_target is a share"),
        (["--shards", "2", "--table", "nowhere"], "no table at nowhere"),
        (["--shards", "2", "--runner", "DaskRunner"], "--runner daskrunner is refused"),
        (["--shards", "2", "--runer", "X"], "did you mean --runner?"),
        (["--resume"], "--resume goes with --shards"),
        (
            ["--direct_num_workers=2"],
            "unknown option --direct_num_workers=2: Beam's options go with --shards",
        ),
    ],
)
def test_wrong_arguments_end_with_exit_code_2(place, capsys, arguments, message):
    assert main(["build-index", *place, *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("pieces", [["--shards", "2"], []], ids=["shards", "one piece"])
def test_an_index_is_neither_written_over_its_table_nor_over_a_file(place, tmp_path, capsys, pieces):
    part = sorted((tmp_path / "table").glob("*.parquet"))[0]
    before = sorted(os.listdir(tmp_path / "table"))
    for table in (place[1], str(part)):
        asked = ["--table", table, "--output", place[1] + "/", *pieces]
        assert main(["build-index", *asked]) == 2
        assert "is the folder of the table" in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path / "table")) == before
    assert main(["build-index", *place[:3], str(part), *pieces]) == 2
    assert "is a file; an index is a folder" in capsys.readouterr().err


def test_one_piece_does_not_become_shards_nor_shards_one_piece(place, capsys):
    assert main(["build-index", *place]) == 0
    assert main(["build-index", *place, "--shards", "2"]) == 2
    assert "is of an index in a single piece; leave out --shards" in capsys.readouterr().err
    other = [*place[:3], place[3] + "-s"]
    assert main(["build-index", *other, "--shards", "2"]) == 0
    assert main(["build-index", *other]) == 2
    assert "is an index in shards, and this would" in capsys.readouterr().err
    assert main(["build-index", *other, "--incremental", "--shards", "3"]) == 2
    assert "has 2 shards, and --incremental keeps that" in capsys.readouterr().err
    assert main(["build-index", *other, "--since", "last"]) == 2
    assert "--since is for an index of one piece" in capsys.readouterr().err


def test_from_a_bucket_to_a_bucket_and_searched_as_a_copy(gcs, tmp_path, capsys):
    """Workers need no disk in common: rows, shards and manifest go through the bucket."""
    write_embeddings(str(tmp_path / "table"), clustered(ROWS, DIMENSION), parts=2)
    table, index = storage.join(gcs, "sharded-table"), storage.join(gcs, "sharded-index")
    for name in os.listdir(tmp_path / "table"):
        storage.write_bytes(storage.join(table, name), (tmp_path / "table" / name).read_bytes())
    argv = ["build-index", "--table", table, "--output", index, "--shards", "2"]
    assert main(argv) == 0
    names = {each.name for each in shards.read_manifest(index).shards}
    inside = storage.list_tree(index)
    assert {path.removeprefix(index + "/").partition("/")[0] for path in inside} == {"manifest.json", *names}
    assert not [path for path in inside if path.endswith((".tmp", ".lock", ".arrow"))]
    assert main(["search", "--index", index, "--key", "lake/00001.jpg"]) == 2
    assert "an index is a local folder" in capsys.readouterr().err
    for path in inside:
        storage.write_bytes(str(tmp_path / "copy" / path.removeprefix(index + "/")), storage.read_bytes(path))
    assert answers(open_index(str(tmp_path / "copy"))) == answers(open_table(str(tmp_path / "table")))
    capsys.readouterr()
    assert main([*argv, "--incremental"]) == 0
    assert re.search(r"shards +2 \(0 made, 2 kept as they were\)", capsys.readouterr().out)


def test_on_dataflow_the_whole_job_is_in_the_pipeline(gcs, tmp_path, capsys):
    """What is left to do after the run would not be done: a template's launcher ends before the job runs."""
    from beam_vision.pipelines import build_index
    from beam_vision.testing.dataflow_job import submitted

    write_embeddings(str(tmp_path / "table"), clustered(ROWS, DIMENSION))
    table, output = storage.join(gcs, "dataflow-table"), storage.join(gcs, "dataflow-index")
    for name in os.listdir(tmp_path / "table"):
        storage.write_bytes(storage.join(table, name), (tmp_path / "table" / name).read_bytes())
    (tmp_path / "job").mkdir()
    argv = ["--table", table, "--output", output, "--shards", "3", "--max_num_workers=3"]
    sent = submitted(build_index.run, argv, tmp_path / "job")
    names = {each.unique_name for each in sent.proto.components.transforms.values()}
    for step in ("PartRows", "MergeFacts", "CheckRows", "ByShard", "BuildShard", "Commit", "Clean"):
        assert f"BuildShards/{step}" in names
    assert "the job was written to" in capsys.readouterr().err
    assert not storage.exists(storage.join(output, "manifest.json"))


def test_from_bigquery(place, warehouse, tmp_path, capsys):
    facts = {"embedding_dim": DIMENSION, "model_digest": "model-a", "preprocessing_digest": "prep-a"}
    table = copy_table(place[1], warehouse, "lake", facts=facts)
    argv = ["build-index", "--table", table, *place[2:], "--shards", "2"]
    assert main(argv) == 0, capsys.readouterr().err
    assert answers(open_index(place[3])) == answers(open_table(table))
    assert shards.read_manifest(place[3]).table == table
