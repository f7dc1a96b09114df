"""Checkpoints through a faster runtime than PyTorch: converted once, and the quickest one found.

Conversions and measurements are kept in `runtimes_folder`, under hashes of what they depend on: the
weights, the size, and the versions and the machine that matter.
"""

import atexit
import contextlib
import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import json
import shutil
import statistics
import tempfile
import time
import warnings
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from oculox.addresses import Location
from oculox.config.schema import Precision
from oculox.distributed.devices import describe_machine, usable_device
from oculox.distributed.launch import is_main_process
from oculox.errors import ExportError, OculoxError, OculoxWarning, UsageError
from oculox.exporting.job import ExportOptions, make_job
from oculox.exporting.parity import sample_inputs
from oculox.exporting.targets import TARGETS, find_target
from oculox.extras import require_installed
from oculox.files import (
    cache_folder,
    file_sha256,
    make_folder,
    move_entries,
    scratch_beside,
    write_json,
)
from oculox.postprocess import DetectSettings
from oculox.runtime.backend import Backend
from oculox.runtime.open_model import format_of, open_model
from oculox.runtime.remote_backend import RemoteBackend, is_service
from oculox.version import __version__
from oculox.weights import load_weights
from oculox.weights.download import locate_weights

TORCH = "torch"
_PACKAGES = {"onnx": "onnxruntime", "openvino": "openvino", "ncnn": "ncnn"}
_NEEDS = MappingProxyType(
    {name: (package, *TARGETS[name].needs) for name, package in _PACKAGES.items()}
)
"""What runs a converted model, then what converts."""
RUNTIMES = ("auto", TORCH, *_NEEDS)
"""What a checkpoint can be run with."""

