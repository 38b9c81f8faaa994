"""Options that make training larger or faster leave what is learned as it is."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from torch import nn

from liver_pipeline.bundle.layers import merge_layers
from liver_pipeline.networks.acceleration import Compiled, accelerated, amp_options, recompute_activations
from tests.small import NETWORKS

SHRUNK: dict[str, dict[str, Any]] = {
    "unet3d": {"network_def::channels": [4, 8, 16], "network_def::dropout": 0.2},
    "dynunet": {},
    "resnet34_unet": {"encoder_weights": None},
    "swin_unetr": {"network_def::drop_rate": 0.1, "network_def::depths": [1, 1, 1, 1], "roi_size": [64, 64, 32]},
}


def build(name: str) -> tuple[nn.Module, torch.Tensor]:
    """Return a network with the weights of a seed, in training, and windows for it."""
    torch.manual_seed(0)
    parser = ConfigParser(merge_layers({"network": name}, overrides={**NETWORKS[name], **SHRUNK[name]})["train"])
    network: nn.Module = parser.get_parsed_content("network_def")
    windows = 1 if name == "swin_unetr" else 2  # it is slow
    return network.train(), torch.rand(windows, 1, *parser.get_parsed_content("roi_size"))


def step(network: nn.Module, image: torch.Tensor) -> tuple[dict[str, torch.Tensor], int]:
    """Do a forward and a backward pass; return gradients and buffers, and bytes kept between the two passes."""
    kept: dict[int, int] = {}
    weights = {parameter.data_ptr() for parameter in network.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    torch.manual_seed(1)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = network(image)
        loss = sum((part**2).mean() for part in (output if isinstance(output, list) else [output]))
    held = sum(kept.values())
    assert isinstance(loss, torch.Tensor)
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = {name: parameter.grad for name, parameter in network.named_parameters() if parameter.grad is not None}
    return {**gradients, **{f"buffer {name}": buffer for name, buffer in network.named_buffers()}}, held


@pytest.mark.parametrize("name", SHRUNK)
def test_recomputed_activations_give_the_same_gradients_and_statistics_from_less_memory(name: str) -> None:
    network, image = build(name)
    again = copy.deepcopy(network)
    names = list(again.state_dict())
    assert len(recompute_activations(again)) > 3
    assert list(again.state_dict()) == names
    (plain, plain_bytes), (recomputed, bytes_left) = step(network, image), step(again, image)
    assert plain.keys() == recomputed.keys()
    assert [key for key in plain if not torch.equal(plain[key], recomputed[key])] == []
    assert bytes_left < 0.6 * plain_bytes
    assert recompute_activations(again) == []  # done already


def test_a_copy_of_a_recomputed_network_runs_its_own_weights() -> None:
    network, image = build("dynunet")
    recompute_activations(network)
    average = copy.deepcopy(network).eval()
    before = average(image)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    assert torch.equal(average(image), before)


def test_a_block_that_changes_its_input_in_place_is_refused() -> None:
    block = nn.Sequential(nn.LeakyReLU(inplace=True), nn.Conv3d(1, 1, 1))
    network = nn.Sequential(nn.Conv3d(1, 1, 1), block, nn.Conv3d(1, 1, 1))
    assert recompute_activations(network) == ["1"]
    with pytest.raises(RuntimeError, match=r"changes its input in place.*activation_checkpointing=false"):
        network(torch.rand(1, 1, 2, 2, 2))


def test_graphs_of_a_gpu_and_sums_of_gradients_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="set accumulate_steps=1 or compile=true"):
        accelerated(nn.Linear(1, 1), compile="reduce-overhead", accumulate_steps=2)
    with pytest.raises(ValueError, match="compile is 'fast'; expected true, false or a mode"):
        accelerated(nn.Linear(1, 1), compile="fast")
    network = nn.Linear(1, 1)
    assert accelerated(network) is network
    with pytest.raises(ValueError, match="expected bf16 or fp16"):
        amp_options("f32")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "checkpointing"), [("unet3d", True), ("dynunet", False)])
def test_a_compiled_network_gives_the_gradients_of_the_plain_one(name: str, checkpointing: bool) -> None:
    network, image = build(name)
    for module in network.modules():
        if isinstance(module, nn.Dropout3d):
            module.p = 0.0  # compiled code draws other random numbers
    compiled = accelerated(copy.deepcopy(network), activation_checkpointing=checkpointing, compile=True)
    assert isinstance(compiled, Compiled)
    plain, _ = step(network, image)
    fast, _ = step(compiled, MetaTensor(image))
    assert compiled.reason == ""
    fast = {key.replace("network.", "", 1): value for key, value in fast.items()}
    assert fast.keys() == plain.keys()
    for key, value in plain.items():
        torch.testing.assert_close(fast[key], value, rtol=1e-3, atol=1e-5, msg=key)


def test_without_a_compiler_the_network_runs_as_it_is_and_the_reason_is_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    def no_compiler(graph: Any, inputs: Any, **options: Any) -> Callable[..., Any]:
        raise RuntimeError("no C++ compiler was found")

    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", no_compiler)
    caplog.set_level("INFO")  # the compiler's own debugging fills screens
    torch._dynamo.reset()
    network = nn.Linear(2, 2)
    compiled = accelerated(network, compile=True)
    image = torch.rand(3, 2)
    for _ in range(2):
        assert torch.equal(compiled(image), network(image))
    assert isinstance(compiled, Compiled)
    assert "no C++ compiler was found" in compiled.reason
    assert capsys.readouterr().out.count("the network runs as it is, torch.compile failed") == 1


def test_an_error_of_the_network_is_not_taken_for_the_compilers() -> None:
    network = accelerated(nn.Linear(2, 2), compile=True)
    network._compiled = [lambda image: nn.Linear(3, 2)(image)]  # type: ignore[assignment]
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        network(torch.rand(1, 2))
