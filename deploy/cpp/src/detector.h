// An exported model in OpenVINO: an image in, detections out.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include <opencv2/core.hpp>
#include <openvino/runtime/infer_request.hpp>

#include "metadata.h"
#include "postprocess.h"

namespace oculox {

// Messages of OpenVINO begin with its source lines and end with what happened.
std::string last_line(const std::exception& error);

class Detector {
 public:
  // Opens an `.xml` (its `.bin` beside it) or `.onnx` that Oculox exported. The device is cpu,
  // gpu, gpu.1, npu, ...; threads of the CPU, 0 for OpenVINO's own choice.
  //
  // Throws std::runtime_error when a file is missing, damaged or no such model,
  // std::invalid_argument for another suffix and when OpenVINO sees no such device.
  Detector(const std::filesystem::path& path, const std::string& device, int threads);

  const Metadata& metadata() const { return metadata_; }

  // The three steps for an image (8 bits, BGR), in this order; apart, so that they can be timed.
  // Boxes are in pixels of the image, best score first. Throw std::runtime_error.
  void set_input(const cv::Mat& image);
  void run() { request_.infer(); }
  std::vector<Detection> detections(const Settings& settings);

 private:
  Metadata metadata_;
  ov::InferRequest request_;
  Letterbox box_;
};

}  // namespace oculox
