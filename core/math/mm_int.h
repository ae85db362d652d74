/* Products with panels of integers by 16-bit multiply-adds (pmaddwd), compiled for levels that have no unit for bytes.
 * The including file defines, for its vectors vi of int32 sums,
 *     vi_zero()       vi_w(int8_t *p)   the next VI_OUTPUTS outputs x 4 k, widened to 16 bits
 *     vi_x(int16 *p)  four k of a row, to every output
 *     vi_madd(acc, w, x)                adds the products of neighbours: two sums an output
 *     vi_store2(int32_t *out, a, b)     the sums of 2 * VI_OUTPUTS outputs
 * and MMI_ROWS (at most 6) x MMI_VECS, the tile that its registers hold.
 *
 * A block of 512 k keeps every int32 sum in range: a pair is at most 2 * 32513 * 128 = 8.33e6, and 2 * 128 of them meet
 * in one output. Blocks are added in double, exactly (integers far below 2^53). */

enum { MMI_BLOCK_K = 512 };

/* Sums of rows x (vecs * VI_OUTPUTS) outputs over `quads` * 4 k; out [rows, DEQ_PANEL_UNIT] */
__attribute__((always_inline)) static inline void mmi_tile(const int16_t *x, size_t ldx, size_t quads, const int8_t *w,
                                                           bool ahead, int32_t *out, const int rows, const int vecs)
{
    vi acc[MMI_ROWS][8];
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vecs; v++)
            acc[r][v] = vi_zero();
    for (size_t q = 0; q < quads; q++) {
        vi wq[8];
        if (ahead)
            __builtin_prefetch(w + (MMI_BLOCK_K / 4 + q) * 4 * DEQ_PANEL);
        for (int v = 0; v < vecs; v++)
            wq[v] = vi_w(w + q * 4 * DEQ_PANEL + v * 4 * VI_OUTPUTS);
        for (int r = 0; r < rows; r++) {
            const vi xr = vi_x(x + (size_t)r * ldx + q * 4);
            for (int v = 0; v < vecs; v++)
                acc[r][v] = vi_madd(acc[r][v], wq[v], xr);
        }
    }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vecs; v += 2)
            vi_store2(out + r * DEQ_PANEL_UNIT + v * VI_OUTPUTS, acc[r][v], acc[r][v + 1]);
}

/* One plane, one block of K, up to MMI_ROWS rows, DEQ_PANEL_UNIT outputs. */
static void mmi_unit(const int16_t *x, size_t ldx, size_t rows, size_t quads, const int8_t *w, bool ahead, int32_t *out)
{
#define TILE(r, v)                                                                                          \
    case r:                                                                                                 \
        if (r <= MMI_ROWS)                                                                                  \
            for (int c = 0; c < DEQ_PANEL_UNIT; c += v * VI_OUTPUTS)                                        \
                mmi_tile(x, ldx, quads, w + (size_t)c * 4, ahead, out + c, DEQ_MIN(r, MMI_ROWS), v);        \
        break;
    switch (rows) {
        TILE(1, MMI_VECS_ONE)
        TILE(2, MMI_VECS_FEW)
        TILE(3, MMI_VECS_FEW)
        TILE(4, MMI_VECS)
        TILE(5, MMI_VECS)
        TILE(6, MMI_VECS)
    default: break;
    }
#undef TILE
}

/* The unit's outputs of one row from their sums: the only rounding. */
static void mmi_finish(const double *sum, const float *scale, float t, float *y, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] = (float)(sum[i] * ((double)scale[i] * (double)t));
}

static inline float mmi_scale(const struct deq_mm *a, size_t row)
{
    float t;
    memcpy(&t, (const char *)a->x + row * a->ldx, sizeof t);
    return t;
}

/* All rows against one unit of columns. */
__attribute__((always_inline)) static inline void mmi_column(const struct deq_mm *a, const struct deq_int_panel *p,
                                                             size_t c, const int planes)
{
    double total[DEQ_MM_ROWS][DEQ_PANEL_UNIT];
    const size_t depth = deq_int_depth(a->k), ldx = a->ldx / sizeof(int16_t), col = a->col + c;
    const size_t n = DEQ_MIN(a->n - c, (size_t)DEQ_PANEL_UNIT);
    for (size_t k = 0; k < depth; k += MMI_BLOCK_K) {
        const size_t quads = DEQ_MIN(depth - k, (size_t)MMI_BLOCK_K) / 4;
        const bool ahead = k + 2 * MMI_BLOCK_K <= depth;
        for (size_t m = 0, rows; m < a->m; m += rows) {
            rows = DEQ_MIN(a->m - m, (size_t)MMI_ROWS);
            const int16_t *x = (const int16_t *)a->x + m * ldx + DEQ_OPERAND_HEAD / 2 + k;
            int32_t sum[2][MMI_ROWS * DEQ_PANEL_UNIT];
            for (int i = 0; i < planes; i++)
                mmi_unit(x, ldx, rows, quads, p->plane[i] + k * DEQ_PANEL + col * 4, ahead && m == 0, sum[i]);
            for (size_t r = 0; r < rows; r++) {
                const int32_t *one = sum[0] + r * DEQ_PANEL_UNIT, *two = sum[1] + r * DEQ_PANEL_UNIT;
                double *to = total[m + r];
                for (size_t i = 0; i < DEQ_PANEL_UNIT; i++) {
                    const double s = planes == 2 ? 256.0 * one[i] + two[i] : (double)one[i];
                    to[i] = k ? to[i] + s : s;
                }
                if (k + MMI_BLOCK_K >= depth)
                    mmi_finish(to, p->scale + col, mmi_scale(a, m + r), a->y + (m + r) * a->ldy + c, n);
            }
        }
    }
}

__attribute__((always_inline)) static inline void mm_ints(const struct deq_mm *a, enum deq_format f)
{
    const struct deq_int_panel p = deq_int_panel(f, a->panel, a->k);
    for (size_t c = 0; c < a->n; c += DEQ_PANEL_UNIT)
        mmi_column(a, &p, c, f == DEQ_FORMAT_I16 ? 2 : 1);
}

static void mm_i8(const struct deq_mm *a)
{
    mm_ints(a, DEQ_FORMAT_I8);
}

static void mm_i16(const struct deq_mm *a)
{
    mm_ints(a, DEQ_FORMAT_I16);
}
