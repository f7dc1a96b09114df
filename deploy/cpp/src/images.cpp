#include "images.h"

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>

#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>

namespace fs = std::filesystem;

namespace oculox {
namespace {

constexpr double kMaxPixels = 200e6;  // more is far more often an attack than a photo
constexpr const char* kNoImage = "not an image that can be decoded (damaged or unknown format)";

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

// The number in `count` bytes, big-endian unless `little`; 0 after the end.
std::size_t number_at(const std::string& data, std::size_t place, std::size_t count,
                      bool little = false) {
  std::string bytes = data.substr(std::min(place, data.size()), count);
  if (little) {
    std::reverse(bytes.begin(), bytes.end());
  }
  std::size_t value = 0;
  for (const char byte : bytes) {
    value = value * 256 + static_cast<unsigned char>(byte);
  }
  return value;
}

// From the first directory: tag 256 is the width, 257 the height, of type 3 (short) or 4.
double tiff_pixels(const std::string& data) {
  const bool little = data[0] == 'I';
  const std::size_t start = number_at(data, 4, 4, little);
  const std::size_t entries = number_at(data, start, 2, little);
  double sides[2] = {-1, -1};
  for (std::size_t i = 0; i < entries; ++i) {
    const std::size_t entry = start + 2 + 12 * i;
    const std::size_t tag = number_at(data, entry, 2, little);
    if (tag == 256 || tag == 257) {
      const std::size_t bytes = number_at(data, entry + 2, 2, little) == 3 ? 2 : 4;
      sides[tag - 256] = static_cast<double>(number_at(data, entry + 8, bytes, little));
    }
  }
  return sides[0] < 0 || sides[1] < 0 ? -1 : sides[0] * sides[1];
}

// From the two numbers after the sign of a PPM or PGM; comments may be between them.
double plain_pixels(const std::string& data) {
  std::istringstream header(data.substr(2, 4096));
  double pixels = 1;
  for (int side = 0; side < 2; ++side) {
    while ((header >> std::ws).peek() == '#') {
      for (int c = 0; header && c != '\n' && c != '\r';) {
        c = header.get();
      }
    }
    std::uint32_t number = 0;
    header >> number;
    pixels *= number;
  }
  return header ? pixels : -1;
}

// The pixels of an image that is no JPEG or PNG, by its first bytes; less than 0 where these do not
// tell.
double other_pixels(const std::string& data) {
  const auto begins = [&](const std::string& text, std::size_t place = 0) {
    return data.size() > place && data.compare(place, text.size(), text) == 0;
  };
  const auto little = [&](std::size_t place, std::size_t bytes) {
    return number_at(data, place, bytes, true);
  };
  const auto area = [](std::size_t width, std::size_t height) {
    return static_cast<double>(width) * static_cast<double>(height);
  };
  if (begins("BM") && little(14, 4) == 12) {
    return area(little(18, 2), little(20, 2));
  }
  if (begins("BM")) {  // a negative height: from the top
    return area(little(18, 4), 1) * std::abs(static_cast<std::int32_t>(little(22, 4)) * 1.0);
  }
  if (begins("GIF8")) {
    return area(little(6, 2), little(8, 2));
  }
  if (begins("RIFF") && begins("WEBPVP8X", 8)) {
    return area(little(24, 3) + 1, little(27, 3) + 1);
  }
  if (begins("RIFF") && begins("WEBPVP8L", 8)) {
    return area(little(21, 4) % 0x4000 + 1, little(21, 4) / 0x4000 % 0x4000 + 1);
  }
  if (begins("RIFF") && begins("WEBPVP8 ", 8)) {
    return area(little(26, 2) % 0x4000, little(28, 2) % 0x4000);
  }
  if (begins(std::string("II*\0", 4)) || begins(std::string("MM\0*", 4))) {
    return tiff_pixels(data);
  }
  if (begins("P") && data.find_first_of("123456", 1) == 1) {
    return plain_pixels(data);
  }
  if (begins("\xFF\x4F\xFF\x51")) {
    return area(number_at(data, 8, 4), number_at(data, 12, 4));
  }
  const std::size_t box = data.substr(0, 4096).find("ihdr");
  if (begins("jP  ", 4) && box != std::string::npos) {
    return area(number_at(data, box + 8, 4), number_at(data, box + 4, 4));
  }
  return -1;
}

// Checks an image before it is decoded: a few bytes may promise one that fills the memory, and
// OpenCV fills a truncated JPEG with gray. The segments of a JPEG are walked, as a thumbnail inside
// has a size and an end of its own.
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
  } else {
    pixels = other_pixels(data);
  }
  if (truncated) {
    throw std::runtime_error("the image is truncated (its end is missing)");
  }
  if (pixels < 0) {
    throw std::runtime_error(kNoImage);
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
    throw std::runtime_error(kNoImage);
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
