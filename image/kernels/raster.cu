// Own rasteriser: one block a tile of 16 x 16 pixels, one warp a patch of 8 x 4 of them. While a batch of
// Gaussians is loaded, each thread notes which patches its Gaussian reaches, and each warp then visits
// only those that reach its own. The formation is gsplat's; so is the list of intersections.
#include "step.cuh"

constexpr int WARPS = THREADS / 32;
constexpr int PATCH_X = 8, PATCH_Y = 4;

struct Batch {
    float4 place[THREADS]; // x, y, opacity
    float4 conic[THREADS];
    float4 color[THREADS];
    int id[THREADS];
    unsigned reach[WARPS][WARPS]; // [patch][32 Gaussians]
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

__device__ __forceinline__ void load(const Step &s, Batch &batch, int at, int end, float tile_x,
                                     float tile_y) {
    const int t = threadIdx.x;
    float limit = -1.f, slope_x = 0.f, slope_y = 0.f;
    float4 p = {}, c = {};
    if (at + t < end) {
        const int id = s.sorted_ids[at + t];
        const float4 *record = reinterpret_cast<const float4 *>(s.records + id);
        p = record[0], c = record[1];
        batch.id[t] = id, batch.place[t] = p, batch.conic[t] = c, batch.color[t] = record[2];
        limit = __logf(p.z * 255.f) + 1e-3f;
        slope_x = -c.y / c.x, slope_y = -c.y / c.z;
    }
    for (int patch = 0; patch < WARPS; ++patch) {
        const float x = tile_x + (patch & 1) * PATCH_X + 0.5f - p.x;
        const float y = tile_y + (patch >> 1) * PATCH_Y + 0.5f - p.y;
        const bool reaches = limit >= 0.f && least_power(c.x, c.y, c.z, slope_x, slope_y, x, x + PATCH_X - 1,
                                                         y, y + PATCH_Y - 1) <= limit;
        const unsigned mask = __ballot_sync(ALL, reaches);
        if ((t & 31) == 0) batch.reach[patch][t >> 5] = mask;
    }
}

struct Pixel {
    float tile_x, tile_y, x, y;
    int at; // index in the image, or -1 outside
};

__device__ __forceinline__ Pixel pixel_of(const Step &s) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const int tx = blockIdx.x * TILE, ty = blockIdx.y * TILE;
    const int x = tx + (warp & 1) * PATCH_X + (lane & 7), y = ty + (warp >> 1) * PATCH_Y + (lane >> 3);
    const bool inside = x < s.camera.width && y < s.camera.height;
    return {(float)tx, (float)ty, x + 0.5f, y + 0.5f, inside ? y * s.camera.width + x : -1};
}

__global__ void __launch_bounds__(THREADS) raster_kernel(Step s) {
    __shared__ Batch batch;
    const int tile = blockIdx.y * gridDim.x + blockIdx.x, warp = threadIdx.x >> 5;
    const int begin = s.offsets[tile], end = s.offsets[tile + 1];
    const Pixel pixel = pixel_of(s);
    bool done = pixel.at < 0;
    float T = 1.f, r = 0.f, g = 0.f, b = 0.f;
    int last = begin;
    for (int at = begin; at < end; at += THREADS) {
        if (__syncthreads_count(done) == THREADS) break;
        load(s, batch, at, end, pixel.tile_x, pixel.tile_y);
        __syncthreads();
        for (int word = 0; word < WARPS && !__all_sync(ALL, done); ++word)
            for (unsigned bits = batch.reach[warp][word]; bits; bits &= bits - 1) {
                const int t = word * 32 + __ffs(bits) - 1;
                float dx, dy, fall;
                const float alpha = covers(batch.place[t], batch.conic[t], pixel.x, pixel.y, dx, dy, fall);
                if (done || alpha == 0.f) continue;
                const float next = __fmul_rn(T, 1.f - alpha);
                if (next <= MIN_TRANSMITTANCE) {
                    done = true;
                    continue;
                }
                const float4 color = batch.color[t];
                const float weight = alpha * T;
                r += weight * color.x, g += weight * color.y, b += weight * color.z;
                T = next, last = at + t + 1;
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
    __shared__ Batch batch;
    const int tile = blockIdx.y * gridDim.x + blockIdx.x, warp = threadIdx.x >> 5;
    const int begin = s.offsets[tile], end = s.offsets[tile + 1];
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
    float T = 1.f, so_far = 0.f;
    for (int at = begin; at < end; at += THREADS) {
        if (__syncthreads_count(at >= last) == THREADS) break;
        load(s, batch, at, end, pixel.tile_x, pixel.tile_y);
        __syncthreads();
        for (int word = 0; word < WARPS && !__all_sync(ALL, at + word * 32 >= last); ++word)
            for (unsigned bits = batch.reach[warp][word]; bits; bits &= bits - 1) {
                const int t = word * 32 + __ffs(bits) - 1;
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
