#include "metadata.h"

#include <sstream>
#include <stdexcept>

#include <nlohmann/json.hpp>

namespace oculox {

constexpr int kVersion = 2;

Metadata parse_metadata(const std::string& text) try {
  const auto content = nlohmann::json::parse(text);
  if (const int version = content.at("metadata_version"); version != kVersion) {
    throw std::runtime_error("metadata version " + std::to_string(version) +
                             ", this program reads " + std::to_string(kVersion) +
                             "; take the program and the export from one version of Oculox");
  }
  const auto& spec = content.at("spec");
  const auto& input = spec.at("input");
  const auto& nms = content.at("nms");
  Metadata out;
  out.names = spec.at("names").get<std::vector<std::string>>();
  out.batch = spec.at("batch").is_null() ? 1 : spec.at("batch").get<int>();
  out.size = {input.at("size").at(1), input.at("size").at(0)};
  out.rgb = input.at("color") == "rgb";
  out.pixel_max = input.at("pixel_max");
  out.centered = input.at("placement") == "center";
  out.pad_value = input.at("pad_value");
  out.preprocess = content.at("preprocess");
  if (!nms.is_null()) {
    out.nms = InGraphNms{nms.at("conf"), nms.at("iou")};
  }
  if (out.names.empty()) {
    throw std::runtime_error("its metadata names no classes");
  }
  return out;
} catch (const nlohmann::json::exception& error) {
  throw std::runtime_error("its metadata is damaged (" + std::string(error.what()) + ")");
}

std::vector<int> parse_classes(const std::string& text, const std::vector<std::string>& names) {
  std::vector<int> out;
  std::istringstream items(text);
  for (std::string item; std::getline(items >> std::ws, item, ',');) {
    item.erase(item.find_last_not_of(" \t\n\r\f\v") + 1);
    std::size_t i = 0;
    while (i < names.size() && item != names[i] && item != std::to_string(i)) {
      ++i;
    }
    if (i == names.size()) {
      throw std::invalid_argument("--classes: the model has no class '" + item + "'; it has 0 (" +
                                  names.front() + ") to " + std::to_string(i - 1) + " (" +
                                  names.back() + ")");
    }
    out.push_back(static_cast<int>(i));
  }
  return out;
}

}  // namespace oculox
