/* Products with panels of integers in plain C: the readable truth of the others. */

static void mm_ints(const struct deq_mm *a, enum deq_format f)
{
    const struct deq_int_panel p = deq_int_panel(f, a->panel, a->k);
    for (size_t m = 0; m < a->m; m++) {
        const char *row = (const char *)a->x + m * a->ldx;
        const int16_t *x = (const int16_t *)(const void *)(row + DEQ_OPERAND_HEAD);
        float t;
        memcpy(&t, row, sizeof t);
        for (size_t n = a->col; n < a->col + a->n; n++) {
            int64_t sum = 0;
            for (size_t k = 0; k < a->k; k++) {
                const size_t at = k / 4 * 4 * DEQ_PANEL + n * 4 + k % 4;
                sum += x[k] * (p.plane[1] ? (int64_t)p.plane[0][at] * 256 + p.plane[1][at] : p.plane[0][at]);
            }
            a->y[m * a->ldy + n - a->col] = (float)((double)sum * ((double)p.scale[n] * (double)t));
        }
    }
}

/* Numbers i .. i+15 of a prepared row. */
static void mmi_put(void *row, size_t i, vf a)
{
    vf_st_i16((int16_t *)row + i, a);
}

static void mm_i8(const struct deq_mm *a)
{
    mm_ints(a, DEQ_FORMAT_I8);
}

static void mm_i16(const struct deq_mm *a)
{
    mm_ints(a, DEQ_FORMAT_I16);
}
