// One Gaussian: projection, colour, and their derivatives. No CUDA in here, so that a plain C++ compiler
// can check it against autograd on a machine without a GPU (image/tests/test_kernels.py).
//
// Image formation is that of gsplat 1.5.3's classic mode (EWA splatting, Jacobian held at 1.3 times the
// field of view, 0.3 square pixels added), in the form of trainer/raster_torch.py.
#pragma once
#include <math.h>
#ifdef __CUDACC__
#define HD __host__ __device__ __forceinline__
#else
#define HD inline
#endif

constexpr float NEAR_PLANE = 0.01f, EPS2D = 0.3f, MAX_ALPHA = 0.999f, MIN_ALPHA = 1.f / 255.f;
constexpr float MIN_TRANSMITTANCE = 1e-4f;
// Rows of the planar parameters: mean 0-2, quaternion (w first) 3-6, log scale 7-9, logit opacity 10,
// then 3 k + c of the spherical harmonics.
constexpr int QUAT = 3, SCALE = 7, OPACITY = 10, SH = 11;

struct Camera {
    float r[9], t[3];       // world to camera, row-major
    float fx, fy, cx, cy;   // pixels
    int width, height;
};

// What projection found; `u`, `v` are the Gaussian's three axes in pixels, `a` the camera-space ones.
struct Projected {
    float x, y, z, rz, slope_x, slope_y;
    bool free_x, free_y;            // the slope was not held
    float rot[9], a[9], u[3], v[3]; // rot row-major, a[3 k + coordinate]
    float qn[4], inv_norm;
    float cov_a, cov_b, cov_c, det;
};

HD float clampf(float x, float low, float high) { return fminf(fmaxf(x, low), high); }
HD float sigmoid(float x) { return 1.f / (1.f + expf(-x)); }

HD void rotation(const float *q, float *qn, float *inv_norm, float *m) {
    *inv_norm = 1.f / sqrtf(q[0] * q[0] + q[1] * q[1] + q[2] * q[2] + q[3] * q[3]);
    float w = q[0] * *inv_norm, x = q[1] * *inv_norm, y = q[2] * *inv_norm, z = q[3] * *inv_norm;
    qn[0] = w, qn[1] = x, qn[2] = y, qn[3] = z;
    m[0] = 1 - 2 * (y * y + z * z), m[1] = 2 * (x * y - w * z), m[2] = 2 * (x * z + w * y);
    m[3] = 2 * (x * y + w * z), m[4] = 1 - 2 * (x * x + z * z), m[5] = 2 * (y * z - w * x);
    m[6] = 2 * (x * z - w * y), m[7] = 2 * (y * z + w * x), m[8] = 1 - 2 * (x * x + y * y);
}

// False when behind the near plane. `scale` is the exponential of the log scale.
HD bool project(const float *mean, const float *q, const float *scale, const Camera &c, Projected &o) {
    o.x = c.r[0] * mean[0] + c.r[1] * mean[1] + c.r[2] * mean[2] + c.t[0];
    o.y = c.r[3] * mean[0] + c.r[4] * mean[1] + c.r[5] * mean[2] + c.t[1];
    o.z = c.r[6] * mean[0] + c.r[7] * mean[1] + c.r[8] * mean[2] + c.t[2];
    if (!(o.z > NEAR_PLANE)) return false;
    o.rz = 1.f / o.z;
    float margin_x = 0.15f * c.width / c.fx, margin_y = 0.15f * c.height / c.fy;
    float sx = o.x * o.rz, sy = o.y * o.rz;
    o.slope_x = clampf(sx, -c.cx / c.fx - margin_x, (c.width - c.cx) / c.fx + margin_x);
    o.slope_y = clampf(sy, -c.cy / c.fy - margin_y, (c.height - c.cy) / c.fy + margin_y);
    o.free_x = o.slope_x == sx, o.free_y = o.slope_y == sy;
    rotation(q, o.qn, &o.inv_norm, o.rot);
    o.cov_a = o.cov_c = EPS2D, o.cov_b = 0;
    for (int k = 0; k < 3; ++k) {
        float e0 = o.rot[k] * scale[k], e1 = o.rot[3 + k] * scale[k], e2 = o.rot[6 + k] * scale[k];
        float ax = c.r[0] * e0 + c.r[1] * e1 + c.r[2] * e2;
        float ay = c.r[3] * e0 + c.r[4] * e1 + c.r[5] * e2;
        float az = c.r[6] * e0 + c.r[7] * e1 + c.r[8] * e2;
        o.a[3 * k] = ax, o.a[3 * k + 1] = ay, o.a[3 * k + 2] = az;
        o.u[k] = c.fx * o.rz * (ax - o.slope_x * az);
        o.v[k] = c.fy * o.rz * (ay - o.slope_y * az);
        o.cov_a += o.u[k] * o.u[k], o.cov_b += o.u[k] * o.v[k], o.cov_c += o.v[k] * o.v[k];
    }
    // The determinant as a sum of squares (Cauchy and Binet): a needle's would cancel to nothing.
    float m01 = o.u[0] * o.v[1] - o.u[1] * o.v[0], m02 = o.u[0] * o.v[2] - o.u[2] * o.v[0];
    float m12 = o.u[1] * o.v[2] - o.u[2] * o.v[1];
    o.det = m01 * m01 + m02 * m02 + m12 * m12 + EPS2D * (o.cov_a + o.cov_c - EPS2D);
    return true;
}

