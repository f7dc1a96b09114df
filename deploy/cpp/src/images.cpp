#include "images.h"

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>
#include <set>
#include <stdexcept>
#include <string>

#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>

namespace fs = std::filesystem;

namespace oculox {
namespace {

constexpr double kMaxPixels = 200e6;  // more is far more often an attack than a photo

const std::set<std::string> kSuffixes = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif",
                                         ".tiff", ".gif", ".ppm", ".pgm", ".jp2"};
// The annotated image keeps these formats: good for photographs, shown by every viewer.
const std::set<std::string> kKeptSuffixes = {".jpg", ".jpeg", ".png", ".webp", ".bmp"};

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

bool is_image(const fs::path& path) {
  return kSuffixes.count(lower(path.extension().string())) != 0;
}

std::vector<fs::path> images_in(const fs::path& folder) {
  std::vector<fs::path> found;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (is_image(entry.path()) && entry.is_regular_file()) {
      found.push_back(entry.path());
    }
  }
  if (found.empty()) {
    throw std::runtime_error(folder.string() +
                    ": no images in this folder (its own folders are not searched)");
  }
  std::sort(found.begin(), found.end());
  return found;
}

// The big-endian number in `count` bytes; 0 after the end.
std::size_t number_at(const std::string& data, std::size_t place, std::size_t count) {
  std::size_t value = 0;
  for (const char byte : data.substr(std::min(place, data.size()), count)) {
    value = value * 256 + static_cast<unsigned char>(byte);
  }
  return value;
}

// Checks a JPEG or PNG before it is decoded: OpenCV fills a truncated JPEG with gray. Its segments
// are walked, as a thumbnail inside has a size and an end of its own.
void check_header(const std::string& data) {
  double pixels = 0;
  bool truncated = false;
  const auto read_size = [&](std::size_t place, std::size_t bytes) {
    pixels = static_cast<double>(number_at(data, place, bytes)) *
             static_cast<double>(number_at(data, place + bytes, bytes));
  };
  if (data.compare(0, 4, "\x89PNG") == 0) {
    read_size(16, 4);
    truncated = data.find("IEND") == std::string::npos;
  } else if (number_at(data, 0, 2) == 0xFFD8) {
    std::size_t place = 2;
    std::size_t marker = 0xFF00;
    while (marker >= 0xFF00 && marker != 0xFFDA && place < data.size()) {
      marker = number_at(data, place, 2);
      if (marker == 0xFFC0 || (marker > 0xFFC0 && marker < 0xFFD0 && marker % 4 != 0)) {
        read_size(place + 5, 2);
      }
      // Bytes FF before a marker are padding.
      place += marker == 0xFFFF ? 1 : 2 + number_at(data, place + 2, 2);
    }
    truncated = marker >= 0xFF00 && data.find("\xFF\xD9", place) == std::string::npos;
  }
  if (truncated) {
    throw std::runtime_error("the image is truncated (its end is missing)");
  }
  if (pixels > kMaxPixels) {
    throw std::runtime_error(cv::format("the image is too large (%.0f million pixels, at most "
                                        "%.0f are read)", pixels / 1e6, kMaxPixels / 1e6));
  }
}

cv::Scalar color_of(int class_id) {
  // Steps of the golden ratio around the circle of hues keep the colors of few classes far apart.
  const double hue = std::fmod(0.6 + class_id * 0.6180339887498949, 1.0) * 180;
  cv::Mat3b color(1, 1, cv::Vec3b(static_cast<unsigned char>(hue), 215, 240));
  cv::cvtColor(color, color, cv::COLOR_HSV2BGR);
  return color(0, 0);
}

}  // namespace

std::string name_key(const fs::path& path) { return lower(fs::weakly_canonical(path).string()); }

