/* Products with panels of integers, for levels that have units for them: what does not depend on the unit. The file
 * that includes this one has
 *
 *     MMI_ROWS, MMI_BLOCK_K   rows and depth of a tile at most
 *     MMI_SUMS     int32 sums of an output and a plane of weights: one, or, where a prepared row is two planes of
 *                  bytes, x = 256 x1 + x0, that of x1 and that of x0
 *     MMI_OFFSET   what a prepared row's x1 has been made larger by; taken off here, by the sum of the weights
 *     MMI_EQUAL    all tiles of a call have the same number of rows: where they do not divide, the last one takes rows
 *                  of the one before again
 *     mmi_begin(m), mmi_end()   around a call of m rows; the first says how many a tile takes
 *     mmi_unit(x, ldx, rows, quads, w, ahead, out)   one tile: `rows` rows, DEQ_PANEL_UNIT outputs, `quads` * 4 k, out
 *                               [MMI_SUMS, rows, DEQ_PANEL_UNIT]; ahead: the block behind w is asked for
 *
 * A block of MMI_BLOCK_K keeps every int32 sum in range. Blocks are added in double, exactly: integers below 2^53. */

/* What the offset brings into a unit's sums, with its sign turned. */
static void mmi_start(const struct deq_int_panel *p, size_t col, int planes, double *ret)
{
    for (size_t i = 0; i < DEQ_PANEL_UNIT; i++) {
        const double w = p->sum[0][col + i];
        ret[i] = MMI_OFFSET ? -256.0 * MMI_OFFSET * (planes == 2 ? 256 * w + p->sum[1][col + i] : w) : 0;
    }
}

/* A unit's outputs of one row from their sums: the only rounding. */
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

/* Sum i of an output: of x1 and x0, where they are apart. */
static inline double mmi_sum(const int32_t *sum, size_t rows, size_t i)
{
    return MMI_SUMS == 2 ? 256.0 * sum[i] + sum[rows * DEQ_PANEL_UNIT + i] : (double)sum[i];
}

/* All rows against one unit of columns. */
__attribute__((always_inline)) static inline void mmi_column(const struct deq_mm *a, const struct deq_int_panel *p,
                                                             size_t step, size_t c, const int planes)
{
    double total[DEQ_MM_ROWS][DEQ_PANEL_UNIT], start[DEQ_PANEL_UNIT];
    const size_t depth = deq_int_depth(a->k), col = a->col + c, n = DEQ_MIN(a->n - c, (size_t)DEQ_PANEL_UNIT);
    mmi_start(p, col, planes, start);
    for (size_t k = 0; k < depth; k += MMI_BLOCK_K) {
        const size_t quads = DEQ_MIN(depth - k, (size_t)MMI_BLOCK_K) / 4;
        const bool ahead = k + 2 * MMI_BLOCK_K <= depth;
        for (size_t slot = 0; slot < a->m; slot += step) {
            const size_t rows = MMI_EQUAL ? step : DEQ_MIN(a->m - slot, step), m = DEQ_MIN(slot, a->m - rows);
            const char *x = (const char *)a->x + m * a->ldx + DEQ_OPERAND_HEAD + 2 * k;
            int32_t sum[2][MMI_SUMS * MMI_ROWS * DEQ_PANEL_UNIT];
            for (int i = 0; i < planes; i++)
                mmi_unit(x, a->ldx, rows, quads, p->plane[i] + k * DEQ_PANEL + col * 4, ahead && slot == 0, sum[i]);
            for (size_t r = 0; r < rows; r++) {
                const int32_t *one = sum[0] + r * DEQ_PANEL_UNIT, *two = sum[1] + r * DEQ_PANEL_UNIT;
                double *to = total[slot + r];
                for (size_t i = 0; i < DEQ_PANEL_UNIT; i++) {
                    const double s = planes == 2 ? 256 * mmi_sum(one, rows, i) + mmi_sum(two, rows, i)
                                                 : mmi_sum(one, rows, i);
                    to[i] = (k ? to[i] : start[i]) + s;
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
    const size_t step = mmi_begin(a->m);
    for (size_t c = 0; c < a->n; c += DEQ_PANEL_UNIT)
        mmi_column(a, &p, step, c, f == DEQ_FORMAT_I16 ? 2 : 1);
    mmi_end();
}

static void mm_i8(const struct deq_mm *a)
{
    mm_ints(a, DEQ_FORMAT_I8);
}

static void mm_i16(const struct deq_mm *a)
{
    mm_ints(a, DEQ_FORMAT_I16);
}
