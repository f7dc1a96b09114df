// The command line.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "postprocess.h"

namespace oculox {

struct Options {
  std::filesystem::path model;
  std::vector<std::filesystem::path> inputs;
  std::filesystem::path output;
  Thresholds thresholds;
  std::string device = "cpu";
  int threads = 0;
  int repeat = 1;
  bool draw = true;
  bool overwrite = false;
  bool help = false;
};

// Throws UsageError when an option is unknown, incomplete or out of its range.
Options parse_options(int count, const char* const* arguments);

std::string usage();

}  // namespace oculox
