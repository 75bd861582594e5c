// One token through a decoder: batch 1, float32 arithmetic, weights as float32 or as int8 with one scale a row.
// At batch 1 each weight is used once, so memory is the limit: every thread streams its share of the rows of each
// matrix, from four places at a time. decoder.py is what this must agree with; native.py builds and calls it. A missing part of
// a family (bias, gate, norm of queries, learned positions) is a null pointer.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <omp.h>
#ifdef __AVX2__
#include <immintrin.h>
#endif

typedef float f8 __attribute__((vector_size(32)));
typedef int32_t ints __attribute__((vector_size(32)));

struct Matrix { const void* weight; const float *scale, *bias; int rows, columns; };
struct Norm { const float *weight, *bias; };
struct Layer { Norm attention_norm; Matrix query, key, value, output; Norm query_norm, key_norm, mlp_norm; Matrix up, gate, down; };
struct Model {
    int layers, width, heads, kv_heads, head_width, centred, activation;
    float epsilon;
    const float *embedding, *positions;
    const Layer* layer;
    Norm norm;
    Matrix head;
};
enum { GELU, GELU_TANH, SILU };

static inline f8 eight(const float* p) { f8 v; memcpy(&v, p, 32); return v; }
static inline f8 eight(const int8_t* p) {
#ifdef __AVX2__
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p)));  // g++ 12 does not find it
#else
    return f8{(float)p[0], (float)p[1], (float)p[2], (float)p[3], (float)p[4], (float)p[5], (float)p[6], (float)p[7]};
#endif
}
static inline float sum(f8 v) { return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7])); }

// Dot products with x of N rows that lie `apart` weights from each other.
template <int N, class W> static inline void dots(const W* w, size_t apart, const float* x, int columns, float* out, int between) {
    f8 total[N] = {};
    int whole = columns / 8 * 8;
    for (int j = 0; j < whole; j += 8) {
        f8 v = eight(x + j);
        for (int n = 0; n < N; n++) total[n] += eight(w + n * apart + j) * v;
    }
    for (int n = 0; n < N; n++) {
        float t = sum(total[n]);
        for (int j = whole; j < columns; j++) t += w[n * apart + j] * x[j];
        out[n * between] = t;
    }
}

// A core reads fastest where it goes straight on in a few distant places: rows are taken from four quarters at a time.
template <class W> static void rows_of(const W* weight, const float* x, float* y, int first, int last, int columns) {
    int quarter = (last - first) / 4, r = first;
    for (; r < first + quarter; r++) dots<4>(weight + (size_t)r * columns, (size_t)quarter * columns, x, columns, y + r, quarter);
    for (r += 3 * quarter; r < last; r++) dots<1>(weight + (size_t)r * columns, 0, x, columns, y + r, 0);
}

struct Share { int first, last; };
static Share share(int rows, int me, int threads) {
    int each = ((rows + threads - 1) / threads + 3) / 4 * 4, first = me * each, last = first + each;
    return {first < rows ? first : rows, last < rows ? last : rows};
}

// y = W x + b, this thread's share of the rows.
static Share multiply(const Matrix& m, const float* x, float* y, int me, int threads) {
    Share s = share(m.rows, me, threads);
    if (m.scale) rows_of((const int8_t*)m.weight, x, y, s.first, s.last, m.columns);
    else rows_of((const float*)m.weight, x, y, s.first, s.last, m.columns);
    for (int r = s.first; r < s.last; r++) y[r] = y[r] * (m.scale ? m.scale[r] : 1) + (m.bias ? m.bias[r] : 0);
    return s;
}

static void normalise(const float* x, float* y, const Norm& norm, int width, int centred, float epsilon) {
    float mean = 0, square;
    if (centred) {
        f8 total = {};
        int whole = width / 8 * 8;
        for (int j = 0; j < whole; j += 8) total += eight(x + j);
        for (int j = whole; j < width; j++) mean += x[j];
        mean = (mean + sum(total)) / width;
    }
    for (int j = 0; j < width; j++) y[j] = x[j] - mean;
    dots<1>(y, 0, y, width, &square, 0);
    float scale = 1 / sqrtf(square / width + epsilon);
    for (int j = 0; j < width; j++) y[j] = y[j] * scale * norm.weight[j] + (norm.bias ? norm.bias[j] : 0);
}

// exp to float32 precision: 2^n times the Taylor series of what remains below ln 2 / 2 (Cephes' splitting of ln 2).
static inline f8 exponential(f8 x) {
    f8 low = f8{} - 87, half = f8{} + 0.5f;
    x = x < low ? low : x > -low ? -low : x;
    ints n = __builtin_convertvector(x * 1.44269504f + (x < 0 ? -half : half), ints);
    f8 f = __builtin_convertvector(n, f8), r = x - f * 0.693359375f + f * 2.12194440e-4f;
    f8 p = 1 + r * (1 + r * (1 / 2.f + r * (1 / 6.f + r * (1 / 24.f + r * (1 / 120.f + r * (1 / 720.f))))));
    return p * (f8)((n + 127) << 23);
}

