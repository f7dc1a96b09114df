// Boxes and captions on pictures.
#pragma once

#include <string>
#include <vector>

#include "image.h"
#include "postprocess.h"

namespace oculox {

// Draws boxes in pixels of the picture, each in its class's colour, with name and score.
void draw(Image& image, const std::vector<Detection>& detections,
          const std::vector<std::string>& names);

}  // namespace oculox
