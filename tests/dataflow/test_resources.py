"""What belongs together on a worker with GPUs, and what is refused before it is sent."""

import dataclasses
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

import beam_vision.coders  # noqa: F401  (the coders of our types)
from beam_vision.dataflow.checks import Submission, check, check_local, problems
from beam_vision.dataflow.machines import GPUS
from beam_vision.dataflow.resources import Accelerator, Asked, parse_accelerator, plan_workers
from beam_vision.errors import UsageError
from beam_vision.types import EncodedImage, ImageRef

T4 = "type:nvidia-tesla-t4;count:1;install-nvidia-driver"
L4 = "type:nvidia-l4;count:1;install-nvidia-driver"
GOOD = Submission(
    project="my-project",
    region="us-central1",
    temp_location="gs://bucket/temp",
    image="us-docker.pkg.dev/my-project/images/beam-vision:1",
    python="3.11",
    beam="2.77.0",
)


def but(**changes):
    return dataclasses.replace(GOOD, **changes)


def with_accelerator(text, **changes):
    return but(service_options=(f"worker_accelerator={text}",), **changes)


gpus = st.sampled_from(sorted(GPUS))
asked = st.builds(
    lambda gpu, data, **more: Asked(gpu=gpu, gpu_count=data.draw(st.sampled_from(GPUS[gpu].counts)), **more),
    gpus,
    st.data(),
    right_fit=st.booleans(),
    threads=st.integers(0, 20),
    disk_gb=st.sampled_from([0, 300]),
    decode_threads=st.integers(0, 9),
    batch_size=st.integers(0, 512),
)


@given(asked)
def test_what_is_planned_is_what_was_asked_for_and_is_not_refused(asked):
    plan = plan_workers(asked)
    args = dict(arg.removeprefix("--").split("=", 1) for arg in plan.beam_args)
    assert ("number_of_worker_harness_threads" in args) == (asked.threads == 0)
    assert ("disk_size_gb" in args) == (asked.disk_gb == 0)
    assert plan.decode_threads == (asked.decode_threads or plan.machine.vcpus)
    assert plan.batch_size == (asked.batch_size or 128)
    assert plan.max_batch_images >= plan.batch_size
    held_bytes = plan.threads * plan.max_batch_bytes
    assert held_bytes <= plan.machine.memory_gb * 2**30 / 32
    assert bool(plan.hint) == asked.right_fit == ("dataflow_service_options" not in args)
    accelerator = parse_accelerator(plan.hint.get("accelerator", plan.accelerator.text))
    assert accelerator == plan.accelerator
    assert accelerator.count == asked.gpu_count
    sent = but(
        machine_type=args.get("worker_machine_type", ""),
        experiments=(args["experiments"],),
        service_options=(args["dataflow_service_options"],) if not asked.right_fit else (),
    )
    assert problems(sent, right_fit=plan.hint.get("accelerator", "")) == []


def test_an_unknown_gpu_is_refused_with_those_that_are_known():
    with pytest.raises(UsageError, match="--gpu k80 isn't one of t4, p4"):
        plan_workers(Asked(gpu="k80"))


def test_more_gpus_than_one_copy_uses_are_said_to_idle():
    assert not [note for note in plan_workers(Asked(gpu="l4")).notes if "idle" in note]
    assert [note for note in plan_workers(Asked(gpu="l4", gpu_count=4)).notes if "idle" in note]


@given(
    st.builds(
        Accelerator,
        type=st.sampled_from([gpu.accelerator for gpu in GPUS.values()]),
        count=st.integers(1, 16),
        machine_type=st.sampled_from(["", "g2-standard-8"]),
        flags=st.sampled_from([("install-nvidia-driver",), ("install-nvidia-driver:5xx", "use_nvidia_mps")]),
    )
)
def test_an_accelerators_text_says_all_of_it(accelerator):
    assert parse_accelerator(accelerator.text) == accelerator


