#include "postprocess.h"

#include <algorithm>
#include <cmath>

namespace oculox {
namespace {

bool finite(const float* values, std::size_t count) {
  return std::all_of(values, values + count, [](float v) { return std::isfinite(v); });
}

// A cell speaks for its most probable class alone.
std::vector<Detection> candidates(const Outputs& outputs, float conf) {
  std::vector<Detection> found;
  for (std::size_t i = 0; i < outputs.rows; ++i) {
    float score = 0;
    std::int64_t label = 0;
    if (outputs.labels != nullptr) {
      score = outputs.scores[i];
      label = outputs.labels[i];
    } else {
      const float* row = outputs.scores + i * outputs.classes;
      const float* best = std::max_element(row, row + outputs.classes);
      score = *best;
      label = best - row;
    }
    const float* box = outputs.boxes + 4 * i;
    const bool known = label >= 0 && static_cast<std::size_t>(label) < outputs.classes;
    if (score >= conf && known && std::isfinite(score) && finite(box, 4)) {
      found.push_back({box[0], box[1], box[2], box[3], score, static_cast<int>(label)});
    }
  }
  return found;
}

float area(const Detection& d) { return (d.x2 - d.x1) * (d.y2 - d.y1); }

// Not finite for two empty boxes, which then suppress nothing.
float overlap(const Detection& a, const Detection& b) {
  const float width = std::max(0.0F, std::min(a.x2, b.x2) - std::max(a.x1, b.x1));
  const float height = std::max(0.0F, std::min(a.y2, b.y2) - std::max(a.y1, b.y1));
  const float shared = width * height;
  return shared / (area(a) + area(b) - shared);
}

}  // namespace

std::vector<Detection> select(const Outputs& outputs, const Thresholds& thresholds) {
  std::vector<Detection> found = candidates(outputs, thresholds.conf);
  std::stable_sort(found.begin(), found.end(),
                   [](const Detection& a, const Detection& b) { return a.score > b.score; });
  std::vector<Detection> kept;
  for (const Detection& candidate : found) {
    if (kept.size() == thresholds.most) {
      break;
    }
    const bool free = std::none_of(kept.begin(), kept.end(), [&](const Detection& better) {
      return better.label == candidate.label && overlap(better, candidate) > thresholds.nms;
    });
    if (free) {
      kept.push_back(candidate);
    }
  }
  return kept;
}

void to_source(std::vector<Detection>& detections, const Letterbox& box) {
  const auto scale = static_cast<float>(box.scale);
  const auto move = [scale](float& value, int shift, int limit) {
    value = std::clamp((value - static_cast<float>(shift)) / scale, 0.0F,
                       static_cast<float>(limit));
  };
  for (Detection& d : detections) {
    move(d.x1, box.left, box.source_width);
    move(d.x2, box.left, box.source_width);
    move(d.y1, box.top, box.source_height);
    move(d.y2, box.top, box.source_height);
  }
}

}  // namespace oculox
