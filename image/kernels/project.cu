// Projection of all Gaussians, and which tiles each touches, in the order of depth within a tile.
//
// No number comes back to the host: the list of intersections has a length fixed before the step. What
// is left of it holds keys beyond all tiles; what does not fit is dropped and counted.
#include <cub/cub.cuh>

#include "step.cuh"

// From here on a Gaussian's tiles are looked at by its whole warp: a few huge ones would rule the step.
constexpr int WIDE = 24;

// Of the depth's 32 bits those that order it: exact from the near plane to 2^32 times as far, and few, since
// each eight bits of a key are one more pass of the sort. What lies farther is drawn in the order it comes.
constexpr int DEPTH_BITS = 28;
__device__ uint64_t order_of(float depth) {
    return min(__float_as_uint(depth) - __float_as_uint(NEAR_PLANE), (1u << DEPTH_BITS) - 1);
}

// One piece of code for both passes, never inlined: contracted differently, the count and the writing
// pass would disagree on a tile that is only just touched.
__device__ __noinline__ bool touches(float x, float y, float A, float B, float C, float opacity, int tx,
                                     int ty) {
    float left = tx * TILE + 0.5f - x, top = ty * TILE + 0.5f - y;
    float power =
        least_power(A, B, C, -B / A, -B / C, left, left + (TILE - 1), top, top + (TILE - 1));
    return power <= __logf(opacity * 255.f) + 1e-3f;
}

// Count the tiles of `r` and, when WRITE, put one intersection each at keys[begin..], at most `room`. Which
// tiles of a narrow one are touched is kept in `hits` from the first pass to the second.
template <bool WRITE>
__device__ int walk(const Step &s, bool visible, const Record &r, int id, unsigned &hits, long long begin,
                    int room) {
    const int lane = threadIdx.x & 31, across = tiles_across(s);
    const int x0 = r.tiles_x & 0xffff, x1 = r.tiles_x >> 16, y0 = r.tiles_y & 0xffff, y1 = r.tiles_y >> 16;
    const int area = visible ? (x1 - x0) * (y1 - y0) : 0;
    int found = 0;
    auto put = [&](int place, int limit, long long at, int tile, float depth, int who) {
        if (WRITE && place < limit && at + place < s.slots) {
            s.keys[at + place] = (uint64_t)tile << DEPTH_BITS | order_of(depth);
            s.ids[at + place] = who;
        }
    };
    if (!WRITE && area <= WIDE) {
        for (int i = 0; i < area; ++i)
            if (touches(r.x, r.y, r.A, r.B, r.C, r.opacity, x0 + i % (x1 - x0), y0 + i / (x1 - x0)))
                hits |= 1u << i;
        found = __popc(hits);
    }
    if (WRITE && area <= WIDE)
        for (unsigned left = hits; left; left &= left - 1) {
            const int i = __ffs(left) - 1, tx = x0 + i % (x1 - x0), ty = y0 + i / (x1 - x0);
            put(found++, room, begin, ty * across + tx, r.depth, id);
        }
    for (unsigned wide = __ballot_sync(ALL, area > WIDE); wide; wide &= wide - 1) {
        const int owner = __ffs(wide) - 1;
        auto of = [&](auto value) { return __shfl_sync(ALL, value, owner); };
        const float x = of(r.x), y = of(r.y), A = of(r.A), B = of(r.B), C = of(r.C);
        const float opacity = of(r.opacity), depth = of(r.depth);
        const int left = of(x0), width = of(x1) - left, top = of(y0), tiles = of(area);
        const int who = of(id), limit = of(room);
        const long long at = of(begin);
        int sum = 0;
        for (int first = 0; first < tiles; first += 32) {
            const int i = first + lane, tx = left + i % width, ty = top + i / width;
            const bool hit = i < tiles && touches(x, y, A, B, C, opacity, tx, ty);
            const unsigned hits = __ballot_sync(ALL, hit);
            if (hit) put(sum + __popc(hits & ((1u << lane) - 1)), limit, at, ty * across + tx, depth, who);
            sum += __popc(hits);
        }
        if (lane == owner) found = sum;
    }
    return found;
}

