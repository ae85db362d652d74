#include "core/math/gemm.h"

#include <math.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/math/half.h"
#include "core/math/kern.h"

/* --- Formats: how a panel is filled and read back --- */

enum { BLOCK = 16 };

/* Rows w [rows, k] of one panel; the others are zero already. */
static void fill_f32(const float *w, size_t rows, size_t k, void *panel)
{
    /* blocks that stay in the first cache: both sides are walked with a stride */
    for (size_t k0 = 0; k0 < k; k0 += BLOCK)
        for (size_t r = 0; r < rows; r++)
            for (size_t i = k0; i < DEQ_MIN(k0 + BLOCK, k); i++)
                ((float *)panel)[i * DEQ_PANEL + r] = w[r * k + i];
}

static void fill_bf16(const float *w, size_t rows, size_t k, void *panel)
{
    for (size_t k0 = 0; k0 < k; k0 += BLOCK)
        for (size_t r = 0; r < rows; r++)
            for (size_t i = k0; i < DEQ_MIN(k0 + BLOCK, k); i++)
                ((uint16_t *)panel)[i * DEQ_PANEL + r] = deq_f32_to_bf16(w[r * k + i]);
}

static size_t int_at(size_t row, size_t k)
{
    return k / 4 * 4 * DEQ_PANEL + row * 4 + k % 4;
}

static void fill_int(enum deq_format f, const float *w, size_t rows, size_t k, void *panel)
{
    const struct deq_int_panel p = deq_int_panel(f, panel, k);
    int8_t *const high = (int8_t *)(uintptr_t)p.plane[0], *const low = (int8_t *)(uintptr_t)p.plane[1];
    for (size_t r = 0; r < rows; r++) {
        float top = 0;
        for (size_t i = 0; i < k; i++)
            top = DEQ_MAX(top, fabsf(w[r * k + i]));
        const float steps = low ? DEQ_INT_TOP : 127, scale = top / steps, by = top >= 1e-30f ? steps / top : 0;
        int32_t sum[2] = {0, 0};
        for (size_t i = 0; i < k; i++) {
            const int q = (int)lrintf(w[r * k + i] * by), q0 = low ? ((q + 128) & 255) - 128 : 0,
                      q1 = low ? (q - q0) / 256 : q;
            high[int_at(r, i)] = (int8_t)q1;
            sum[0] += q1;
            if (low)
                low[int_at(r, i)] = (int8_t)q0;
            sum[1] += q0;
        }
        ((float *)(uintptr_t)p.scale)[r] = scale;
        for (size_t i = 0; i < deq_int_planes(f); i++)
            ((int32_t *)(uintptr_t)p.sum[i])[r] = sum[i];
    }
}

static void fill_i16(const float *w, size_t rows, size_t k, void *panel)
{
    fill_int(DEQ_FORMAT_I16, w, rows, k, panel);
}

static void fill_i8(const float *w, size_t rows, size_t k, void *panel)
{
    fill_int(DEQ_FORMAT_I8, w, rows, k, panel);
}

static void row_f32(const void *panel, size_t row, size_t k, float *out)
{
    for (size_t i = 0; i < k; i++)
        out[i] = ((const float *)panel)[i * DEQ_PANEL + row];
}

static void row_bf16(const void *panel, size_t row, size_t k, float *out)
{
    for (size_t i = 0; i < k; i++)
        out[i] = deq_bf16_to_f32(((const uint16_t *)panel)[i * DEQ_PANEL + row]);
}

static void row_i16(const void *panel, size_t row, size_t k, float *out)
{
    const struct deq_int_panel p = deq_int_panel(DEQ_FORMAT_I16, panel, k);
    const float scale = p.scale[row];
    for (size_t i = 0; i < k; i += 4) { /* which stand side by side */
        const int8_t *const high = p.plane[0] + int_at(row, i), *const low = p.plane[1] + int_at(row, i);
        for (size_t j = 0; j < 4 && i + j < k; j++)
            out[i + j] = scale * (float)(high[j] * 256 + low[j]);
    }
}

