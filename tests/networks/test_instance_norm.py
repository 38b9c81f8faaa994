"""Instance normalisation in single steps is the same; and what OpenVINO makes of it is closer than OpenVINO's own."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from liver_pipeline.networks.conversion import import_openvino
from liver_pipeline.networks.exporting import EXPORTERS
from liver_pipeline.networks.instance_norm import spell_out_instance_norms


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("affine", [False, True])
def test_the_result_is_that_of_the_norm(axes: int, affine: bool) -> None:
    norm = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)[axes - 1](3, affine=affine)
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    network = nn.ModuleDict({"norm": norm, "again": norm, "running": nn.InstanceNorm3d(3, track_running_stats=True)})
    before = {name: type(module) for name, module in network.named_modules()}
    spelled_out = spell_out_instance_norms(network.eval())
    assert {name: type(module) for name, module in network.named_modules()} == before
    assert isinstance(spelled_out.get_submodule("running"), nn.InstanceNorm3d)
    assert type(spelled_out.get_submodule("norm")) is type(spelled_out.get_submodule("again")) is not type(norm)
    x = torch.randn(2, 3, *(7, 5, 6)[:axes]) * 10 + 100
    for image in (x, torch.ones_like(x)):
        torch.testing.assert_close(spelled_out.get_submodule("norm")(image), norm(image), rtol=1e-4, atol=1e-4)


def test_the_file_of_openvino_normalises_closer_than_openvino_does(tmp_path: Path) -> None:
    torch.manual_seed(0)
    # after a convolution OpenVINO keeps channels together, and its own norm adds 110,592 numbers up one after the other
    network = nn.Sequential(nn.Conv3d(1, 16, 3, padding=1), nn.InstanceNorm3d(16)).eval()
    image = torch.rand(1, 1, 48, 48, 48)
    with torch.no_grad():
        exact = copy.deepcopy(network).double()(image.double())
        EXPORTERS["openvino"].write(network, image, tmp_path / "network.xml")
        spelled_out = EXPORTERS["openvino"].read(tmp_path / "network.xml")(image)
        openvino = import_openvino()
        model = openvino.convert_model(network, example_input=image)
        compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        own = torch.from_numpy(compiled([image.numpy()])[0])
    off, off_by_own = (float((result - exact).abs().max()) for result in (spelled_out, own))
    assert off < 2e-5, off_by_own
    assert off < off_by_own / 2