// Where this thread's intersections begin: how many the Gaussians before it have. A block waits for those
// before it, which the GPU started earlier, and passes on its own sum as soon as it has it, then the sum so far
// (decoupled look-back, Merrill and Garland 2016). A number and what it is are one word.
__device__ int64_t begin_of(const Step &s, int mine) {
    constexpr uint64_t OF_BLOCK = 1ull << 62, SO_FAR = 2ull << 62, VALUE = OF_BLOCK - 1;
    using Scan = cub::BlockScan<int, THREADS>;
    __shared__ typename Scan::TempStorage storage;
    __shared__ int64_t before;
    int within, sum;
    Scan(storage).ExclusiveSum(mine, within, sum);
    volatile uint64_t *sums = s.sums + TOTALS;
    const int me = blockIdx.x, lane = threadIdx.x;
    if (lane == 0) sums[me] = (me ? OF_BLOCK : SO_FAR) | sum;
    if (lane < 32) {
        int64_t total = 0;
        bool whole = me == 0;
        for (int last = me - 1; !whole; last -= 32) {
            uint64_t seen;
            do seen = last >= lane ? sums[last - lane] : SO_FAR;
            while (__any_sync(ALL, seen < OF_BLOCK));
            const unsigned wholes = __ballot_sync(ALL, seen >= SO_FAR);
            const int nearest = wholes ? __ffs(wholes) - 1 : 31;
            long long value = lane <= nearest ? seen & VALUE : 0;
            for (int step = 16; step; step >>= 1) value += __shfl_xor_sync(ALL, value, step);
            total += value, whole = wholes;
        }
        if (lane == 0) {
            before = total;
            if (me) sums[me] = SO_FAR | (total + sum);
            if (me == gridDim.x - 1) s.sums[0] = total + sum;
        }
    }
    __syncthreads();
    return before + within;
}

template <int DEGREE>
__global__ void __launch_bounds__(THREADS) project_kernel(Step s) {
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    const bool mine = i < s.n;
    Record r = {};
    bool visible = false;
    float opacity = 0;
    if (mine) {
        auto p = [&](int row) { return s.p[row * s.capacity + i]; };
        opacity = sigmoid(p(OPACITY));
        float drawn = opacity;
        if (s.dropout > 0)
            drawn = random_unit(random_bits(s, i, 0)) >= s.dropout ? opacity / (1.f - s.dropout) : 0.f;
        float mean[3] = {p(0), p(1), p(2)};
        if (drawn >= MIN_ALPHA) {
            float q[4] = {p(3), p(4), p(5), p(6)}, scale[3] = {expf(p(7)), expf(p(8)), expf(p(9))};
            Projected o;
            if (project(mean, q, scale, s.camera, o)) {
                r.x = s.camera.fx * o.x * o.rz + s.camera.cx;
                r.y = s.camera.fy * o.y * o.rz + s.camera.cy;
                r.opacity = drawn, r.depth = o.z;
                r.A = o.cov_c / o.det, r.B = -o.cov_b / o.det, r.C = o.cov_a / o.det;
                const float reach = sqrtf(2.f * logf(drawn * 255.f)) + 1e-3f;
                const float ex = reach * sqrtf(o.cov_a), ey = reach * sqrtf(o.cov_c);
                const float wide = tiles_across(s), high = tiles_down(s);
                const int x0 = clampf(floorf((r.x - ex) / TILE), 0.f, wide);
                const int x1 = clampf(ceilf((r.x + ex) / TILE), 0.f, wide);
                const int y0 = clampf(floorf((r.y - ey) / TILE), 0.f, high);
                const int y1 = clampf(ceilf((r.y + ey) / TILE), 0.f, high);
                visible = x1 > x0 && y1 > y0 && isfinite(ex + ey + r.x + r.y);
                r.tiles_x = x0 | x1 << 16, r.tiles_y = y0 | y1 << 16;
            }
        }
        if (visible) {
            float d[3], b[16], color[3] = {0.5f, 0.5f, 0.5f};
            direction(mean, s.camera, d);
            sh_basis(DEGREE, d, b);
#pragma unroll
            for (int k = 0; k < (DEGREE + 1) * (DEGREE + 1); ++k)
                for (int c = 0; c < 3; ++c) color[c] += b[k] * p(SH + 3 * k + c);
            r.r = fmaxf(color[0], 0.f), r.g = fmaxf(color[1], 0.f), r.b = fmaxf(color[2], 0.f);
        } else {
            r.opacity = 0;
        }
    }
    unsigned hits = 0;
    const int tiles = walk<false>(s, visible, r, 0, hits, 0, 0);
    if (walk<true>(s, tiles > 0, r, (int)i, hits, begin_of(s, tiles), tiles) != tiles)
        atomicAdd((unsigned long long *)&s.sums[1], 1ull);
    if (mine) {
        if (!tiles) r.opacity = 0;
        // Of what draws nothing, nobody reads more than that.
        float4 *record = reinterpret_cast<float4 *>(s.records + i);
        record[0] = {r.x, r.y, r.opacity, r.depth};
        if (tiles) {
            record[1] = {r.A, r.B, r.C, 0.f}, record[2] = {r.r, r.g, r.b, 0.f};
            if (s.v_records)
                for (int k = 0; k < G_ROW / 4; ++k)
                    reinterpret_cast<float4 *>(s.v_records + i * G_ROW)[k] = float4{};
        }
        if (s.centres) {
            s.centres[2 * i] = r.x, s.centres[2 * i + 1] = r.y;
            s.conics[3 * i] = r.A, s.conics[3 * i + 1] = r.B, s.conics[3 * i + 2] = r.C;
            s.colors[3 * i] = r.r, s.colors[3 * i + 1] = r.g, s.colors[3 * i + 2] = r.b;
            s.opacities[i] = r.opacity;
        }
    }
    if (s.opacity_reg > 0) {
        using Sum = cub::BlockReduce<float, THREADS>;
        __shared__ typename Sum::TempStorage storage;
        const float sum = Sum(storage).Sum(opacity);
        if (threadIdx.x == 0) atomicAdd(s.figures, sum * (s.opacity_reg / s.n));
    }
}

