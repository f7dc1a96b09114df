// Image files in, annotated images out.
#pragma once

#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include <opencv2/core.hpp>

#include "postprocess.h"

namespace oculox {

// Images in the order given, those of a folder sorted; one named twice comes once. Throws
// std::runtime_error when something does not exist or a folder holds no image,
// std::invalid_argument when a file's name is not that of an image.
std::vector<std::filesystem::path> find_images(const std::vector<std::filesystem::path>& sources);

// Reads an image as 8 bits, BGR, turned upright by its EXIF orientation. Throws std::runtime_error
// when it is empty, damaged, truncated, of an unknown format or has more than 200 million pixels.
cv::Mat read_image(const std::filesystem::path& path);

// Draws boxes in pixels of the image, each in its class's color, with name and score.
void draw(cv::Mat& image, const std::vector<Detection>& detections,
          const std::vector<std::string>& names);

// One text for all names of a file, in lower case: `A.jpg` and `a.jpg` are one on many systems.
std::string name_key(const std::filesystem::path& path);

// The file for the annotated image. Its key is not in `taken`, and is added to it.
std::filesystem::path free_name(const std::filesystem::path& folder,
                                const std::filesystem::path& source, std::set<std::string>& taken);

// Written beside the target, then renamed: complete or not at all. Throw std::runtime_error.
void write_image(const std::filesystem::path& path, const cv::Mat& image);
void write_file(const std::filesystem::path& path, const std::string& data);

}  // namespace oculox
