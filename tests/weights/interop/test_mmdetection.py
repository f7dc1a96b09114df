import re
from pathlib import Path

import pytest
import torch

from oculox.config import load_config
from oculox.errors import CheckpointError
from oculox.weights import load_weights
from oculox.weights.interop.mmdetection import is_mmdetection, mmdetection_names, read_mmdetection
from oculox.weights.interop.names import export_state
from specs import random_weights

# From mmdetection's modules: one name for each rule.
KNOWN_NAMES = [
    ("backbone.stem.conv.conv.weight", "backbone.stem.conv.conv.weight"),
    ("backbone.stage2.0.conv.weight", "backbone.stage1.0.conv.weight"),
    ("backbone.stage2.0.depthwise.bn.bias", "backbone.stage1.0.depthwise_conv.bn.bias"),
    ("backbone.stage3.1.main.conv.weight", "backbone.stage2.1.main_conv.conv.weight"),
    ("backbone.stage3.1.skip.bn.weight", "backbone.stage2.1.short_conv.bn.weight"),
    ("backbone.stage4.1.merge.conv.weight", "backbone.stage3.1.final_conv.conv.weight"),
    (
        "backbone.stage4.1.blocks.2.conv2.conv.weight",
        "backbone.stage3.1.blocks.2.conv2.conv.weight",
    ),
    ("backbone.stage5.1.conv2.conv.weight", "backbone.stage4.1.conv2.conv.weight"),
    ("backbone.stage5.2.main.conv.weight", "backbone.stage4.2.main_conv.conv.weight"),
    ("neck.lateral5.conv.weight", "neck.reduce_layers.0.conv.weight"),
    ("neck.up4.merge.conv.weight", "neck.top_down_blocks.0.final_conv.conv.weight"),
    ("neck.lateral4.conv.weight", "neck.reduce_layers.1.conv.weight"),
    ("neck.up3.main.conv.weight", "neck.top_down_blocks.1.main_conv.conv.weight"),
    ("neck.down3.pointwise.conv.weight", "neck.downsamples.0.pointwise_conv.conv.weight"),
    ("neck.out4.skip.conv.weight", "neck.bottom_up_blocks.0.short_conv.conv.weight"),
    ("neck.down4.conv.weight", "neck.downsamples.1.conv.weight"),
    ("neck.out5.skip.conv.weight", "neck.bottom_up_blocks.1.short_conv.conv.weight"),
    ("head.stems.2.conv.weight", "neck.out_convs.2.conv.weight"),
    ("head.cls_convs.0.1.conv.weight", "bbox_head.multi_level_cls_convs.0.1.conv.weight"),
    ("head.reg_convs.0.1.bn.running_var", "bbox_head.multi_level_reg_convs.0.1.bn.running_var"),
    ("head.cls_preds.1.bias", "bbox_head.multi_level_conv_cls.1.bias"),
    ("head.reg_preds.1.weight", "bbox_head.multi_level_conv_reg.1.weight"),
    ("head.obj_preds.2.weight", "bbox_head.multi_level_conv_obj.2.weight"),
]


@pytest.mark.parametrize(("ours", "theirs"), KNOWN_NAMES)
def test_names(ours: str, theirs: str) -> None:
    assert mmdetection_names(ours) == theirs


def test_no_name_of_ours_is_left_over() -> None:
    ours = random_weights("yolox-nano", classes=2).state
    theirs = export_state(ours, mmdetection_names)
    pattern = re.compile(
        r"backbone\.(stem|stage[1-4])\.|bbox_head\.multi_level_|"
        r"neck\.(reduce_layers|top_down_blocks|downsamples|bottom_up_blocks|out_convs)\."
    )
    assert all(pattern.match(name) for name in theirs)


@pytest.mark.parametrize("recipe", ["yolox-nano", "yolox-tiny"])
def test_checkpoint_files(tmp_path: Path, recipe: str) -> None:
    own = random_weights(recipe, classes=2)
    state = export_state(own.state, mmdetection_names)
    state |= {"ema_backbone_stem_conv_conv_weight": torch.zeros(1)}
    torch.save(
        {"meta": {"epoch": 300, "CLASSES": ("cat", "dog")}, "state_dict": state},
        tmp_path / "w.pth",
    )
    weights = load_weights(tmp_path / "w.pth")
    assert weights.spec.names == ("cat", "dog")
    assert weights.origin == "mmdetection"
    assert weights.spec.model == load_config(recipe).model.model_copy(update={"num_classes": 2})
    assert weights.spec.input == load_config(recipe).input
    assert list(weights.state) == list(own.state)
    assert all(torch.equal(weights.state[k], own.state[k]) for k in own.state)


def test_names_of_coco_are_kept_with_their_category_ids(tmp_path: Path) -> None:
    state = export_state(random_weights("yolox-nano", classes=80).state, mmdetection_names)
    meta = {"dataset_meta": {"classes": tuple(f"name {i}" for i in range(80))}}
    torch.save({"meta": meta, "state_dict": state}, tmp_path / "w.pth")
    weights = load_weights(tmp_path / "w.pth")
    assert weights.spec.names[0] == "person"
    assert weights.spec.category_ids is not None


def test_incomplete_and_foreign_files() -> None:
    state = export_state(random_weights("yolox-nano", classes=2).state, mmdetection_names)
    assert is_mmdetection(state)
    assert not is_mmdetection({})
    del state["neck.out_convs.0.conv.weight"]
    with pytest.raises(CheckpointError, match=r"x\.pth: .*1 missing: neck\.out_convs"):
        read_mmdetection(state, where="x.pth")
    del state["backbone.stem.conv.conv.weight"]
    with pytest.raises(CheckpointError, match="stem"):
        read_mmdetection(state, where="x.pth")
