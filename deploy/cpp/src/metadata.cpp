#include "metadata.h"

#include "errors.h"
#include "json.h"

namespace oculox {
namespace {

constexpr int kVersion = 1;
constexpr int kLargestSide = 1 << 15;

int whole_between(const Json& value, int low, int high, const char* what) {
  const int number = value.whole();
  if (number < low || number > high) {
    throw JsonError(std::string(what) + " is " + std::to_string(number));
  }
  return number;
}

bool one_of(const Json& value, const char* yes, const char* no) {
  if (value.text() != yes && value.text() != no) {
    throw JsonError("\"" + value.text() + "\" is neither " + yes + " nor " + no);
  }
  return value.text() == yes;
}

Preprocessing parse_preprocessing(const Json& json) {
  Preprocessing out;
  out.rgb = one_of(json.at("color"), "rgb", "bgr");
  out.centered = one_of(json.at("placement"), "center", "top_left");
  out.pad_value = whole_between(json.at("pad_value"), 0, 255, "pad_value");
  out.pixel_max = json.at("pixel_max").whole();
  if (out.pixel_max != 1 && out.pixel_max != 255) {
    throw JsonError("pixel_max is " + std::to_string(out.pixel_max));
  }
  return out;
}

Metadata parse(const Json& json) {
  Metadata out;
  for (const Json& name : json.at("names").list()) {
    out.names.push_back(name.text());
  }
  if (const Json& ids = json.at("category_ids"); !ids.is_null()) {
    for (const Json& id : ids.list()) {
      out.category_ids.push_back(id.whole());
    }
    if (out.category_ids.size() != out.names.size()) {
      throw JsonError("as many category_ids as names are expected");
    }
  }
  out.preprocessing = parse_preprocessing(json.at("preprocessing"));
  const Json::List& size = json.at("size_hw").list();
  if (size.size() != 2) {
    throw JsonError("size_hw must be two numbers");
  }
  out.height = whole_between(size[0], 1, kLargestSide, "the height");
  out.width = whole_between(size[1], 1, kLargestSide, "the width");
  if (const Json& batch = json.at("batch"); !batch.is_null()) {
    out.batch = batch.whole();
  }
  if (const Json& nms = json.at("nms"); !nms.is_null()) {
    out.nms = InnerNms{static_cast<float>(nms.at("conf").number()),
                       static_cast<float>(nms.at("iou").number())};
  }
  out.letterbox = json.at("letterbox").boolean();
  return out;
}

}  // namespace

Metadata parse_metadata(const std::string& text, const std::string& where) {
  try {
    const Json json = Json::parse(text);
    const int version = json.at("metadata_version").whole();
    if (version < 1 || version > kVersion) {
      throw DataError(where + ": metadata version " + std::to_string(version) +
                      "; this program reads up to " + std::to_string(kVersion) +
                      ", a newer one may be needed");
    }
    return parse(json);
  } catch (const JsonError& error) {
    throw DataError(where + ": its metadata is damaged (" + error.what() + ")");
  }
}

}  // namespace oculox