static void row_i8(const void *panel, size_t row, size_t k, float *out)
{
    const struct deq_int_panel p = deq_int_panel(DEQ_FORMAT_I8, panel, k);
    const float scale = p.scale[row];
    for (size_t i = 0; i < k; i += 4) {
        const int8_t *const q = p.plane[0] + int_at(row, i);
        for (size_t j = 0; j < 4 && i + j < k; j++)
            out[i + j] = scale * (float)q[j];
    }
}

static const struct format {
    size_t bytes; /* of a weight in a panel of floats; 0: integers */
    void (*fill)(const float *w, size_t rows, size_t k, void *panel);
    void (*row)(const void *panel, size_t row, size_t k, float *out);
} formats[DEQ_FORMAT_COUNT] = {
    [DEQ_FORMAT_F32] = {4, fill_f32, row_f32},
    [DEQ_FORMAT_BF16] = {2, fill_bf16, row_bf16},
    [DEQ_FORMAT_I16] = {0, fill_i16, row_i16},
    [DEQ_FORMAT_I8] = {0, fill_i8, row_i8},
};

static size_t panel_bytes(enum deq_format f, size_t k)
{
    return formats[f].bytes ? formats[f].bytes * DEQ_PANEL * k : deq_int_panel_bytes(f, k);
}

static size_t panels(size_t n)
{
    return (n + DEQ_PANEL - 1) / DEQ_PANEL;
}

/* --- Packing --- */

static bool all_finite(const float *w, size_t n)
{
    float odd = 0;
    for (size_t i = 0; i < n; i++)
        odd += w[i] * 0;
    return odd == 0;
}

enum deq_rc deq_pack(const float *w, size_t n, size_t k, enum deq_format f, struct deq_packed *ret, struct deq_err *err)
{
    size_t count;
    if (!deq_mul_size(panels(n) * DEQ_PANEL, DEQ_ROUND_UP(k, (size_t)64) + 16, &count) || count > (size_t)1 << 40)
        return deq_fail(err, DEQ_EFORMAT, "a weight of shape [%zu, %zu] is too large", n, k);
    const size_t bytes = panel_bytes(f, k);
    char *data = deq_alloc_array(panels(n), bytes);
    if (!data)
        return deq_fail(err, DEQ_ENOMEM, "no memory to pack a weight of shape [%zu, %zu]", n, k);
    if (deq_format_is_int(f) && !all_finite(w, n * k)) {
        deq_free(data);
        return deq_fail(err, DEQ_EFORMAT, "a weight of shape [%zu, %zu] holds a value that is not finite", n, k);
    }
    for (size_t p = 0; p < panels(n); p++)
        formats[f].fill(w + p * DEQ_PANEL * k, DEQ_MIN((size_t)DEQ_PANEL, n - p * DEQ_PANEL), k, data + p * bytes);
    *ret = (struct deq_packed){data, n, k, f};
    return DEQ_OK;
}

void deq_packed_free(struct deq_packed *p)
{
    deq_free(p->data);
    *p = (struct deq_packed){0};
}

size_t deq_packed_bytes(const struct deq_packed *p)
{
    return panels(p->n) * panel_bytes(p->format, p->k);
}

static const void *panel_at(const struct deq_packed *w, size_t p)
{
    return (const char *)w->data + p * panel_bytes(w->format, w->k);
}

void deq_packed_row(const struct deq_packed *w, size_t row, float *out)
{
    formats[w->format].row(panel_at(w, row / DEQ_PANEL), row % DEQ_PANEL, w->k, out);
}

/* --- Products --- */

size_t deq_prepared_bytes(enum deq_format f, size_t k)
{
    return deq_format_is_int(f) ? deq_int_operand_bytes(k) : 0;
}

void deq_prepare(enum deq_format f, const float *x, size_t k, void *rows, size_t i)
{
    if (deq_format_is_int(f))
        deq_kern()->quantise(x, k, (char *)rows + i * deq_int_operand_bytes(k));
}

struct deq_operand deq_operand(enum deq_format f, const float *x, size_t ldx, const void *prepared, size_t k)
{
    return deq_format_is_int(f) ? (struct deq_operand){prepared, deq_int_operand_bytes(k)}
                                : (struct deq_operand){x, ldx * sizeof(float)};
}

