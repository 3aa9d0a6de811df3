// Backward through projection and colour, Adam, and the exploration noise, in one pass over the
// Gaussians: no gradient of a parameter ever reaches memory.
#include "step.cuh"

constexpr float BETA1 = 0.9f, BETA2 = 0.999f, EPSILON = 1e-15f;
// A Gaussian below this opacity is dead (trainer/densify.py, MIN_OPACITY).
constexpr float DEAD = 0.005f;

// Threads of a block: few, since each needs many registers to keep its loads in flight together.
constexpr int UPDATE_THREADS = 128;
// Colour coefficients whose rows are loaded before the first is stored: 36 loads under way.
constexpr int GROUP = 4;

// `N` rows from `first` on of one Gaussian: value and moments, loaded at once, stepped one by one.
template <int N, bool ADAM>
struct Rows {
    float value[N], m[N], v[N];
    __device__ __forceinline__ Rows(const Step &s, int64_t i, int first) {
#pragma unroll
        for (int j = 0; j < N; ++j) {
            const int64_t at = (first + j) * s.capacity + i;
            value[j] = s.p[at];
            if (ADAM) m[j] = s.m[at], v[j] = s.v[at];
        }
    }
    // As torch.optim.Adam does it; or, for tests, the gradient is written down.
    __device__ __forceinline__ void step(const Step &s, int64_t i, int first, int j, float g, float rate) {
        if (!ADAM) {
            s.gradients[(first + j) * s.n + i] = g;
            return;
        }
        const int64_t at = (first + j) * s.capacity + i;
        m[j] = BETA1 * m[j] + (1.f - BETA1) * g;
        v[j] = BETA2 * v[j] + (1.f - BETA2) * g * g;
        value[j] -= rate / s.bias1 * m[j] / (sqrtf(v[j]) / s.bias2 + EPSILON);
        s.m[at] = m[j], s.v[at] = v[j], s.p[at] = value[j];
    }
};

