"""The catalogue of published weights (`catalogue.yaml`)."""

import difflib
from functools import cache
from importlib import resources
from typing import Literal
from urllib.parse import urlparse

import yaml
from pydantic import BaseModel, ConfigDict, Field

from oculox.config import load_config
from oculox.config.schema import InputConfig
from oculox.errors import UsageError


class PublishedWeights(BaseModel):
    """One file of published weights."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: str
    """Name to fetch it by."""
    recipe: str
    """The network, as one of the recipes."""
    project: Literal["megvii", "mindyolo", "mmdetection", "mmyolo"]
    """Whose file it is; decides names and preprocessing."""
    ap: float
    """AP on COCO val2017, in percent, as published."""
    license: str
    """SPDX identifier."""
    url: str
    """Where it is published."""
    sha256: str | None = Field(pattern="^([0-9a-f]{64}|[0-9a-f]{8})$")
    """The file's SHA-256, or its first eight digits where no more is published."""

    @property
    def filename(self) -> str:
        """The file's name."""
        return urlparse(self.url).path.rsplit("/", 1)[-1]

    @property
    def input(self) -> InputConfig:
        """Size and preprocessing that these weights take."""
        config = load_config(self.recipe).input
        return customary_input(config) if self.project == "mindyolo" else config


def customary_input(config: InputConfig) -> InputConfig:
    """What MindYOLO feeds a network of that input size: RGB, 0-1, the image centred."""
    return config.model_copy(update={"color": "rgb", "pixel_max": 1, "placement": "center"})


@cache
def published_weights() -> tuple[PublishedWeights, ...]:
    """The whole catalogue, official weights first."""
    text = (resources.files("oculox.weights") / "catalogue.yaml").read_text("utf-8")
    return tuple(PublishedWeights.model_validate(entry) for entry in yaml.safe_load(text))


def find_published(name: str) -> PublishedWeights:
    """The entry of that name.

    Raises:
        UsageError: when there is none; the message gives the nearest one.
    """
    entries = {entry.name: entry for entry in published_weights()}
    if name in entries:
        return entries[name]
    close = difflib.get_close_matches(name, entries, n=1, cutoff=0.5)
    hint = f"; did you mean '{close[0]}'?" if close else ""
    raise UsageError(f"no published weights are called '{name}'{hint} (see `oculox weights list`)")
