"""The typed, frozen configuration: every setting, its meaning and its default.

The defaults are the official recipe (YOLOX-L shape); `recipes/*.yaml` say what each network
changes. Field descriptions are the documentation of the keys.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationInfo,
    field_validator,
    model_validator,
)

from oculox.addresses import Address, Location, as_text, to_location


class _Section(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_value_for_a_number(cls, value: object, info: ValidationInfo) -> object:
        """Python counts true as 1, and so would `train.batch=true`."""
        assert info.field_name is not None
        if isinstance(value, bool) and cls.model_fields[info.field_name].annotation is not bool:
            raise ValueError(f"got {str(value).lower()}; expected a number or a text")
        return value


def _square(value: object) -> object:
    return (value, value) if isinstance(value, int) else value


def _location(value: object) -> Location:
    if not isinstance(value, str | Path | Address):
        raise ValueError("expected a path or a URL")
    place = to_location(value)
    if isinstance(place, Address) and place.gives_access:
        raise ValueError(
            f"{place} may give access, and a configuration is saved with the run and its weights; "
            "fetch the file, or name a URL without query and password"
        )
    return place


Place = Annotated[Location, PlainValidator(_location), PlainSerializer(as_text)]
"""A path, or a URL such as ``s3://bucket/folder``."""
Size = Annotated[tuple[int, int], BeforeValidator(_square)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]
Precision = Literal["fp32", "bf16", "fp16"]
TrainPrecision = Literal["auto", "fp32", "bf16", "fp16"]
"""In which a network computes."""
Range = tuple[float, float]
Tracker = Literal[
    "tensorboard",
    "wandb",
    "mlflow",
    "comet_ml",
    "aim",
    "clearml",
    "dvclive",
    "swanlab",
    "trackio",
]
"""The experiment trackers that accelerate knows."""


class ModelConfig(_Section):
    """The network."""

    name: str = "yolox-l"
    """Name kept with the weights."""
    backbone: Literal["csp_darknet", "darknet53"] = "csp_darknet"
    """Backbone family; the neck (PAFPN or FPN) follows from it."""
    depth: float = Field(1.0, gt=0)
    """Multiplier of the number of blocks (csp_darknet)."""
    width: float = Field(1.0, gt=0)
    """Multiplier of the number of channels."""
    depthwise: bool = False
    """Depthwise-separable 3x3 convolutions (nano)."""
    activation: Literal["silu", "relu", "leaky_relu"] = "silu"
    """Activation of every convolution (darknet53: leaky_relu with slope 0.1)."""
    num_classes: Annotated[int, Field(ge=1)] | None = None
    """Number of classes; null takes it from the training annotations."""
    strides: tuple[Literal[8], Literal[16], Literal[32]] = (8, 16, 32)
    """Strides of the three prediction levels (fixed by the networks)."""


class InputConfig(_Section):
    """What the network sees; travels with every checkpoint and exported file.

    The official weights take BGR 0-255 with the image in the top-left corner, MindYOLO's take RGB
    0-1 with the image centred. Both pad with 114 (of 255) and resize bilinearly.
    """

    size: Size = (640, 640)
    """Height and width in pixels (one number for a square), multiples of 32."""
    color: Literal["bgr", "rgb"] = "bgr"
    """Channel order."""
    pixel_max: Literal[255, 1] = 255
    """Value of a white pixel: 255, or 1 for weights trained on 0-1."""
    placement: Literal["top_left", "center"] = "top_left"
    """Where the letterbox puts the image."""
    pad_value: int = Field(114, ge=0, le=255)
    """Grey value of the letterbox padding."""

    @model_validator(mode="after")
    def _multiple_of_32(self) -> Self:
        if any(s < 32 or s % 32 for s in self.size):
            raise ValueError(f"size must be positive multiples of 32, got {list(self.size)}")
        return self

    def at(self, size_hw: tuple[int, int]) -> Self:
        """The same pixels at another size."""
        return self.model_copy(update={"size": size_hw})


class SplitConfig(_Section):
    """One split of a dataset; null paths are found below `data.root`."""

    images: Place | None = None
    """Folder of images."""
    annotations: Place | None = None
    """COCO JSON file."""


class DataConfig(_Section):
    """Where the images are and how they are read."""

    root: Place | None = None
    """Dataset folder in COCO, YOLO or Pascal VOC format, or a YOLO dataset's `data.yaml`."""
    train: SplitConfig = SplitConfig()
    """Training split, where `root` alone is not enough."""
    val: SplitConfig = SplitConfig()
    """Validation split, where `root` alone is not enough."""
    max_labels: Positive = 120
    """Most objects kept in a training image."""
    cache: Literal["none", "ram", "disk"] = "none"
    """Keep decoded training images: in memory (ram), or in a file beside the annotations (disk)."""
    workers: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"
    """Loader processes for each training process; auto leaves cores for the network."""
    max_bad_images: Annotated[int, Field(ge=0)] | None = None
    """Most unusable training images that a run leaves out; null: one in 100, at least 10."""


