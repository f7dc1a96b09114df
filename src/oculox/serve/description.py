"""What the paths take and answer, as the OpenAPI description says it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel


class FoundObject(BaseModel):
    """One object, as in `Detections.to_dicts`."""

    box: tuple[float, float, float, float]
    """Left, top, right, bottom in pixels of the image."""
    score: float
    class_id: int
    name: str


class FoundObjects(BaseModel):
    """What was found in an image, best first."""

    width: int
    height: int
    detections: list[FoundObject]


class ServedModel(BaseModel):
    """The model of the service; `spec` is the one that checkpoints and exported files carry."""

    name: str
    spec: dict[str, Any]
    conf: float
    iou: float
    max_det: int
    agnostic_nms: bool
    max_mb: float
    max_megapixels: float


class Models(BaseModel):
    """The models of the service, one for now."""

    models: list[ServedModel]


class Problem(BaseModel):
    """Why a request was refused."""

    error: str


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The description of those answers."""
    reasons = {
        401: "The API key is missing or wrong.",
        408: "The body did not arrive in time.",
        413: "The body or the image is too large.",
        415: "The body, or the image in it, is of no known kind.",
        422: "A parameter is invalid or unknown, or the image is damaged.",
        429: "Too many requests at once.",
        503: "The service is busy, or ends.",
    }
    return {s: {"model": Problem, "description": reasons[s]} for s in statuses}


DETECT_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["image"],
                "properties": {"image": {"type": "string", "format": "binary"}},
            }
        },
        "image/*": {"schema": {"type": "string", "format": "binary"}},
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        "application/json": {
            "schema": {
                "oneOf": [
                    {
                        "type": "object",
                        "required": ["image"],
                        "properties": {"image": {"type": "string", "format": "byte"}},
                    },
                    {
                        "type": "object",
                        "required": ["url"],
                        "properties": {"url": {"type": "string", "format": "uri"}},
                    },
                ]
            }
        },
    },
}
DETECT_ANSWER: dict[str, Any] = {
    "description": "What was found, in the wanted format.",
    "content": {
        "application/json": {
            "schema": {
                "oneOf": [
                    {"$ref": "#/components/schemas/FoundObjects"},
                    {"type": "array", "items": {"type": "object"}, "title": "COCO results"},
                ]
            }
        },
        "image/jpeg": {"schema": {"type": "string", "format": "binary"}},
    },
}
