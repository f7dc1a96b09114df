// An exported model in OpenVINO.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "image.h"
#include "metadata.h"
#include "postprocess.h"

namespace oculox {

class Network {
 public:
  // Opens an `.xml` (its `.bin` beside it) or `.onnx` that Oculox exported. The device is cpu,
  // gpu, gpu.1, npu, ...; threads of the processor, 0 for OpenVINO's own choice.
  //
  // Throws DataError when a file is missing, damaged or no such model, UsageError when OpenVINO
  // sees no such device.
  Network(const std::filesystem::path& path, const std::string& device, int threads);
  ~Network();
  Network(const Network&) = delete;
  Network& operator=(const Network&) = delete;

  const Metadata& metadata() const;

  // Puts a letterboxed picture into the input.
  void set_input(const Image& boxed);

  // Throws DataError when the device fails.
  void run();

  // Valid until the next run.
  Outputs outputs() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace oculox
