"""Train larger or faster than the plain network allows: recomputed activations, torch.compile, number formats."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from monai.utils import set_determinism
from torch import nn
from torch.utils.checkpoint import checkpoint
from tqdm import tqdm

from liver_pipeline.io.limits import limit_threads
from liver_pipeline.networks.parent import freeze_part, take_over

# Outermost modules with at most so many convolutions or matrices are recomputed as one: a residual or transformer
# block, a level of a U-Net. Fewer would keep more inputs of blocks, more would have more activations while recomputing.
BLOCK_WEIGHTS = 6
GRAPH_MODES = ("reduce-overhead", "max-autotune")  # modes of torch.compile that record CUDA graphs
COMPILE_MODES = ("default", *GRAPH_MODES, "max-autotune-no-cudagraphs")
AMP_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def accelerated(
    network: nn.Module,
    *,
    activation_checkpointing: bool = False,
    compile: bool | str = False,
    accumulate_steps: int = 1,
) -> nn.Module:
    """Return the network that the trainer runs. Its weights, and their names, stay those of ``network``.

    Args:
        network: Changed in place by ``activation_checkpointing``.
        activation_checkpointing: See :func:`recompute_activations`.
        compile: See :class:`Compiled`; False: run as it is, True: the mode ``default``.
        accumulate_steps: Batches between two steps of the optimizer.

    Raises:
        ValueError: If the mode is unknown, or records CUDA graphs while gradients are added up over batches.
    """
    if activation_checkpointing:
        recompute_activations(network)
    if not compile:
        return network
    mode = "default" if compile is True else compile
    if mode not in COMPILE_MODES:
        raise ValueError(f"compile is {mode!r}; expected true, false or a mode: {', '.join(COMPILE_MODES)}")
    if mode in GRAPH_MODES and accumulate_steps > 1:
        raise ValueError(  # pytorch#169545, pytorch#96693: the sum holds the last batch only, without an error
            f"compile={mode} records CUDA graphs, in whose memory gradients cannot be added up; set accumulate_steps=1 "
            f"or compile=true"
        )
    return Compiled(network, mode)


def settle_randomness(seed: int, deterministic: bool) -> None:
    """Seed all generators, and choose between results that agree to the bit and the fastest kernels.

    MONAI's ``set_determinism`` always holds cuDNN to its deterministic kernels, and from trying which one is fastest.

    Args:
        seed: Of Python, NumPy and PyTorch.
        deterministic: Refuse operations that are not, and take cuDNN's deterministic kernels; false lets cuDNN take the
            fastest of all for a window's size, so that two runs on a GPU agree to rounding.
    """
    set_determinism(seed=seed, use_deterministic_algorithms=deterministic)
    torch.backends.cudnn.deterministic = deterministic
    torch.backends.cudnn.benchmark = not deterministic


def recompute_activations(network: nn.Module) -> list[str]:
    """Let blocks of a network keep only their input in training and compute the rest again in the backward pass.

    Outputs, gradients and running statistics are the same to the bit: random numbers (dropout) are drawn again as they
    were, and batch normalisation counts each batch once. A block is an outermost module with at most ``BLOCK_WEIGHTS``
    weights of two or more dimensions, and at least two layers. Names of weights do not change.

    Returns:
        Names of the blocks; of a network that was changed before, none.
    """
    names = [name for name, module in _blocks(network, "") if not isinstance(module, _Recomputed)]
    for name in names:
        module = network.get_submodule(name)
        if not isinstance(module, _Recomputed):  # one module may be there under two names
            # a class, not a function on the object: copies of the network (a moving average) then run their own weights
            module.__class__ = type(type(module).__name__, (_Recomputed, type(module)), {})
    return names


def _blocks(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    weights = sum(parameter.dim() >= 2 for parameter in module.parameters())
    layers = sum(not list(part.children()) and not isinstance(part, nn.Identity) for part in module.modules())
    callable_ = not isinstance(module, (nn.ModuleList, nn.ModuleDict))
    if name and callable_ and 1 <= weights <= BLOCK_WEIGHTS and layers > 1:
        yield name, module
        return
    for child_name, child in module.named_children():
        yield from _blocks(child, f"{name}.{child_name}" if name else child_name)


class _Recomputed(nn.Module):
    """What a block's class is derived from to be recomputed."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        forward = super().forward
        if not self.training or not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        if torch.compiler.is_compiling():  # the compiler recomputes without side effects
            return checkpoint(forward, *args, use_reentrant=False, **kwargs)
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)]
        versions = [tensor._version for tensor in tensors]
        output = checkpoint(forward, *args, use_reentrant=False, context_fn=self._contexts, **kwargs)
        if versions != [tensor._version for tensor in tensors]:
            raise RuntimeError(
                f"a block of class {type(self).__name__} changes its input in place and cannot be recomputed from it; "
                f"set activation_checkpointing=false"
            )
        return output

    def _contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return contextlib.nullcontext(), self._with_copied_buffers()

    @contextlib.contextmanager
    def _with_copied_buffers(self) -> Iterator[None]:
        """Let the second pass update copies of running means and counts: the first one has updated them."""
        owners = [module for module in self.modules() if module._buffers]
        buffers = [dict(module._buffers) for module in owners]
        for module in owners:
            module._buffers.update({name: None if b is None else b.clone() for name, b in module._buffers.items()})
        try:
            yield
        finally:
            for module, own in zip(owners, buffers, strict=True):
                module._buffers.update(own)


