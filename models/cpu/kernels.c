/* What oneDNN's matrix products leave over of a packed trunk on a CPU: attention over ragged texts, and row-wise steps
 * (residual + layer norm, GELU, quantising) in one pass over a row each.
 *
 * Every function runs on the calling thread alone: batches, not rows, are spread over cores, so nothing waits at a
 * barrier and a text's numbers don't depend on how many cores there are. Compiled on the machine it runs on (build.py).
 * GCC and Clang vector types as wide as the machine's registers (a wider one is split over memory: attention took seven
 * times as long); few steps name instructions. All sizes along a row are multiples of 16; pointers need no alignment.
 * A `kind` says how a row is stored; see enum.
 *
 * Quantised rows: real = scale of the row * (byte - zero), Dettmers et al. 2022 (vector-wise). `zero` is 128, after GELU,
 * which gives nothing under -0.17, it is 32. A matrix product of such rows comes back without its row scale and bias;
 * whatever reads it next applies them (`scale`, `bias`; NULL for none).
 */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__AVX__)
#include <immintrin.h>
#endif
#if defined(__AVX512BF16__) && defined(__AVX512BW__)
#define PAIRED 1 /* bf16 is multiplied in pairs, in hardware */
#else
#define PAIRED 0
#endif

enum { F32 = 0, BF16 = 1, U8 = 2 };

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif

typedef float vf __attribute__((vector_size(4 * LANES)));
typedef int32_t vi __attribute__((vector_size(4 * LANES)));
typedef uint32_t vu __attribute__((vector_size(4 * LANES)));
typedef uint16_t vh __attribute__((vector_size(2 * LANES)));
typedef uint8_t vb __attribute__((vector_size(LANES)));
#define INLINE static inline __attribute__((always_inline))

