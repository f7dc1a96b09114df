// What is written at the end: detections and times.
#pragma once

#include <array>
#include <chrono>
#include <string>
#include <vector>

#include "metadata.h"
#include "postprocess.h"

namespace oculox {

// One picture's COCO results, appended as JSON objects. `id` is JSON.
void append_coco(std::vector<std::string>& rows, const std::string& id,
                 const std::vector<Detection>& detections, const Metadata& metadata);

// Milliseconds of the stages of every picture and repetition.
class Times {
 public:
  static constexpr std::size_t kStages = 4;  // decode, preprocess, network, postprocess

  // A clock for one picture: each `lap` is the time of the next stage.
  class Laps {
   public:
    void lap() {
      const auto now = std::chrono::steady_clock::now();
      values_.at(next_++) = std::chrono::duration<double, std::milli>(now - last_).count();
      last_ = now;
    }
    const std::array<double, kStages>& values() const { return values_; }

   private:
    std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
    std::array<double, kStages> values_{};
    std::size_t next_ = 0;
  };

  void add(const Laps& laps);

  // A JSON object: stage -> mean, median and p95; empty where nothing was measured.
  std::string json() const;

  // A line a stage, for people.
  std::string table() const;

 private:
  std::array<std::vector<double>, kStages + 1> samples_;  // the last is the total
};

}  // namespace oculox
