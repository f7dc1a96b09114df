// Letterbox and NMS, as Python does them.
#pragma once

#include <cstddef>
#include <vector>

#include <opencv2/core.hpp>

namespace oculox {

struct Detection {
  float x1, y1, x2, y2;  // pixels
  float score;
  int class_id;
};

struct Settings {
  float conf = 0.3F;           // lowest score kept
  float iou = 0.45F;           // IoU above which the weaker of two boxes is dropped
  std::size_t max_det = 1000;  // most detections of an image
  bool agnostic_nms = false;   // suppress across classes
  std::vector<int> class_ids;  // keep only these; all where empty
};

// The largest undistorted fit of an image into the network's input.
struct Letterbox {
  double scale = 1;  // input pixels for each pixel of the image
  cv::Rect inner;    // where the resized image lies in the input
  cv::Size source;
};

// Resizes an image bilinearly into `canvas` and pads the rest; both 8 bits, 3 channels. The
// official placement, top left, rounds the new size down; the centered one, MindYOLO's, rounds to
// the nearest and halves the padding.
Letterbox fill_letterbox(const cv::Mat& image, cv::Mat canvas, bool centered, int pad_value);

// From pixels of the input to pixels of the image, clipped to it.
Detection to_source(Detection detection, const Letterbox& box);

// What stays, best first.
std::vector<Detection> nms(std::vector<Detection> found, const Settings& settings);

}  // namespace oculox
