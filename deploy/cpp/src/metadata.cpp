#include "metadata.h"

#include <sstream>
#include <stdexcept>

#include <nlohmann/json.hpp>

namespace oculox {

constexpr int kVersion = 1;

Metadata parse_metadata(const std::string& text) try {
  const auto content = nlohmann::json::parse(text);
  if (const int version = content.at("metadata_version"); version != kVersion) {
    throw std::runtime_error("metadata version " + std::to_string(version) +
                             ", but this program reads " + std::to_string(kVersion) +
                             "; take program and export from the same Oculox");
  }
  Metadata out;
  const auto& input = content.at("preprocessing");
  content.at("names").get_to(out.names);
  out.num_classes = static_cast<int>(out.names.size());
  out.size = {content.at("size_hw").at(1), content.at("size_hw").at(0)};
  out.rgb = input.at("color") == "rgb";
  out.pixel_max = input.at("pixel_max");
  out.centered = input.at("placement") == "center";
  out.pad_value = input.at("pad_value");
  out.batch = content.at("batch").is_null() ? 1 : content.at("batch").get<int>();
  if (const auto& nms = content.at("nms"); !nms.is_null()) {
    out.nms = InGraphNms{nms.at("conf"), nms.at("iou")};
  }
  out.preprocess = content.at("letterbox");
  return out;
} catch (const nlohmann::json::exception& error) {
  throw std::runtime_error("its metadata is damaged (" + std::string(error.what()) + ")");
}

std::string Metadata::name(int class_id) const {
  const auto index = static_cast<std::size_t>(class_id);
  return index < names.size() ? names[index] : std::to_string(class_id);
}

std::vector<int> parse_classes(const std::string& text, const Metadata& metadata) {
  std::vector<int> out;
  std::istringstream items(text);
  for (std::string item; std::getline(items >> std::ws, item, ',');) {
    int i = 0;
    while (i < metadata.num_classes && item != metadata.name(i) && item != std::to_string(i)) {
      ++i;
    }
    if (i == metadata.num_classes) {
      throw std::invalid_argument("--classes: the model has no class '" + item + "'; it has 0 (" +
                                  metadata.name(0) + ") to " + std::to_string(i - 1) + " (" +
                                  metadata.name(i - 1) + ")");
    }
    out.push_back(i);
  }
  return out;
}

}  // namespace oculox