class Compiled(nn.Module):
    """A network run through torch.compile; where that fails, as it is, with the reason said once and kept.

    Args:
        network: Its own weights are used, under their own names.
        mode: Of torch.compile; ``reduce-overhead`` records CUDA graphs.

    Attributes:
        reason: Why the network runs uncompiled; empty while it runs compiled.
    """

    def __init__(self, network: nn.Module, mode: str) -> None:
        super().__init__()
        self.network = network
        self._compiled = [torch.compile(network, mode=mode)]  # in a list: no submodule, its weights are the network's
        self.reason = ""

    def forward(self, image: torch.Tensor) -> Any:
        """Map what the network maps, to what it maps it to."""
        if self.reason:
            return self.network(image)
        try:
            return self._compiled[0](image.as_subclass(torch.Tensor))  # torch.compile takes no MetaTensor
        except Exception as error:
            if not _is_compilers(error):
                raise
            self.reason = " ".join(str(error).split()[:40])
            tqdm.write(f"compile: the network runs as it is, torch.compile failed ({self.reason})")
            return self.network(image)


def _is_compilers(error: BaseException) -> bool:
    """Tell an error of the compiler from one of the network."""
    module = type(error).__module__
    return module.startswith(("torch._dynamo", "torch._inductor", "torch._functorch"))


def amp_options(amp_dtype: str) -> dict[str, torch.dtype]:
    """Return the arguments of autocast.

    Args:
        amp_dtype: ``bf16``, which has the range of float32, or ``fp16``, which needs a scaled loss.

    Raises:
        ValueError: If it is neither.
    """
    if amp_dtype not in AMP_TYPES:
        raise ValueError(f"amp_dtype is {amp_dtype!r}; expected {' or '.join(AMP_TYPES)}")
    return {"dtype": AMP_TYPES[amp_dtype]}


def usable_device(device: torch.device | str) -> torch.device:
    """Return a device, by its name such as "cpu", "cuda" or "cuda:1", that this machine has.

    Raises:
        ValueError: If the name means nothing, or there is no such device here.
    """
    try:
        found = torch.device(device)
    except RuntimeError:
        raise ValueError(f"device is {device!r}; expected cpu, cuda, cuda:N or mps") from None
    count = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if (found.index or 0) >= count.get(found.type, 1):
        raise ValueError(f"device is {device!s}; this machine has {count[found.type]} such devices; device=cpu works")
    return found


def place(
    network: nn.Module,
    device: torch.device | str,
    *,
    channels_last: bool = True,
    initial_weights: str | Path | None = None,
    freeze: str | None = None,
) -> nn.Module:
    """Move a network to a device, its convolution weights in channels-last order or not; results are the same.

    A training may begin with weights of another one, and freeze a part: see :mod:`~liver_pipeline.networks.parent`.

    On 2 CPU cores a training step took 0.26 (UNet3d, 8-16-32) to 0.89 (32-64-128) of the processor time that it took
    with PyTorch's default order, ResNet-34 U-Net 0.47. On GPUs tensor cores want this order as well.

    From here on PyTorch uses no more threads than the job has cores.
    """
    limit_threads()
    device = usable_device(device)
    if initial_weights is not None:
        take_over(network, initial_weights)
    if freeze is not None:
        freeze_part(network, freeze)
    orders = {4: torch.channels_last, 5: torch.channels_last_3d} if channels_last else {}
    for parameter in network.parameters():
        order = orders.get(parameter.dim(), torch.preserve_format)
        parameter.data = parameter.data.to(device, memory_format=order)
    return network.to(device)
