// Whole files in and out.
#pragma once

#include <filesystem>
#include <string>

#include "image.h"

namespace oculox {

// Throws DataError when the file is missing or cannot be read.
Bytes read_file(const std::filesystem::path& path);

// Complete or not at all: written beside the target, then renamed. Throws DataError.
void write_file(const std::filesystem::path& path, const void* data, std::size_t size);
void write_text(const std::filesystem::path& path, const std::string& text);

// Makes the folder where it is absent. Throws DataError.
void make_folder(const std::filesystem::path& folder);

}  // namespace oculox