// Adds to the gradients of mean, quaternion and log scale, from those of the centre in pixels and of the
// conic (xx, xy, yy; xy counted once).
HD void project_backward(const float *scale, const Camera &c, const Projected &o, const float *v_centre,
                         const float *v_conic, float *v_mean, float *v_quat, float *v_scale) {
    // The conic is the inverse P of the covariance: with w = P e for an axis e = (u, v) in pixels, the
    // axis gets -2 P V w, and its log scale -2 w V w. By minors, w does not cancel along a needle.
    const float p0 = o.cov_c / o.det, p1 = -o.cov_b / o.det, p2 = o.cov_a / o.det;
    const float *u = o.u, *v = o.v, inv = 1 / o.det, half = 0.5f * v_conic[1];
    const float m01 = u[0] * v[1] - u[1] * v[0], m02 = u[0] * v[2] - u[2] * v[0];
    const float m12 = u[1] * v[2] - u[2] * v[1];
    const float pe[6] = {(EPS2D * u[0] + v[1] * m01 + v[2] * m02) * inv,
                        (EPS2D * v[0] - u[1] * m01 - u[2] * m02) * inv,
                        (EPS2D * u[1] - v[0] * m01 + v[2] * m12) * inv,
                        (EPS2D * v[1] + u[0] * m01 - u[2] * m12) * inv,
                        (EPS2D * u[2] - v[0] * m02 - v[1] * m12) * inv,
                        (EPS2D * v[2] + u[0] * m02 + u[1] * m12) * inv};

    float v_rz = c.fx * o.x * v_centre[0] + c.fy * o.y * v_centre[1];
    float v_x = c.fx * o.rz * v_centre[0], v_y = c.fy * o.rz * v_centre[1], v_z = 0;
    float v_rot[9], v_sx = 0, v_sy = 0;
    for (int k = 0; k < 3; ++k) {
        const float t0 = v_conic[0] * pe[2 * k] + half * pe[2 * k + 1];
        const float t1 = half * pe[2 * k] + v_conic[2] * pe[2 * k + 1];
        v_scale[k] -= 2 * (pe[2 * k] * t0 + pe[2 * k + 1] * t1);
        const float v_u = -2 * (p0 * t0 + p1 * t1), v_v = -2 * (p1 * t0 + p2 * t1);
        v_rz += (o.u[k] * v_u + o.v[k] * v_v) * o.z;
        float gx = c.fx * o.rz * v_u, gy = c.fy * o.rz * v_v;
        v_sx -= gx * o.a[3 * k + 2], v_sy -= gy * o.a[3 * k + 2];
        float gz = -gx * o.slope_x - gy * o.slope_y;
        float e0 = c.r[0] * gx + c.r[3] * gy + c.r[6] * gz;
        float e1 = c.r[1] * gx + c.r[4] * gy + c.r[7] * gz;
        float e2 = c.r[2] * gx + c.r[5] * gy + c.r[8] * gz;
        v_rot[k] = scale[k] * e0, v_rot[3 + k] = scale[k] * e1, v_rot[6 + k] = scale[k] * e2;
    }
    if (o.free_x) v_x += o.rz * v_sx, v_rz += o.x * v_sx;
    if (o.free_y) v_y += o.rz * v_sy, v_rz += o.y * v_sy;
    v_z -= o.rz * o.rz * v_rz;
    v_mean[0] += c.r[0] * v_x + c.r[3] * v_y + c.r[6] * v_z;
    v_mean[1] += c.r[1] * v_x + c.r[4] * v_y + c.r[7] * v_z;
    v_mean[2] += c.r[2] * v_x + c.r[5] * v_y + c.r[8] * v_z;

    float w = o.qn[0], x = o.qn[1], y = o.qn[2], z = o.qn[3];
    const float *g = v_rot;
    float n[4];
    n[0] = 2 * (x * (g[7] - g[5]) + y * (g[2] - g[6]) + z * (g[3] - g[1]));
    n[1] = 2 * (y * (g[1] + g[3]) + z * (g[2] + g[6]) + w * (g[7] - g[5]) - 2 * x * (g[4] + g[8]));
    n[2] = 2 * (x * (g[1] + g[3]) + z * (g[5] + g[7]) + w * (g[2] - g[6]) - 2 * y * (g[0] + g[8]));
    n[3] = 2 * (x * (g[2] + g[6]) + y * (g[5] + g[7]) + w * (g[3] - g[1]) - 2 * z * (g[0] + g[4]));
    float along = n[0] * w + n[1] * x + n[2] * y + n[3] * z;
    for (int i = 0; i < 4; ++i) v_quat[i] += (n[i] - along * o.qn[i]) * o.inv_norm;
}

