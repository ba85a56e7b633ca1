"""The streaming job as Dataflow would get it: submitted for real, but into a file."""

import json

import pytest
from apache_beam.portability.api import beam_runner_api_pb2

from beam_vision.errors import UsageError
from beam_vision.pipelines import stream
from beam_vision.testing import models

PUBSUB_READ = "beam:transform:pubsub_read:v1"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return models.save_onnx(str(tmp_path_factory.mktemp("models") / "colours.onnx"))


@pytest.fixture
def submit(model, tmp_path):
    """Runs the job's own code with DataflowRunner; gives the job and the pipeline that it would send."""

    def submit(*beam_args, input="pubsub://projects/my-project/subscriptions/frames", output="", **given):
        options = stream.Options(
            task="classify",
            input=input,
            output=output or f"{tmp_path}/table,pubsub://projects/my-project/topics/rows",
            model=model,
            check_model=False,
            **given,
        )
        args = ["--runner=DataflowRunner", "--no_auth", "--dataflow_endpoint=http://localhost"]
        args += ["--project=my-project", "--region=us-central1", "--job_name=stream", *beam_args]
        for name in ("staging", "temp"):
            (tmp_path / name).mkdir()
            args.append(f"--{name}_location={tmp_path}/{name}")
        assert not stream.is_local(args)
        plan = stream.prepare(options, "run-1", local=False)
        stream.run_on_dataflow(options, plan, [*args, f"--template_location={tmp_path}/job.json"])
        job = json.loads((tmp_path / "job.json").read_text())
        proto = next((tmp_path / "staging").rglob("pipeline.pb"))
        return job, beam_runner_api_pb2.Pipeline.FromString(proto.read_bytes())

    return submit


def transforms(proto, urn):
    return [item for item in proto.components.transforms.values() if item.spec.urn == urn]


def test_the_same_steps_become_a_streaming_job(submit):
    job, proto = submit("--enable_streaming_engine")
    assert job["type"] == "JOB_TYPE_STREAMING"
    assert "enable_streaming_engine" in job["environment"]["experiments"]
    names = {item.unique_name.split("/")[0] for item in proto.components.transforms.values()}
    steps = ("ParseMessages", "DropRepeats", "FetchFrames", "WatchCameras", "BatchFrames", "InferFrames")
    assert {*steps, "MakeRows", "CountWindows", "WriteWindows", "PublishRows", "ReadMessages"} <= names
    assert not {"ReadFeed", "ShowObservations"} & names, "only a local run has these"


def test_rows_go_to_bigquery_and_no_shuffle_is_added_for_it(submit, warehouse):
    _, proto = submit(output=warehouse.uri("live"))
    names = {item.unique_name.split("/")[0] for item in proto.components.transforms.values()}
    assert "AppendRows" in names
    assert "WriteWindows" not in names
    within = [
        item for item in proto.components.transforms.values() if item.unique_name.startswith("AppendRows/")
    ]
    assert not [item for item in within if item.spec.urn == "beam:transform:group_by_key:v1"]
    made = warehouse.tables()
    assert {"live", "live_counts", "live_failures", "live_once", "live_counts_once"} <= set(made)


def test_the_read_drops_repetitions_and_takes_times_where_it_is_told_to(submit):
    _, proto = submit(id_label="frame", timestamp_attribute="capture_time")
    (read,) = transforms(proto, PUBSUB_READ)
    payload = beam_runner_api_pb2.PubSubReadPayload.FromString(read.spec.payload)
    assert payload.subscription == "projects/my-project/subscriptions/frames"
    assert (payload.id_attribute, payload.timestamp_attribute) == ("frame", "capture_time")
    assert payload.with_attributes


def test_a_topic_is_read_as_one(submit):
    _, proto = submit(input="pubsub://projects/my-project/topics/frames")
    (read,) = transforms(proto, PUBSUB_READ)
    payload = beam_runner_api_pb2.PubSubReadPayload.FromString(read.spec.payload)
    assert (payload.topic, payload.subscription) == ("projects/my-project/topics/frames", "")


def test_at_least_once_mode_is_an_option_of_dataflow(submit):
    job, _ = submit("--dataflow_service_options=streaming_mode_at_least_once", "--enable_streaming_engine")
    assert job["environment"]["serviceOptions"] == ["streaming_mode_at_least_once"]


def test_state_has_timers_that_a_drain_fires(submit):
    """What holds elements has an event-time timer: a drain fires those."""
    _, proto = submit()
    event_time = beam_runner_api_pb2.TimeDomain.EVENT_TIME
    held = {}
    for item in transforms(proto, "beam:transform:pardo:v1"):
        payload = beam_runner_api_pb2.ParDoPayload.FromString(item.spec.payload)
        kinds = {spec.WhichOneof("spec") for spec in payload.state_specs.values()}
        if payload.state_specs:
            domains = {spec.time_domain for spec in payload.timer_family_specs.values()}
            held[item.unique_name] = ("bag_spec" in kinds, event_time in domains)
    assert held["BatchFrames/Gather"] == (True, True)
    assert all(has_timer for has_bag, has_timer in held.values() if has_bag)


def test_names_that_the_service_would_refuse_are_a_clear_error(submit):
    with pytest.raises(UsageError, match="Invalid PubSub project name"):
        submit(input="pubsub://projects/proj/subscriptions/frames")


def test_only_a_local_run_watches_a_folder(submit, tmp_path):
    with pytest.raises(UsageError, match="only a local run watches a folder"):
        submit(input=str(tmp_path))
