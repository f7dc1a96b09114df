// The largest undistorted fit of a picture into the network's input.
#pragma once

#include "image.h"
#include "metadata.h"

namespace oculox {

// How a picture of one size lies in an input of another.
struct Letterbox {
  double scale;  // input pixels for each source pixel
  int left, top;  // padding before the picture
  int inner_height, inner_width;  // of the resized picture
  int height, width;  // of the input
  int source_height, source_width;
};

// The official placement, top left, rounds the new size down; the centred one, MindYOLO's, rounds
// to the nearest and halves the padding.
Letterbox fit(int source_height, int source_width, int height, int width, bool centered);

// A new picture of the input's size: resized bilinearly and padded.
Image apply(const Letterbox& box, const Image& image, int pad_value);

// Letterboxed BGR bytes -> float planes in the network's colours and pixel range.
void fill_planes(const Image& boxed, const Preprocessing& preprocessing, float* planes);

// Bilinear, bit for bit as OpenCV's INTER_LINEAR on bytes.
Image resized(const Image& image, int height, int width);

}  // namespace oculox