class AugmentConfig(_Section):
    """Training augmentation (official recipe; switched off in the tail)."""

    mosaic_prob: Fraction = 1.0
    """Probability that an image becomes a mosaic of four."""
    mosaic_scale: Range = (0.1, 2.0)
    """Range of the scale of the mosaic's affine."""
    mixup_prob: Fraction = 1.0
    """Probability that a mosaic is mixed with one more image."""
    mixup_scale: Range = (0.5, 1.5)
    """Range of the scale jitter of the mixed image."""
    degrees: float = Field(10.0, ge=0, le=180)
    """Largest rotation of the affine."""
    translate: float = Field(0.1, ge=0, le=1)
    """Largest shift of the affine, as a fraction of the input."""
    shear: float = Field(2.0, ge=0, lt=90)
    """Largest shear of the affine, in degrees."""
    hsv_prob: Fraction = 1.0
    """Probability of hue, saturation and value jitter."""
    hsv_gain: tuple[int, int, int] = (5, 30, 30)
    """Largest change of hue, saturation and value (of 180, 255, 255)."""
    flip_prob: Fraction = 0.5
    """Probability of a horizontal flip."""
    multiscale: Range | None = (0.75, 1.25)
    """Smallest and largest random input, as parts of `input.size`; null for none."""
    multiscale_interval: Positive = 10
    """Steps between changes of the input size."""

    @model_validator(mode="after")
    def _ranges(self) -> Self:
        for key in ("mosaic_scale", "mixup_scale", "multiscale"):
            low, high = getattr(self, key) or (1, 1)
            if not 0 < low <= high:
                raise ValueError(f"{key} must be 0 < low <= high, got [{low:g}, {high:g}]")
        return self


class LossConfig(_Section):
    """Assignment and loss (paper, section 2.1)."""

    candidates_k: Positive = 10
    """SimOTA: cells whose IoU sum sets the number of positives of an object."""
    center_radius: float = Field(1.5, gt=0, le=2.5)
    """SimOTA: candidate cells lie within this many strides of an object's centre."""
    box_weight: float = Field(5.0, ge=0)
    """Weight of the IoU loss."""
    l1: Literal["tail", "always", "never"] = "tail"
    """When the L1 term is on: in the tail, always or never."""


class OptimizerConfig(_Section):
    """The optimizer; weight decay only on convolution weights."""

    name: Literal["sgd", "adamw"] = "sgd"
    """sgd (with Nesterov momentum, the paper's) or adamw (needs its own lr and weight_decay)."""
    lr: float = Field(0.01, gt=0)
    """Peak learning rate for 64 images a step; scaled by the global batch."""
    lr_scaling: Literal["linear", "root"] = "linear"
    """How `lr` is scaled with the images of a step: in proportion, or with the square root."""
    known_lr_ratio: float = Field(1.0, gt=0, le=1)
    """Factor on `lr` when the start weights contain all classes of the data (compared by name).
    With only some of them, between this and 1."""
    body_lr_ratio: float = Field(1.0, gt=0, le=1)
    """Factor on `lr` for the backbone and the neck."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Nesterov momentum of sgd, the first beta of adamw."""
    weight_decay: float = Field(5e-4, ge=0)
    """Weight decay of convolution weights (not of biases and norms)."""
    clip_grad_norm: float = Field(0.0, ge=0)
    """Largest gradient norm; 0 for no clipping."""


class ScheduleConfig(_Section):
    """Learning rate over the run: quadratic warm-up, then a cosine."""

    warmup_epochs: float = Field(5.0, ge=0)
    """Epochs of warm-up; shortened in short runs."""
    warmup_lr: float = Field(0.0, ge=0)
    """Learning rate (for 64 images) where warm-up starts."""
    min_lr_ratio: float = Field(0.05, ge=0, le=1)
    """Lowest learning rate as a fraction of the peak."""
    tail_lr: Literal["lowest", "falling"] = "lowest"
    """Learning rate of the tail: the lowest, as in the paper, or falling to it with the cosine."""


class EmaConfig(_Section):
    """Exponential moving average (EMA) of the weights; the EMA weights are evaluated."""

    enabled: bool = True
    """Keep EMA weights."""
    decay: float = Field(0.9998, gt=0, lt=1)
    """Decay after the ramp."""
    ramp: float = Field(2000.0, gt=0)
    """Updates over which the decay rises: decay * (1 - exp(-updates / ramp))."""


