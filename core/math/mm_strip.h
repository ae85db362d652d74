/* Products of plain matrices, compiled once per CPU level: the including file has vf and says what a tile is,
 * STRIP_ROWS (at least 4) x STRIP_VECS vectors, as many as the level's registers hold. See kern.h. */

__attribute__((always_inline)) static inline void strip_step(const float *a, size_t row, const float *b,
                                                             vf (*acc)[STRIP_VECS], const int rows)
{
    vf w[STRIP_VECS];
    for (int v = 0; v < STRIP_VECS; v++)
        w[v] = vf_ld(b + v * 16);
    for (int r = 0; r < rows; r++) {
        const vf x = vf_set1(a[(size_t)r * row]);
        for (int v = 0; v < STRIP_VECS; v++)
            acc[r][v] = vf_fma(x, w[v], acc[r][v]);
    }
}

/* One tile: chains that begin with `from` and run over k; row and col are a's strides. */
__attribute__((always_inline)) static inline void strip_tile(const struct deq_strip *s, size_t m, const float *a,
                                                             size_t row, size_t col, const int rows)
{
    enum { WIDTH = 16 * STRIP_VECS };
    vf acc[STRIP_ROWS][STRIP_VECS];
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < STRIP_VECS; v++) {
            acc[r][v] = vf_set1(0.0f);
            if (s->from && s->n > (size_t)v * 16)
                acc[r][v] = ld_n(s->from + (m + (size_t)r) * s->ld_from + v * 16, s->n - (size_t)v * 16, 0.0f);
        }
    for (int r = 0; r < rows; r++) /* what the next tile begins with, or writes over */
        __builtin_prefetch(s->y + (m + (size_t)(rows + r)) * s->ldy, 1);
    const float *b = s->b, *const end = b + s->k * WIDTH, *const most = b + s->k / 4 * 4 * WIDTH;
    for (; b < most; b += 4 * WIDTH, a += 4 * col) { /* what a loop costs, shared by four */
        strip_step(a, row, b, acc, rows);
        strip_step(a + col, row, b + WIDTH, acc, rows);
        strip_step(a + 2 * col, row, b + 2 * WIDTH, acc, rows);
        strip_step(a + 3 * col, row, b + 3 * WIDTH, acc, rows);
    }
    for (; b < end; b += WIDTH, a += col)
        strip_step(a, row, b, acc, rows);
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < STRIP_VECS; v++)
            if (s->n > (size_t)v * 16)
                st_n(s->y + (m + (size_t)r) * s->ldy + v * 16, acc[r][v], s->n - (size_t)v * 16);
}

static void mm_strip(const struct deq_strip *s)
{
    for (size_t m = 0, rows; m < s->m; m += rows) {
        const size_t left = s->m - m;
        rows = left >= STRIP_ROWS ? STRIP_ROWS : left >= 4 ? 4 : 1;
        if (s->lda) {
            const float *a = s->a + m * s->lda;
            if (rows == STRIP_ROWS)
                strip_tile(s, m, a, s->lda, 1, STRIP_ROWS);
            else if (rows == 4)
                strip_tile(s, m, a, s->lda, 1, 4);
            else
                strip_tile(s, m, a, s->lda, 1, 1);
        } else {
            const float *a = s->a + m / STRIP_ROWS * STRIP_ROWS * s->k + m % STRIP_ROWS;
            if (rows == STRIP_ROWS)
                strip_tile(s, m, a, 1, STRIP_ROWS, STRIP_ROWS);
            else if (rows == 4)
                strip_tile(s, m, a, 1, STRIP_ROWS, 4);
            else
                strip_tile(s, m, a, 1, STRIP_ROWS, 1);
        }
    }
}

/* One strip of a packed operand: out [k, width] = p[j * across + i * along], j < n; what lacks to the width is zero. */
__attribute__((always_inline)) static inline void pack_strip(const float *p, size_t across, size_t along, size_t n,
                                                             size_t k, float *out, const size_t width)
{
    if (n < width) {
        memset(out, 0, k * width * sizeof(float));
        for (size_t i = 0; i < k; i++)
            for (size_t j = 0; j < n; j++)
                out[i * width + j] = p[j * across + i * along];
    } else if (across == 1) {
        for (size_t i = 0; i < k; i++)
            memcpy(out + i * width, p + i * along, width * sizeof(float));
    } else {
        for (size_t i = 0; i < k; i++)
            for (size_t j = 0; j < width; j++)
                out[i * width + j] = p[j * across + i * along];
    }
}

static void pack_columns(const float *p, size_t across, size_t along, size_t n, size_t k, float *out)
{
    const size_t width = 16 * STRIP_VECS;
    for (size_t j = 0; j < n; j += width)
        pack_strip(p + j * across, across, along, DEQ_MIN(width, n - j), k, out + j * k, width);
}

static void pack_rows(const float *p, size_t across, size_t along, size_t n, size_t k, float *out)
{
    for (size_t j = 0; j < n; j += STRIP_ROWS)
        pack_strip(p + j * across, across, along, DEQ_MIN((size_t)STRIP_ROWS, n - j), k, out + j * k, STRIP_ROWS);
}
