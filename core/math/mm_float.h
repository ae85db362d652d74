/* Products with panels of floats, compiled once per CPU level: the including file has vf, and the tiles that a level's
 * registers hold: MM_ROWS (at most 6) x MM_VECS vectors, and MM_VECS_FEW vectors for two or three rows. Every output is
 * one chain over k, so blocks of any kind leave its bits alone: a chain that is put down in y is taken up again there.
 *
 * A block of 256 k of a panel is read from the second cache for all rows before the next comes, and each
 * pass over it asks for its share of the one behind: a panel of any depth is fetched once for all rows of a call. */

enum { MM_BLOCK_K = 256 };

static inline vf load_w(const void *p, size_t i, bool bf16)
{
    return bf16 ? vf_ld_bf16((const uint16_t *)p + i) : vf_ld((const float *)p + i);
}

/* One tile: rows x (16*vecs) outputs held in registers while k runs. */
__attribute__((always_inline)) static inline void mm_tile(const float *x, size_t ldx, size_t K, const void *w,
                                                          bool bf16, bool first, bool ahead, float *y, size_t ldy,
                                                          size_t n, const int rows, const int vecs)
{
    vf acc[MM_ROWS][4];
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vecs; v++)
            acc[r][v] = first || n <= (size_t)v * 16
                            ? vf_set1(0.0f)
                            : ld_n(y + (size_t)r * ldy + v * 16, n - (size_t)v * 16, 0.0f);
    const size_t width = bf16 ? sizeof(uint16_t) : sizeof(float);
    for (size_t k = 0; k < K; k++) {
        vf wk[4];
        if (ahead)
            __builtin_prefetch((const char *)w + (MM_BLOCK_K + k) * DEQ_PANEL * width);
        for (int v = 0; v < vecs; v++)
            wk[v] = load_w(w, k * DEQ_PANEL + (size_t)v * 16, bf16);
        for (int r = 0; r < rows; r++) {
            vf xr = vf_set1(x[(size_t)r * ldx + k]);
            for (int v = 0; v < vecs; v++)
                acc[r][v] = vf_fma(xr, wk[v], acc[r][v]);
        }
    }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vecs; v++)
            if (n > (size_t)v * 16)
                st_n(y + (size_t)r * ldy + v * 16, acc[r][v], n - (size_t)v * 16);
}

/* One block of K; panel: its part. far: the panel goes on behind it. Few rows go over wide tiles, for independent
 * chains; more over narrow ones. */
__attribute__((always_inline)) static inline void mm_block(const struct deq_mm *a, size_t k0, const void *panel,
                                                           bool bf16, bool far)
{
    const size_t K = DEQ_MIN(a->k - k0, (size_t)MM_BLOCK_K), ldx = a->ldx / sizeof(float);
    const bool first = k0 == 0, ahead = far && k0 + 2 * MM_BLOCK_K <= a->k && a->m > 1;
    const float *const x = (const float *)a->x + k0;
    for (size_t m = 0, rows; m < a->m; m += rows) {
        rows = DEQ_MIN(a->m - m, (size_t)MM_ROWS);
        const size_t width = rows == 1 ? 64 : rows <= 3 ? 16 * MM_VECS_FEW : 16 * MM_VECS;
        for (size_t c = 0; c < a->n; c += width) {
            const void *w = bf16 ? (const void *)((const uint16_t *)panel + a->col + c)
                                 : (const void *)((const float *)panel + a->col + c);
            float *y = a->y + m * a->ldy + c;
            const size_t n = a->n - c;
#define TILE(r, v)                                                                                                     \
    case r:                                                                                                            \
        if (r <= MM_ROWS && n <= 32 && v > 2)                                                                          \
            mm_tile(x + m * ldx, ldx, K, w, bf16, first, ahead && m == 0, y, a->ldy, n, DEQ_MIN(r, MM_ROWS), 2);      \
        else if (r <= MM_ROWS)                                                                                         \
            mm_tile(x + m * ldx, ldx, K, w, bf16, first, ahead && m == 0, y, a->ldy, n, DEQ_MIN(r, MM_ROWS), v);      \
        break;
            switch (rows) {
                TILE(1, 4)
                TILE(2, MM_VECS_FEW)
                TILE(3, MM_VECS_FEW)
                TILE(4, MM_VECS)
                TILE(5, MM_VECS)
                TILE(6, MM_VECS)
            default: break;
            }
#undef TILE
        }
    }
}

static void mm_f32(const struct deq_mm *a)
{
    for (size_t k = 0; k == 0 || k < a->k; k += MM_BLOCK_K)
        mm_block(a, k, (const float *)a->panel + k * DEQ_PANEL, false, true);
}

/* Widening a number costs more than a product with it: for many rows a block is widened once. */
static void mm_bf16(const struct deq_mm *a)
{
    float wide[MM_BLOCK_K * DEQ_PANEL];
    for (size_t k = 0; k == 0 || k < a->k; k += MM_BLOCK_K) {
        const uint16_t *w = (const uint16_t *)a->panel + k * DEQ_PANEL;
        if (a->m <= 2 * MM_ROWS) {
            mm_block(a, k, w, true, true);
            continue;
        }
        for (size_t i = 0; i < DEQ_MIN(a->k - k, (size_t)MM_BLOCK_K) * DEQ_PANEL; i += 16)
            vf_st(wide + i, vf_ld_bf16(w + i));
        mm_block(a, k, wide, false, false);
    }
}