// The first intersection of each tile, by bisection in the sorted keys; the sums are cleared for the next step.
__global__ void offsets_kernel(Step s, int tiles, int blocks) {
    const int tile = blockIdx.x * THREADS + threadIdx.x;
    if (tile < tiles) {
        const uint64_t key = (uint64_t)tile << DEPTH_BITS;
        int64_t low = 0, high = s.slots;
        while (low < high) {
            const int64_t middle = (low + high) / 2;
            if (s.sorted_keys[middle] < key) low = middle + 1;
            else high = middle;
        }
        s.offsets[tile] = (int32_t)low;
    }
    for (int block = tile; block < blocks; block += gridDim.x * THREADS) s.sums[TOTALS + block] = 0;
    if (tile == 0) {
        volatile int64_t *seen = s.seen;
        const int64_t total = s.sums[0];
        seen[0] = total;
        if (total > seen[1]) seen[1] = total;
        if (total > s.slots) seen[2] = seen[2] + 1;
        seen[3] = s.sums[1];
    }
}

static int key_bits(const Step &s) {
    int bits = DEPTH_BITS;
    for (int64_t tiles = (int64_t)tiles_across(s) * (tiles_down(s) + 1); tiles; tiles >>= 1) ++bits;
    return bits;
}

extern "C" __attribute__((visibility("default"))) int64_t step_scratch_bytes(int64_t slots) {
    size_t sort = 0;
    cub::DeviceRadixSort::SortPairs(nullptr, sort, (uint64_t *)nullptr, (uint64_t *)nullptr,
                                    (int32_t *)nullptr, (int32_t *)nullptr, slots);
    return sort;
}

cudaError_t launch_project(const Step &s, cudaStream_t stream) {
    const int blocks = (int)((s.n + THREADS - 1) / THREADS);
    const int tiles = tiles_across(s) * (tiles_down(s) + 1);
    size_t bytes = s.scratch_bytes;
    cudaError_t bad = cudaMemsetAsync(s.keys, 0xff, s.slots * sizeof(*s.keys), stream);
    if (bad) return bad;
    if (s.degree == 0) project_kernel<0><<<blocks, THREADS, 0, stream>>>(s);
    else if (s.degree == 1) project_kernel<1><<<blocks, THREADS, 0, stream>>>(s);
    else if (s.degree == 2) project_kernel<2><<<blocks, THREADS, 0, stream>>>(s);
    else project_kernel<3><<<blocks, THREADS, 0, stream>>>(s);
    // Before CUB looks: it calls a missing architecture an invalid device.
    if ((bad = cudaPeekAtLastError())) return bad;
    bad = cub::DeviceRadixSort::SortPairs(s.scratch, bytes, s.keys, s.sorted_keys, s.ids, s.sorted_ids,
                                          s.slots, 0, key_bits(s), stream);
    if (bad) return bad;
    offsets_kernel<<<(tiles + THREADS - 1) / THREADS, THREADS, 0, stream>>>(s, tiles, blocks);
    return cudaGetLastError();
}
