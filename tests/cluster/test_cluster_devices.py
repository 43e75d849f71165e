"""Machines to plan for, and the table of accelerators."""

import pytest

from raymodel.cluster.devices import USABLE, find_device, load_devices, parse_fleet
from raymodel.errors import SpecError

GIB = 2**30


def test_every_device_has_a_source_and_figures_of_a_plausible_size():
    for device in load_devices().values():
        assert device.source
        assert 16 * GIB <= device.memory_bytes <= 512 * GIB
        assert 1e14 <= device.bf16_flops_per_s <= 1e16


@pytest.mark.parametrize(
    ("driver", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA A100-SXM4-40GB", "a100-40gb"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA A10G", None),
    ],
)
def test_a_driver_s_name_finds_its_device(driver, name):
    found = find_device(driver)
    assert (found.name if found else None) == name


def test_devices_of_machines_are_counted():
    fleet = parse_fleet("h100:8x4")
    assert (fleet.nodes, fleet.per_node, fleet.devices) == (4, 8, 32)
    assert fleet.usable_bytes(workers=1) == USABLE * load_devices()["h100"].memory_bytes
    assert parse_fleet("l4").devices == 1
    assert parse_fleet("l4:4").devices == 4
    assert str(fleet) == "4 × 8 h100"


def test_workers_without_devices_share_the_memory_of_their_machine():
    fleet = parse_fleet("64GiBx2")
    assert (fleet.nodes, fleet.devices, fleet.device) == (2, 0, None)
    assert fleet.usable_bytes(workers=2) == USABLE * 64 * GIB
    assert fleet.usable_bytes(workers=5) == USABLE * 64 * GIB / 3
    assert str(fleet) == "2 × 64 GiB machines"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("h10:8", "did you mean 'h100'?"),
        ("h100:0", "at least one of each"),
        ("h100:8x0", "at least one of each"),
        ("64", "is not a set of machines"),
        ("64GiBx0", "is not a set of machines"),
        ("64XB", "is not a set of machines"),
        ("", "is not a set of machines"),
    ],
)
def test_other_machines_are_refused_with_the_form(text, words):
    with pytest.raises(SpecError, match="--on") as refusal:
        parse_fleet(text)
    assert words in str(refusal.value)