class TrainConfig(_Section):
    """The run."""

    batch: Positive | Literal["auto"] = 64
    """Images a step over all devices (and accumulation); auto: the recipe's, or what fits a GPU."""
    accumulate: Positive = 1
    """Micro-batches a step; `batch` is split over them."""
    epochs: Positive | None = None
    """Total epochs, shared between the two phases; null for aug_epochs + tail_epochs."""
    aug_epochs: int = Field(285, ge=0)
    """Epochs of the first phase, with strong augmentation."""
    tail_epochs: int = Field(15, ge=0)
    """Epochs of the tail, without mosaic, affine and mixup and with the L1 term."""
    max_steps: Positive | None = None
    """Stop after this many steps (for trials); null for whole epochs."""
    seed: int = Field(0, ge=0)
    """Seed of everything random."""
    device: Literal["auto", "cpu", "cuda", "mps", "npu"] = "auto"
    """Where to train; auto takes the best device present."""
    precision: TrainPrecision = "auto"
    """Precision of the network; loss and assignment stay in float32. auto takes bf16 where the
    processor or GPU computes it natively, fp32 elsewhere."""
    channels_last: bool = True
    """Train in channels-last memory on CPUs and CUDA: faster, with less exact batch-norm sums on a
    CPU; false gives the official code's losses to the last digit."""
    compile: bool = False
    """Compile the network with torch.compile: minutes at the start, faster steps after that. What
    cannot be compiled runs as it is."""
    sync_bn: bool = True
    """Batch-norm statistics over all devices."""
    freeze: tuple[Literal["backbone", "neck", "head"], ...] = ()
    """Parts whose weights and batch-norm statistics stay as loaded."""
    match_classes: bool = False
    """Keep the weights' predictors of classes with the same name; false: keep all if the number of
    classes is the same."""
    log_interval: Positive = 10
    """Steps between log lines."""
    eval_interval: int = Field(10, ge=0)
    """Epochs between evaluations in the first phase; 0: none in this phase. The end of the run is
    always evaluated."""
    tail_eval_interval: int = Field(1, ge=0)
    """Epochs between evaluations in the tail; 0: none in the tail. The end of the run is always
    evaluated."""
    checkpoint_interval: Positive = 1
    """Epochs between writes of `last.pt`."""
    keep_checkpoints: int = Field(0, ge=0)
    """How many `epoch-*.pt` to keep besides `last.pt` and `best.pt`."""
    save_on_main_only: bool = True
    """Only the main process writes checkpoints; false writes one for each process as well."""
    early_stop: int = Field(0, ge=0)
    """Stop after this many evaluations without a better AP; 0 for never."""
    trackers: tuple[Tracker, ...] = ()
    """Experiment trackers that get the log as well (extras of these names bring them)."""
    profile: bool = False
    """Write a profile of steps 5 to 9 to the output directory."""
    timeout: Positive = 600
    """Seconds without an answer of a loader or training process after which the run ends."""
    report: bool = True
    """Write curves, images of batches and predictions, and a page to the output directory."""
    deterministic: bool = False
    """Ask PyTorch for deterministic kernels on accelerators (slower)."""

    @model_validator(mode="after")
    def _some_epochs(self) -> Self:
        if self.aug_epochs + self.tail_epochs == 0:
            raise ValueError("aug_epochs and tail_epochs are both 0: there is nothing to train")
        if len(set(self.freeze)) == 3:
            raise ValueError("freeze holds all parts: there is nothing to train")
        if self.batch != "auto" and self.batch % self.accumulate:
            raise ValueError(f"accumulate={self.accumulate} does not divide batch={self.batch}")
        return self

    @property
    def images_per_step(self) -> int:
        """`batch`, once a run has put a number in the place of auto."""
        assert self.batch != "auto"
        return self.batch


class EvalConfig(_Section):
    """Post-processing and batching of evaluation."""

    batch: Positive = 8
    """Images at once on each device."""
    conf: Fraction = 0.01
    """Confidence threshold: lowest score kept."""
    iou: Fraction = 0.65
    """IoU above which the weaker of two boxes of a class is dropped."""
    max_det: Positive = 1000
    """Most detections kept in an image (COCO counts 100)."""
    max_bad_images: int = Field(0, ge=0)
    """Most unusable validation images left out of the metrics; with more the run ends."""


class Config(_Section):
    """Everything that defines a run."""

    recipe: Literal["official", "adamw", "finetune"] = "official"
    """The set of training settings; applied before all other settings."""
    model: ModelConfig = ModelConfig()
    input: InputConfig = InputConfig()
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    ema: EmaConfig = EmaConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()

    def with_overrides(self, *overrides: str) -> "Config":
        """A changed, validated copy; `model_copy` of pydantic does not validate.

        Args:
            overrides: ``section.key=value``, as on the command line; the value is YAML.

        Raises:
            ConfigError: an unknown key or an invalid value.
        """
        from oculox.config.load import override_config  # which needs this class

        return override_config(self, overrides)
