"""PyTorch networks as a backend: from a weights file or from memory, as during training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from typing_extensions import Self

from oculox.errors import UsageError
from oculox.models.yolox import YOLOX
from oculox.postprocess import decode
from oculox.runtime.backend import DecodingBackend, ModelSpec, network_input
from oculox.runtime.fusing import fuse
from oculox.types import DecodedPredictions, ImageArray
from oculox.weights import Weights, build_network, load_weights

Precision = Literal["fp32", "fp16", "bf16"]
DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}


class TorchBackend(DecodingBackend):
    """Runs a `YOLOX` network in PyTorch.

    Args:
        network: the network, on the device where it shall run; never modified.
        spec: what it expects and answers.
        owned: whether nobody else uses the network, so that its mode need not be watched over.
    """

    kind = "torch"

    def __init__(self, network: YOLOX, spec: ModelSpec, *, owned: bool = False) -> None:
        super().__init__(spec)
        self.network = network
        self._owned = owned

    @classmethod
    def from_file(
        cls, path: Path, *, device: torch.device | str = "cpu", precision: Precision = "fp32"
    ) -> Self:
        """Load weights and make them fast: fused, channels last, in the precision asked for.

        Raises:
            CheckpointError: when the file cannot be read or does not fit.
            UsageError: when PyTorch has no such device or precision.
        """
        weights = load_weights(path)
        return cls.from_weights(weights, device=device, precision=precision, where=str(path))

    @classmethod
    def from_weights(
        cls,
        weights: Weights,
        *,
        device: torch.device | str = "cpu",
        precision: Precision = "fp32",
        where: str = "weights",
    ) -> Self:
        """As `from_file`, with weights in memory; `where` names them in messages."""
        target = usable_device(device)
        if precision not in DTYPES:
            raise UsageError(f"precision must be one of {', '.join(DTYPES)}, got {precision!r}")
        if target.type == "cpu" and precision == "fp16":
            raise UsageError("precision fp16 needs an accelerator; on the CPU use fp32 or bf16")
        network = fuse(build_network(weights, where=where)).to(target, DTYPES[precision])
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return cls(network, spec_of(weights), owned=True)

    @classmethod
    def from_network(cls, network: YOLOX, spec: ModelSpec, *, fused: bool = False) -> Self:
        """Wrap a live network, such as the average during training.

        Nothing of it changes: it runs in evaluation mode and every module's mode is put back
        after each batch. With `fused` a fused copy of its present state runs instead.
        """
        return cls(fuse(network), spec, owned=True) if fused else cls(network, spec)

    def predict(self, images: ImageArray | Tensor) -> DecodedPredictions:
        """See `DecodingBackend.predict`; boxes and probabilities are float32 on the device."""
        weight = next(self.network.parameters())
        floats = network_input(
            images, self.spec.preprocessing, device=weight.device, dtype=weight.dtype
        )
        with torch.inference_mode():
            if self._owned:
                raw = self.network(floats)
            else:
                with evaluation_mode(self.network):
                    raw = self.network(floats)
            decoded = decode(raw, self.spec.strides)
        if weight.device.type == "cuda":
            # Kernels run behind Python's back; without this their time lands in the next stage.
            torch.cuda.synchronize(weight.device)
        return decoded


@contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Put every module into evaluation mode, and each back into its own mode afterwards."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def spec_of(weights: Weights) -> ModelSpec:
    """The specification of a network built from `weights`."""
    return ModelSpec(
        name=weights.model.name,
        names=weights.names,
        category_ids=weights.category_ids,
        preprocessing=weights.input.preprocessing,
        size_hw=weights.input.size,
        strides=weights.model.strides,
        num_classes=weights.model.num_classes or len(weights.names),
    )


def usable_device(device: torch.device | str) -> torch.device:
    """The device as PyTorch's value; ``auto`` takes the best present.

    Raises:
        UsageError: when the name is unknown or the device is absent.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        target = torch.device(device)
        torch.zeros(1, device=target)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(f"device {str(device)!r} cannot be used: {reason}") from error
    return target
