// Which pictures to look at.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace oculox {

struct Source {
  std::filesystem::path path;
  std::string id;  // JSON: the file's stem, a number where it is one
  std::filesystem::path drawn;  // where the annotated copy goes
};

// Pictures in the order given, those of a folder sorted; one named twice comes once.
//
// Throws DataError when something does not exist or a folder holds no picture; UsageError when a
// file is no JPEG or PNG by its name, two pictures would have one id, or a copy would replace a
// source.
std::vector<Source> find_sources(const std::vector<std::filesystem::path>& inputs,
                                 const std::filesystem::path& output);

// Throws UsageError when the folder is a file, or not empty unless that is allowed.
void check_output(const std::filesystem::path& output, bool overwrite);

}  // namespace oculox
