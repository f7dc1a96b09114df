#include "postprocess.h"

#include <algorithm>
#include <cmath>

#include <opencv2/imgproc.hpp>

namespace oculox {
namespace {

// Halves to the even number, as Python rounds.
int rounded(double value) { return static_cast<int>(std::nearbyint(value)); }

float area(const Detection& d) { return (d.x2 - d.x1) * (d.y2 - d.y1); }

// Not a number for two empty boxes, which then suppress nothing.
float overlap(const Detection& a, const Detection& b) {
  const float width = std::max(0.0F, std::min(a.x2, b.x2) - std::max(a.x1, b.x1));
  const float height = std::max(0.0F, std::min(a.y2, b.y2) - std::max(a.y1, b.y1));
  const float shared = width * height;
  return shared / (area(a) + area(b) - shared);
}

}  // namespace

Letterbox fill_letterbox(const cv::Mat& image, cv::Mat canvas, bool centered, int pad_value) {
  const double scale = std::min(static_cast<double>(canvas.rows) / image.rows,
                                static_cast<double>(canvas.cols) / image.cols);
  Letterbox box{scale, {}, image.size()};
  const double width = image.cols * scale;
  const double height = image.rows * scale;
  box.inner.width = std::max(1, centered ? rounded(width) : static_cast<int>(width));
  box.inner.height = std::max(1, centered ? rounded(height) : static_cast<int>(height));
  if (centered) {
    // The 0.1 sends an odd row or column of padding below and to the right.
    box.inner.x = rounded((canvas.cols - box.inner.width) / 2.0 - 0.1);
    box.inner.y = rounded((canvas.rows - box.inner.height) / 2.0 - 0.1);
  }
  canvas.setTo(cv::Scalar::all(pad_value));
  cv::resize(image, canvas(box.inner), box.inner.size(), 0, 0, cv::INTER_LINEAR);
  return box;
}

Detection to_source(Detection d, const Letterbox& box) {
  const auto move = [&](float value, int shift, int limit) {
    value = (value - static_cast<float>(shift)) / static_cast<float>(box.scale);
    return std::clamp(value, 0.0F, static_cast<float>(limit));
  };
  d.x1 = move(d.x1, box.inner.x, box.source.width);
  d.x2 = move(d.x2, box.inner.x, box.source.width);
  d.y1 = move(d.y1, box.inner.y, box.source.height);
  d.y2 = move(d.y2, box.inner.y, box.source.height);
  return d;
}

std::vector<Detection> nms(std::vector<Detection> found, const Settings& settings) {
  std::stable_sort(found.begin(), found.end(),
                   [](const Detection& a, const Detection& b) { return a.score > b.score; });
  std::vector<Detection> kept;
  for (const Detection& weaker : found) {
    const auto suppresses = [&](const Detection& better) {
      return (settings.agnostic_nms || better.class_id == weaker.class_id) &&
             overlap(better, weaker) > settings.iou;
    };
    if (kept.size() < settings.max_det && std::none_of(kept.begin(), kept.end(), suppresses)) {
      kept.push_back(weaker);
    }
  }
  return kept;
}

}  // namespace oculox
