"""Choosing a device."""

from __future__ import annotations

import pytest
import torch

from cnsdiff.base.errors import ConfigError
from cnsdiff.training.processes import make_fabric


@pytest.mark.parametrize("device", ["gpu", "CPU", "cuda:x", "cuda:-1", "", "mps:0", "cpu:cpu"])
def test_unknown_devices(device):
    with pytest.raises(ConfigError, match=r"device: .* is not one of auto, cpu, cuda"):
        make_fabric(device, "32-true")


def test_absent_device():
    with pytest.raises(ConfigError, match=r"'cuda:99' not found .*set device to auto or cpu"):
        make_fabric("cuda:99", "32-true")


def test_auto_takes_what_there_is():
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert make_fabric("auto", "32-true").device.type == expected
    assert make_fabric("cpu", "32-true").device.type == "cpu"


def test_threads():
    before = torch.get_num_threads()
    try:
        make_fabric("cpu", "32-true", threads=1)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
