"""The price table: ours equals Apache Beam's own constants; a user's is checked."""

import datetime
import json

import pytest

from beam_vision.dataflow import machines
from beam_vision.errors import UsageError
from beam_vision.planning.prices import OWN_FILE, read_prices


def test_our_prices_are_those_that_beam_states():
    from apache_beam.testing.load_tests import dataflow_cost_consts as beams

    prices = read_prices()
    assert prices.vcpu_hour == {"batch": beams.VCPU_PER_HR_BATCH, "streaming": beams.VCPU_PER_HR_STREAMING}
    assert prices.memory_gb_hour == {
        "batch": beams.MEM_PER_GB_HR_BATCH,
        "streaming": beams.MEM_PER_GB_HR_STREAMING,
    }
    assert prices.shuffle_gb == {
        "batch": beams.SHUFFLE_PER_GB_BATCH,
        "streaming": beams.SHUFFLE_PER_GB_STREAMING,
    }
    assert prices.disk_gb_hour == beams.PD_PER_GB_HR
    assert prices.gpu_hour == {
        "t4": beams.T4_PER_GPU_PER_HOUR,
        "l4": beams.L4_PER_GPU_PER_HOUR,
        "a100": beams.A100_40GB_PER_GPU_PER_HOUR,
        "a100_80gb": beams.A100_80GB_PER_GPU_PER_HOUR,
    }
    assert prices.source.startswith("https://")
    datetime.date.fromisoformat(prices.date)


def test_our_machines_are_those_that_dataflow_has():
    for machine in read_prices().machines:
        known = machines.MACHINES.get(machine.name)
        if known:  # it comes with its GPUs
            assert (machine.vcpus, machine.memory_gb) == (known.vcpus, known.memory_gb)
            assert (machine.gpu, machine.gpus) == (known.gpu, known.gpu_count)
            continue
        assert machine.memory_gb == pytest.approx(3.75 * machine.vcpus)  # n1-standard
        assert machine.name == f"n1-standard-{machine.vcpus}"
        if machine.gpu:
            assert machine.vcpus <= machines.GPUS[machine.gpu].n1[machine.gpus].vcpus


def changed(tmp_path, **changes):
    content = json.loads(OWN_FILE.read_text())
    for name, value in changes.items():
        if value is None:
            del content[name]
        else:
            content[name] = value
    path = tmp_path / "prices.json"
    path.write_text(json.dumps(content))
    return str(path)


def test_a_table_of_the_users_own(tmp_path):
    path = changed(tmp_path, currency="EUR", disk_gb_hour=1)
    prices = read_prices(path)
    assert (prices.currency, prices.disk_gb_hour) == ("EUR", 1.0)
    machine = prices.machines[0]
    assert prices.worker_hour(machine) == pytest.approx(4 * 0.056 + 15 * 0.003557 + 25 * 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gpu_hour": None}, "lacks 'gpu_hour'"),
        ({"disk_gb_hour": -1}, "disk_gb_hour is -1"),
        ({"disk_gb_hour": "cheap"}, "disk_gb_hour is 'cheap'"),
        ({"vcpu_hour": {"batch": 1}}, "lacks 'streaming'"),
        ({"gpu_hour": {}}, "gpu_hour and gpu_speed_vcpus lack t4"),
        ({"gpu_speed_vcpus": {"t4": [3, 2, 1]}}, "gpu_speed_vcpus.t4"),
        ({"machines": []}, "machines is empty"),
        ({"machines": [{"name": "x", "vcpus": 0, "memory_gb": 1, "disk_gb": 1}]}, "machine x"),
        ({"machines": [{"name": "x", "vcpus": 1, "memory_gb": 1, "disk_gb": 1, "gpu": "l4"}]}, "go together"),
        ({"machines": [{"name": "x", "cores": 1}]}, "cores"),
    ],
)
def test_what_is_wrong_in_a_table_is_named(tmp_path, changes, message):
    with pytest.raises(UsageError, match=message) as caught:
        read_prices(changed(tmp_path, **changes))
    assert "--prices" in str(caught.value)


def test_a_table_that_is_not_there_or_no_json(tmp_path):
    with pytest.raises(UsageError, match="can't be read"):
        read_prices(str(tmp_path / "none.json"))
    (tmp_path / "text.json").write_text("prices")
    with pytest.raises(UsageError, match="can't be read"):
        read_prices(str(tmp_path / "text.json"))