@pytest.mark.parametrize(
    "text",
    ["", "count:1", "type:nvidia-l4;count:0", "type:nvidia-l4;count:x", "type:a;type:b", "typ:nvidia-l4"],
)
def test_a_text_that_dataflow_could_not_read_is_refused(text):
    with pytest.raises(UsageError, match="it reads type:TYPE;count:N;install-nvidia-driver"):
        parse_accelerator(text)


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (but(project=""), "--project is missing"),
        (but(region=""), "--region is missing"),
        (but(temp_location=""), "--temp_location is missing"),
        (but(temp_location="/tmp/t"), "--temp_location /tmp/t isn't in a bucket"),
        (but(staging_location="s3://b/t"), "--staging_location s3://b/t isn't in a bucket"),
        (but(image=""), "workers would lack beam_vision"),
        (but(image="apache/beam_python3.12_sdk:2.77.0"), "has Python 3.12, and this is 3.11"),
        (but(image="docker.io/apache/beam_python3.11_sdk:2.70.0@sha256:00"), "has Beam 2.70.0"),
        (with_accelerator(L4, machine_type="n1-standard-8"), "n1-standard-8 doesn't carry nvidia-l4"),
        (with_accelerator(L4), "nvidia-l4 comes with its own machines"),
        (with_accelerator("type:nvidia-tesla-t4;count:1"), "add ;install-nvidia-driver"),
        (with_accelerator("nvidia-tesla-t4"), "has no type"),
        (
            with_accelerator(L4, machine_type="g2-standard-4", disk_type="compute.../diskTypes/pd-standard"),
            "g2-standard-4 takes no pd-standard disks",
        ),
        (with_accelerator(T4, experiments=("use_multiple_sdk_containers",)), "a copy of the model"),
        (
            with_accelerator(f"{T4};use_nvidia_mps", experiments=("no_use_multiple_sdk_containers",)),
            "allows but one: leave one of them out",
        ),
        (
            with_accelerator("type:nvidia-tesla-t4;count:2;install-nvidia-driver;use_nvidia_mps"),
            "goes with one GPU a worker",
        ),
        (with_accelerator(f"{T4};use_nvidia_mps", experiments=("enable_prime",)), "leave enable_prime out"),
        (with_accelerator(T4, experiments=(f"worker_accelerator={T4}",)), "given more than once"),
        (with_accelerator(T4, resource_hints=(f"accelerator={T4}",)), "leave one out"),
        (but(resource_hints=(f"accelerator={T4}",), streaming=True), "is for batch jobs"),
        (but(resource_hints=("accelerator=type:nvidia-l4;install-nvidia-driver",)), "comes with its own"),
    ],
)
def test_each_conflict_is_refused_by_itself(sent, said):
    assert problems(GOOD) == []
    found = problems(sent)
    assert len(found) == 1
    assert said in found[0]
    with pytest.raises(UsageError) as error:
        check(sent)
    assert str(error.value) == found[0]


@pytest.mark.parametrize(
    "sent",
    [
        but(image="", has_packages=True),
        but(image="apache/beam_python3.11_sdk:2.77.0"),
        but(image="apache/beam_python3.11_sdk"),
        with_accelerator(T4, machine_type="custom-8-32768"),
        with_accelerator("type:nvidia-of-tomorrow;count:3;install-nvidia-driver", machine_type="x9-giant"),
        with_accelerator(f"{T4};use_nvidia_mps"),
        but(resource_hints=(f"accelerator={T4}", "min_ram=8GB")),
        but(endpoint="http://localhost:8080", temp_location="/tmp/t"),
    ],
)
def test_what_may_work_is_let_through(sent):
    assert problems(sent) == []


def test_right_fitting_is_refused_where_dataflow_has_none():
    found = problems(with_accelerator(T4, streaming=True, flexrs=True), right_fit=L4)
    assert [said.split(" doesn't")[0].split(" is for")[0] for said in found] == ["--right_fit"] * 3
    assert problems(but(streaming=True, experiments=("enable_streaming_rightfitting",)), right_fit=L4) == []
    assert "which would win" in problems(but(resource_hints=(f"accelerator={T4}",)), right_fit=L4)[0]


def test_an_endpoint_that_only_looks_local_is_none():
    assert problems(but(endpoint="https://localhost.example.com", temp_location="/tmp/t"))


def test_places_that_workers_do_not_reach_are_named_with_their_options():
    paths = {
        "--images": "gs://a/*.jpg, /data/b",
        "--output": "bigquery://p.d.t",
        "--failures": "",
        "--model": "m",
    }
    found = problems(GOOD, paths)
    assert [said.split(" is on")[0] for said in found] == ["--images /data/b", "--model m"]
    with pytest.raises(UsageError, match=r"2 things keep this job .*\n  - --images /data/b"):
        check(GOOD, paths)


def test_a_gpu_of_dataflows_is_none_of_this_machine():
    check_local("")
    with pytest.raises(UsageError, match="--gpu l4 is for --runner DataflowRunner"):
        check_local("l4")


def test_an_encoded_image_crosses_at_the_size_of_its_file():
    """What right-fitting sends between workers: the file and a few hundred bytes."""
    from apache_beam import coders

    ref = ImageRef(key="gs://bucket/folder/image.jpg", uri="gs://bucket/folder/image.jpg")
    image = EncodedImage(ref=ref, data=os.urandom(100_000))
    encoded = coders.registry.get_coder(EncodedImage).encode(image)
    assert len(encoded) < 101_000
