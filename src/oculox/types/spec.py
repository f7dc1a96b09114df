"""What a model is, what it takes and what it returns."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_core import to_jsonable_python

from oculox.config.schema import InputConfig, ModelConfig
from oculox.errors import CheckpointError, UsageError


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """What a model is, what it takes and what it returns.

    Checkpoints, exported files, backends and runs all carry one, with one JSON form.

    Attributes:
        model: the network's shape.
        input: default size, colour order, pixel range and letterbox.
        names: class names by index.
        category_ids: the training data's category id of each class, where known.
        dynamic_size: whether other input sizes (multiples of the largest stride) work.
        batch: the only batch size that works; None for any.

    Raises:
        ValueError: when the counts of classes, names and category ids differ.
    """

    model: ModelConfig
    input: InputConfig
    names: tuple[str, ...]
    category_ids: tuple[int, ...] | None = None
    dynamic_size: bool = True
    batch: int | None = None

    def __post_init__(self) -> None:
        """Check the counts against each other."""
        count = self.model.num_classes
        if count != len(self.names):
            raise ValueError(f"expected {count} class names, got {len(self.names)}")
        if self.category_ids is not None and count != len(self.category_ids):
            raise ValueError(f"expected {count} category ids, got {len(self.category_ids)}")

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.names)

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels between the cells of each level."""
        return self.model.strides

    def check_size(self, size_hw: tuple[int, int] | None) -> tuple[int, int]:
        """The input height and width to use; the model's own for None.

        Raises:
            UsageError: when the model is built for another size, or the size is not a multiple of
                its largest stride.
        """
        own = self.input.size
        if size_hw is None or tuple(size_hw) == own:
            return own
        if not self.dynamic_size:
            raise UsageError(
                f"this model was built for {own[0]} x {own[1]} (height x width), "
                f"got {size_hw[0]} x {size_hw[1]}; export it with that size"
            )
        stride = max(self.strides)
        if any(side < stride or side % stride for side in size_hw):
            raise UsageError(
                f"the input size must be multiples of {stride}, got {size_hw[0]} x {size_hw[1]}"
            )
        return size_hw[0], size_hw[1]

    def check_classes(self, class_ids: Sequence[int] | None) -> None:
        """Check a class filter.

        Raises:
            UsageError: when it is empty or an index is outside the model's classes.
        """
        if class_ids is None:
            return
        if not class_ids:
            raise UsageError("the class filter is empty; leave it out to keep all classes")
        for index in class_ids:
            if not 0 <= index < self.num_classes:
                raise UsageError(
                    f"class {index} does not exist; the model has 0-{self.num_classes - 1}"
                )

    def class_ids(self, classes: str | int | Sequence[str | int]) -> tuple[int, ...]:
        """Class names or indices, or one of them -> class indices.

        A text that is not a name but a number counts as an index, so that a command line may
        pass both.

        Raises:
            UsageError: when a class is unknown; the message names the nearest known one.
        """
        indices = []
        for item in [classes] if isinstance(classes, str | int) else classes:
            text = str(item).strip()
            if isinstance(item, str) and text in self.names:
                indices.append(self.names.index(text))
            elif text.isdecimal():
                indices.append(int(text))
            else:
                near = difflib.get_close_matches(text, self.names, n=1)
                shown = ", ".join(self.names[:10]) + (", ..." if self.num_classes > 10 else "")
                hint = f"did you mean {near[0]!r}?" if near else f"its classes: {shown}"
                if "," in text:
                    parts = [part.strip() for part in text.split(",")]
                    hint = f"several classes are a list: {parts}"
                raise UsageError(f"the model has no class {text!r}; {hint}")
        self.check_classes(indices)
        return tuple(dict.fromkeys(indices))

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for checkpoints and exported files."""
        values: dict[str, Any] = to_jsonable_python(self)
        return values

    @classmethod
    def from_dict(cls, values: object, *, where: str) -> ModelSpec:
        """Read `as_dict` back.

        Args:
            values: the mapping; `dynamic_size` and `batch` may be absent.
            where: the file, for messages.

        Raises:
            CheckpointError: when it is incomplete or invalid.
        """
        if not isinstance(values, Mapping):
            raise CheckpointError(f"{where}: holds no description of its network")
        try:
            ids, batch = values["category_ids"], values.get("batch")
            return cls(
                model=ModelConfig.model_validate(values["model"]),
                input=InputConfig.model_validate(values["input"]),
                names=tuple(str(name) for name in values["names"]),
                category_ids=None if ids is None else tuple(int(i) for i in ids),
                dynamic_size=bool(values.get("dynamic_size", True)),
                batch=None if batch is None else int(batch),
            )
        except (KeyError, TypeError, ValueError) as error:  # pydantic's is a ValueError too
            detail = str(error).splitlines()[0]
            raise CheckpointError(f"{where}: its description is incomplete: {detail}") from None
