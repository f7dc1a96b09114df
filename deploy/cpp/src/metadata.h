// What an exported model says about itself; written by `oculox export`.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include <opencv2/core.hpp>

namespace oculox {

// NMS inside the model; its thresholds are fixed.
struct InGraphNms {
  float conf;
  float iou;
};

struct Metadata {
  std::vector<std::string> names;  // by class index
  cv::Size size;                   // of the input
  bool rgb = false;                // else BGR
  int pixel_max = 255;             // or 1
  bool centered = false;           // else the image lies in the top-left corner
  int pad_value = 114;
  int batch = 1;
  std::optional<InGraphNms> nms;
  bool preprocess = false;  // the letterbox is inside; the input is then uint8, BGR
};

// Throws std::runtime_error when the text is damaged or of another version.
Metadata parse_metadata(const std::string& text);

// Class names or indices, separated by commas -> indices. Throws std::invalid_argument.
std::vector<int> parse_classes(const std::string& text, const std::vector<std::string>& names);

}  // namespace oculox
