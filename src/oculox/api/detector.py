"""`Detector`: a model that finds, follows, evaluates, trains and exports."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypedDict, Unpack, overload

from oculox.addresses import Location, on_disk, to_location
from oculox.api.exporting import export
from oculox.api.training import train
from oculox.config import Config, config_from_dict
from oculox.config.schema import Precision
from oculox.data.coco import CocoIndex, Split
from oculox.data.tiles import Tiling
from oculox.datasets.splits import load_splits, open_split
from oculox.distributed.devices import open_processes, own_device
from oculox.errors import DataError, UsageError, plural
from oculox.evaluation.evaluate import Evaluation
from oculox.evaluation.evaluate import evaluate as evaluate_backend
from oculox.exporting.benchmark import Benchmark, benchmark
from oculox.exporting.open_with import RunOptions, RuntimeChoice, choose_runtime, open_with
from oculox.exporting.run import ExportReport
from oculox.files import require_new_file
from oculox.postprocess import DetectSettings
from oculox.predict.frames import RETRY_SECONDS
from oculox.predict.inputs import ColorOrder, images_in
from oculox.predict.pipeline import Pipeline
from oculox.predict.sources import find_sources
from oculox.predict.stream import detect_each, find_images
from oculox.predict.table import predict_table
from oculox.predict.track import track_source
from oculox.predict.tracker import Algorithm, TrackSettings
from oculox.report.evaluation_report import model_settings, write_report
from oculox.runtime.backend import Backend
from oculox.runtime.remote_backend import is_service
from oculox.runtime.views import Tta, Views
from oculox.training.callback import TrainCallback
from oculox.training.run_folder import TrainSummary
from oculox.types import Detections, ImageSize, Progress, height_width
from oculox.weights.checkpoint import training_config
from oculox.weights.download import locate_weights


class Thresholds(TypedDict, total=False):
    """What a call may change for itself; None is the detector's own."""

    conf: float | None
    iou: float | None
    max_det: int | None
    classes: str | int | Sequence[str | int] | None


