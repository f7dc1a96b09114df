"""mmdetection's and MMYOLO's layouts; golden digests cover names and shapes of all tensors."""

import re
from pathlib import Path

import pytest
import torch

from oculox.config import load_config
from oculox.errors import CheckpointError
from oculox.weights import load_weights
from oculox.weights.interop.names import export_state
from oculox.weights.interop.openmmlab import (
    mmdetection_names,
    mmyolo_names,
    openmmlab_project,
    read_openmmlab,
)
from specs import random_weights

# From the projects' modules, one name for each rule: ours, and theirs where both use the same.
BACKBONE_NAMES = [
    ("stem.conv.conv.weight", "stem.conv.conv.weight"),
    ("stage2.0.conv.weight", "stage1.0.conv.weight"),
    ("stage2.0.depthwise.bn.bias", "stage1.0.depthwise_conv.bn.bias"),
    ("stage3.1.main.conv.weight", "stage2.1.main_conv.conv.weight"),
    ("stage3.1.skip.bn.weight", "stage2.1.short_conv.bn.weight"),
    ("stage4.1.merge.conv.weight", "stage3.1.final_conv.conv.weight"),
    ("stage4.1.blocks.2.conv2.conv.weight", "stage3.1.blocks.2.conv2.conv.weight"),
    ("stage5.1.conv2.conv.weight", "stage4.1.conv2.conv.weight"),
    ("stage5.2.main.conv.weight", "stage4.2.main_conv.conv.weight"),
]
# Ours, mmdetection's and MMYOLO's.
NECK_NAMES = [
    ("lateral5.conv.weight", "reduce_layers.0.conv.weight", "reduce_layers.2.conv.weight"),
    (
        "up4.merge.conv.weight",
        "top_down_blocks.0.final_conv.conv.weight",
        "top_down_layers.0.0.final_conv.conv.weight",
    ),
    ("lateral4.conv.weight", "reduce_layers.1.conv.weight", "top_down_layers.0.1.conv.weight"),
    (
        "up3.main.conv.weight",
        "top_down_blocks.1.main_conv.conv.weight",
        "top_down_layers.1.main_conv.conv.weight",
    ),
    (
        "down3.pointwise.conv.weight",
        "downsamples.0.pointwise_conv.conv.weight",
        "downsample_layers.0.pointwise_conv.conv.weight",
    ),
    (
        "out4.skip.conv.weight",
        "bottom_up_blocks.0.short_conv.conv.weight",
        "bottom_up_layers.0.short_conv.conv.weight",
    ),
    ("down4.conv.weight", "downsamples.1.conv.weight", "downsample_layers.1.conv.weight"),
    (
        "out5.skip.conv.weight",
        "bottom_up_blocks.1.short_conv.conv.weight",
        "bottom_up_layers.1.short_conv.conv.weight",
    ),
]
# Ours and theirs; MMYOLO puts `head_module.` before its names.
HEAD_NAMES = [
    ("cls_convs.0.1.conv.weight", "multi_level_cls_convs.0.1.conv.weight"),
    ("reg_convs.0.1.bn.running_var", "multi_level_reg_convs.0.1.bn.running_var"),
    ("cls_preds.1.bias", "multi_level_conv_cls.1.bias"),
    ("reg_preds.1.weight", "multi_level_conv_reg.1.weight"),
    ("obj_preds.2.weight", "multi_level_conv_obj.2.weight"),
]
KNOWN_NAMES = [
    *(
        (f"backbone.{ours}", f"backbone.{both}", f"backbone.{both}")
        for ours, both in BACKBONE_NAMES
    ),
    *((f"neck.{ours}", f"neck.{mmdet}", f"neck.{mmyolo}") for ours, mmdet, mmyolo in NECK_NAMES),
    ("head.stems.2.conv.weight", "neck.out_convs.2.conv.weight", "neck.out_layers.2.conv.weight"),
    *(
        (f"head.{ours}", f"bbox_head.{both}", f"bbox_head.head_module.{both}")
        for ours, both in HEAD_NAMES
    ),
]
NAMES = {"mmdetection": mmdetection_names, "mmyolo": mmyolo_names}
# MMYOLO's nano is a network of its own.
NETWORKS = [("mmdetection", "yolox-nano"), ("mmdetection", "yolox-tiny"), ("mmyolo", "yolox-tiny")]


@pytest.mark.parametrize(("ours", "mmdetection", "mmyolo"), KNOWN_NAMES)
def test_names(ours: str, mmdetection: str, mmyolo: str) -> None:
    assert (mmdetection_names(ours), mmyolo_names(ours)) == (mmdetection, mmyolo)