std::vector<fs::path> find_images(const std::vector<fs::path>& sources) {
  std::vector<fs::path> images;
  std::set<fs::path> seen;
  for (const fs::path& source : sources) {
    std::vector<fs::path> found = {source};
    if (!fs::exists(source)) {
      throw std::runtime_error(source.string() + ": no such file or folder");
    }
    if (fs::is_directory(source)) {
      found = images_in(source);
    } else if (!is_image(source)) {
      throw std::invalid_argument(source.string() + ": not an image by its name; expected .jpg, .png, "
                                                  ".bmp, .webp, .tif, .ppm, .jp2 or a folder");
    }
    std::copy_if(found.begin(), found.end(), std::back_inserter(images),
                 [&](const fs::path& path) { return seen.insert(fs::canonical(path)).second; });
  }
  return images;
}

cv::Mat read_image(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::string data((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (!file) {
    throw std::runtime_error("cannot read the image (" + std::string(std::strerror(errno)) + ")");
  }
  if (data.empty()) {
    throw std::runtime_error("the image is empty (0 bytes)");
  }
  check_header(data);
  const cv::Mat bytes(1, static_cast<int>(data.size()), CV_8U, data.data());
  cv::Mat image = cv::imdecode(bytes, cv::IMREAD_COLOR);
  if (image.empty()) {
    throw std::runtime_error("not an image that can be decoded (damaged or unknown format)");
  }
  return image;
}

void draw(cv::Mat& image, const std::vector<Detection>& detections,
          const std::vector<std::string>& names) {
  constexpr int kFont = cv::FONT_HERSHEY_SIMPLEX;
  constexpr int kMargin = 3;
  const int side = std::min(image.rows, image.cols);
  const double scale = std::max(0.3, side * 1e-3);
  // The best are drawn last, so that they can be read.
  for (auto d = detections.rbegin(); d != detections.rend(); ++d) {
    const cv::Point corner(static_cast<int>(d->x1), static_cast<int>(d->y1));
    const cv::Scalar color = color_of(d->class_id);
    const cv::Point opposite(static_cast<int>(d->x2), static_cast<int>(d->y2));
    cv::rectangle(image, corner, opposite, color, side < 1080 ? 2 : 4);
    const std::string text = names.at(d->class_id) + cv::format(" %.2f", d->score);
    const cv::Size size = cv::getTextSize(text, kFont, scale, 1, nullptr);
    const int height = size.height + 2 * kMargin;
    // Above the box, or inside where there is no room.
    const int top = corner.y < height ? corner.y : corner.y - height;
    cv::rectangle(image, cv::Rect(corner.x, top, size.width + 2 * kMargin, height), color,
                  cv::FILLED);
    const double luma = 0.114 * color[0] + 0.587 * color[1] + 0.299 * color[2];
    cv::putText(image, text, {corner.x + kMargin, top + kMargin + size.height}, kFont, scale,
                cv::Scalar::all(luma > 128 ? 0 : 255), 1, cv::LINE_AA);
  }
}

fs::path free_name(const fs::path& folder, const fs::path& source, std::set<std::string>& taken) {
  const std::string suffix = lower(source.extension().string());
  const std::string written = kKeptSuffixes.count(suffix) != 0 ? suffix : ".png";
  fs::path target = folder / (source.stem().string() + written);
  for (int number = 2; !taken.insert(name_key(target)).second; ++number) {
    target = folder / (source.stem().string() + "-" + std::to_string(number) + written);
  }
  return target;
}

void write_image(const fs::path& path, const cv::Mat& image) {
  std::vector<unsigned char> encoded;
  if (!cv::imencode(path.extension().string(), image, encoded)) {
    throw std::runtime_error(path.string() + ": the image cannot be encoded");
  }
  write_file(path, std::string(encoded.begin(), encoded.end()));
}

void write_file(const fs::path& path, const std::string& data) {
  const fs::path part = path.parent_path() / ("." + path.filename().string() + ".part");
  std::ofstream file(part, std::ios::binary | std::ios::trunc);
  file.write(data.data(), static_cast<std::streamsize>(data.size()));
  file.close();
  if (!file) {
    const std::string why = std::strerror(errno);
    std::error_code ignored;
    fs::remove(part, ignored);
    throw std::runtime_error(path.string() + ": could not be written (" + why + ")");
  }
  fs::rename(part, path);
}

}  // namespace oculox
