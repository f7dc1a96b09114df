"""Every format that can be written: its suffix, what it can do, and who converts."""

import dataclasses
import difflib
import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from oculox.errors import UsageError
from oculox.exporting.job import ExportOptions, Job
from oculox.exporting.to_coreml import write_coreml
from oculox.exporting.to_litert import write_litert
from oculox.exporting.to_mindir import write_mindir
from oculox.exporting.to_ncnn import write_ncnn
from oculox.exporting.to_onnx import write_onnx
from oculox.exporting.to_openvino import write_openvino
from oculox.exporting.to_tensorrt import write_tensorrt
from oculox.exporting.to_torch import write_pt2, write_torchscript
from oculox.extras import require_installed
from oculox.runtime.exported import METADATA_KEY, ExportPrecision
from oculox.runtime.open_model import FORMATS

Feature = Literal["batch", "size", "nms", "preprocess"]


@dataclasses.dataclass(frozen=True)
class Target:
    """A format.

    Attributes:
        name: as `--format` takes it.
        title: for people.
        convert: writes a job to a path.
        precisions: that can be written.
        can: leave the ``batch`` or the input ``size`` free, put ``nms`` or ``preprocess`` inside.
        batches: the only fixed batch size; None for any.
        runs: whether Oculox can run the file on this machine, and so compare it.
        device: where it is compared, where the format leaves a choice: on GPUs float32 may be TF32.
        needs: packages that write it.
        extra: that brings them, where it is not called like the format.
        companions: ends of the names of what is written beside the file, in place of its suffix.
    """

    name: str
    title: str
    convert: Callable[[Job, Path], None]
    _: dataclasses.KW_ONLY
    precisions: tuple[ExportPrecision, ...] = ("fp32",)
    can: tuple[Feature, ...] = ()
    batches: int | None = None
    runs: bool = True
    device: str = "cpu"
    needs: tuple[str, ...] = ()
    extra: str | None = None
    companions: tuple[str, ...] = ()

    @property
    def suffix(self) -> str:
        """Of the file or folder."""
        return FORMATS[self.name].suffixes[0]

    def require_packages(self) -> None:
        """See that what writes it is installed.

        Raises:
            MissingExtraError: a package is missing; the message names the extra.
        """
        extra, purpose = self.extra or self.name, f"an export to {self.title}"
        require_installed(self.needs, extra=extra, purpose=purpose)


_PRECISIONS: tuple[ExportPrecision, ...] = ("fp32", "fp16", "int8")
_FEATURES: tuple[Feature, ...] = ("batch", "size", "nms", "preprocess")
_ONNX = ("onnx", "onnxscript")
_ON_MAC = platform.system() == "Darwin"
_ALL = (
    Target("onnx", "ONNX", write_onnx, precisions=_PRECISIONS, can=_FEATURES, needs=_ONNX),
    Target(
        "openvino",
        "OpenVINO",
        write_openvino,
        precisions=_PRECISIONS,
        can=_FEATURES,
        needs=("openvino", *_ONNX),
        companions=(".bin",),
    ),
    Target("torchscript", "TorchScript", write_torchscript, can=("batch",)),
    Target("pt2", "PyTorch exported program", write_pt2, can=("batch", "size")),
    Target("ncnn", "ncnn", write_ncnn, batches=1, needs=("pnnx",)),
    Target("litert", "LiteRT", write_litert, needs=("litert_torch",)),
    Target(
        "coreml",
        "Core ML",
        write_coreml,
        precisions=("fp32", "fp16"),
        runs=_ON_MAC,
        needs=("coremltools",),
    ),
    Target(
        "tensorrt",
        "TensorRT",
        write_tensorrt,
        precisions=_PRECISIONS,
        can=("batch", "nms"),
        device="cuda",
        needs=("tensorrt", *_ONNX),
        companions=(f".engine.{METADATA_KEY}.json",),
    ),
    Target("mindir", "MindIR", write_mindir, needs=("mindspore",), extra="mindspore"),
)
TARGETS: Mapping[str, Target] = MappingProxyType({target.name: target for target in _ALL})
"""Formats by the name that ``--format`` takes."""


def find_target(options: ExportOptions) -> Target:
    """The target of a request, after checking that it can do what is requested.

    Raises:
        UsageError: when the format is unknown or cannot do it; the message says what can.
    """
    target = TARGETS.get(options.format)
    if target is None:
        near = difflib.get_close_matches(options.format, TARGETS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UsageError(f"unknown format {options.format!r}{hint} (formats: {', '.join(TARGETS)})")
    requests: tuple[tuple[bool, str, Callable[[Target], bool]], ...] = (
        (options.batch is None, "a free batch size", lambda t: "batch" in t.can),
        (options.dynamic_size, "a free input size", lambda t: "size" in t.can),
        (options.nms is not None, "NMS inside", lambda t: "nms" in t.can),
        (options.preprocess, "preprocessing inside", lambda t: "preprocess" in t.can),
        (
            options.batch is not None,
            f"a batch of {options.batch}",
            lambda t: t.batches in (None, options.batch),
        ),
        (True, f"precision {options.precision}", lambda t: options.precision in t.precisions),
    )
    for wanted, feature, able in requests:
        if wanted and not able(target):
            others = ", ".join(name for name, other in TARGETS.items() if able(other))
            raise UsageError(
                f"{target.title} files cannot be written with {feature} (formats that can: "
                f"{others})"
            )
    return target
