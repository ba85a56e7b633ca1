"""``beam-vision plan``: a real model over a real lake, from the command line to the table."""

import json
import re
import shutil
from pathlib import Path

import pytest

from beam_vision.errors import UsageError
from beam_vision.pipelines import cli, plan
from beam_vision.planning.prices import OWN_FILE, read_prices
from beam_vision.testing import images, models


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plan") / "lake"
    images.make_lake(folder, per_class=8)
    (folder / "red" / "broken.jpg").write_bytes(b"no image")
    return str(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return models.save_saved_model(str(tmp_path_factory.mktemp("plan-model") / "model"))


def predict_args(lake, model, *more):
    return ["predict", "--task", "classify", "--images", lake, "--model", model, "--no-check_model", *more]


def test_predict_as_json(lake, model, tmp_path, capsys):
    summary = tmp_path / "plan.json"
    more = ("--output_format", "json", "--sample", "25", "--gpu_images_per_sec", "l4=1800")
    assert plan.run(predict_args(lake, model, *more, "--summary", str(summary))) == 0
    found = json.loads(capsys.readouterr().out)
    assert json.loads(summary.read_text()) == found
    assert (found["job"], found["images"], found["lake"]["sampled"]) == ("predict", 25, 25)
    failures = {item["name"]: item["images"] for item in found["lake"]["failures"]}
    assert failures == {"not_an_image": 1}
    steps = {step["name"]: step for step in found["steps"]}
    assert list(steps) == ["read", "decode", "model", "results", "Beam"]
    assert all(0 <= s["cpu_ms"]["low"] <= s["cpu_ms"]["value"] <= s["cpu_ms"]["high"] for s in steps.values())
    assert sum(step["share"] for step in steps.values()) == pytest.approx(1, abs=0.05)
    assert {item["machine"]["name"] for item in found["workers"]} == {m.name for m in read_prices().machines}
    costs = [item["cost_per_million"]["value"] for item in found["workers"]]
    assert costs == sorted(costs)
    with_gpu = [item for item in found["workers"] if item["machine"]["gpu"]]
    assert {item["machine"]["gpu"] for item in with_gpu} == {"t4", "l4", "a100", "a100_80gb"}
    assert all(item["vcpus_per_gpu"]["value"] > 0 for item in with_gpu)
    said = " ".join(found["assumptions"])
    assert "one l4 runs the model on 1,800 images/s" in said
    assert "one t4 runs the model as fast as 60 (30 to 120) vCPUs" in said
    assert read_prices().date in said


def test_the_same_sample_is_looked_at_again(lake, model, capsys):
    found = []
    for seed in ("1", "1", "2"):
        plan.run(predict_args(lake, model, "--output_format", "json", "--sample", "6", "--seed", seed))
        lake_found = json.loads(capsys.readouterr().out)["lake"]
        found.append((lake_found["formats"], lake_found["mean_bytes"]))
    assert found[0] == found[1] != found[2]


def test_create_tfrecords_as_a_table(lake, capsys):
    assert cli.main(["plan", "create-tfrecords", "--images", lake, "--total_images", "5000000"]) == 0
    text = capsys.readouterr().out
    assert "25 images, 25 looked at" in text
    assert re.search(r"fails +4\.0 % +0\.7 \.\. 19\.5 % +not_an_image", text)
    assert "decode and encode" in text
    assert "5,000,000 images on Dataflow (us-central1, list prices of " in text
    assert "n1-standard-16" in text
    assert "g2-standard" not in text  # there is no model for a GPU
    assert "assumed:" in text


def test_a_stream_is_planned_for_an_hour(lake, model, capsys):
    argv = ["stream", *predict_args(lake, model)[1:], "--images_per_sec", "500", "--output_format", "json"]
    assert plan.run(argv) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["mode"], found["images"]) == ("streaming", 1_800_000)
    by_name = {item["machine"]["name"]: item for item in found["workers"] if not item["machine"]["gpu"]}
    small = by_name["n1-standard-4"]
    assert small["worker_hour"] == pytest.approx(4 * 0.069 + 15 * 0.0035557 + 25 * 0.000054)
    assert small["run_sec"]["value"] == 3600
    files = 2 * found["lake"]["mean_bytes"] * found["images"] / 2**30 * 0.018
    assert small["cost"]["value"] == pytest.approx(small["workers"] * small["worker_hour"] + files, rel=0.2)
    with pytest.raises(UsageError, match="--images_per_sec is -1"):
        plan.run(["stream", *predict_args(lake, model)[1:], "--images_per_sec", "-1"])