template <int DEGREE, bool ADAM>
__global__ void __launch_bounds__(UPDATE_THREADS) update_kernel(Step s) {
    const int64_t i = (int64_t)blockIdx.x * UPDATE_THREADS + threadIdx.x;
    if (i >= s.n) return;
    constexpr int COUNT = (DEGREE + 1) * (DEGREE + 1);
    const float4 *record = reinterpret_cast<const float4 *>(s.records + i);
    const bool visible = record[0].z > 0;
    Rows<SH, ADAM> shape(s, i, 0);
    float v_centre[2] = {}, v_conic[3] = {}, v_color[3] = {}, v_opacity = 0;
    if (visible && s.v_records) {
        const float4 *row = reinterpret_cast<const float4 *>(s.v_records + i * G_ROW);
        const float4 a = row[0], b = row[1];
        v_centre[0] = a.x, v_centre[1] = a.y, v_conic[0] = a.z, v_conic[1] = a.w, v_conic[2] = b.x;
        v_color[0] = b.y, v_color[1] = b.z, v_color[2] = b.w, v_opacity = row[2].x;
    } else if (visible) {
        v_centre[0] = s.v_centres[2 * i], v_centre[1] = s.v_centres[2 * i + 1];
        for (int k = 0; k < 3; ++k) v_conic[k] = s.v_conics[3 * i + k], v_color[k] = s.v_colors[3 * i + k];
        v_opacity = s.v_opacities[i];
    }
    if (visible) {
        const float4 color = record[2];
        if (!(color.x > 0)) v_color[0] = 0;
        if (!(color.y > 0)) v_color[1] = 0;
        if (!(color.z > 0)) v_color[2] = 0;
    }

    // Colour: each coefficient's gradient is its basis times the colour's.
    float d[3], basis[16], shade[16] = {}, v_d[3];
    const float inverse = direction(shape.value, s.camera, d);
    sh_basis(DEGREE, d, basis);
#pragma unroll
    for (int first = 0; first < COUNT; first += GROUP) {
        constexpr int N = 3 * (COUNT < GROUP ? COUNT : GROUP);
        const int last = first + GROUP < COUNT ? first + GROUP : COUNT; // 9 coefficients: 4 + 4 + 1
        if (last - first == N / 3) {
            Rows<N, ADAM> rows(s, i, SH + 3 * first);
#pragma unroll
            for (int j = 0; j < N; ++j) {
                const int k = first + j / 3;
                shade[k] += rows.value[j] * v_color[j % 3];
                rows.step(s, i, SH + 3 * first, j, basis[k] * v_color[j % 3], s.rates[k ? 5 : 4]);
            }
        } else {
            Rows<3, ADAM> rows(s, i, SH + 3 * first);
#pragma unroll
            for (int j = 0; j < 3; ++j) {
                shade[first] += rows.value[j] * v_color[j];
                rows.step(s, i, SH + 3 * first, j, basis[first] * v_color[j], s.rates[5]);
            }
        }
    }

    float g[SH] = {};
    const float opacity = sigmoid(shape.value[OPACITY]);
    float scale[3];
    for (int k = 0; k < 3; ++k) scale[k] = expf(shape.value[SCALE + k]);
    if (visible) {
        Projected o;
        if (project(shape.value, shape.value + QUAT, scale, s.camera, o))
            project_backward(scale, s.camera, o, v_centre, v_conic, g, g + QUAT, g + SCALE);
        sh_direction(DEGREE, d, shade, v_d);
        const float along = v_d[0] * d[0] + v_d[1] * d[1] + v_d[2] * d[2];
        for (int k = 0; k < 3; ++k) g[k] += (v_d[k] - along * d[k]) * inverse;
    }
    for (int k = 0; k < 3; ++k) g[SCALE + k] += s.scale_reg / (3.f * s.n) * scale[k];
    g[OPACITY] = (v_opacity / (1.f - s.dropout) + s.opacity_reg / s.n) * opacity *
                 sigmoid(-shape.value[OPACITY]);
#pragma unroll
    for (int k = 0; k < SH; ++k)
        shape.step(s, i, 0, k, g[k], s.rates[k < QUAT ? 0 : k < SCALE ? 1 : k < OPACITY ? 2 : 3]);
    if (!ADAM) return;

    float *mean = shape.value, *q = shape.value + QUAT, *log_scale = shape.value + SCALE;
    const float logit = shape.value[OPACITY];
    if (s.max_log_elongation > 0) {
        const float high = fmaxf(fmaxf(log_scale[0], log_scale[1]), log_scale[2]);
        const float low = fminf(fminf(log_scale[0], log_scale[1]), log_scale[2]);
        const float most = log_scale[0] + log_scale[1] + log_scale[2] - high - low + s.max_log_elongation;
        if (high > most)
            for (int k = 0; k < 3; ++k)
                s.p[(SCALE + k) * s.capacity + i] = log_scale[k] = fminf(log_scale[k], most);
    }
    if (s.noise > 0) {
        const float gate = sigmoid(-100.f * (sigmoid(logit) - DEAD));
        const float strength = s.noise * gate;
        if (strength > 0) {
            float turn[9], unit[4], norm, draw[4];
            rotation(q, unit, &norm, turn);
            for (int k = 0; k < 4; k += 2) { // Box and Muller
                const float radius = sqrtf(-2.f * __logf(random_unit(random_bits(s, i, 1 + k))));
                const float angle = 6.283185307f * random_unit(random_bits(s, i, 2 + k));
                draw[k] = radius * __cosf(angle), draw[k + 1] = radius * __sinf(angle);
            }
            for (int a = 0; a < 3; ++a) {
                const float size = expf(2.f * log_scale[a]);
                const float along = turn[a] * draw[0] + turn[3 + a] * draw[1] + turn[6 + a] * draw[2];
                for (int k = 0; k < 3; ++k) mean[k] += turn[3 * k + a] * along * size * strength;
            }
            for (int k = 0; k < 3; ++k) s.p[k * s.capacity + i] = mean[k];
        }
    }
}

template <int DEGREE>
static void launch(const Step &s, cudaStream_t stream) {
    const int blocks = (int)((s.n + UPDATE_THREADS - 1) / UPDATE_THREADS);
    if (s.gradients) update_kernel<DEGREE, false><<<blocks, UPDATE_THREADS, 0, stream>>>(s);
    else update_kernel<DEGREE, true><<<blocks, UPDATE_THREADS, 0, stream>>>(s);
}

cudaError_t launch_update(const Step &s, cudaStream_t stream) {
    if (s.degree == 0) launch<0>(s, stream);
    else if (s.degree == 1) launch<1>(s, stream);
    else if (s.degree == 2) launch<2>(s, stream);
    else launch<3>(s, stream);
    return cudaGetLastError();
}

// What Python calls: each returns CUDA's error code, 0 for none. Nothing waits for the GPU.
#define DOOR extern "C" __attribute__((visibility("default")))
#define ENTRY(name)                                                                                     \
    DOOR int step_##name(const Step *s, void *stream) {                                                 \
        return launch_##name(*s, static_cast<cudaStream_t>(stream));                                    \
    }
ENTRY(project)
ENTRY(raster)
ENTRY(loss)
ENTRY(raster_backward)
ENTRY(update)
DOOR int64_t step_struct_bytes() { return sizeof(Step); }
DOOR const char *step_error(int code) { return cudaGetErrorString(static_cast<cudaError_t>(code)); }
