// Own rasteriser: one block a tile of 16 x 16 pixels, one warp a patch of 8 x 4 of them. Each warp walks the
// tile's Gaussians by itself, 32 at a time: each lane looks whether one of them reaches the patch, and those
// that do are drawn. No warp waits for another. The formation is gsplat's; so is the list of intersections.
#include "step.cuh"

constexpr int WARPS = THREADS / 32;
constexpr int PATCH_X = 8, PATCH_Y = 4;

// Up to 32 Gaussians of one warp.
struct Batch {
    float4 place[32]; // x, y, opacity
    float4 conic[32];
    float4 color[32];
    int id[32];
};

// Fixed in its order of operations, so that both passes see the same pixels covered.
__device__ __forceinline__ float covers(const float4 &p, const float4 &c, float px, float py, float &dx,
                                        float &dy, float &fall) {
    dx = p.x - px, dy = p.y - py;
    const float xx = __fmul_rn(__fmul_rn(c.x, dx), dx), xy = __fmul_rn(__fmul_rn(c.y, dx), dy);
    const float power = __fmaf_rn(0.5f, __fmaf_rn(__fmul_rn(c.z, dy), dy, xx), xy);
    fall = __expf(-power);
    const float alpha = fminf(MAX_ALPHA, __fmul_rn(p.z, fall));
    return power < 0.f || alpha < MIN_ALPHA ? 0.f : alpha;
}

// What a lane has of the Gaussian that it looks at: fetched a batch ahead, while the one before is drawn.
struct Ahead {
    float4 place, conic;
    int id;
    __device__ __forceinline__ void fetch(const Step &s, int at, int end) {
        if (at >= end) return;
        id = s.sorted_ids[at];
        const float4 *record = reinterpret_cast<const float4 *>(s.records + id);
        place = record[0], conic = record[1];
    }
};

// Put those that reach the patch into the batch; returns which.
__device__ __forceinline__ unsigned load(const Step &s, Batch &batch, const Ahead &next, bool there,
                                         float patch_x, float patch_y) {
    const float4 p = next.place, c = next.conic;
    const int lane = threadIdx.x & 31;
    bool reaches = false;
    if (there) {
        const float x = patch_x - p.x, y = patch_y - p.y, limit = __logf(p.z * 255.f) + 1e-3f;
        reaches = limit >= 0.f && least_power(c.x, c.y, c.z, -c.y / c.x, -c.y / c.z, x, x + PATCH_X - 1, y,
                                              y + PATCH_Y - 1) <= limit;
    }
    const unsigned mask = __ballot_sync(ALL, reaches);
    __syncwarp(); // the batch before was read
    if (reaches) {
        batch.id[lane] = next.id, batch.place[lane] = p, batch.conic[lane] = c;
        batch.color[lane] = reinterpret_cast<const float4 *>(s.records + next.id)[2];
    }
    __syncwarp();
    return mask;
}

struct Pixel {
    float patch_x, patch_y, x, y; // centres: of the patch's first pixel, and its own
    int at;                       // index in the image, or -1 outside
};

__device__ __forceinline__ Pixel pixel_of(const Step &s) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const int left = blockIdx.x * TILE + (warp & 1) * PATCH_X, top = blockIdx.y * TILE + (warp >> 1) * PATCH_Y;
    const int x = left + (lane & 7), y = top + (lane >> 3);
    const bool inside = x < s.camera.width && y < s.camera.height;
    return {left + 0.5f, top + 0.5f, x + 0.5f, y + 0.5f, inside ? y * s.camera.width + x : -1};
}

__global__ void __launch_bounds__(THREADS) raster_kernel(Step s) {
    __shared__ Batch batches[WARPS];
    Batch &batch = batches[threadIdx.x >> 5];
    const int tile = blockIdx.y * gridDim.x + blockIdx.x, lane = threadIdx.x & 31;
    const int begin = s.offsets[tile], end = s.offsets[tile + 1];
    const Pixel pixel = pixel_of(s);
    bool done = pixel.at < 0;
    float T = 1.f, r = 0.f, g = 0.f, b = 0.f;
    int last = begin;
    Ahead next;
    next.fetch(s, begin + lane, end);
    for (int at = begin; at < end && !__all_sync(ALL, done); at += 32) {
        unsigned bits = load(s, batch, next, at + lane < end, pixel.patch_x, pixel.patch_y);
        next.fetch(s, at + 32 + lane, end);
        for (; bits; bits &= bits - 1) {
            const int t = __ffs(bits) - 1;
            float dx, dy, fall;
            const float alpha = covers(batch.place[t], batch.conic[t], pixel.x, pixel.y, dx, dy, fall);
            if (done || alpha == 0.f) continue;
            const float next_T = __fmul_rn(T, 1.f - alpha);
            if (next_T <= MIN_TRANSMITTANCE) {
                done = true;
                continue;
            }
            const float4 color = batch.color[t];
            const float weight = alpha * T;
            r += weight * color.x, g += weight * color.y, b += weight * color.z;
            T = next_T, last = at + t + 1;
        }
    }
    if (pixel.at >= 0) {
        s.render[3 * pixel.at] = r, s.render[3 * pixel.at + 1] = g, s.render[3 * pixel.at + 2] = b;
        s.alpha[pixel.at] = 1.f - T;
        s.last[pixel.at] = last;
    }
}

