// Gradients by rows and columns: norms, activations and gates, rotary embeddings, tables, pooled rows, labels.
//
// What belongs to a row is summed by half a warp, 16 rows a block of 256 threads, or by a whole block where rows are as wide
// as a vocabulary: 16 lanes side by side, then the lanes from first to last. What is summed over rows (weights of norms,
// biases, rows of a table) is a thread's own column, row after row: the order of ops::backward in both cases. What a row's
// mean and scale are, the sums over rows read from memory, where a kernel before them has put it.
// Bound: every element read once to three times, out of the caches but for the first. Compute capability 8.0.
#include "activation.cuh"

// Mean and scale of a row, by half a warp; a norm that is not centred has the mean zero.
DEVICE float2 statistics(const f32* x, u32 width, f32 eps, u32 centred)
{
    const f32 mean = centred ? lane_sum(width, [=](u32 i) { return x[i]; }) / (f32)width : 0.0f;
    const f32 variance = lane_sum(width, [=](u32 i) { return (x[i] - mean) * (x[i] - mean); }) / (f32)width;
    return make_float2(mean, scale_of(variance, eps));
}

// scale (dy w - mean(dy w) - n mean(dy w n)), n = (x - mean) scale; the first mean only if centred.
struct Terms {
    f32 mean, scale, all, along;
    DEVICE Terms(const f32* x, const f32* weight, const f32* dy, u32 width, f32 eps, u32 centred)
    {
        const float2 own = statistics(x, width, eps, centred);
        mean = own.x;
        scale = own.y;
        all = centred ? lane_sum(width, [=](u32 i) { return dy[i] * weight[i]; }) / (f32)width : 0.0f;
        along = lane_sum(width, [=](u32 i) { return dy[i] * weight[i] * ((x[i] - own.x) * own.y); }) / (f32)width;
    }
    DEVICE f32 dx(f32 x, f32 w, f32 dy) const { return scale * (dy * w - all - (x - mean) * scale * along); }
};

extern "C" __global__ void __launch_bounds__(256) norm_dx(
    f32* __restrict__ dx,            // [rows, width], added to
    const f32* __restrict__ x,       // [rows, width]
    const f32* __restrict__ dy,      // [rows, width]
    const f32* __restrict__ weight,  // [width]
    u32 rows, u32 width, f32 eps, u32 centred)
{
    const u64 row = own_row(), at = min(row, (u64)rows - 1) * width;
    const Terms terms(x + at, weight, dy + at, width, eps, centred);
    if (row < rows)
        for (u32 i = threadIdx.x % 16; i < width; i += 16)
            dx[at + i] += terms.dx(x[at + i], weight[i], dy[at + i]);
}

extern "C" __global__ void __launch_bounds__(256) head_norm_dx(
    f32* d,                          // [rows, stride], in place
    const f32* __restrict__ x,       // [rows, stride]
    const f32* __restrict__ weight,  // [head_dim]
    u32 rows, u32 heads, u32 head_dim, u32 stride, u32 offset, f32 eps)
{
    const u64 head = own_row(), at = head / heads * stride + offset + head % heads * head_dim;
    // Lanes without a head touch nothing: another's would be written meanwhile.
    const u32 width = head < (u64)rows * heads ? head_dim : 0;
    const Terms terms(x + at, weight, d + at, width, eps, 1);
    for (u32 i = threadIdx.x % 16; i < width; i += 16)
        d[at + i] = terms.dx(x[at + i], weight[i], d[at + i]);
}

extern "C" __global__ void __launch_bounds__(256) norm_statistics(
    float2* __restrict__ out,   // [rows, heads]: mean, scale
    const f32* __restrict__ x,  // [rows, stride]
    u32 rows, u32 heads, u32 width, u32 stride, u32 offset, f32 eps, u32 centred)
{
    const u64 own = own_row(), all = (u64)rows * heads, head = min(own, all - 1);
    const float2 pair = statistics(x + head / heads * stride + offset + head % heads * width, width, eps, centred);
    if (own < all && threadIdx.x % 16 == 0)
        out[own] = pair;
}

// A thread a column, row after row and head after head.
extern "C" __global__ void __launch_bounds__(64) norm_dw(
    f32* __restrict__ dw,                 // [width], added to; behind it the bias' where there is one
    const f32* __restrict__ x,            // [rows, stride]
    const f32* __restrict__ dy,           // [rows, stride]
    const float2* __restrict__ pairs,     // [rows, heads]: mean, scale
    u32 rows, u32 heads, u32 width, u32 stride, u32 offset, u32 has_bias)
{
    const u32 i = element();
    if (i >= width)
        return;
    f32 sum = dw[i], bias = has_bias ? dw[width + i] : 0.0f;
    x += offset + i;
    dy += offset + i;
    for (u32 r = 0; r < rows; r++, x += stride, dy += stride)
#pragma unroll 4
        for (u32 h = 0; h < heads; h++) {
            const float2 own = *pairs++;
            const f32 d = dy[(u64)h * width];
            sum += d * ((x[(u64)h * width] - own.x) * own.y);
            bias += d;
        }
    dw[i] = sum;
    if (has_bias)
        dw[width + i] = bias;
}

