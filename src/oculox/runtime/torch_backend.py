"""PyTorch networks as a backend: from a weights file or from memory, as during training."""

import copy
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from oculox.config.schema import Precision
from oculox.data.preprocess import to_floats
from oculox.distributed.devices import is_out_of_memory, usable_device
from oculox.errors import DeviceMemoryError, UsageError, plural
from oculox.models.layers import ConvBNAct
from oculox.models.yolox import YOLOX
from oculox.postprocess import DetectSettings, decode, select_detections
from oculox.runtime.backend import Backend
from oculox.types import DecodedPredictions, Detections, ImageArray, ModelSpec
from oculox.weights import Weights, build_network

DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}


class TorchBackend(Backend):
    """Runs a `YOLOX` network in PyTorch.

    Args:
        network: the network, on the device that it runs on; never modified.
        spec: what it takes and returns.
        owned: whether nothing else uses the network, so that its mode can be left alone.
    """

    kind = "torch"

    def __init__(self, network: YOLOX, spec: ModelSpec, *, owned: bool = False) -> None:
        super().__init__(spec)
        self.network = network
        self._owned = owned
        self._lock = threading.Lock()
        # On an accelerator batches side by side would gain nothing, and need the memory of all.
        self.side_by_side = owned and next(network.parameters()).device.type == "cpu"

    @classmethod
    def from_weights(
        cls,
        weights: Weights,
        *,
        device: torch.device | str = "cpu",
        precision: Precision = "fp32",
        where: str = "weights",
    ) -> Self:
        """Make weights fast: fused, channels last, in the given precision.

        Args:
            weights: to run.
            device: where.
            precision: of the network.
            where: names the weights in messages.

        Raises:
            CheckpointError: when the weights do not fit their network.
            UsageError: when PyTorch has no such device or precision.
        """
        target = usable_device(device)
        if precision not in DTYPES:
            raise UsageError(f"precision must be one of {', '.join(DTYPES)}, got {precision!r}")
        if target.type == "cpu" and precision == "fp16":
            raise UsageError("precision fp16 needs an accelerator; on the CPU use fp32 or bf16")
        network = fuse(build_network(weights, where=where)).to(target, DTYPES[precision])
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return cls(network, weights.spec, owned=True)

    @classmethod
    def from_network(cls, network: YOLOX, spec: ModelSpec, *, fused: bool = False) -> Self:
        """Wrap a live network, such as the average during training; one call runs at a time.

        Nothing of it changes: it runs in evaluation mode and every module's mode is put back
        after each batch. With `fused` a fused copy of its present state runs instead.
        """
        return cls(fuse(network), spec, owned=True) if fused else cls(network, spec)

    def predict(self, images: ImageArray | Tensor) -> DecodedPredictions:
        """See `Backend.predict`; boxes and probabilities are float32 on the device.

        Raises:
            DeviceMemoryError: there is too little memory for so many images.
        """
        weight = next(self.network.parameters())
        floats = to_floats(images, self.spec.input, device=weight.device, dtype=weight.dtype)
        try:
            with nullcontext() if self.side_by_side else self._lock, torch.inference_mode():
                with nullcontext() if self._owned else evaluation_mode(self.network):
                    raw = self.network(floats)
                decoded = decode(raw, self.spec.strides)
                if weight.device.type == "cuda":
                    # CUDA does not wait for its kernels; without this their time counts for the
                    # next stage.
                    torch.cuda.synchronize(weight.device)
        except RuntimeError as error:
            if not is_out_of_memory(error, weight.device):
                raise
            count, _, height, width = images.shape
            raise DeviceMemoryError(
                f"out of memory on {weight.device} with {plural(count, 'image')} of "
                f"{height}x{width} at once; lower `batch`"
            ) from error
        return decoded

    def select(self, outputs: tuple[Tensor, ...], settings: DetectSettings) -> list[Detections]:
        """See `Backend.select`."""
        return select_detections(DecodedPredictions(*outputs), settings, names=self.spec.names)


def fuse(network: YOLOX) -> YOLOX:
    """A copy in evaluation mode whose batch norms are folded into their convolutions.

    The outputs agree with the original's up to float rounding. `network` is not modified.
    """
    fused = copy.deepcopy(network).eval()
    # accelerate gives the network that it prepares a `forward` in the precision of training.
    for name in ("forward", "_original_forward"):
        vars(fused).pop(name, None)
    for module in fused.modules():
        if isinstance(module, ConvBNAct) and isinstance(module.bn, nn.BatchNorm2d):
            conv, bn = module.conv, module.bn
            mean, var = bn.running_mean, bn.running_var
            assert mean is not None
            assert var is not None
            conv.weight, conv.bias = fuse_conv_bn_weights(
                conv.weight, conv.bias, mean, var, bn.eps, bn.weight, bn.bias
            )
            module.bn = nn.Identity()
    return fused


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