INLINE vf splat(float x) { return x - (vf){0}; }
INLINE vf pick(vi mask, vf a, vf b) { return (vf)(((vi)a & mask) | ((vi)b & ~mask)); }
#if defined(__AVX512F__)
INLINE vf maximum(vf a, vf b) { return (vf)_mm512_max_ps((__m512)a, (__m512)b); }
INLINE vf minimum(vf a, vf b) { return (vf)_mm512_min_ps((__m512)a, (__m512)b); }
INLINE float sum(vf a) { return _mm512_reduce_add_ps((__m512)a); }
INLINE float largest(vf a) { return _mm512_reduce_max_ps((__m512)a); }
#elif defined(__AVX__)
INLINE vf maximum(vf a, vf b) { return (vf)_mm256_max_ps((__m256)a, (__m256)b); }
INLINE vf minimum(vf a, vf b) { return (vf)_mm256_min_ps((__m256)a, (__m256)b); }
INLINE float sum(vf a)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128((__m256)a), _mm256_extractf128_ps((__m256)a, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
INLINE float largest(vf a)
{
    __m128 m = _mm_max_ps(_mm256_castps256_ps128((__m256)a), _mm256_extractf128_ps((__m256)a, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}
#else
INLINE vf maximum(vf a, vf b) { return pick(a > b, a, b); }
INLINE vf minimum(vf a, vf b) { return pick(a < b, a, b); }
INLINE float sum(vf a) { float s = 0; for (int i = 0; i < LANES; i++) s += a[i]; return s; }
INLINE float largest(vf a) { float m = a[0]; for (int i = 1; i < LANES; i++) m = a[i] > m ? a[i] : m; return m; }
#endif
INLINE vf absolute(vf a) { return (vf)((vi)a & 0x7fffffff); }

INLINE vf load(const void *row, int64_t at, int kind)
{
    if (kind == F32) { vf x; memcpy(&x, (const float *)row + at, sizeof x); return x; }
    vh x; memcpy(&x, (const uint16_t *)row + at, sizeof x);
    return (vf)(__builtin_convertvector(x, vu) << 16);
}

INLINE vh to_bf16(vf x)
{
#if PAIRED
    return (vh)_mm512_cvtneps_pbh((__m512)x);
#else
    vu bits = (vu)x; /* to nearest, ties to even */
    return __builtin_convertvector((bits + 0x7fff + ((bits >> 16) & 1)) >> 16, vh);
#endif
}

INLINE void store(void *row, int64_t at, int kind, vf x)
{
    if (kind == F32) { memcpy((float *)row + at, &x, sizeof x); return; }
    vh half = to_bf16(x);
    memcpy((uint16_t *)row + at, &half, sizeof half);
}

INLINE vf rounded(vf x) { vf magic = splat(12582912.0f); return (x + magic) - magic; } /* |x| < 2^22 */

/* e^x for x <= 0, relative error under 2e-7: 2^n times a Taylor polynomial on |r| <= ln 2 / 2. */
INLINE vf exponential(vf x)
{
    x = maximum(x, splat(-87.0f));
    vf n = rounded(x * 1.44269504f);
    vf r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    vf p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return (vf)((vi)p + (__builtin_convertvector(n, vi) << 23));
}

/* x * Phi(x), the exact GELU, to 5e-5: Phi(x) - 1/2 is x times a polynomial in x^2 on |x| <= 4.25, fitted to the least
 * largest error of x * Phi(x) and to Phi(4.25) = 1; beyond, Phi is 0 or 1. */
INLINE vf gelu(vf x)
{
    const vf edge = splat(4.25f);
    vf z = minimum(maximum(x, -edge), edge);
    vf u = z * z * (2.0f / (4.25f * 4.25f)) - 1.0f;
    vf p = splat(2.967609702e-03f);
    p = p * u - 7.063741870e-03f;
    p = p * u + 8.110818135e-03f;
    p = p * u - 1.332094661e-02f;
    p = p * u + 2.563831322e-02f;
    p = p * u - 3.959918561e-02f;
    p = p * u + 5.572440049e-02f;
    p = p * u - 8.074434314e-02f;
    p = p * u + 1.659341345e-01f;
    return x * (z * p + 0.5f);
}

/* Bytes of a row from `values`, none larger than any of `top` and, after GELU, none under -0.17; gives the row's scale. */
INLINE float quantise(const float *values, vf top, int64_t n, int after_gelu, uint8_t *out)
{
    float zero = after_gelu ? 32.0f : 128.0f;
    float scale = (largest(top) + 1e-12f) / (255.0f - zero);
    if (after_gelu && scale * zero < 0.17f) scale = 0.17f / zero;
    float inverse = 1.0f / scale;
    for (int64_t i = 0; i < n; i += LANES) {
        vf x = load(values, i, F32) * inverse + (12582912.0f + zero); /* rounds, and leaves the byte in the low bits */
        vb bytes = __builtin_convertvector((vu)x, vb);
        memcpy(out + i, &bytes, sizeof bytes);
    }
    return scale;
}

/* hidden (T x D fp32, in place) and out (T x D) from hidden + delta.
 * pre-LN (post = 0): hidden keeps the sum, out its norm. post-LN: both are the norm. delta may be NULL. */
void add_norm(int64_t T, int64_t D, float *hidden, const void *delta, int delta_kind, const float *scale,
              const float *bias, const float *gain, const float *shift, float eps, int post, void *out, int out_kind,
              float *out_scale)
{
    float *row = malloc(D * sizeof *row);
    for (int64_t t = 0; t < T; t++) {
        float *h = hidden + t * D;
        const void *d = delta_kind == F32 ? (const void *)((const float *)delta + t * D)
                                          : (const void *)((const uint16_t *)delta + t * D);
        float by = scale ? scale[t] : 1.0f;
        vf total = {0}, squares = {0}, top = {0};
        for (int64_t i = 0; i < D; i += LANES) {
            vf x = load(h, i, F32);
            if (delta) x += load(d, i, delta_kind) * by;
            if (bias) x += load(bias, i, F32);
            total += x;
            store(row, i, F32, x);
        }
        vf mean = splat(sum(total) / D);
        for (int64_t i = 0; i < D; i += LANES) { vf x = load(row, i, F32) - mean; squares += x * x; }
        float inverse = 1.0f / sqrtf(sum(squares) / D + eps);
        for (int64_t i = 0; i < D; i += LANES) {
            vf x = load(row, i, F32);
            vf y = (x - mean) * inverse * load(gain, i, F32) + load(shift, i, F32);
            store(h, i, F32, post ? y : x);
            if (out_kind == U8) { store(row, i, F32, y); top = maximum(top, absolute(y)); }
            else if (out_kind == F32) store((float *)out + t * D, i, F32, y);
            else store((uint16_t *)out + t * D, i, BF16, y);
        }
        if (out_kind == U8) out_scale[t] = quantise(row, top, D, 0, (uint8_t *)out + t * D);
    }
    free(row);
}

/* out (T x N) from in (T x N): row scale and bias, then GELU if asked for. */
void activate(int64_t T, int64_t N, const void *in, int in_kind, const float *scale, const float *bias, int with_gelu,
              void *out, int out_kind, float *out_scale)
{
    float *row = malloc(N * sizeof *row);
    for (int64_t t = 0; t < T; t++) {
        const void *from = in_kind == F32 ? (const void *)((const float *)in + t * N)
                                          : (const void *)((const uint16_t *)in + t * N);
        float by = scale ? scale[t] : 1.0f;
        vf top = {0};
        for (int64_t i = 0; i < N; i += LANES) {
            vf x = load(from, i, in_kind) * by;
            if (bias) x += load(bias, i, F32);
            if (with_gelu) x = gelu(x);
            if (out_kind == U8) { store(row, i, F32, x); top = maximum(top, absolute(x)); }
            else if (out_kind == F32) store((float *)out + t * N, i, F32, x);
            else store((uint16_t *)out + t * N, i, BF16, x);
        }
        if (out_kind == U8) out_scale[t] = quantise(row, top, N, with_gelu, (uint8_t *)out + t * N);
    }
    free(row);
}

/* hidden (T x D fp32): word, position and the first token type's embedding of each token. */
void embed(int64_t T, int64_t D, const int32_t *ids, const int32_t *positions, const float *words,
           const float *places, const float *type, float *hidden)
{
    for (int64_t t = 0; t < T; t++) {
        const float *word = words + (int64_t)ids[t] * D, *place = places + (int64_t)positions[t] * D;
        for (int64_t i = 0; i < D; i += LANES)
            store(hidden + t * D, i, F32, load(word, i, F32) + load(place, i, F32) + load(type, i, F32));
    }
}

/* ---- Attention. A `word` is 32 bits: one float, or a pair of bf16 multiplied and added at once. ---- */

#if defined(__AVX__) && !defined(__AVX512F__)
enum { ROWS = 6, COLS = 2 }; /* a tile: 6 rows x 2 vectors, 12 of the 16 registers that AVX has */
#else
enum { ROWS = 6, COLS = 4 }; /* 6 rows x 4 vectors, 24 of the 32 registers that AVX-512 and Neon have */
#endif

INLINE vf mac(vf acc, uint32_t a, vu b, int paired)
{
#if PAIRED
    if (paired) return (vf)_mm512_dpbf16_ps((__m512)acc, (__m512bh)_mm512_set1_epi32((int)a), (__m512bh)b);
#endif
    float x; memcpy(&x, &a, sizeof x);
    return acc + x * (vf)b;
}

/* out (ROWS x LANES*cols) = left (ROWS x words) times right (words x LANES*cols); strides in words. */
INLINE void tile(const uint32_t *left, int64_t left_stride, const uint32_t *right, int64_t right_stride, int64_t words,
                 float *out, int64_t out_stride, const int cols, const int paired)
{
    vf acc[ROWS][COLS] = {0};
    for (int64_t w = 0; w < words; w++) {
        vu b[COLS];
#pragma GCC unroll 4
        for (int c = 0; c < cols; c++) memcpy(&b[c], right + w * right_stride + c * LANES, sizeof b[c]);
#pragma GCC unroll 6
        for (int r = 0; r < ROWS; r++) {
            uint32_t a = left[r * left_stride + w];
#pragma GCC unroll 4
            for (int c = 0; c < cols; c++) acc[r][c] = mac(acc[r][c], a, b[c], paired);
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
        for (int c = 0; c < cols; c++) store(out + r * out_stride, c * LANES, F32, acc[r][c]);
}

INLINE void product(const uint32_t *left, int64_t left_stride, const uint32_t *right, int64_t width, int64_t words,
                    float *out, const int paired)
{
    int64_t at = 0;
    for (; at + COLS * LANES <= width; at += COLS * LANES)
        tile(left, left_stride, right + at, width, words, out + at, width, COLS, paired);
    switch ((width - at) / LANES) {
    case 3: if (COLS > 3) tile(left, left_stride, right + at, width, words, out + at, width, 3, paired); break;
    case 2: if (COLS > 2) tile(left, left_stride, right + at, width, words, out + at, width, 2, paired); break;
    case 1: tile(left, left_stride, right + at, width, words, out + at, width, 1, paired); break;
    }
}

#if PAIRED
/* out[w][j] = in[j][w] of a LANES x LANES block of words. */
INLINE void transpose_block(const uint32_t *in, int64_t in_stride, uint32_t *out, int64_t out_stride)
{
    __m512i a[16], b[16];
    for (int i = 0; i < 16; i++) a[i] = _mm512_loadu_si512(in + i * in_stride);
    for (int i = 0; i < 16; i += 2) {
        b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int k = 0; k < 2; k++) {
            a[i + 2 * k] = _mm512_unpacklo_epi64(b[i + k], b[i + 2 + k]);
            a[i + 2 * k + 1] = _mm512_unpackhi_epi64(b[i + k], b[i + 2 + k]);
        }
    for (int i = 0; i < 4; i++) { /* a[4q + i]: lanes 4l + i of rows 4q .. 4q + 3 */
        __m512i even_low = _mm512_shuffle_i32x4(a[i], a[4 + i], 0x88), odd_low = _mm512_shuffle_i32x4(a[i], a[4 + i], 0xdd);
        __m512i even_up = _mm512_shuffle_i32x4(a[8 + i], a[12 + i], 0x88), odd_up = _mm512_shuffle_i32x4(a[8 + i], a[12 + i], 0xdd);
        _mm512_storeu_si512(out + i * out_stride, _mm512_shuffle_i32x4(even_low, even_up, 0x88));
        _mm512_storeu_si512(out + (8 + i) * out_stride, _mm512_shuffle_i32x4(even_low, even_up, 0xdd));
        _mm512_storeu_si512(out + (4 + i) * out_stride, _mm512_shuffle_i32x4(odd_low, odd_up, 0x88));
        _mm512_storeu_si512(out + (12 + i) * out_stride, _mm512_shuffle_i32x4(odd_low, odd_up, 0xdd));
    }
}
#else
INLINE void transpose_block(const uint32_t *in, int64_t in_stride, uint32_t *out, int64_t out_stride)
{
    for (int w = 0; w < LANES; w++)
        for (int j = 0; j < LANES; j++) out[w * out_stride + j] = in[j * in_stride + w];
}
#endif

/* `num` rows of one head, `head_dim` wide, as fp32 or bf16 rows of `padded` columns; what is beyond stays as it is. */
INLINE void gather_head(const void *in, int64_t stride, int kind, const float *scale, const float *bias, int64_t num,
                        int64_t head_dim, void *out, int64_t padded, const int paired)
{
    size_t size = kind == F32 ? 4 : 2;
    for (int64_t j = 0; j < num; j++) {
        const char *from = (const char *)in + j * stride * size;
        if (paired && !scale) { memcpy((uint16_t *)out + j * padded, from, head_dim * 2); continue; }
        float by = scale ? scale[j] : 1.0f;
        for (int64_t i = 0; i < head_dim; i += LANES) {
            vf x = load(from, i, kind) * by;
            if (bias) x += load(bias, i, F32);
            if (paired) store((uint16_t *)out + j * padded, i, BF16, x);
            else store((float *)out + j * padded, i, F32, x);
        }
    }
}

/* Softmax of a row of `num` scores, not yet divided by its sum, as words; gives 1 / sum. */
INLINE float softmax_row(float *scores, int64_t num, int64_t padded, float factor, void *weights, const int paired)
{
    vi lane;
    for (int i = 0; i < LANES; i++) lane[i] = i;
    vf top = splat(-INFINITY), total = {0};
    int64_t whole = num / LANES * LANES;
    for (int64_t j = 0; j < whole; j += LANES) top = maximum(top, load(scores, j, F32));
    if (whole < num) top = maximum(top, pick(lane < (int32_t)(num - whole), load(scores, whole, F32), top));
    vf high = splat(largest(top));
    for (int64_t j = 0; j < padded; j += LANES) {
        vf p = exponential((load(scores, j, F32) - high) * factor);
        if (j >= whole) p = (vf)((vi)p & (lane < (int32_t)(num - j)));
        total += p;
        if (paired) store(weights, j, BF16, p);
        else store(weights, j, F32, p);
    }
    return 1.0f / sum(total);
}

struct heads { int64_t num, dim; const void *q, *k, *v; int64_t q_stride, kv_stride; int kind;
               const float *q_scale, *kv_scale, *q_bias, *k_bias, *v_bias; void *out; };

/* One head of one text: `num` keys from row `key`, `queries` queries from row `query` of q and out. */
INLINE void attend(const struct heads *in, int64_t head, int64_t key, int64_t num, int64_t query, int64_t queries,
                   char *scratch, const int paired)
{
    int64_t dim = in->dim, at = head * dim, width = in->num * dim;
    int64_t dims = paired ? (dim + 31) / 32 * 32 : dim, keys = (num + LANES - 1) / LANES * LANES, rows = (queries + ROWS - 1) / ROWS * ROWS;
    int64_t words = paired ? dims / 2 : dims, key_words = paired ? keys / 2 : keys;
    size_t size = in->kind == F32 ? 4 : 2;
    uint32_t *q = (uint32_t *)scratch, *k = q + rows * words, *kt = k + keys * words, *v = kt + keys * words;
    uint32_t *values = v + keys * words, *weights = values + key_words * dims;
    float *scores = (float *)(weights + ROWS * key_words), *context = scores + ROWS * keys, inverse[ROWS];
    int64_t filled = dim == dims ? 1 : 0; /* rows without padded columns need zeros only below the last */
    memset(q + filled * queries * words, 0, (rows - filled * queries) * words * 4);
    memset(k + filled * num * words, 0, (keys - filled * num) * words * 4);
    memset(v + filled * num * words, 0, (keys - filled * num) * words * 4);
#define HEAD(part, row, part_stride) (const char *)in->part + ((row) * in->part_stride + at) * size
    gather_head(HEAD(q, query, q_stride), in->q_stride, in->kind, in->q_scale ? in->q_scale + query : NULL,
                in->q_bias ? in->q_bias + at : NULL, queries, dim, q, dims, paired);
    gather_head(HEAD(k, key, kv_stride), in->kv_stride, in->kind, in->kv_scale ? in->kv_scale + key : NULL,
                in->k_bias ? in->k_bias + at : NULL, num, dim, k, dims, paired);
    gather_head(HEAD(v, key, kv_stride), in->kv_stride, in->kind, in->kv_scale ? in->kv_scale + key : NULL,
                in->v_bias ? in->v_bias + at : NULL, num, dim, v, dims, paired);
    for (int64_t j = 0; j < keys; j += LANES)
        for (int64_t w = 0; w < words; w += LANES) transpose_block(k + j * words + w, words, kt + w * keys + j, keys);
    if (paired) { /* two rows of bf16 become one row of pairs */
        const uint16_t *from = (const uint16_t *)v;
        for (int64_t j = 0; j < key_words; j++)
            for (int64_t i = 0; i < dims; i += LANES) {
                vh low, high;
                memcpy(&low, from + 2 * j * dims + i, sizeof low);
                memcpy(&high, from + (2 * j + 1) * dims + i, sizeof high);
                vu pair = __builtin_convertvector(low, vu) | (__builtin_convertvector(high, vu) << 16);
                memcpy(values + j * dims + i, &pair, sizeof pair);
            }
    } else values = v;
    float factor = 1.0f / sqrtf((float)dim);
    for (int64_t r = 0; r < rows; r += ROWS) {
        product(q + r * words, words, kt, keys, words, scores, paired);
        for (int i = 0; i < ROWS; i++)
            inverse[i] = softmax_row(scores + i * keys, num, keys, factor, weights + i * key_words, paired);
        product(weights, key_words, values, dims, key_words, context, paired);
        for (int i = 0; i < ROWS && r + i < queries; i++) {
            char *to = (char *)in->out + ((query + r + i) * width + at) * size;
            for (int64_t d = 0; d < dim; d += LANES) store(to, d, in->kind, load(context, i * dims + d, F32) * inverse[i]);
        }
    }
}

/* out (rows of q x num_heads*head_dim, stored as q is): each text's queries over its keys.
 * starts (B + 1): first row of each text in k and v. first_only: q and out have one row a text, else as many as k. */
void attention(int64_t B, const int64_t *starts, int first_only, int64_t num_heads, int64_t head_dim, const void *q,
               int64_t q_stride, const void *k, const void *v, int64_t kv_stride, int kind, const float *q_scale,
               const float *kv_scale, const float *q_bias, const float *k_bias, const float *v_bias, void *out)
{
    struct heads in = {num_heads, head_dim, q, k, v, q_stride, kv_stride, kind,
                       q_scale, kv_scale, q_bias, k_bias, v_bias, out};
    int64_t longest = 0;
    for (int64_t b = 0; b < B; b++) longest = starts[b + 1] - starts[b] > longest ? starts[b + 1] - starts[b] : longest;
    longest = (longest + 31) / 32 * 32 + ROWS;
    int64_t dims = (head_dim + 31) / 32 * 32;
    char *scratch = malloc((longest * dims * 5 + longest * ROWS * 2 + ROWS * dims) * 4);
    for (int64_t b = 0; b < B; b++) {
        int64_t key = starts[b], num = starts[b + 1] - key, query = first_only ? b : key, queries = first_only ? 1 : num;
        for (int64_t head = 0; head < num_heads; head++) {
            if (PAIRED && kind == BF16) attend(&in, head, key, num, query, queries, scratch, 1);
            else attend(&in, head, key, num, query, queries, scratch, 0);
        }
    }
    free(scratch);
}
