// Activations of one number, bit for bit those of ops::norm.
#pragma once
#include "common.cuh"

// math::erf.
DEVICE f32 error_function(f32 x)
{
    const f32 a = fabsf(x);
    if (a < 1.0f) {
        const f32 z = x * x;
        f32 p = 1.0589372e-06f;
        p = p * z - 1.3909336e-05f;
        p = p * z + 0.00011956562f;
        p = p * z - 0.0008542638f;
        p = p * z + 0.0052237837f;
        p = p * z - 0.026866132f;
        p = p * z + 0.11283791f;
        p = p * z - 0.37612638f;
        p = p * z + 1.1283792f;
        return x * p;
    }
    const f32 t = 1.0f / (1.0f + 0.5f * a);
    f32 p = 0.056395818f;
    p = p * t - 0.10326314f;
    p = p * t - 0.09009489f;
    p = p * t + 0.1937434f;
    p = p * t + 0.118313156f;
    p = p * t + 0.2632769f;
    p = p * t + 0.27962542f;
    p = p * t + 0.2822497f;
    const f32 y = 1.0f - p * t * exponential(-(a * a));
    return x < 0.0f ? -y : y;
}

// Activations by number, as the launcher names them.
template <u32 KIND> DEVICE f32 activation(f32 x)
{
    if (KIND == 0)
        return 0.5f * x * (1.0f + hyperbolic_tangent(0.7978846f * (x + 0.044715f * x * x * x)));
    if (KIND == 1)
        return 0.5f * x * (1.0f + error_function(x * 0.70710677f));
    if (KIND == 2)
        return silu(x);
    return x > 0.0f ? x : 0.0f;
}