@pytest.mark.parametrize(
    ("project", "head", "neck"),
    [
        (
            "mmdetection",
            "",
            "reduce_layers|top_down_blocks|downsamples|bottom_up_blocks|out_convs",
        ),
        (
            "mmyolo",
            r"head_module\.",
            "reduce_layers|top_down_layers|downsample_layers|bottom_up_layers|out_layers",
        ),
    ],
)
def test_no_name_of_ours_is_left_over(project: str, head: str, neck: str) -> None:
    theirs = export_state(random_weights("yolox-nano", classes=2).state, NAMES[project])
    pattern = re.compile(
        rf"backbone\.(stem|stage[1-4])\.|bbox_head\.{head}multi_level_|neck\.({neck})\."
    )
    assert all(pattern.match(name) for name in theirs)


@pytest.mark.parametrize(("project", "recipe"), NETWORKS)
def test_checkpoint_files(tmp_path: Path, project: str, recipe: str) -> None:
    own = random_weights(recipe, classes=2)
    state = export_state(own.state, NAMES[project])
    # Raw weights, which are not used: in mmdetection's files beside the averages, in mmengine's
    # in a state dict of their own.
    raw = {f"module.{name}": value + 1 for name, value in state.items()}
    state |= {"ema_backbone_stem_conv_conv_weight": torch.zeros(1)}
    classes = ("cat", "dog")
    told = (
        {"CLASSES": classes} if project == "mmdetection" else {"dataset_meta": {"classes": classes}}
    )
    content = {"ema_state_dict": {"steps": torch.tensor(9), **raw}, "meta": {"epoch": 300, **told}}
    content |= {"state_dict": state, "param_schedulers": [{"last_step": 9}]}
    torch.save(content, tmp_path / "w.pth")
    weights = load_weights(tmp_path / "w.pth")
    assert weights.spec.names == ("cat", "dog")
    assert weights.origin == project
    assert weights.spec.model == load_config(recipe).model.model_copy(update={"num_classes": 2})
    assert weights.spec.input == load_config(recipe).input
    assert list(weights.state) == list(own.state)
    assert all(torch.equal(weights.state[k], own.state[k]) for k in own.state)


def test_names_of_coco_are_kept_with_their_category_ids(tmp_path: Path) -> None:
    state = export_state(random_weights("yolox-nano", classes=80).state, mmdetection_names)
    meta = {"dataset_meta": {"CLASSES": tuple(f"name {i}" for i in range(80))}}
    torch.save({"meta": meta, "state_dict": state}, tmp_path / "w.pth")
    weights = load_weights(tmp_path / "w.pth")
    assert weights.spec.names[0] == "person"
    assert weights.spec.category_ids is not None


@pytest.mark.parametrize(("project", "recipe"), NETWORKS)
def test_incomplete_files(project: str, recipe: str) -> None:
    names = NAMES[project]
    state = export_state(random_weights(recipe, classes=2).state, names)
    assert openmmlab_project(state) == project
    for ours, said in (
        ("head.stems.0.conv.weight", r"x\.pth: .*1 missing: neck\.out_"),
        ("backbone.stem.conv.conv.weight", "stem"),
    ):
        del state[names(ours)]
        with pytest.raises(CheckpointError, match=said):
            read_openmmlab(state, project=project, where="x.pth")


def test_foreign_tensors_are_neither() -> None:
    assert openmmlab_project({}) is None
    assert openmmlab_project({"bbox_head.head_module.rtm_cls.0.weight": torch.zeros(1)}) is None


def test_mmyolo_has_another_nano() -> None:
    """Its 3x3 convolutions inside the blocks are plain ones."""
    ours = export_state(random_weights("yolox-nano", classes=2).state, mmyolo_names)
    within = re.compile(r"(blocks\.\d+\.conv2)\.(depth|point)wise_conv\.")
    theirs = {
        within.sub(r"\1.", name): value
        for name, value in ours.items()
        if not re.search(r"blocks\.\d+\.conv2\.depthwise", name)
    }
    assert len(theirs) == 570
    with pytest.raises(CheckpointError, match=r"x\.pth: .*144 missing: .*depthwise_conv.*72 extra"):
        read_openmmlab(theirs, project="mmyolo", where="x.pth")


class History:
    """Stands for what mmengine logs into the checkpoints of a run."""


def test_checkpoints_of_a_run_hold_objects_and_are_refused(tmp_path: Path) -> None:
    state = export_state(random_weights("yolox-tiny", classes=2).state, mmyolo_names)
    content = {"state_dict": state, "message_hub": {"log_scalars": {"loss": History()}}}
    torch.save(content, tmp_path / "epoch_300.pth")
    with pytest.raises(CheckpointError, match=r"epoch_300\.pth: refused: it holds pickled objects"):
        load_weights(tmp_path / "epoch_300.pth")
