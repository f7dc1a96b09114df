// From the network's outputs to detections.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "letterbox.h"

namespace oculox {

struct Detection {
  float x1, y1, x2, y2;  // pixels
  float score;
  int label;  // class index
};

struct Thresholds {
  float conf = 0.3F;  // lowest score kept
  float nms = 0.45F;  // IoU above which the weaker of two boxes of a class goes
  std::size_t most = 1000;  // detections kept in a picture
};

// Outputs of one picture, row by row. Without suppression in the model there is a row for every
// cell, with scores of all classes; with it there is a row for each detection, and `labels`.
struct Outputs {
  const float* boxes;  // rows x 4, xyxy pixels of the input
  const float* scores;  // rows x classes, or rows
  const std::int64_t* labels;  // null, or rows
  std::size_t rows;
  std::size_t classes;
};

// What is found, best first, in pixels of the input. Boxes and scores that are not finite are
// dropped, and so are classes that do not exist.
std::vector<Detection> select(const Outputs& outputs, const Thresholds& thresholds);

// From pixels of the input to pixels of the source picture, clipped to it.
void to_source(std::vector<Detection>& detections, const Letterbox& box);

}  // namespace oculox
