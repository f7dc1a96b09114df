#include "results.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>

#include "json.h"

namespace oculox {
namespace {

constexpr const char* kNames[] = {"decode", "preprocess", "network", "postprocess", "total"};

// Between the two nearest samples where the quantile falls between them.
double quantile(std::vector<double> values, double q) {
  std::sort(values.begin(), values.end());
  const double place = q * static_cast<double>(values.size() - 1);
  const auto low = static_cast<std::size_t>(place);
  const std::size_t high = std::min(low + 1, values.size() - 1);
  return values[low] + (place - static_cast<double>(low)) * (values[high] - values[low]);
}

double mean(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

}  // namespace

void append_coco(std::vector<std::string>& rows, const std::string& id,
                 const std::vector<Detection>& detections, const Metadata& metadata) {
  for (const Detection& d : detections) {
    const double x = d.x1;
    const double y = d.y1;
    rows.push_back("{\"image_id\": " + id +
                   ", \"category_id\": " + std::to_string(metadata.category(d.label)) +
                   ", \"bbox\": [" + json_number(x) + ", " + json_number(y) + ", " +
                   json_number(d.x2 - x) + ", " + json_number(d.y2 - y) +
                   "], \"score\": " + json_number(d.score) + "}");
  }
}

void Times::add(const Laps& laps) {
  double total = 0;
  for (std::size_t i = 0; i < kStages; ++i) {
    samples_[i].push_back(laps.values()[i]);
    total += laps.values()[i];
  }
  samples_[kStages].push_back(total);
}

std::string Times::json() const {
  std::string out = "{";
  for (std::size_t i = 0; i <= kStages && !samples_[i].empty(); ++i) {
    out += (i == 0 ? "" : ",") + std::string("\n  ") + json_text(kNames[i]) +
           ": {\"mean\": " + json_number(mean(samples_[i])) +
           ", \"median\": " + json_number(quantile(samples_[i], 0.5)) +
           ", \"p95\": " + json_number(quantile(samples_[i], 0.95)) + "}";
  }
  return out + "}";
}

std::string Times::table() const {
  if (samples_[0].empty()) {
    return "";
  }
  std::string out = "milliseconds    median       p95\n";
  for (std::size_t i = 0; i <= kStages; ++i) {
    char line[64];
    std::snprintf(line, sizeof line, "%-12s %9.2f %9.2f\n", kNames[i],
                  quantile(samples_[i], 0.5), quantile(samples_[i], 0.95));
    out += line;
  }
  return out;
}

}  // namespace oculox
