"""Weights in and out of files that hold only tensors and plain values."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import monai
import torch

from liver_pipeline.io.checksums import content_sha256, file_sha256
from liver_pipeline.io.files import whole_file


def load_weights(network: torch.nn.Module, path: Path | str) -> str:
    """Load the weights in ``path`` into ``network``, all of them and no others.

    Args:
        network: Stays on its device.
        path: A file of ``torch.save``, read with ``weights_only=True``: a state dict, or a dict with one under "model".
            Where ``<path>.sha256`` lies beside it, as ``sha256sum`` writes it, the file must have that hash.

    Returns:
        sha256 of the file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file holds code, is damaged, or belongs to another network.
    """
    path = Path(path)
    sha256, state = read_weights(path)
    expected = network.state_dict()
    if problem := _difference(state, expected):
        raise ValueError(f"{path} belongs to another network: {problem}; use the network_def it was trained with")
    network.load_state_dict(state)
    return sha256


def read_weights(path: Path) -> tuple[str, Mapping[str, torch.Tensor]]:
    """Return the sha256 of a file of weights, and what it holds; see :func:`load_weights`.

    Raises:
        FileNotFoundError: If there is no such file.
        IsADirectoryError: If it is a folder.
        ValueError: If the file holds code, is damaged, or is not the one whose hash was written down.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; expected a file of weights, such as its models/model.pt")
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}; train first, or set ckpt_path")
    sha256, written_down = file_sha256(path), path.with_name(f"{path.name}.sha256")
    if written_down.is_file() and written_down.read_text().split()[:1] != [sha256]:
        raise ValueError(f"{path} is not what {written_down.name} says; install the package or copy the run again")
    return sha256, _state_dict(path)


def load_networks(
    network: torch.nn.Module,
    ckpt_path: str | Path | Sequence[str | Path] | None,
    others: Mapping[str, Mapping[str, Any]],
    device: torch.device,
) -> dict[str, Any]:
    """Load weights into the networks of a run and put these on ``device``, in eval mode.

    Args:
        network: A ``ModuleList`` is an ensemble.
        ckpt_path: Of an ensemble one file for each member; ``None`` keeps the weights that the network has.
        others: Name to ``{"network", "ckpt_path"}`` of networks that run besides.
        device: For all.

    Returns:
        The network's ``file``, ``sha256`` and number of ``parameters``, of an ensemble also those of its ``members``;
        and the same of each other network under its name.

    Raises:
        FileNotFoundError: See :func:`load_weights`.
        ValueError: See :func:`load_weights`; or if there are not as many files as members.
    """
    records = {name: load_networks(one["network"], one["ckpt_path"], {}, device) for name, one in others.items()}
    members = list(network) if isinstance(network, torch.nn.ModuleList) else [network]
    paths: Sequence[str | Path | None] = [ckpt_path] if isinstance(ckpt_path, str | Path) else ckpt_path or []
    own = [_load_member(*pair) for pair in zip(members, paths or [None] * len(members), strict=True)]
    network.to(device).eval()
    if len(own) == 1:
        return {**own[0], **records}
    parameters = sum(member["parameters"] for member in own)
    return {"file": None, "sha256": content_sha256(own), "parameters": parameters, "members": own, **records}


def _load_member(network: torch.nn.Module, path: str | Path | None) -> dict[str, Any]:
    sha256 = network_sha256(network) if path is None else load_weights(network, path)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return {"file": None if path is None else Path(path).name, "sha256": sha256, "parameters": parameters}


def open_weights(path: Path) -> Mapping[str, Any]:
    """Return what a file of weights holds: a state dict, or a dict with one under "model".

    Raises:
        ValueError: If the file holds code, is damaged, or holds no weights.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as reason:
        first = str(reason).strip().splitlines()[0]
        raise ValueError(f"{path} is damaged, or holds more than weights ({first[:120]})") from None
    state = content.get("model", content) if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise ValueError(f"{path} holds no weights; expected a state dict, or one under the key 'model'")
    whole: Mapping[str, Any] = content
    return whole


def _state_dict(path: Path) -> Mapping[str, Any]:
    content = open_weights(path)
    inner = content.get("model")
    return inner if isinstance(inner, Mapping) else content


def _difference(state: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    """Say what keeps ``state`` from fitting, "" if it fits."""
    missing, surplus = [k for k in expected if k not in state], [k for k in state if k not in expected]
    if missing or surplus:
        parts = [f"it lacks {len(missing)} of its weights (first {missing[0]})"] if missing else []
        parts += [f"it holds {len(surplus)} others (first {surplus[0]})"] if surplus else []
        return " and ".join(parts)
    for key, tensor in expected.items():
        if isinstance(tensor, torch.Tensor) and tensor.shape != state[key].shape:
            return f"{key} has shape {tuple(state[key].shape)}, the network {tuple(tensor.shape)}"
    return ""


def network_sha256(network: torch.nn.Module) -> str:
    """Return the sha256 over names and values of all weights of a network that came without a file."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        if isinstance(tensor, torch.Tensor):
            digest.update(str((tensor.dtype, tuple(tensor.shape))).encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def structure_of(network: torch.nn.Module) -> str:
    """Return, as text, what networks share that differ in nothing but the values of their weights."""
    kinds = [f"{type(module).__module__}.{type(module).__qualname__}" for module in network.modules()]
    tensors = [f"{name} {tensor.dtype} {tuple(tensor.shape)}" for name, tensor in network.state_dict().items()]
    return "\n".join([torch.__version__, monai.__version__, str(network), *kinds, *tensors])


def weights_hash(network: torch.nn.Module) -> str:
    """Return the sha256 of the network's weights, buffers, layers and of the libraries that give them their meaning."""
    digest = hashlib.sha256(structure_of(network).encode())
    for tensor in network.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save_half(path: Path | str, weights: Mapping[str, torch.Tensor]) -> str:
    """Write weights in half precision, for networks that are shipped; a tensor with two names is written once.

    Args:
        path: Of the file, which :func:`load_weights` reads; it appears whole or not at all.
        weights: A state dict. Whole numbers, such as counts, stay as they are.

    Returns:
        sha256 of the file.

    Raises:
        ValueError: If a weight is not finite, or too large for half precision.
    """
    halves: dict[tuple[int, torch.Size], torch.Tensor] = {}
    out = {}
    for name, tensor in weights.items():
        key = (tensor.data_ptr(), tensor.shape)
        if key not in halves:
            half = tensor.detach().cpu().contiguous()
            half = half.half() if half.is_floating_point() else half.clone()
            if not torch.isfinite(half).all():
                raise ValueError(f"{name} holds values that half precision cannot hold; these weights are not usable")
            halves[key] = half
        out[name] = halves[key]
    with whole_file(path) as temporary:
        torch.save(out, temporary)
    return file_sha256(Path(path))
