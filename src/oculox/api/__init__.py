"""What programs use: `Detector`, `train`, `evaluate`, `compare`, `export`, and datasets."""

from oculox.api.detector import Detector
from oculox.api.evaluation import compare, evaluate
from oculox.api.exporting import export
from oculox.api.many import predict_many
from oculox.api.networks import list_models
from oculox.api.training import train
from oculox.datasets.check import check_data
from oculox.datasets.formats.convert import convert
from oculox.exporting.benchmark import benchmark
from oculox.training.callback import TrainCallback

__all__ = [
    "Detector",
    "TrainCallback",
    "benchmark",
    "check_data",
    "compare",
    "convert",
    "evaluate",
    "export",
    "list_models",
    "predict_many",
    "train",
]