/* The first output of a thread: whole units. */
static size_t share(size_t n, unsigned thread, unsigned n_threads)
{
    const size_t units = (n + DEQ_PANEL_UNIT - 1) / DEQ_PANEL_UNIT;
    return DEQ_MIN(units * thread / n_threads * DEQ_PANEL_UNIT, n);
}

/* To y, of rows m0 .. m0+m-1 of x: the part of a panel that begins at output n0, at most up to n1; returns where it
 * ends. */
static size_t part(const struct deq_operand *x, size_t m0, size_t m, const struct deq_packed *w, size_t n0, size_t n1,
                   float *y, size_t ldy)
{
    const size_t end = DEQ_MIN(n1, (n0 / DEQ_PANEL + 1) * DEQ_PANEL);
    const struct deq_mm a = {.x = (const char *)x->rows + m0 * x->stride,
                             .ldx = x->stride,
                             .m = m,
                             .k = w->k,
                             .panel = panel_at(w, n0 / DEQ_PANEL),
                             .col = n0 % DEQ_PANEL,
                             .n = end - n0,
                             .y = y,
                             .ldy = ldy};
    deq_kern()->mm[w->format](&a);
    return end;
}

void deq_multiply(const struct deq_operand *x, size_t m, const struct deq_packed *w, float *y, size_t ldy,
                  unsigned thread, unsigned n_threads, deq_then *then, void *ctx)
{
    const size_t n1 = share(w->n, thread + 1, n_threads);
    for (size_t m0 = 0; m0 < m; m0 += DEQ_MM_ROWS) {
        const size_t rows = DEQ_MIN(m - m0, (size_t)DEQ_MM_ROWS);
        for (size_t n = share(w->n, thread, n_threads), end; n < n1; n = end) {
            end = part(x, m0, rows, w, n, n1, y + m0 * ldy + n, ldy);
            for (size_t r = m0; then && r < m0 + rows; r++)
                then(ctx, r, n, end - n, y + r * ldy + n);
        }
    }
}

void deq_multiply_to(const struct deq_operand *x, size_t m, const struct deq_packed *w, float *const *y,
                     unsigned thread, unsigned n_threads)
{
    float tile[DEQ_MM_ROWS][DEQ_PANEL];
    const size_t n1 = share(w->n, thread + 1, n_threads);
    for (size_t m0 = 0; m0 < m; m0 += DEQ_MM_ROWS) {
        const size_t rows = DEQ_MIN(m - m0, (size_t)DEQ_MM_ROWS);
        for (size_t n = share(w->n, thread, n_threads), end; n < n1; n = end) {
            end = part(x, m0, rows, w, n, n1, tile[0], DEQ_PANEL);
            for (size_t r = 0; r < rows; r++)
                memcpy(y[m0 + r] + n, tile[r], (end - n) * sizeof(float));
        }
    }
}

void deq_multiply_unit(const struct deq_operand *x, const struct deq_packed *w, size_t n0, float *y)
{
    (void)part(x, 0, 1, w, n0, DEQ_MIN(n0 + DEQ_PANEL_UNIT, w->n), y, DEQ_PANEL_UNIT);
}

void deq_gemm_xwt_wide(size_t m, size_t n, size_t k, const float *x, size_t ldx, const float *w, size_t ldw,
                       const float *from, size_t ld_from, float *y, size_t ldy)
{
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++) {
            double sum = from ? (double)from[i * ld_from + j] : 0;
            for (size_t l = 0; l < k; l++)
                sum += (double)x[i * ldx + l] * (double)w[j * ldw + l];
            y[i * ldy + j] = (float)sum;
        }
}

void deq_gemm_dyw_wide(size_t m, size_t n, size_t k, const float *dy, size_t lddy, const float *w, size_t ldw,
                       const float *from, size_t ld_from, float *dx, size_t lddx)
{
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < k; j++) {
            double sum = from ? (double)from[i * ld_from + j] : 0;
            for (size_t l = 0; l < n; l++)
                sum += (double)dy[i * lddy + l] * (double)w[l * ldw + j];
            dx[i * lddx + j] = (float)sum;
        }
}
