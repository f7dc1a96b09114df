#include "sources.h"

#include <algorithm>
#include <cctype>
#include <map>
#include <set>

#include "errors.h"
#include "json.h"

namespace fs = std::filesystem;

namespace oculox {
namespace {

// More digits do not fit every JSON reader's whole numbers.
constexpr std::size_t kMostDigits = 15;

bool is_picture(const fs::path& path) {
  std::string suffix = path.extension().string();
  std::transform(suffix.begin(), suffix.end(), suffix.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return suffix == ".jpg" || suffix == ".jpeg" || suffix == ".png";
}

std::vector<fs::path> pictures_in(const fs::path& folder) {
  std::vector<fs::path> found;
  std::error_code failure;
  for (const auto& entry : fs::directory_iterator(folder, failure)) {
    std::error_code ignored;
    if (is_picture(entry.path()) && entry.is_regular_file(ignored)) {
      found.push_back(entry.path());
    }
  }
  if (failure) {
    throw DataError(folder.string() + ": cannot be listed (" + failure.message() + ")");
  }
  if (found.empty()) {
    throw DataError(folder.string() +
                    ": no .jpg or .png pictures in this folder (its own folders are not searched)");
  }
  std::sort(found.begin(), found.end());
  return found;
}

std::string image_id(const std::string& stem) {
  const std::size_t first = std::min(stem.find_first_not_of('0'), stem.size() - 1);
  const bool digits = std::all_of(stem.begin(), stem.end(),
                                  [](unsigned char c) { return std::isdigit(c) != 0; });
  return digits && stem.size() - first <= kMostDigits ? stem.substr(first) : json_text(stem);
}

}  // namespace

std::vector<Source> find_sources(const std::vector<fs::path>& inputs, const fs::path& output) {
  std::vector<fs::path> paths;
  std::set<fs::path> seen;
  for (const fs::path& input : inputs) {
    std::error_code ignored;
    std::vector<fs::path> found = {input};
    if (fs::is_directory(input, ignored)) {
      found = pictures_in(input);
    } else if (!fs::exists(input, ignored)) {
      throw DataError(input.string() + ": no such file or folder");
    } else if (!is_picture(input)) {
      throw UsageError(input.string() + ": expected a .jpg or .png picture, or a folder of them");
    }
    for (const fs::path& path : found) {
      if (seen.insert(fs::weakly_canonical(path, ignored)).second) {
        paths.push_back(path);
      }
    }
  }
  std::vector<Source> sources;
  std::map<std::string, fs::path> by_id;
  for (const fs::path& path : paths) {
    const std::string stem = path.stem().string();
    const Source source{path, image_id(stem), output / (stem + ".jpg")};
    const auto [other, is_new] = by_id.emplace(source.id, path);
    if (!is_new) {
      throw UsageError(path.string() + " and " + other->second.string() +
                       " would have the same image id, " + source.id +
                       "; rename one or run them apart");
    }
    std::error_code ignored;
    if (seen.count(fs::weakly_canonical(source.drawn, ignored)) != 0) {
      throw UsageError(source.drawn.string() +
                       ": the annotated copy would replace a source; name another --output");
    }
    sources.push_back(source);
  }
  return sources;
}

void check_output(const fs::path& output, bool overwrite) {
  std::error_code failure;
  if (!fs::exists(output, failure)) {
    return;
  }
  if (!fs::is_directory(output, failure)) {
    throw UsageError(output.string() + ": the output must be a folder, this is a file");
  }
  if (!overwrite && !fs::is_empty(output, failure)) {
    throw UsageError(output.string() +
                     ": the output folder is not empty; name another or pass --overwrite");
  }
}

}  // namespace oculox
