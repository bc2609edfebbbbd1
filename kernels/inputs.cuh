// What rows go through on their way into a product of BF16: nothing, an activation, or a gate. The floats are those that the
// operation itself would have left in memory, ops::norm.
#pragma once
#include "activation.cuh"

// Inputs i and i + 1 of a row of k.
struct Plain {
    static DEVICE f32 one(const f32* x, u64 row, u32 k, u32 i) { return x[row * k + i]; }
    static DEVICE float2 two(const f32* x, u64 row, u32 k, u32 i) { return *(const float2*)(x + row * k + i); }
};

template <u32 KIND> struct Activated {
    static DEVICE f32 one(const f32* x, u64 row, u32 k, u32 i) { return activation<KIND>(Plain::one(x, row, k, i)); }
    static DEVICE float2 two(const f32* x, u64 row, u32 k, u32 i)
    {
        const float2 v = Plain::two(x, row, k, i);
        return make_float2(activation<KIND>(v.x), activation<KIND>(v.y));
    }
};

// A row is k gates and k values.
template <u32 KIND> struct Gated {
    static DEVICE f32 one(const f32* x, u64 row, u32 k, u32 i)
    {
        return activation<KIND>(Plain::one(x, row, 2 * k, i)) * Plain::one(x, row, 2 * k, k + i);
    }
    static DEVICE float2 two(const f32* x, u64 row, u32 k, u32 i)
    {
        const float2 gate = Plain::two(x, row, 2 * k, i), value = Plain::two(x, row, 2 * k, k + i);
        return make_float2(activation<KIND>(gate.x) * value.x, activation<KIND>(gate.y) * value.y);
    }
};

// KERNEL(name, inputs) of each.
#define EACH_INPUTS(KERNEL, NAME)                                                                                      \
    KERNEL(NAME, Plain)                                                                                                \
    KERNEL(NAME##_gelu_tanh, Activated<0>)                                                                             \
    KERNEL(NAME##_gelu_erf, Activated<1>)                                                                              \
    KERNEL(NAME##_silu, Activated<2>)                                                                                  \
    KERNEL(NAME##_relu, Activated<3>)                                                                                  \
    KERNEL(NAME##_gate_gelu_tanh, Gated<0>)                                                                            \
    KERNEL(NAME##_gate_gelu_erf, Gated<1>)                                                                             \
    KERNEL(NAME##_gate_silu, Gated<2>)                                                                                 \
    KERNEL(NAME##_gate_relu, Gated<3>)
