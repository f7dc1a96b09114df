// What an exported model tells about itself; written by `oculox export`.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace oculox {

struct Preprocessing {
  bool rgb = false;  // else BGR
  int pixel_max = 255;  // or 1
  bool centered = false;  // else the picture lies in the top-left corner
  int pad_value = 114;
};

// Suppression inside the model; its thresholds are fixed.
struct InnerNms {
  float conf;
  float iou;
};

struct Metadata {
  std::vector<std::string> names;  // by class index
  std::vector<int> category_ids;  // of the training data, by class index; empty where unknown
  Preprocessing preprocessing;
  int height = 0;  // of the network's input
  int width = 0;
  std::optional<int> batch;  // the only size that works; none for any
  std::optional<InnerNms> nms;
  bool letterbox = false;  // inside the model, which then takes uint8 pictures, BGR

  // The id to report for a class.
  int category(int label) const {
    return category_ids.empty() ? label : category_ids[static_cast<std::size_t>(label)];
  }
};

// Throws DataError when the text is damaged, incomplete or newer than this program.
Metadata parse_metadata(const std::string& text, const std::string& where);

}  // namespace oculox
