// (1 - w) L1 + w (1 - SSIM) of the image against its photograph, and its gradient by the image: two
// kernels, since the gradient gathers what a pixel does to all windows that hold it.
#include "step.cuh"

constexpr int WINDOW = 11, HALF = WINDOW / 2, WIDE = TILE + WINDOW - 1;
constexpr float K1 = 0.01f * 0.01f, K2 = 0.03f * 0.03f;

// Gaussian of sigma 1.5.
__device__ __forceinline__ constexpr float weight(int i) {
    constexpr float w[WINDOW] = {0.001028380f, 0.007598758f, 0.036000773f, 0.109360690f,
                                 0.213005528f, 0.266011725f, 0.213005528f, 0.109360690f,
                                 0.036000773f, 0.007598758f, 0.001028380f};
    return w[i];
}

__device__ __forceinline__ float drawn(const Step &s, int at, int c) {
    return s.render[3 * at + c] + (1.f - s.alpha[at]) * s.background[c];
}
__device__ __forceinline__ float wanted(const Step &s, int at, int c) {
    return s.photo[3 * at + c] * (1.f / 255.f);
}

__device__ __forceinline__ bool counts(const Step &s, int at, uint8_t bit) {
    return !s.mask || (s.mask[at] & bit);
}

// Three maps a channel: derivatives of the mean SSIM by the window's mean of x, of x^2 and of x y.
__global__ void __launch_bounds__(THREADS) ssim_kernel(Step s) {
    __shared__ float xs[WIDE][WIDE], ys[WIDE][WIDE], rows[5][WIDE][TILE];
    const int c = blockIdx.z, w = s.camera.width, h = s.camera.height;
    const int tx = threadIdx.x % TILE, ty = threadIdx.x / TILE;
    const int x0 = blockIdx.x * TILE, y0 = blockIdx.y * TILE;
    for (int i = threadIdx.x; i < WIDE * WIDE; i += THREADS) {
        const int x = x0 + i % WIDE - HALF, y = y0 + i / WIDE - HALF;
        const bool inside = x >= 0 && x < w && y >= 0 && y < h;
        xs[i / WIDE][i % WIDE] = inside ? drawn(s, y * w + x, c) : 0.f;
        ys[i / WIDE][i % WIDE] = inside ? wanted(s, y * w + x, c) : 0.f;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < WIDE * TILE; i += THREADS) {
        const int row = i / TILE, column = i % TILE;
        float sum[5] = {};
#pragma unroll
        for (int k = 0; k < WINDOW; ++k) {
            const float x = xs[row][column + k], y = ys[row][column + k], g = weight(k);
            sum[0] += g * x, sum[1] += g * y, sum[2] += g * x * x, sum[3] += g * y * y, sum[4] += g * x * y;
        }
        for (int m = 0; m < 5; ++m) rows[m][row][column] = sum[m];
    }
    __syncthreads();
    float e[5] = {};
#pragma unroll
    for (int k = 0; k < WINDOW; ++k)
        for (int m = 0; m < 5; ++m) e[m] += weight(k) * rows[m][ty + k][tx];

    const int x = x0 + tx, y = y0 + ty;
    float loss = 0, square = 0;
    if (x < w && y < h) {
        const float share = s.ssim_weight / (3.f * s.windows);
        const int at = y * w + x, plane = w * h;
        float m1 = 0, m2 = 0, m3 = 0;
        if (x >= HALF && x < w - HALF && y >= HALF && y < h - HALF && counts(s, at, WINDOW_COUNTS)) {
            const float mx = e[0], my = e[1];
            const float a1 = 2 * mx * my + K1, a2 = 2 * (e[4] - mx * my) + K2;
            const float b1 = mx * mx + my * my + K1, b2 = e[2] - mx * mx + e[3] - my * my + K2;
            const float inverse = 1.f / (b1 * b2), ssim = a1 * a2 * inverse;
            m1 = 2 * my * (a2 - a1) * inverse - 2 * mx * ssim * (1 / b1 - 1 / b2);
            m2 = -ssim / b2, m3 = 2 * a1 * inverse;
            loss = share * (1.f - ssim);
        }
        s.maps[(3 * c) * plane + at] = -share * m1;
        s.maps[(3 * c + 1) * plane + at] = -share * m2;
        s.maps[(3 * c + 2) * plane + at] = -share * m3;
        const float a = xs[ty + HALF][tx + HALF], b = ys[ty + HALF][tx + HALF];
        if (counts(s, at, COUNTS)) {
            loss += (1.f - s.ssim_weight) / (3.f * s.counted) * fabsf(a - b);
            const float d = clampf(a, 0.f, 1.f) - b;
            square = d * d / (3.f * s.counted);
        }
    }
    for (int step = 16; step; step >>= 1) {
        loss += __shfl_xor_sync(ALL, loss, step);
        square += __shfl_xor_sync(ALL, square, step);
    }
    __shared__ float parts[2][THREADS / 32];
    if ((threadIdx.x & 31) == 0)
        parts[0][threadIdx.x / 32] = loss, parts[1][threadIdx.x / 32] = square;
    __syncthreads();
    if (threadIdx.x < 2) {
        float sum = 0;
        for (int i = 0; i < THREADS / 32; ++i) sum += parts[threadIdx.x][i];
        atomicAdd(s.figures + threadIdx.x, sum);
    }
}