constexpr float S0 = 0.28209479177387814f, S1 = 0.4886025119029199f;
constexpr float S20 = 1.0925484305920792f, S22 = 0.31539156525252005f, S24 = 0.5462742152960396f;
constexpr float S30 = -0.5900435899266435f, S31 = 2.890611442640554f, S32 = -0.4570457994644658f,
                S33 = 0.3731763325901154f, S35 = 1.445305721320277f;

// Real spherical harmonics at the unit vector d, in the order and signs of 3DGS.
HD void sh_basis(int degree, const float *d, float *b) {
    float x = d[0], y = d[1], z = d[2];
    b[0] = S0;
    if (degree < 1) return;
    b[1] = -S1 * y, b[2] = S1 * z, b[3] = -S1 * x;
    if (degree < 2) return;
    float xx = x * x, yy = y * y, zz = z * z;
    b[4] = S20 * x * y, b[5] = -S20 * y * z, b[6] = S22 * (2 * zz - xx - yy), b[7] = -S20 * x * z;
    b[8] = S24 * (xx - yy);
    if (degree < 3) return;
    b[9] = S30 * y * (3 * xx - yy), b[10] = S31 * x * y * z, b[11] = S32 * y * (4 * zz - xx - yy);
    b[12] = S33 * z * (2 * zz - 3 * xx - 3 * yy), b[13] = S32 * x * (4 * zz - xx - yy);
    b[14] = S35 * z * (xx - yy), b[15] = S30 * x * (xx - 3 * yy);
}

// Gradient by d of sum_k s[k] basis_k(d), d taken as free.
HD void sh_direction(int degree, const float *d, const float *s, float *g) {
    float x = d[0], y = d[1], z = d[2];
    g[0] = g[1] = g[2] = 0;
    if (degree < 1) return;
    g[0] = -S1 * s[3], g[1] = -S1 * s[1], g[2] = S1 * s[2];
    if (degree < 2) return;
    g[0] += S20 * y * s[4] - 2 * S22 * x * s[6] - S20 * z * s[7] + 2 * S24 * x * s[8];
    g[1] += S20 * x * s[4] - S20 * z * s[5] - 2 * S22 * y * s[6] - 2 * S24 * y * s[8];
    g[2] += -S20 * y * s[5] + 4 * S22 * z * s[6] - S20 * x * s[7];
    if (degree < 3) return;
    float xx = x * x, yy = y * y, zz = z * z;
    g[0] += 6 * S30 * x * y * s[9] + S31 * y * z * s[10] - 2 * S32 * x * y * s[11] -
            6 * S33 * x * z * s[12] + S32 * (4 * zz - 3 * xx - yy) * s[13] + 2 * S35 * x * z * s[14] +
            3 * S30 * (xx - yy) * s[15];
    g[1] += 3 * S30 * (xx - yy) * s[9] + S31 * x * z * s[10] + S32 * (4 * zz - xx - 3 * yy) * s[11] -
            6 * S33 * y * z * s[12] - 2 * S32 * x * y * s[13] - 2 * S35 * y * z * s[14] -
            6 * S30 * x * y * s[15];
    g[2] += S31 * x * y * s[10] + 8 * S32 * y * z * s[11] + 3 * S33 * (2 * zz - xx - yy) * s[12] +
            8 * S32 * x * z * s[13] + S35 * (xx - yy) * s[14];
}

// Unit vector from the camera's centre to the mean, and the reciprocal of their distance.
HD float direction(const float *mean, const Camera &c, float *d) {
    for (int i = 0; i < 3; ++i)
        d[i] = mean[i] + c.r[i] * c.t[0] + c.r[3 + i] * c.t[1] + c.r[6 + i] * c.t[2];
    float inverse = 1.f / fmaxf(sqrtf(d[0] * d[0] + d[1] * d[1] + d[2] * d[2]), 1e-12f);
    for (int i = 0; i < 3; ++i) d[i] *= inverse;
    return inverse;
}

// Least value of A dx^2 / 2 + B dx dy + C dy^2 / 2 over a rectangle of offsets: it is reached on a side
// that faces the centre. The slopes, -B / A and -B / C, are the callers' to compute once.
HD float least_power(float A, float B, float C, float slope_x, float slope_y, float x0, float x1, float y0,
                     float y1) {
    bool in_x = x0 <= 0 && x1 >= 0, in_y = y0 <= 0 && y1 >= 0;
    if (in_x && in_y) return 0;
    float best = 3.4e38f;
    if (!in_x) {
        float dx = x0 > 0 ? x0 : x1, dy = clampf(slope_y * dx, y0, y1);
        best = 0.5f * (A * dx * dx + C * dy * dy) + B * dx * dy;
    }
    if (!in_y) {
        float dy = y0 > 0 ? y0 : y1, dx = clampf(slope_x * dy, x0, x1);
        best = fminf(best, 0.5f * (A * dx * dx + C * dy * dy) + B * dx * dy);
    }
    return best;
}