def test_beams_own_options_say_which_workers_and_how_many(lake, capsys):
    argv = ["create-tfrecords", "--images", lake, "--total_images", "1000000000", "--output_format", "json"]
    assert plan.run([*argv, "--worker_machine_type", "n1-standard-8", "--max_num_workers=3"]) == 0
    found = json.loads(capsys.readouterr().out)
    (worker,) = found["workers"]
    assert (worker["machine"]["name"], worker["workers"], worker["in_time"]) == ("n1-standard-8", 3, False)
    assert any("not done in time: n1-standard-8" in note for note in found["notes"])


def test_only_the_gpu_that_the_job_asks_for(lake, model, capsys):
    assert plan.run(predict_args(lake, model, "--gpu", "l4", "--output_format", "json")) == 0
    workers = json.loads(capsys.readouterr().out)["workers"]
    assert {item["machine"]["gpu"] for item in workers} == {"", "l4"}


@pytest.mark.parametrize("more", [("--gpu_count", "2"), ("--right_fit",), ("--metrics_file", "m.json")])
def test_options_that_decide_nothing_of_a_plan_are_refused(lake, model, more):
    with pytest.raises(UsageError, match=f"{more[0]} decides nothing of a plan: "):
        plan.run(predict_args(lake, model, "--gpu", "l4", *more))


def test_a_model_that_is_not_there_is_said_before_images_are_listed(lake, capsys):
    assert cli.main(["plan", *predict_args(lake, "/nowhere")]) == 2
    said = capsys.readouterr().err
    assert "no model at /nowhere" in said
    assert "listing" not in said


def test_a_plan_from_a_single_image_says_that_it_is_rough(lake, tmp_path, capsys):
    one = next(path for path in Path(lake).rglob("*.jpg") if path.name != "broken.jpg")
    (tmp_path / "one").mkdir()
    shutil.copy(one, tmp_path / "one" / "a b ü.jpg")
    assert plan.run(["create-tfrecords", "--images", f"{tmp_path}/one", "--total_images", "1000000"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("1 image, 1 looked at")
    assert "only 1 image looked at: figures are rough" in said
    assert "GPU busy" not in said, "there is no GPU"


def test_a_price_table_of_ones_own(lake, tmp_path, capsys):
    content = json.loads(OWN_FILE.read_text()) | {"currency": "EUR", "region": "mars", "date": "2030-01-02"}
    (tmp_path / "prices.json").write_text(json.dumps(content))
    assert plan.run(["create-tfrecords", "--images", lake, "--prices", str(tmp_path / "prices.json")]) == 0
    text = capsys.readouterr().out
    assert "(mars, list prices of 2030-01-02)" in text
    assert "EUR a million" in text


def test_preflight_measures_nothing(lake, capsys):
    assert plan.run(["create-tfrecords", "--images", lake, "--preflight_only"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["job"] == "plan create-tfrecords"
    assert found["prices"]["currency"] == "USD"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--sample", "1"), "--sample is 1"),
        (("--repeats", "0"), "--repeats is 0"),
        (("--deadline_hours", "0"), "--deadline_hours is 0"),
        (("--efficiency", "2"), "--efficiency is 2"),
        (("--gpu_images_per_sec", "l4"), "must be GPU=IMAGES_PER_SEC"),
        (("--gpu_images_per_sec", "l4=-1"), "must be GPU=IMAGES_PER_SEC"),
        (("--gpu_images_per_sec", "l5=10"), "no price for 'l5'"),
        (("--worker_machine_type", "z9-tiny"), "z9-tiny is not in the price table"),
        (("--jpeg_quality", "0"), "--jpeg_quality 0"),
    ],
)
def test_what_can_not_be_planned_is_refused(lake, more, message):
    with pytest.raises(UsageError, match=message):
        plan.run(["create-tfrecords", "--images", lake, *more])


def test_other_jobs_empty_lakes_and_lakes_of_text(tmp_path, capsys):
    assert cli.main(["plan", "sql"]) == 2
    assert (
        "'sql' can't be planned; the jobs that can are predict, stream, create-tfrecords"
        in capsys.readouterr().err
    )
    (tmp_path / "lake").mkdir()
    with pytest.raises(UsageError, match="no image is listed"):
        plan.run(["create-tfrecords", "--images", str(tmp_path / "lake")])
    (tmp_path / "lake" / "a.jpg").write_bytes(b"text")
    with pytest.raises(UsageError, match="all 1 images that were looked at failed"):
        plan.run(["create-tfrecords", "--images", str(tmp_path / "lake")])


def test_help_names_the_jobs(capsys):
    assert cli.main(["plan", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in plan.PLANNED)