__global__ void __launch_bounds__(THREADS) loss_gradient_kernel(Step s) {
    __shared__ float maps[3][WIDE][WIDE], rows[3][WIDE][TILE];
    const int w = s.camera.width, h = s.camera.height, plane = w * h;
    const int tx = threadIdx.x % TILE, ty = threadIdx.x / TILE;
    const int x0 = blockIdx.x * TILE, y0 = blockIdx.y * TILE, x = x0 + tx, y = y0 + ty, at = y * w + x;
    float v_alpha = 0;
    for (int c = 0; c < 3; ++c) {
        for (int i = threadIdx.x; i < WIDE * WIDE; i += THREADS) {
            const int mx = x0 + i % WIDE - HALF, my = y0 + i / WIDE - HALF;
            const bool inside = mx >= 0 && mx < w && my >= 0 && my < h;
            for (int m = 0; m < 3; ++m)
                maps[m][i / WIDE][i % WIDE] = inside ? s.maps[(3 * c + m) * plane + my * w + mx] : 0.f;
        }
        __syncthreads();
        for (int i = threadIdx.x; i < WIDE * TILE; i += THREADS) {
            const int row = i / TILE, column = i % TILE;
            for (int m = 0; m < 3; ++m) {
                float sum = 0;
#pragma unroll
                for (int k = 0; k < WINDOW; ++k) sum += weight(k) * maps[m][row][column + k];
                rows[m][row][column] = sum;
            }
        }
        __syncthreads();
        if (x < w && y < h) {
            float e[3] = {};
#pragma unroll
            for (int k = 0; k < WINDOW; ++k)
                for (int m = 0; m < 3; ++m) e[m] += weight(k) * rows[m][ty + k][tx];
            const float a = drawn(s, at, c), b = wanted(s, at, c);
            const float sign = !counts(s, at, COUNTS) || a == b ? 0.f : a > b ? 1.f : -1.f;
            const float g = e[0] + 2 * a * e[1] + b * e[2] + sign * (1.f - s.ssim_weight) / (3.f * s.counted);
            s.v_render[3 * at + c] = g;
            v_alpha -= g * s.background[c];
        }
        __syncthreads();
    }
    if (x < w && y < h) s.v_alpha[at] = v_alpha;
}

cudaError_t launch_loss(const Step &s, cudaStream_t stream) {
    const dim3 grid(tiles_across(s), tiles_down(s), 3);
    ssim_kernel<<<grid, THREADS, 0, stream>>>(s);
    loss_gradient_kernel<<<dim3(grid.x, grid.y), THREADS, 0, stream>>>(s);
    return cudaGetLastError();
}