_KEPT_VERSION = 1
"""Of what lies in the folder."""
_CONTENTS = "contents.json"
_SECONDS = 1.0
_FEWEST_RUNS = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a model shall run.

    Attributes:
        device: where.
        precision: of the network; only PyTorch takes another than ``fp32``.
        size_hw: the input size, fixed by a conversion; None for the checkpoint's own.
        dynamic_size: convert so that it takes other sizes too.
    """

    device: str = "auto"
    precision: Precision = "fp32"
    size_hw: tuple[int, int] | None = None
    dynamic_size: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class RuntimeChoice:
    """The runtime that ``auto`` took for a checkpoint.

    Attributes:
        runtime: its name.
        milliseconds: median of one image of each runtime that was measured, network and
            post-processing; empty where there was no choice.
        skipped: why others that are installed were not measured.
        reason: in words.
    """

    runtime: str
    milliseconds: dict[str, float] = dataclasses.field(default_factory=dict)
    skipped: dict[str, str] = dataclasses.field(default_factory=dict)
    reason: str

    def __str__(self) -> str:
        """One sentence."""
        return f"backend {self.runtime}, chosen by auto: {self.reason}"


def runtimes_folder() -> Path:
    """Where conversions and choices are kept; it can be removed at any time."""
    return cache_folder() / "runtimes"


def clear_runtimes() -> int:
    """Remove all conversions and choices; the number of bytes they took."""
    folder = runtimes_folder()
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    shutil.rmtree(folder, ignore_errors=True)
    return size


def open_with(
    path: str | Location, options: RunOptions | None = None, *, backend: str | None = None
) -> Backend:
    """Open a model, a checkpoint with a runtime of choice.

    An exported file has its own runtime. The conversion of a checkpoint takes some seconds and is
    kept; `oculox export` writes a file to give away, and compares it with PyTorch first.

    Args:
        path: a checkpoint, or an exported file; or the address of a service.
        options: how it shall run.
        backend: for checkpoints one of `RUNTIMES`, ``auto`` takes that of `choose_runtime`; None
            for the file's own.

    Raises:
        UsageError: when the runtime is unknown or cannot do what is requested.
        MissingExtraError: when it is not installed.
        CheckpointError: when the file cannot be used.
        ExportError: when the converter fails.
    """
    options = options or RunOptions()
    device, precision = options.device, options.precision
    if is_service(path):
        if backend not in (None, "auto") or precision != "fp32" or device not in ("auto", "cpu"):
            raise UsageError(
                f"{path}: `backend`, `precision` and `device` are chosen where the service starts"
            )
        return RemoteBackend(str(path))
    path = locate_weights(path)
    if backend is None or format_of(path) != TORCH:
        named = None if backend == "auto" else backend
        return open_model(path, device=device, precision=precision, backend=named)
    if backend not in RUNTIMES:
        raise UsageError(
            f"a checkpoint cannot be run with {backend!r}; there are {', '.join(RUNTIMES)}"
        )
    if backend == "auto":
        choice = choose_runtime(path, options)
        backend = choice.runtime if choice else TORCH
    if backend == TORCH:
        return open_model(path, device=device, precision=precision)
    if precision != "fp32":
        raise UsageError(f"precision {precision} is for PyTorch; {backend} converts to fp32")
    wanted = ExportOptions(
        format=backend, size_hw=options.size_hw, dynamic_size=options.dynamic_size
    )
    find_target(wanted)
    folder = runtimes_folder() / _conversion_key(path, wanted)
    if (kept := kept_model(folder)) is not None:
        return open_model(kept, device=device)
    require_installed(_NEEDS[backend], extra=backend, purpose=f"the backend {backend}")
    try:
        make_folder(folder)
    except OculoxError:
        folder = _temporary_folder(folder.parent) / folder.name
    return open_model(kept_model(folder) or _convert(path, wanted, folder), device=device)


@cache
def _warn_not_kept(folder: Path) -> None:
    """Say once in a process that a folder cannot be written."""
    warnings.warn(
        f"{folder}: cannot be written, so nothing that `backend` converts or measures is kept; set "
        "OCULOX_CACHE to a folder of your own",
        OculoxWarning,
        stacklevel=4,
    )


@cache
def _temporary_folder(folder: Path) -> Path:
    """Takes the place of a folder that cannot be written, until this process ends."""
    _warn_not_kept(folder)
    scratch = Path(tempfile.mkdtemp(prefix="oculox-"))
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    return scratch


def choose_runtime(path: str | Location, options: RunOptions) -> RuntimeChoice | None:
    """The quickest runtime for a checkpoint on this machine; None for an exported file.

    On a CPU all runtimes that are installed are measured for a second each, the first time; the
    choice is kept by machine, versions, weights and size.

    Raises:
        OculoxError: the checkpoint cannot be used.
    """
    path = locate_weights(path)
    if format_of(path) != TORCH:
        return None
    if options.precision != "fp32":
        return RuntimeChoice(runtime=TORCH, reason=f"it alone computes in {options.precision}")
    kind = usable_device(options.device).type
    if kind != "cpu":
        return RuntimeChoice(runtime=TORCH, reason=f"it runs on {kind}")
    names = [name for name, needs in _NEEDS.items() if all(map(importlib.util.find_spec, needs))]
    if not names:
        return RuntimeChoice(runtime=TORCH, reason="no other runtime is installed")
    key = _hash(
        path,
        machine=describe_machine(torch.get_num_threads()),
        runtimes=names,
        options=repr(dataclasses.replace(options, device="cpu")),
    )
    file = runtimes_folder() / f"choice-{key}.json"
    choice = read_choice(file)
    if choice is None:
        choice = _measure(path, names, dataclasses.replace(options, device="cpu"))
        try:
            write_json(file, dataclasses.asdict(choice))
        except OculoxError:
            _warn_not_kept(file.parent)
    return choice


def _measure(path: Path, names: list[str], options: RunOptions) -> RuntimeChoice:
    _tell(f"measuring {', '.join([TORCH, *names])} for {path.name} on this machine, once")
    milliseconds: dict[str, float] = {}
    skipped: dict[str, str] = {}
    for name in (TORCH, *names):
        try:
            backend = open_with(path, options, backend=name)
        except (ExportError, UsageError) as error:
            skipped[name] = str(error)
            continue
        milliseconds[name] = round(_median_ms(backend, backend.spec.check_size(options.size_hw)), 2)
    ranking = sorted(milliseconds, key=lambda name: milliseconds[name])
    figures = ", ".join(f"{name} {milliseconds[name]:.1f}" for name in ranking)
    return RuntimeChoice(
        runtime=ranking[0],
        milliseconds=milliseconds,
        skipped=skipped,
        reason=f"the quickest here ({figures} ms an image)",
    )


def _median_ms(backend: Backend, size_hw: tuple[int, int]) -> float:
    """Of one image."""
    images, settings = sample_inputs(1, backend.spec.input.at(size_hw)), DetectSettings()
    for _ in range(2):
        backend.detect(images, settings)
    times: list[float] = []
    while len(times) < _FEWEST_RUNS or sum(times) < _SECONDS:
        start = time.perf_counter()
        backend.detect(images, settings)
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def read_choice(file: Path) -> RuntimeChoice | None:
    """What was measured before; None where there is no such file or it cannot be understood."""
    try:
        choice = RuntimeChoice(**json.loads(file.read_text("utf-8")))
        return choice if choice.runtime in choice.milliseconds else None
    except (OSError, ValueError, TypeError):
        return None


def _convert(path: Path, options: ExportOptions, folder: Path) -> Path:
    """Convert into a folder, and note what it then holds."""
    target = find_target(options)
    name = f"model{target.suffix}"
    _tell(f"converting {path.name} to {target.title}")
    with scratch_beside(folder / name) as scratch:
        target.convert(make_job(load_weights(path), options), scratch / name)
        made = [file for file in scratch.rglob("*") if file.is_file()]
        hashes = {file.relative_to(scratch).as_posix(): file_sha256(file) for file in made}
        move_entries(scratch, folder)
    write_json(folder / _CONTENTS, {"model": name, "sha256": hashes})
    return folder / name


def kept_model(folder: Path) -> Path | None:
    """The converted model in a folder; None where it is not there or not as it was written."""
    try:
        contents = json.loads((folder / _CONTENTS).read_text("utf-8"))
        whole = all(file_sha256(folder / name) == sha for name, sha in contents["sha256"].items())
        return folder / contents["model"] if whole else None
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def _conversion_key(path: Path, options: ExportOptions) -> str:
    versions = {}
    for package in ("torch", *_NEEDS[options.format]):
        # Builds for a GPU have other names; they convert alike.
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return _hash(path, versions=versions, options=repr(options))


def _hash(path: Path, **more: Any) -> str:
    """Of a file's bytes, this version and further values."""
    values = {"kept": _KEPT_VERSION, "oculox": __version__, "file": file_sha256(path), **more}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:32]


def _tell(line: str) -> None:
    """On standard error: it takes seconds."""
    from rich.console import Console

    console = Console(stderr=True, emoji=False, quiet=not is_main_process())
    console.print(line, markup=False, highlight=False, soft_wrap=True)