extern "C" __global__ void __launch_bounds__(64) sum_rows(
    f32* __restrict__ out,       // [width], added to
    const f32* __restrict__ dy,  // [rows, width]
    u32 rows, u32 width)
{
    const u32 i = element();
    if (i >= width)
        return;
    f32 sum = out[i];
#pragma unroll 4
    for (u64 r = 0; r < rows; r++)
        sum += dy[r * width + i];
    out[i] = sum;
}

// The slope of activation<KIND>.
template <u32 KIND> DEVICE f32 slope(f32 x)
{
    if (KIND == 0) {
        const f32 cube = 0.044715f * x * x;
        const f32 t = hyperbolic_tangent(0.7978846f * x * (1.0f + cube));
        const f32 inner = 0.7978846f * (1.0f + 3.0f * cube);
        return 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * inner;
    }
    if (KIND == 1) {
        const f32 density = exponential(-0.5f * x * x) / 2.5066283f;
        return 0.5f * (1.0f + error_function(x * 0.70710677f)) + x * density;
    }
    if (KIND == 2) {
        const f32 p = 1.0f / (1.0f + exponential(-x));
        return p * (1.0f + x * (1.0f - p));
    }
    return x > 0.0f ? 1.0f : 0.0f;
}

#define ACTIVATION_DX(NAME, KIND)                                                                                      \
    extern "C" __global__ void __launch_bounds__(256) activate_dx_##NAME(                                              \
        f32* __restrict__ d,       /* [len], in place */                                                               \
        const f32* __restrict__ x, /* [len] */                                                                         \
        u64 len)                                                                                                       \
    {                                                                                                                  \
        const u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;                                                      \
        if (i < len)                                                                                                   \
            d[i] *= slope<KIND>(x[i]);                                                                                 \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256) gate_dx_##NAME(                                                  \
        f32* __restrict__ dx,       /* [rows, 2, width]: of gate, of value */                                          \
        const f32* __restrict__ x,  /* [rows, 2, width] */                                                             \
        const f32* __restrict__ dy, /* [rows, width] */                                                                \
        u32 rows, u32 width)                                                                                           \
    {                                                                                                                  \
        const u32 i = element(), row = i / width;                                                                      \
        if (row < rows) {                                                                                              \
            const u64 gate = (u64)row * width + i;                                                                     \
            const f32 g = x[gate], d = dy[i];                                                                          \
            dx[gate] = d * x[gate + width] * slope<KIND>(g);                                                           \
            dx[gate + width] = d * activation<KIND>(g);                                                                \
        }                                                                                                              \
    }

ACTIVATION_DX(gelu_tanh, 0)
ACTIVATION_DX(gelu_erf, 1)
ACTIVATION_DX(silu, 2)
ACTIVATION_DX(relu, 3)

extern "C" __global__ void __launch_bounds__(256) rotary_dx(
    f32* d,                            // [rows, stride], in place
    const u32* __restrict__ positions, // [rows]
    const f32* __restrict__ table,     // [table_rows, rotary_dim]: cosines, sines
    u32 rows, u32 heads, u32 head_dim, u32 rotary_dim, u32 stride, u32 offset, u32 table_rows)
{
    const u32 half = rotary_dim / 2;
    const u32 i = element(), head = i / half, row = head / heads;
    if (row >= rows)
        return;
    const u32 p = positions[row], j = i % half;
    if (p >= table_rows)
        return;
    f32* at = d + (u64)row * stride + offset + head % heads * head_dim + j;
    const f32 c = table[(u64)p * rotary_dim + j], s = table[(u64)p * rotary_dim + half + j];
    const f32 a = at[0], b = at[half];
    at[0] = a * c + b * s;
    at[half] = b * c - a * s;
}

// One block a row: the first of an index adds up all rows of it, the others leave.
extern "C" __global__ void __launch_bounds__(256) gather_dw(
    f32* __restrict__ dw,           // [table_rows, width], added to
    const u32* __restrict__ index,  // [rows]; one outside the table is passed over
    const f32* __restrict__ dy,     // [rows, width]
    u32 rows, u32 width, u32 table_rows)
{
    const u32 first = blockIdx.x, own = index[first];
    if (own >= table_rows)
        return;
    u32 earlier = 0;
    for (u32 r = threadIdx.x; r < first; r += 256)
        earlier |= index[r] == own;
    if (__syncthreads_or(earlier))
        return;
    for (u32 i = threadIdx.x; i < width; i += 256) {
        f32 sum = dw[(u64)own * width + i] + dy[(u64)first * width + i];
        for (u32 r = first + 1; r < rows; r++)
            if (index[r] == own)
                sum += dy[(u64)r * width + i];
        dw[(u64)own * width + i] = sum;
    }
}

