"""The parts of an ONNX file that come from no network: letterbox before it, NMS after it.

Written in ONNX's own text form out of standard operators, for any batch. Each part is a model of
one graph, to be merged with its neighbours by output and input names.
"""

from oculox.config.schema import InputConfig
from oculox.runtime.exported import InGraphNms

IR_VERSION = 10


def nms_part(nms: InGraphNms, *, opset: int, num_classes: int) -> str:
    """Boxes and scores of all cells -> the K best detections of each image.

    A cell counts only for its most probable class, as in `oculox.postprocess`: all its other
    scores are set to zero, which `NonMaxSuppression` then passes over.

    Inputs ``all_boxes`` (B, N, 4) and ``all_scores`` (B, N, C); outputs as in `NMS_OUTPUTS`.
    """
    k = nms.max_det
    return f"""
<ir_version: {IR_VERSION}, opset_import: ["" : {opset}]>
nms (float[batch, cells, 4] all_boxes, float[batch, cells, {num_classes}] all_scores)
  => (float[batch, {k}, 4] boxes, float[batch, {k}] scores, int64[batch, {k}] classes,
      int64[batch] counts)
<float lowest = {{{nms.conf!r}}}, float overlap = {{{nms.iou!r}}}, float zero = {{0}},
 int64[1] most = {{{k}}}, int64[1] last = {{2}}, int64[2] picked_columns = {{0, 2}},
 int64[1] axis1 = {{1}}, int64[3] four_wide = {{1, 1, 4}},
 int64[{num_classes}] every_class = {{{", ".join(map(str, range(num_classes)))}}}>
{{
  label = ArgMax <axis = 2, keepdims = 1> (all_scores)
  best = ReduceMax <keepdims = 1> (all_scores, last)
  own = Equal (label, every_class)
  good = GreaterOrEqual (best, lowest)
  counted = And (own, good)
  masked = Where (counted, all_scores, zero)
  by_class = Transpose <perm = [0, 2, 1]> (masked)
  picked = NonMaxSuppression (all_boxes, by_class, most, overlap, zero)
  places = Gather <axis = 1> (picked, picked_columns)
  flat_best = Squeeze (best, last)
  picked_scores = GatherND (flat_best, places)
  cells_shape = Shape (flat_best)
  nothing = ConstantOfShape <value = float[1] {{0}}> (cells_shape)
  kept = ScatterND (nothing, places, picked_scores)
  count_images = Shape <start = 0, end = 1> (all_scores)
  filler_shape = Concat <axis = 0> (count_images, most)
  filler = ConstantOfShape <value = float[1] {{0}}> (filler_shape)
  padded = Concat <axis = 1> (kept, filler)
  scores, ranking = TopK <axis = 1, largest = 1, sorted = 1> (padded, most)
  count_cells = Shape <start = 1, end = 2> (all_scores)
  last_cell = Sub (count_cells, axis1)
  cell = Min (ranking, last_cell)
  is_real = Greater (scores, zero)
  real = Cast <to = 7> (is_real)
  counts = ReduceSum <keepdims = 0> (real, axis1)
  flat_label = Squeeze (label, last)
  some_classes = GatherElements <axis = 1> (flat_label, cell)
  classes = Mul (some_classes, real)
  cell_column = Unsqueeze (cell, last)
  cell_four = Expand (cell_column, four_wide)
  some_boxes = GatherElements <axis = 1> (all_boxes, cell_four)
  real_float = Cast <to = 1> (real)
  real_column = Unsqueeze (real_float, last)
  boxes = Mul (some_boxes, real_column)
}}
"""


def letterbox_part(input_config: InputConfig, *, opset: int) -> str:
    """Images of any (one) size -> letterboxed floats, and how to take boxes back.

    Sizes are computed in whole numbers: ``int(h * min(H / h, W / w))`` in floating point, as the
    Python pipeline does it, may round a last row away that is kept here.

    Input ``raw_images``, uint8 (B, height, width, 3) BGR; outputs ``letterboxed``, float32
    (B, 3, H, W), ``shift``, float32 (4,) input pixels, and ``scale``, float32 (1,), input pixels
    for each source pixel.
    """
    height, width = input_config.size
    order = "2, 1, 0" if input_config.color == "rgb" else "0, 1, 2"
    # The centred letterbox rounds to the nearest size and halves the padding; the other one
    # rounds down and has none before the image.
    centered = int(input_config.placement == "center")
    return f"""
<ir_version: {IR_VERSION}, opset_import: ["" : {opset}]>
letterbox (uint8[batch, height, width, 3] raw_images)
  => (float[batch, 3, {height}, {width}] letterboxed, float[4] shift, float[1] scale)
<int64[2] full = {{{height}, {width}}}, int64[2] full_swapped = {{{width}, {height}}},
 int64[2] swap = {{1, 0}}, int64[1] one = {{1}}, int64[1] two = {{2}}, int64[1] three = {{3}},
 int64[2] none = {{0, 0}}, int64[1] centered = {{{centered}}}, int64[3] order = {{{order}}},
 int64[4] left_top_twice = {{1, 0, 1, 0}}, float pad_value = {{{float(input_config.pad_value)}}},
 float range = {{{255.0 / input_config.pixel_max}}}>
{{
  size = Shape <start = 1, end = 3> (raw_images)
  swapped = Gather (size, swap)
  size_twice = Mul (size, two)
  swapped_twice = Mul (swapped, two)
  scaled = Mul (size_twice, full_swapped)
  rounding = Mul (swapped, centered)
  raised = Add (scaled, rounding)
  fitted = Div (raised, swapped_twice)
  limited = Min (fitted, full)
  inner = Max (limited, one)
  room = Sub (full, inner)
  movable = Mul (room, centered)
  before = Div (movable, two)
  after = Sub (room, before)
  floats = Cast <to = 1> (raw_images)
  planes = Transpose <perm = [0, 3, 1, 2]> (floats)
  count = Shape <start = 0, end = 1> (raw_images)
  inner_shape = Concat <axis = 0> (count, three, inner)
  resized = Resize <mode = "linear", coordinate_transformation_mode = "half_pixel">
    (planes, , , inner_shape)
  pixels = Round (resized)
  pads = Concat <axis = 0> (none, before, none, after)
  padded = Pad <mode = "constant"> (pixels, pads, pad_value)
  colored = Gather <axis = 1> (padded, order)
  ranged = Div (colored, range)
  full_shape = Concat <axis = 0> (count, three, full)
  letterboxed = Reshape (ranged, full_shape)
  full_float = Cast <to = 1> (full)
  size_float = Cast <to = 1> (size)
  scales = Div (full_float, size_float)
  scale = ReduceMin <keepdims = 1> (scales)
  shift_pixels = Gather (before, left_top_twice)
  shift = Cast <to = 1> (shift_pixels)
}}
"""
