// Backward through projection and colour, Adam, and the exploration noise, in one pass over the
// Gaussians: no gradient of a parameter ever reaches memory.
#include "step.cuh"

constexpr float BETA1 = 0.9f, BETA2 = 0.999f, EPSILON = 1e-15f;
// A Gaussian below this opacity is dead (trainer/densify.py, MIN_OPACITY).
constexpr float DEAD = 0.005f;

struct Adam {
    const Step &s;
    int64_t i;
    // One parameter's step, as torch.optim.Adam takes it; returns the new value.
    __device__ __forceinline__ float operator()(int row, float value, float g, float rate) const {
        if (s.gradients) {
            s.gradients[row * s.n + i] = g;
            return value;
        }
        const int64_t at = row * s.capacity + i;
        const float m = BETA1 * s.m[at] + (1.f - BETA1) * g;
        const float v = BETA2 * s.v[at] + (1.f - BETA2) * g * g;
        s.m[at] = m, s.v[at] = v;
        value -= rate / s.bias1 * m / (sqrtf(v) / s.bias2 + EPSILON);
        s.p[at] = value;
        return value;
    }
};

__global__ void __launch_bounds__(THREADS) update_kernel(Step s) {
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= s.n) return;
    const Adam adam{s, i};
    auto p = [&](int row) { return s.p[row * s.capacity + i]; };
    float mean[3] = {p(0), p(1), p(2)}, q[4] = {p(3), p(4), p(5), p(6)};
    float log_scale[3] = {p(7), p(8), p(9)}, logit = p(OPACITY);
    float scale[3] = {expf(log_scale[0]), expf(log_scale[1]), expf(log_scale[2])};
    const float opacity = sigmoid(logit);

    float g_mean[3] = {}, g_quat[4] = {}, g_scale[3] = {}, g_opacity = s.opacity_reg / s.n, v_color[3] = {};
    float d[3] = {}, basis[16] = {}, inverse = 0;
    const Record r = s.records[i];
    const bool visible = s.counts[i] > 0;
    if (visible) {
        float v_centre[2], v_conic[3], v_opacity;
        if (s.v_records) {
            float4 *row = reinterpret_cast<float4 *>(s.v_records + i * G_ROW);
            const float4 a = row[0], b = row[1];
            v_centre[0] = a.x, v_centre[1] = a.y, v_conic[0] = a.z, v_conic[1] = a.w, v_conic[2] = b.x;
            v_color[0] = b.y, v_color[1] = b.z, v_color[2] = b.w, v_opacity = row[2].x;
            row[0] = row[1] = row[2] = float4{0, 0, 0, 0}; // ready for the next step
        } else {
            v_centre[0] = s.v_centres[2 * i], v_centre[1] = s.v_centres[2 * i + 1];
            for (int k = 0; k < 3; ++k) v_conic[k] = s.v_conics[3 * i + k], v_color[k] = s.v_colors[3 * i + k];
            v_opacity = s.v_opacities[i];
        }
        if (!(r.r > 0)) v_color[0] = 0;
        if (!(r.g > 0)) v_color[1] = 0;
        if (!(r.b > 0)) v_color[2] = 0;
        g_opacity += v_opacity / (1.f - s.dropout);
        Projected o;
        if (project(mean, q, scale, s.camera, o))
            project_backward(scale, s.camera, o, v_centre, v_conic, g_mean, g_quat, g_scale);
        inverse = direction(mean, s.camera, d);
        sh_basis(s.degree, d, basis);
    }

    const int count = (s.degree + 1) * (s.degree + 1);
    float shade[16];
#pragma unroll
    for (int k = 0; k < 16; ++k) {
        shade[k] = 0;
        if (k < count)
            for (int c = 0; c < 3; ++c) {
                const float value = p(SH + 3 * k + c);
                shade[k] += value * v_color[c];
                adam(SH + 3 * k + c, value, basis[k] * v_color[c], s.rates[k ? 5 : 4]);
            }
    }
    if (visible) {
        float v_d[3];
        sh_direction(s.degree, d, shade, v_d);
        const float along = v_d[0] * d[0] + v_d[1] * d[1] + v_d[2] * d[2];
        for (int k = 0; k < 3; ++k) g_mean[k] += (v_d[k] - along * d[k]) * inverse;
    }
    for (int k = 0; k < 3; ++k) g_scale[k] += s.scale_reg / (3.f * s.n) * scale[k];

    for (int k = 0; k < 3; ++k) mean[k] = adam(k, mean[k], g_mean[k], s.rates[0]);
    for (int k = 0; k < 4; ++k) q[k] = adam(QUAT + k, q[k], g_quat[k], s.rates[1]);
    for (int k = 0; k < 3; ++k) log_scale[k] = adam(SCALE + k, log_scale[k], g_scale[k], s.rates[2]);
    logit = adam(OPACITY, logit, g_opacity * opacity * sigmoid(-logit), s.rates[3]);
    if (s.gradients) return;

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

cudaError_t launch_update(const Step &s, cudaStream_t stream) {
    update_kernel<<<(int)((s.n + THREADS - 1) / THREADS), THREADS, 0, stream>>>(s);
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