// f of every row; there is one.
template <class F> DEVICE void each(u64 rows, F f)
{
    u64 r = 0;
    do
        f(r);
    while (++r < rows);
}

// Half a warp takes a head of a view, row after row: with a = softmax_r(scores) and g = sum of dy times the row's values,
// a (g - sum of a g) is a score's gradient, a dy a value's.
extern "C" __global__ void __launch_bounds__(256) pool_rows_dx(
    f32* __restrict__ dx,        // [views, rows, heads + heads * head_dim]
    const f32* __restrict__ x,   // the same
    const f32* __restrict__ dy,  // [views, heads, head_dim]
    u32 views, u32 rows, u32 heads, u32 head_dim)
{
    const u64 own = own_row(), all = (u64)views * heads, head = min(own, all - 1);
    const u32 h = (u32)(head % heads), width = heads + heads * head_dim, at = heads + h * head_dim;
    x += head / heads * rows * width;
    dx += head / heads * rows * width;
    dy += head * head_dim;
    f32 largest = -infinity(), total = 0.0f, mean = 0.0f;
    each(rows, [&](u64 r) {
        const f32 score = x[r * width + h];
        largest = score > largest ? score : largest;
    });
    const auto weight = [&](u64 r) { return exponential(x[r * width + h] - largest); };
    const auto along = [&](u64 r) {
        return lane_sum(head_dim, [=](u32 i) { return dy[i] * x[r * width + at + i]; });
    };
    each(rows, [&](u64 r) { total += weight(r); });
    each(rows, [&](u64 r) { mean += weight(r) / total * along(r); });
    each(rows, [&](u64 r) {
        const f32 share = weight(r) / total, score = share * (along(r) - mean);
        if (own < all) {
            for (u32 i = threadIdx.x % 16; i < head_dim; i += 16)
                dx[r * width + at + i] = share * dy[i];
            if (threadIdx.x % 16 == 0)
                dx[r * width + h] = score;
        }
    });
}

DEVICE f32 row_max(const f32* x, u32 width)
{
    f32 largest = -infinity();
    for (u32 i = threadIdx.x; i < width; i += 256) {
        const f32 v = x[i];
        largest = v > largest ? v : largest;
    }
    return block_max(largest);
}

extern "C" __global__ void __launch_bounds__(256) log_probs(
    f32* __restrict__ out,           // [rows]: log softmax(logits)[label]; 0 for a label outside the row
    const f32* __restrict__ logits,  // [rows, width]
    const u32* __restrict__ labels,  // [rows]
    u32 width)
{
    const u32 row = blockIdx.x, label = labels[row];
    if (label >= width) {
        if (threadIdx.x == 0)
            out[row] = 0.0f;
        return;
    }
    const f32* x = logits + (u64)row * width;
    __shared__ Stage stage;
    const f32 largest = row_max(x, width);
    const f32 total = block_lane_sum(stage, width, [=](u32 i) { return exponential(x[i] - largest); });
    // The logarithm is one of numbers: it would make a number of a NaN.
    if (threadIdx.x == 0)
        out[row] = x[label] - largest - (finite(total) ? logarithm(total) : __uint_as_float(0x7fc00000u));
}

extern "C" __global__ void __launch_bounds__(256) log_probs_dx(
    f32* __restrict__ logits,         // [rows, width], in place: weight ((i is the label) - softmax(logits)[i])
    const u32* __restrict__ labels,   // [rows]; one outside the row gives zeros
    const f32* __restrict__ weights,  // [rows]
    u32 width)
{
    const u32 row = blockIdx.x, label = labels[row];
    f32* x = logits + (u64)row * width;
    if (label >= width) {
        for (u32 i = threadIdx.x; i < width; i += 256)
            x[i] = 0.0f;
        return;
    }
    __shared__ Stage stage;
    const f32 largest = row_max(x, width), weight = weights[row];
    // A thread finds its own exponentials again below.
    const f32 total = block_lane_sum(stage, width, [=](u32 i) { return x[i] = exponential(x[i] - largest); });
    const f32 share = -weight / total;
    for (u32 i = threadIdx.x; i < width; i += 256) {
        const f32 v = x[i] * share;
        x[i] = i == label ? v + weight : v;
    }
}
