#include "network.h"

#include <algorithm>
#include <cctype>

#include <openvino/runtime/core.hpp>
#include <openvino/runtime/properties.hpp>

#include "errors.h"
#include "letterbox.h"

namespace fs = std::filesystem;

namespace oculox {
namespace {

constexpr char kKey[] = "oculox";

// OpenVINO's messages begin with its source lines and end with what happened.
std::string last_line(const std::string& text) {
  const std::size_t end = text.find_last_not_of(" \r\n");
  if (end == std::string::npos) {
    return "no reason given";
  }
  const std::size_t start = text.find_last_of('\n', end);
  return text.substr(start + 1, end - start);
}

void check_files(const fs::path& path) {
  const std::string suffix = path.extension().string();
  if (suffix != ".xml" && suffix != ".onnx") {
    throw UsageError(path.string() +
                     ": expected an .xml or .onnx model; make one with `oculox export WEIGHTS "
                     "--format openvino`");
  }
  fs::path needed = path;
  for (const char* part : {suffix.c_str(), suffix == ".xml" ? ".bin" : ".onnx"}) {
    needed.replace_extension(part);
    if (!fs::is_regular_file(needed)) {
      throw DataError(needed.string() + ": no such file");
    }
  }
}

std::shared_ptr<ov::Model> read_model(ov::Core& core, const fs::path& path) {
  try {
    return core.read_model(path.string());
  } catch (const ov::Exception& error) {
    throw DataError(path.string() + ": damaged or no model (" + last_line(error.what()) + ")");
  }
}

// `.xml` files keep the text at the top, models from `.onnx` where the converter puts theirs.
Metadata read_metadata(ov::Model& model, const std::string& where) {
  if (model.has_rt_info(kKey)) {
    return parse_metadata(model.get_rt_info<std::string>(kKey), where);
  }
  if (model.has_rt_info("framework", kKey)) {
    return parse_metadata(model.get_rt_info<std::string>("framework", kKey), where);
  }
  throw DataError(where + ": holds no metadata of Oculox, so its classes and preprocessing are "
                          "unknown; export the model with `oculox export`");
}

std::string device_name(const ov::Core& core, const std::string& device) {
  std::string name = device;
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
  throw UsageError("device '" + device + "': OpenVINO sees " + seen);
}

ov::AnyMap settings(const std::string& device, int threads) {
  ov::AnyMap out{ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY)};
  if (threads > 0) {
    out.insert(ov::inference_num_threads(threads));
  }
  if (device == "CPU") {
    // Some processors would otherwise compute in bfloat16 without being asked.
    out.insert(ov::hint::inference_precision(ov::element::f32));
  }
  return out;
}

// Free dimensions become those of one picture.
void fix_shape(ov::Model& model, const Metadata& metadata, const std::string& where) {
  if (metadata.batch.value_or(1) != 1) {
    throw DataError(where + ": built for " + std::to_string(*metadata.batch) +
                    " pictures at once, this program takes one; export it with --batch 1");
  }
  if (model.inputs().size() != 1) {
    throw DataError(where + ": expected a model with one input, it has " +
                    std::to_string(model.inputs().size()));
  }
  const auto height = static_cast<std::size_t>(metadata.height);
  const auto width = static_cast<std::size_t>(metadata.width);
  const ov::Shape shape = metadata.letterbox ? ov::Shape{1, height, width, 3}
                                             : ov::Shape{1, 3, height, width};
  const auto type = metadata.letterbox ? ov::element::u8 : ov::element::f32;
  const auto& input = model.input();
  if (input.get_element_type() != type || !input.get_partial_shape().compatible(shape)) {
    throw DataError(where + ": its input is not what its metadata says");
  }
  if (input.get_partial_shape() != ov::PartialShape(shape)) {
    model.reshape(ov::PartialShape(shape));
  }
}

}  // namespace

struct Network::State {
  std::string where;
  Metadata metadata;
  ov::InferRequest request;
  ov::Tensor boxes, scores, labels, counts;

  ov::Tensor output(const char* name, ov::element::Type type, const ov::Shape& tail) {
    const ov::Tensor tensor = request.get_tensor(name);
    const ov::Shape shape = tensor.get_shape();
    const bool fits = shape.size() >= tail.size() + 1 && shape[0] == 1 &&
                      std::equal(tail.rbegin(), tail.rend(), shape.rbegin());
    if (tensor.get_element_type() != type || !fits) {
      throw DataError(where + ": its output '" + name + "' is not what its metadata says");
    }
    return tensor;
  }

  void find_outputs() {
    boxes = output("boxes", ov::element::f32, {4});
    const std::size_t rows = boxes.get_shape().at(1);
    if (metadata.nms.has_value()) {
      scores = output("scores", ov::element::f32, {rows});
      labels = output("classes", ov::element::i64, {rows});
      counts = output("counts", ov::element::i64, {});
    } else {
      scores = output("scores", ov::element::f32, {rows, metadata.names.size()});
    }
  }
};

Network::Network(const fs::path& path, const std::string& device, int threads)
    : state_(std::make_unique<State>()) {
  check_files(path);
  state_->where = path.string();
  ov::Core core;
  const std::string name = device_name(core, device);
  const auto model = read_model(core, path);
  state_->metadata = read_metadata(*model, state_->where);
  try {
    fix_shape(*model, state_->metadata, state_->where);
    state_->request = core.compile_model(model, name, settings(name, threads)).create_infer_request();
  } catch (const ov::Exception& error) {
    throw DataError(state_->where + ": cannot be compiled for " + name + " (" +
                    last_line(error.what()) + ")");
  }
  // The first run allocates memory; it must not count as the first picture's time. Outputs that
  // depend on what is found have their shape only now.
  set_input(Image(state_->metadata.height, state_->metadata.width));
  run();
}

Network::~Network() = default;

const Metadata& Network::metadata() const { return state_->metadata; }

void Network::set_input(const Image& boxed) {
  ov::Tensor input = state_->request.get_input_tensor();
  if (state_->metadata.letterbox) {
    // The model turns BGR into its own colours, and passes a fitting picture through its
    // letterbox unchanged.
    std::copy(boxed.pixels.begin(), boxed.pixels.end(), input.data<std::uint8_t>());
  } else {
    fill_planes(boxed, state_->metadata.preprocessing, input.data<float>());
  }
}

void Network::run() {
  try {
    state_->request.infer();
    state_->find_outputs();
  } catch (const ov::Exception& error) {
    throw DataError(state_->where + ": the network failed (" + last_line(error.what()) + ")");
  }
}

Outputs Network::outputs() const {
  const State& s = *state_;
  Outputs out{};
  out.boxes = s.boxes.data<const float>();
  out.scores = s.scores.data<const float>();
  out.rows = s.boxes.get_shape().at(1);
  out.classes = s.metadata.names.size();
  if (s.metadata.nms.has_value()) {
    out.labels = s.labels.data<const std::int64_t>();
    const std::int64_t count = *s.counts.data<const std::int64_t>();
    out.rows = std::min(out.rows, static_cast<std::size_t>(std::max<std::int64_t>(count, 0)));
  }
  return out;
}

}  // namespace oculox