class Detector:
    """A trained network, ready to use on images.

    Threads may share one: calls and streams change nothing in it.

    `choice` tells what ``auto`` took and why; it is None without it.

    Examples:
        >>> detector = Detector("best.pt")
        >>> detector("street.jpg").to_dicts()

    Args:
        model: a weights file (Oculox's or another project's), an exported model, the
            URL of either (``s3://...``), a name of published weights, the URL of a
            service, or a backend.
        conf: lowest score kept.
        iou: NMS: IoU above which the weaker of two boxes of a class is dropped.
        max_det: most detections per image.
        classes: keep only these, by name or number.
        agnostic_nms: NMS across all classes.
        imgsz: input size; the model's own by default.
        device: ``auto`` takes the best present.
        precision: of the network, for PyTorch weights.
        backend: the runtime for a checkpoint: ``torch``, ``onnx``, ``openvino``, ``ncnn``, or
            ``auto``: on a CPU the quickest of those installed, measured the first time
            (`self.choice` tells which and why), else ``torch``; exported files have their own.
        batch: most images at once.
        tta: test-time augmentation: ``flip`` looks at the mirror image too, ``full`` at both in
            three input sizes; the boxes are fused.
        tile: look at overlapping tiles of that many pixels too, where an image is larger.
        tile_overlap: least share of a tile in common with the next, 0 to 0.9.

    Raises:
        CheckpointError: the file is missing, damaged or no such model.
        UsageError: an option does not fit the model.
    """

    def __init__(
        self,
        model: str | Location | Backend,
        *,
        conf: float = 0.3,
        iou: float = 0.45,
        max_det: int = 1000,
        classes: str | int | Sequence[str | int] | None = None,
        agnostic_nms: bool = False,
        imgsz: ImageSize | None = None,
        device: str = "auto",
        precision: Precision = "fp32",
        backend: str | None = None,
        batch: int = 8,
        tta: Tta | None = None,
        tile: int | None = None,
        tile_overlap: float = 0.2,
    ) -> None:
        self.path: Location | None = None
        self.choice: RuntimeChoice | None = None
        self.backend: Backend
        self.size_hw = None if imgsz is None else height_width(imgsz)
        self.device = device
        if isinstance(model, str | Location):
            wanted = RunOptions(
                device=own_device(device),
                precision=precision,
                size_hw=self.size_hw,
                dynamic_size=tta == "full",
            )
            if not is_service(model):
                self.path = to_location(model)
                model = locate_weights(self.path)
                if backend == "auto":
                    self.choice = choose_runtime(model, wanted)
                    backend = None if self.choice is None else self.choice.runtime
            self.backend = open_with(model, wanted, backend=backend)
        elif isinstance(model, Backend):
            self.backend = model
        else:
            raise UsageError(
                "the model: expected a path, a URL, a name of published weights or a Backend, "
                f"got {type(model).__name__}"
            )
        spec = self.backend.spec
        settings = DetectSettings(
            conf=conf,
            iou=iou,
            max_det=max_det,
            agnostic_nms=agnostic_nms,
            class_ids=None if classes is None else spec.class_ids(classes),
        )
        views = Views(tta=tta, tiling=None if tile is None else Tiling(tile, tile_overlap))
        self.pipeline = Pipeline(
            self.backend, settings, views=views, size_hw=self.size_hw, batch=batch
        )

    def __repr__(self) -> str:
        """The model's name, its input, how many classes it knows and what runs it."""
        spec = self.backend.spec
        height, width = spec.check_size(self.size_hw)
        return (
            f"Detector({spec.model.name}, {height}x{width}, "
            f"{plural(spec.num_classes, 'class')}, {self.backend.kind})"
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Class names by index."""
        return self.backend.spec.names

    @overload
    def __call__(
        self,
        images: list[Any] | tuple[Any, ...] | Iterator[Any],
        *,
        color: ColorOrder | None = ...,
        **thresholds: Unpack[Thresholds],
    ) -> list[Detections]: ...
    @overload
    def __call__(
        self, images: Any, *, color: ColorOrder | None = ..., **thresholds: Unpack[Thresholds]
    ) -> Detections: ...
    def __call__(
        self, images: Any, *, color: ColorOrder | None = None, **thresholds: Unpack[Thresholds]
    ) -> Detections | list[Detections]:
        """Find objects.

        Args:
            images: a path; a URL (http, https); a uint8 array (H, W, 3); a tensor (3, H, W),
                uint8 or floats from 0 to 1; a Pillow image; the bytes of an image file. Several:
                anything to iterate over, an array (B, H, W, 3) or a tensor (B, 3, H, W).
            color: channel order of arrays and tensors; without it arrays are BGR, as OpenCV reads,
                and tensors RGB, as torchvision reads.
            **thresholds: `conf`, `iou`, `max_det`, `classes` for this call.

        Returns:
            Detections in the image's own pixels; a list for several images.

        Raises:
            DataError: a file is not a readable image, or a URL gives none.
            UsageError: an array is not an image, or a threshold is out of its range.
        """
        several = images_in(images)
        given = find_images([images] if several is None else several).images
        pipeline = self._pipeline(thresholds)
        batch = pipeline.batch
        found = list(detect_each(pipeline, given, batch=batch, ahead=True, color=color))
        return found[0] if several is None else found

    def stream(
        self,
        source: Any,
        *,
        batch: int = 1,
        recursive: bool = False,
        skip_unreadable: bool = False,
        color: ColorOrder | None = None,
        **thresholds: Unpack[Thresholds],
    ) -> Iterator[Detections]:
        """Find objects in any number of images or frames, with a few batches in memory.

        Threads work on the next images of folders, videos and lists while the caller uses a
        result. The frames of cameras and what an iterator gives are taken one batch at a time.

        Args:
            source: a folder, a pattern such as ``shots/*.jpg``, a video, a camera's number, the
                URL of a stream; or what a call takes.
            batch: images at once; more than one waits for that many frames of a camera.
            recursive: look into the folders of a folder.
            skip_unreadable: warn of images that cannot be read, in place of raising.
            color: see a call.
            **thresholds: see a call.

        Returns:
            Gives the `Detections` of one image after the other; each knows its `source` and
            `image`.

        Raises:
            DataError: the source does not exist, or an image cannot be read.
            UsageError: it is no source, or a threshold is out of its range.
        """
        if batch < 1:
            raise UsageError(f"batch must be at least 1, got {batch}")
        given = find_images(source, recursive=recursive)
        return detect_each(
            self._pipeline(thresholds),
            given.images,
            batch=batch,
            ahead=given.ahead,
            color=color,
            skip_unreadable=skip_unreadable,
        )

    def table(self, images: Sequence[str | Path]) -> Any:
        """What is in each image, as a `pyarrow.Table` (extra ``parquet``): one row an image.

        Columns: ``image``; ``width`` and ``height`` in pixels; lists with an entry for each
        detection, best score first: ``boxes`` (left, top, right, bottom), ``scores``,
        ``class_ids`` and ``names``; ``truncated``, whether the image's end is missing; ``error``,
        why an image could not be read: then its lists are empty and its size is null.

        Args:
            images: files and URLs.

        Raises:
            MissingExtraError: pyarrow is not installed.
        """
        return predict_table(self.pipeline, [str(image) for image in images])

    def track(
        self,
        source: str | Path | int,
        *,
        tracker: Algorithm = "bytetrack",
        start_conf: float = 0.5,
        lost_seconds: float = 1.0,
        retry_seconds: float = RETRY_SECONDS,
        fps: float | None = None,
        **thresholds: Unpack[Thresholds],
    ) -> Iterator[Detections]:
        """Find objects in the frames of a video, and follow each under a number of its own.

        Every frame of a file comes. Of a camera or stream comes the newest one each time, and one
        that breaks off is opened again. Needs the extra ``track``.

        Args:
            source: a video, a camera's number, the URL of a stream; or a folder or pattern
                of images that are frames, in the order of their names.
            tracker: ``bytetrack``, ``sort``, ``ocsort`` or ``botsort``.
            start_conf: lowest score that starts a new object.
            lost_seconds: how long an object that is not seen keeps its number.
            retry_seconds: how long a camera or stream that broke off is tried again.
            fps: frames in a second; what the source says, or 25, for None.
            **thresholds: see a call; `conf` is 0.1 here, as weak detections help to follow.

        Returns:
            Gives the `Detections` of one frame after the other, with `track_ids`; each knows its
            `image`. An object is in them from the second frame on in which it is seen.

        Raises:
            DataError: the source cannot be opened, or a stream broke off for good.
            UsageError: it is no such source, or an option is out of its range.
            MissingExtraError: the package `trackers` is not installed.
        """
        settings = TrackSettings(
            algorithm=tracker, start_conf=start_conf, lost_seconds=lost_seconds
        )
        return track_source(
            self._pipeline({"conf": 0.1, **thresholds}),
            find_sources([str(source)]),
            settings,
            fps=fps,
            retry_seconds=retry_seconds,
        )

    def _pipeline(self, thresholds: Thresholds) -> Pipeline:
        known = Thresholds.__annotations__
        if unknown := thresholds.keys() - known.keys():
            raise UsageError(f"a call takes {', '.join(known)}, not {', '.join(sorted(unknown))}")
        changes: dict[str, Any] = {k: v for k, v in thresholds.items() if v is not None}
        if "classes" in changes:
            changes["class_ids"] = self.backend.spec.class_ids(changes.pop("classes"))
        return self.pipeline.with_settings(dataclasses.replace(self.pipeline.settings, **changes))

    def evaluate(
        self,
        data: str | Location | None = None,
        *,
        split: Split = "val",
        images: str | Location | None = None,
        conf: float = 0.01,
        iou: float = 0.65,
        batch: int = 8,
        workers: int = 1,
        max_bad_images: int = 0,
        report: str | Path | None = None,
        overwrite: bool = False,
        progress: Progress | None = None,
    ) -> Evaluation:
        """COCO metrics on a dataset, with the thresholds of the official evaluation.

        The processes of a `torchrun` launch share the images, and all get the same metrics.
        `max_det`, `agnostic_nms`, `tta` and `tile` are those of the detector; all classes are
        evaluated.

        Args:
            data: a dataset folder or COCO JSON; by default what the model was trained on.
            split: ``val``, ``train`` or ``test``, of a folder.
            images: folder of the images of a JSON file; by default the file's own.
            conf: lowest score kept.
            iou: NMS: IoU above which the weaker of two boxes of a class is dropped.
            batch: images at once.
            workers: loader processes.
            max_bad_images: how many images that cannot be read may be left out.
            report: HTML file to write, with metrics, curves and images.
            overwrite: replace `report` where it exists.
            progress: called with the numbers of batches done and in all.

        Raises:
            DataError: the data is missing or faulty, or has other classes than the model.
            UsageError: no data was named and the model does not know its own, or `report` exists.
        """
        page = None if report is None else require_new_file(Path(report), overwrite=overwrite)
        index = self._own_data(split) if data is None else open_split(data, split, images=images)
        settings = self._evaluation_settings(conf, iou)
        with open_processes(self.device) as processes:
            result = evaluate_backend(
                self.backend,
                index,
                settings=settings,
                views=self.pipeline.views,
                size_hw=self.size_hw,
                batch=batch,
                workers=workers,
                max_bad_images=max_bad_images,
                processes=processes,
                progress=progress,
            )
            main = processes.rank == 0
        if page is not None and main:
            title = self.path.name if self.path else self.backend.spec.model.name
            write_report(page, result, index, title=title, settings=self._described(settings))
        return result

    def _evaluation_settings(self, conf: float, iou: float) -> DetectSettings:
        return dataclasses.replace(self.pipeline.settings, conf=conf, iou=iou, class_ids=None)

    def _described(self, settings: DetectSettings) -> dict[str, str]:
        """What a report says of the model and its settings."""
        size = self.backend.spec.check_size(self.size_hw)
        return model_settings(self.backend, settings, size_hw=size, path=self.path)

    def train(
        self,
        recipe: str | Path | Config,
        *overrides: str,
        output: str | Location | None = None,
        devices: int = 1,
        callback: TrainCallback | None = None,
    ) -> TrainSummary:
        """Fine-tune from these weights; see `train`.

        Raises:
            UsageError: the model is not a weights file.
        """
        return train(
            recipe,
            *overrides,
            weights=self._file("training"),
            output=output,
            devices=devices,
            callback=callback,
        )

    def export(self, format: str, **options: Any) -> ExportReport:  # noqa: A002
        """Write the model for another runtime, at this detector's input size.

        Args:
            format: such as ``onnx``.
            **options: those of `export`.

        Raises:
            OculoxError: see `export`; a UsageError where the model is not a weights file.
        """
        return export(self._file("an export"), format, **{"imgsz": self.size_hw, **options})

    def benchmark(
        self, formats: Sequence[str] = ("torch", "onnx", "openvino"), **options: Any
    ) -> Benchmark:
        """Measure the model in several formats on this machine, at this detector's input size.

        Args:
            formats: see `benchmark`.
            **options: those of `benchmark`.

        Raises:
            OculoxError: see `benchmark`; a UsageError where the model is not a weights file.
        """
        return benchmark(self._file("a benchmark"), formats, **{"imgsz": self.size_hw, **options})

    def _file(self, what: str) -> Location:
        if self.path is None:
            raise UsageError(f"{what} starts from a weights file; this Detector has none")
        return self.path

    def _own_data(self, split: Split) -> CocoIndex:
        config = None
        if self.path is not None and self.path.suffix == ".pt":
            config = training_config(on_disk(self.path))
        if config is None:
            raise UsageError(
                "name the data to evaluate on (`data`); "
                "the weights do not say what they were trained on"
            )
        data = config_from_dict(config, where=str(self.path)).data
        try:
            return load_splits(data, split)[0]
        except DataError as error:
            if isinstance(data.root, Path) and data.root.exists():
                raise
            raise DataError(
                f"{error}; {self.path} was trained on this data (a relative path counts from the "
                "folder of the training): pass its path, or other data, with `data`"
            ) from None
