#include "options.h"

#include <climits>
#include <cstdlib>
#include <cstring>

#include "errors.h"

namespace oculox {
namespace {

double number(const std::string& option, const std::string& text) {
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  if (text.empty() || *end != '\0') {
    throw UsageError(option + " takes a number, got '" + text + "'");
  }
  return value;
}

float fraction(const std::string& option, const std::string& text) {
  const double value = number(option, text);
  if (!(value >= 0 && value <= 1)) {
    throw UsageError(option + " must be between 0 and 1, got " + text);
  }
  return static_cast<float>(value);
}

int positive(const std::string& option, const std::string& text) {
  const double value = number(option, text);
  if (!(value >= 1 && value <= INT_MAX) || value != static_cast<int>(value)) {
    throw UsageError(option + " must be a whole number, at least 1, got " + text);
  }
  return static_cast<int>(value);
}

bool set_flag(Options& options, const std::string& name) {
  if (name == "--help" || name == "-h") {
    options.help = true;
  } else if (name == "--no-draw") {
    options.draw = false;
  } else if (name == "--overwrite") {
    options.overwrite = true;
  } else {
    return false;
  }
  return true;
}

bool takes_value(const std::string& name) {
  for (const char* known : {"--output", "--conf", "--nms", "--device", "--threads", "--repeat"}) {
    if (name == known) {
      return true;
    }
  }
  return false;
}

void set_value(Options& options, const std::string& name, const std::string& value) {
  if (name == "--output") {
    options.output = value;
  } else if (name == "--conf") {
    options.thresholds.conf = fraction(name, value);
  } else if (name == "--nms") {
    options.thresholds.nms = fraction(name, value);
  } else if (name == "--device") {
    options.device = value;
  } else if (name == "--threads") {
    options.threads = positive(name, value);
  } else {
    options.repeat = positive(name, value);
  }
}

}  // namespace

Options parse_options(int count, const char* const* arguments) {
  Options options;
  std::vector<std::string> plain;
  bool only_plain = false;
  for (int i = 1; i < count; ++i) {
    const std::string argument = arguments[i];
    if (only_plain || argument.size() < 2 || argument[0] != '-') {
      plain.push_back(argument);
      continue;
    }
    if (argument == "--") {
      only_plain = true;
      continue;
    }
    if (set_flag(options, argument)) {
      continue;
    }
    const std::size_t equals = argument.find('=');
    const std::string name = argument.substr(0, equals);
    if (!takes_value(name)) {
      throw UsageError("unknown option " + name + "; see --help");
    }
    if (equals != std::string::npos) {
      set_value(options, name, argument.substr(equals + 1));
    } else if (i + 1 < count && std::strncmp(arguments[i + 1], "--", 2) != 0) {
      set_value(options, name, arguments[++i]);
    } else {
      throw UsageError(name + " needs a value");
    }
  }
  if (options.help) {
    return options;
  }
  if (plain.size() < 2) {
    throw UsageError("expected a model, then pictures or folders; see --help");
  }
  if (options.output.empty()) {
    throw UsageError("name a folder for the results with --output");
  }
  options.model = plain.front();
  options.inputs.assign(plain.begin() + 1, plain.end());
  return options;
}

std::string usage() {
  return "Usage: oculox_detect MODEL PICTURE|FOLDER... --output FOLDER [options]\n"
         "\n"
         "Finds objects in JPEG and PNG pictures with a model exported by Oculox (.xml or\n"
         ".onnx). Writes annotated copies, detections.json (COCO results) and timing.json.\n"
         "\n"
         "  --output FOLDER  for the results; made where absent\n"
         "  --conf NUMBER    lowest score kept (0.3)\n"
         "  --nms NUMBER     IoU above which the weaker of two boxes goes (0.45)\n"
         "  --device NAME    cpu, gpu, npu, ... as OpenVINO calls it (cpu)\n"
         "  --threads N      of the processor (as many as OpenVINO finds best)\n"
         "  --repeat N       measure each picture N times (1)\n"
         "  --no-draw        write no annotated copies\n"
         "  --overwrite      allow an output folder that is not empty\n"
         "  --help           this text\n"
         "\n"
         "Exit code: 0 all is well, 1 a picture or the model failed, 2 wrong usage.\n";
}

}  // namespace oculox