// Sum nine values over the warp and add them to row[0..8]: halves are traded, so that 14 shuffles do
// what 45 would.
__device__ __forceinline__ void add_row(float *row, const float (&g)[9]) {
    const int lane = threadIdx.x & 31;
    float a[4], c[2];
    const bool h16 = lane & 16, h8 = lane & 8, h4 = lane & 4;
    for (int i = 0; i < 4; ++i)
        a[i] = (h16 ? g[i + 4] : g[i]) + __shfl_xor_sync(ALL, h16 ? g[i] : g[i + 4], 16);
    for (int i = 0; i < 2; ++i)
        c[i] = (h8 ? a[i + 2] : a[i]) + __shfl_xor_sync(ALL, h8 ? a[i] : a[i + 2], 8);
    float sum = (h4 ? c[1] : c[0]) + __shfl_xor_sync(ALL, h4 ? c[0] : c[1], 4);
    sum += __shfl_xor_sync(ALL, sum, 2);
    sum += __shfl_xor_sync(ALL, sum, 1);
    float ninth = g[8];
    for (int step = 16; step; step >>= 1) ninth += __shfl_xor_sync(ALL, ninth, step);
    if ((lane & 3) == 0) atomicAdd(row + (h16 ? 4 : 0) + (h8 ? 2 : 0) + (h4 ? 1 : 0), sum);
    if (lane == 1) atomicAdd(row + 8, ninth);
}

// From front to back like the first pass: what lies behind a Gaussian is the whole less what came so far.
__global__ void __launch_bounds__(THREADS) raster_backward_kernel(Step s) {
    __shared__ Batch batches[WARPS];
    Batch &batch = batches[threadIdx.x >> 5];
    const int tile = blockIdx.y * gridDim.x + blockIdx.x, lane = threadIdx.x & 31;
    const int begin = s.offsets[tile];
    const Pixel pixel = pixel_of(s);
    float v[3] = {}, whole = 0.f, v_last = 0.f; // v_last: what the image gains from transmittance lost
    int last = begin;
    if (pixel.at >= 0) {
        for (int c = 0; c < 3; ++c) {
            v[c] = s.v_render[3 * pixel.at + c];
            whole += v[c] * s.render[3 * pixel.at + c];
        }
        v_last = s.v_alpha[pixel.at] * (1.f - s.alpha[pixel.at]);
        last = s.last[pixel.at];
    }
    int end = last;
    for (int step = 16; step; step >>= 1) end = max(end, __shfl_xor_sync(ALL, end, step));
    float T = 1.f, so_far = 0.f;
    Ahead next;
    next.fetch(s, begin + lane, end);
    for (int at = begin; at < end; at += 32) {
        unsigned bits = load(s, batch, next, at + lane < end, pixel.patch_x, pixel.patch_y);
        next.fetch(s, at + 32 + lane, end);
        for (; bits; bits &= bits - 1) {
            const int t = __ffs(bits) - 1;
            const float4 p = batch.place[t], c = batch.conic[t];
            float dx, dy, fall;
            const float alpha = at + t < last ? covers(p, c, pixel.x, pixel.y, dx, dy, fall) : 0.f;
            if (!__any_sync(ALL, alpha > 0.f)) continue;
            float g[9] = {};
            if (alpha > 0.f) {
                const float4 color = batch.color[t];
                const float weight = alpha * T;
                const float shade = color.x * v[0] + color.y * v[1] + color.z * v[2];
                so_far += weight * shade;
                const float v_alpha = T * shade + (v_last - (whole - so_far)) / (1.f - alpha);
                for (int k = 0; k < 3; ++k) g[5 + k] = weight * v[k];
                if (p.z * fall <= MAX_ALPHA) {
                    const float v_power = -p.z * fall * v_alpha;
                    g[0] = v_power * (c.x * dx + c.y * dy), g[1] = v_power * (c.y * dx + c.z * dy);
                    g[2] = 0.5f * v_power * dx * dx, g[3] = v_power * dx * dy;
                    g[4] = 0.5f * v_power * dy * dy, g[8] = fall * v_alpha;
                }
                T = __fmul_rn(T, 1.f - alpha);
            }
            add_row(s.v_records + (int64_t)batch.id[t] * G_ROW, g);
        }
    }
}

cudaError_t launch_raster(const Step &s, cudaStream_t stream) {
    raster_kernel<<<dim3(tiles_across(s), tiles_down(s)), THREADS, 0, stream>>>(s);
    return cudaGetLastError();
}

cudaError_t launch_raster_backward(const Step &s, cudaStream_t stream) {
    raster_backward_kernel<<<dim3(tiles_across(s), tiles_down(s)), THREADS, 0, stream>>>(s);
    return cudaGetLastError();
}
