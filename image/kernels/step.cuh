// What all kernels of a step share. Mirrored by kernels/__init__.py, which compares the sizes.
#pragma once
#include <cuda_runtime.h>
#include <stdint.h>

#include "splat.cuh"

constexpr int TILE = 16, THREADS = 256;
constexpr unsigned ALL = 0xffffffffu;

// One projected Gaussian, 48 bytes: a T4's second-level cache is small, and this is gathered whole.
struct Record {
    float x, y, opacity, depth; // pixels; opacity 0: draws nothing
    float A, B, C;              // conic
    uint32_t tiles_x;           // first and last-plus-one tile, 16 bits each
    float r, g, b;
    uint32_t tiles_y;
};
constexpr uint8_t COUNTS = 1, WINDOW_COUNTS = 2;
constexpr int TOTALS = 2; // words of `sums` before the blocks'
constexpr int G_ROW = 12; // gradients by record: x, y, A, B, C, r, g, b, opacity, three unused

struct Step {
    // the Gaussians, planar [rows][capacity], and their Adam moments
    float *p, *m, *v;
    int64_t capacity, n;
    // the view
    Camera camera;
    int32_t degree;      // in use
    const uint8_t *photo; // [height][width][3]
    const uint8_t *mask;  // [height][width], COUNTS and WINDOW_COUNTS, or null: everything counts
    int64_t counted, windows; // pixels, and windows of SSIM, that count
    // projection; the four plain arrays are for gsplat's rasteriser, or null
    Record *records;
    float *centres, *conics, *colors, *opacities;
    uint64_t *sums; // intersections; Gaussians whose passes over the tiles disagreed; then a word a block
    // intersections: `slots` of them, key = tile << DEPTH_BITS | order of the depth
    uint64_t *keys, *sorted_keys;
    int32_t *ids, *sorted_ids;
    int64_t slots;
    int32_t *offsets; // [tile rows + 1][tile columns]: the extra row begins where the tiles end
    void *scratch;
    int64_t scratch_bytes;
    int64_t *seen; // pinned host memory: last total, largest total, steps that dropped some, mismatches
    // the image
    float *render, *alpha; // [height][width][3], [height][width]
    int32_t *last;         // own rasteriser: end of the last Gaussian that drew, in the sorted list
    float *maps;           // [9][height][width]
    float *v_render, *v_alpha;
    // gradients by Gaussian: v_records [n][12] (own rasteriser), or gsplat's four
    float *v_records;
    const float *v_centres, *v_conics, *v_colors, *v_opacities;
    float *gradients; // [rows][n], or null: written instead of a step of Adam, for tests
    float *figures;   // loss, mean squared error; added to
    // the step
    uint32_t seed, step;
    float dropout, background[3];
    float ssim_weight, opacity_reg, scale_reg;
    float rates[6]; // mean, quaternion, scale, opacity, constant colour, other colour
    float bias1, bias2; // 1 - beta1^t, sqrt(1 - beta2^t)
    float noise, max_log_elongation; // 0: none
};

HD int tiles_across(const Step &s) { return (s.camera.width + TILE - 1) / TILE; }
HD int tiles_down(const Step &s) { return (s.camera.height + TILE - 1) / TILE; }

// Random bits that depend on seed, step, Gaussian and draw alone: a resumed run draws the same.
HD uint32_t mix(uint32_t x) {
    x ^= x >> 16, x *= 0x7feb352du, x ^= x >> 15, x *= 0x846ca68bu;
    return x ^ (x >> 16);
}
HD uint32_t random_bits(const Step &s, uint32_t i, uint32_t draw) {
    return mix(i ^ mix(s.step * 8u + draw + mix(s.seed)));
}
HD float random_unit(uint32_t bits) { return ((bits >> 8) + 0.5f) * (1.f / 16777216.f); }

cudaError_t launch_raster(const Step &, cudaStream_t);
cudaError_t launch_raster_backward(const Step &, cudaStream_t);
cudaError_t launch_loss(const Step &, cudaStream_t);
cudaError_t launch_project(const Step &, cudaStream_t);
cudaError_t launch_update(const Step &, cudaStream_t);