// Activates x[0..n) in place.
static void activate(float* x, int n, int kind) {
    if (kind == GELU) for (int j = 0; j < n; j++) x[j] *= 0.5f * (1 + erff(x[j] * 0.7071067812f));
    else for (int j = 0; j < n; j += 8) {
        f8 v = {}; int m = n - j < 8 ? n - j : 8;
        memcpy(&v, x + j, m * sizeof(float));
        f8 z = kind == SILU ? v : 1.5957691216f * (v + 0.044715f * v * v * v);  // 2 sqrt(2 / pi)
        v = v / (1 + exponential(-z));
        memcpy(x + j, &v, m * sizeof(float));
    }
}

// Norm and rotation of one head of the query or key, in place. cos and sin are those of the position, sin signed.
static void prepare(float* head, const Norm& norm, const Model& m, const float* cos, const float* sin) {
    int width = m.head_width, half = width / 2;
    if (norm.weight) normalise(head, head, norm, width, 0, m.epsilon);
    if (!cos) return;
    for (int j = 0; j < half; j++) {
        float low = head[j], high = head[j + half];
        head[j] = low * cos[j] + high * sin[j];
        head[j + half] = high * cos[j + half] + low * sin[j + half];
    }
}

// Scores have room for seven more than `length`.
static void attend(const float* query, const float* keys, const float* values, int length, int width, float* scores, float* __restrict out) {
    rows_of(keys, query, scores, 0, length, width);
    float most = -INFINITY, scale = 1 / sqrtf((float)width);
    for (int s = 0; s < length; s++) most = fmaxf(most, scores[s]);
    for (int s = length; s % 8; s++) scores[s] = -INFINITY;
    f8 total = {};
    for (int s = 0; s < length; s += 8) {
        f8 p = exponential((eight(scores + s) - most) * scale);
        for (int k = length - s; k < 8; k++) p[k] = 0;
        total += p;
        memcpy(scores + s, &p, 32);
    }
    for (int j = 0; j < width; j++) out[j] = 0;
    for (int s = 0; s < length; s++) {
        const float* value = values + (size_t)s * width;
        for (int j = 0; j < width; j++) out[j] += scores[s] * value[j];
    }
    float inverse = 1 / sum(total);
    for (int j = 0; j < width; j++) out[j] *= inverse;
}

// `store` is the cache (layers, 2, kv_heads, capacity, head_width); `scratch` holds what is in between:
// threads x (width + capacity + 8) + 2 width + (heads + 2 kv_heads + heads) x head_width + 2 hidden floats.
extern "C" void decode(const Model* model, int64_t token, int position, float* store, int capacity, const float* cos,
                       const float* sin, float* scratch, float* logits, int threads) {
    const Model& m = *model;
    int W = m.head_width, D = m.width, hidden = m.layer[0].up.rows, group = m.heads / m.kv_heads;
    size_t plane = (size_t)m.kv_heads * capacity * W;
    float *x = scratch, *added = x + D, *query = added + D, *key = query + m.heads * W, *value = key + m.kv_heads * W;
    float *mixed = value + m.kv_heads * W, *inner = mixed + m.heads * W, *gated = inner + hidden, *own = gated + hidden;
    for (int j = 0; j < D; j++) x[j] = m.embedding[token * D + j] + (m.positions ? m.positions[(size_t)position * D + j] : 0);
    if (cos) { cos += (size_t)position * W; sin += (size_t)position * W; }
#pragma omp parallel num_threads(threads)
    {
        int me = omp_get_thread_num(), all = omp_get_num_threads();
        float *normed = own + (size_t)me * (D + capacity + 8), *scores = normed + D;
        for (int l = 0; l < m.layers; l++) {
            const Layer& layer = m.layer[l];
            float *keys = store + 2 * l * plane, *values = keys + plane;
            normalise(x, normed, layer.attention_norm, D, m.centred, m.epsilon);
            multiply(layer.query, normed, query, me, all);
            multiply(layer.key, normed, key, me, all);
            multiply(layer.value, normed, value, me, all);
#pragma omp barrier
            for (int h = me; h < m.kv_heads; h += all) {
                float *head_keys = keys + (size_t)h * capacity * W, *head_values = values + (size_t)h * capacity * W;
                prepare(key + h * W, layer.key_norm, m, cos, sin);
                memcpy(head_keys + (size_t)position * W, key + h * W, W * sizeof(float));
                memcpy(head_values + (size_t)position * W, value + h * W, W * sizeof(float));
                for (int q = h * group; q < (h + 1) * group; q++) {
                    prepare(query + q * W, layer.query_norm, m, cos, sin);
                    attend(query + q * W, head_keys, head_values, position + 1, W, scores, mixed + q * W);
                }
            }
#pragma omp barrier
            Share s = multiply(layer.output, mixed, added, me, all);
            for (int r = s.first; r < s.last; r++) x[r] += added[r];
#pragma omp barrier
            normalise(x, normed, layer.mlp_norm, D, m.centred, m.epsilon);
            s = multiply(layer.up, normed, inner, me, all);
            if (layer.gate.weight) {
                multiply(layer.gate, normed, gated, me, all);
                activate(gated + s.first, s.last - s.first, m.activation);
                for (int r = s.first; r < s.last; r++) inner[r] *= gated[r];
            } else {
                activate(inner + s.first, s.last - s.first, m.activation);
            }
#pragma omp barrier
            s = multiply(layer.down, inner, added, me, all);
            for (int r = s.first; r < s.last; r++) x[r] += added[r];
#pragma omp barrier
        }
        normalise(x, normed, m.norm, D, m.centred, m.epsilon);
        multiply(m.head, normed, logits, me, all);
    }
}
