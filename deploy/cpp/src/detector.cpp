#include "detector.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <stdexcept>

#include <openvino/core/preprocess/pre_post_process.hpp>
#include <openvino/runtime/core.hpp>
#include <openvino/runtime/properties.hpp>

namespace fs = std::filesystem;

namespace oculox {

std::string last_line(const std::exception& error) {
  std::string text = error.what();
  text.erase(text.find_last_not_of(" \r\n") + 1);
  return text.substr(text.find_last_of('\n') + 1);
}

namespace {

void check_files(const fs::path& path) {
  const bool xml = path.extension() == ".xml";
  if (!xml && path.extension() != ".onnx") {
    throw std::invalid_argument(path.string() + ": expected an .xml or .onnx model; make one with "
                                                "`oculox export WEIGHTS --format openvino`");
  }
  for (const fs::path& file : {path, xml ? fs::path(path).replace_extension(".bin") : path}) {
    if (!fs::is_regular_file(file)) {
      throw std::runtime_error(file.string() + ": no such file");
    }
  }
}

// `.xml` files keep the text at the top, models from `.onnx` where the converter puts theirs.
Metadata read_metadata(const ov::Model& model) {
  if (model.has_rt_info("oculox")) {
    return parse_metadata(model.get_rt_info<std::string>("oculox"));
  }
  if (model.has_rt_info("framework", "oculox")) {
    return parse_metadata(model.get_rt_info<std::string>("framework", "oculox"));
  }
  throw std::runtime_error(
      "holds no metadata of Oculox, so its classes and preprocessing are unknown; export the model "
      "with `oculox export`");
}

std::string device_name(const ov::Core& core, const std::string& wished) {
  std::string name = wished;
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  std::string seen;
  for (const std::string& present : core.get_available_devices()) {
    // Where there are two of a kind they are called GPU.0 and GPU.1, and GPU is the first.
    if (name == present || name == present.substr(0, present.find('.'))) {
      return name;
    }
    seen += (seen.empty() ? "" : ", ") + present;
  }
  throw std::invalid_argument("device '" + wished + "': OpenVINO sees " + seen);
}

// Makes the input one letterboxed image as OpenCV holds it: uint8 (1, height, width, 3), BGR. A
// model with the letterbox inside takes that already, and passes such an image unchanged.
std::shared_ptr<ov::Model> with_byte_input(std::shared_ptr<ov::Model> model,
                                           const Metadata& metadata) {
  const auto height = static_cast<std::size_t>(metadata.size.height);
  const auto width = static_cast<std::size_t>(metadata.size.width);
  if (metadata.batch != 1) {
    throw std::runtime_error("built for " + std::to_string(metadata.batch) +
                             " images at once, this program takes one; export it with --batch 1");
  }
  if (metadata.preprocess) {
    model->reshape(ov::PartialShape(ov::Shape{1, height, width, 3}));
    return model;
  }
  model->reshape(ov::PartialShape(ov::Shape{1, 3, height, width}));
  ov::preprocess::PrePostProcessor steps(model);
  ov::preprocess::InputInfo& input = steps.input();
  input.tensor().set_element_type(ov::element::u8).set_layout("NHWC").set_color_format(
      ov::preprocess::ColorFormat::BGR);
  input.model().set_layout("NCHW");
  if (metadata.rgb) {
    input.preprocess().convert_color(ov::preprocess::ColorFormat::RGB);
  }
  input.preprocess().convert_element_type(ov::element::f32);
  if (metadata.pixel_max == 1) {
    input.preprocess().scale(255.0F);
  }
  return steps.build();
}

}  // namespace

Detector::Detector(const fs::path& path, const std::string& device, int threads) {
  check_files(path);
  ov::Core core;
  const std::string name = device_name(core, device);
  ov::AnyMap settings{ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY)};
  if (threads > 0) {
    settings.insert(ov::inference_num_threads(threads));
  }
  if (name == "CPU") {
    // Some CPUs compute in bfloat16 by default.
    settings.insert(ov::hint::inference_precision(ov::element::f32));
  }
  try {
    std::shared_ptr<ov::Model> model = core.read_model(path.string());
    metadata_ = read_metadata(*model);
    model = with_byte_input(model, metadata_);
    request_ = core.compile_model(model, name, settings).create_infer_request();
    // The first run allocates memory; it must not count as the first image's time.
    set_input(cv::Mat::zeros(metadata_.size, CV_8UC3));
    run();
    detections({});
  } catch (const ov::Exception& error) {
    throw std::runtime_error(path.string() + ": damaged, not a model, or not usable on " + name + " (" +
                             last_line(error) + ")");
  } catch (const std::exception& error) {
    throw std::runtime_error(path.string() + ": " + error.what());
  }
}

void Detector::set_input(const cv::Mat& image) {
  const cv::Mat canvas(metadata_.size, CV_8UC3, request_.get_input_tensor().data<std::uint8_t>());
  box_ = fill_letterbox(image, canvas, metadata_.centered, metadata_.pad_value);
}

std::vector<Detection> Detector::detections(const Settings& settings) {
  const ov::Tensor boxes = request_.get_tensor("boxes");
  const ov::Tensor scores = request_.get_tensor("scores");
  // With NMS inside there is a row for each detection, else one for each cell with the scores of
  // all classes; a cell counts only for its most probable class.
  const std::size_t columns = metadata_.nms ? 1 : metadata_.names.size();
  std::size_t rows = boxes.get_size() / 4;
  const std::int64_t* labels = nullptr;
  if (metadata_.nms) {
    labels = request_.get_tensor("classes").data<std::int64_t>();
    const std::int64_t count = *request_.get_tensor("counts").data<std::int64_t>();
    rows = std::min(rows, static_cast<std::size_t>(std::max<std::int64_t>(count, 0)));
  }
  if (scores.get_size() < rows * columns) {
    throw std::runtime_error("its outputs are not what its metadata says");
  }
  std::vector<Detection> found;
  for (std::size_t row = 0; row < rows; ++row) {
    const float* box = boxes.data<float>() + 4 * row;
    const float* first = scores.data<float>() + columns * row;
    const float* best = std::max_element(first, first + columns);
    const auto label = static_cast<int>(labels != nullptr ? labels[row] : best - first);
    const auto& ids = settings.class_ids;
    const bool known = label >= 0 && static_cast<std::size_t>(label) < metadata_.names.size();
    const bool wanted = ids.empty() || std::find(ids.begin(), ids.end(), label) != ids.end();
    const bool finite = std::all_of(box, box + 4, [](float v) { return std::isfinite(v); });
    if (*best >= settings.conf && std::isfinite(*best) && finite && known && wanted) {
      found.push_back({box[0], box[1], box[2], box[3], *best, label});
    }
  }
  found = nms(std::move(found), settings);
  for (Detection& detection : found) {
    detection = to_source(detection, box_);
  }
  return found;
}

}  // namespace oculox
