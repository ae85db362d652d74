/* Products of plain matrices (gemm.h, `plain`): both operands are used once, so they are packed on the way, in blocks
 * that stay in the caches (Goto, van de Geijn, "Anatomy of high-performance matrix multiplication", TOMS 2008):
 *
 *     for columns of y, COLS at a time              b's block [DEPTH, COLS] in strips: second cache
 *       for k, DEPTH at a time                      one strip of it: first cache
 *         for rows of y, ROWS at a time             a's block [ROWS, DEPTH]: second cache
 *           for each strip: the kernel
 *
 * Rows of a lie as the kernel wants them where they run along k; else they are packed too. */
#include <string.h>

#include "core/math/gemm.h"
#include "core/math/kern.h"

enum { DEPTH = 320, COLS = 320, ROWS = 240 }; /* COLS, ROWS: multiples of every level's strip */

/* A matrix as the product reads it: element (i, j) at p[i * row + j * col], one of the strides being 1. */
struct view {
    const float *p;
    size_t row, col;
};

/* y [m, n] = from + a [m, k] b [k, n] */
static void product(size_t m, size_t n, size_t k, struct view a, struct view b, const float *from, size_t ld_from,
                    float *y, size_t ldy)
{
    static _Thread_local float columns[DEPTH * COLS], rows[ROWS * DEPTH]; /* no caller has to bring them */
    const struct deq_kern *kern = deq_kern();
    const size_t width = kern->strip_cols, parts = DEQ_MAX((k + DEPTH - 1) / DEPTH, (size_t)1),
                 depth = (k + parts - 1) / parts;
    for (size_t c = 0; c < n; c += COLS)
        for (size_t k0 = 0; k0 < k || !k0; k0 += DEQ_MAX(depth, (size_t)1)) {
            const size_t cols = DEQ_MIN((size_t)COLS, n - c), deep = DEQ_MIN(depth, k - k0);
            const float *start = k0 ? y : from; /* a chain that was put down in y is taken up again there */
            const size_t ld_start = k0 ? ldy : ld_from;
            kern->pack_columns(b.p + k0 * b.row + c * b.col, b.col, b.row, cols, deep, columns);
            for (size_t r = 0; r < m; r += ROWS) {
                struct deq_strip s = {.a = a.p + r * a.row + k0 * a.col, .lda = a.row, .k = deep,
                                      .m = DEQ_MIN((size_t)ROWS, m - r), .ldy = ldy, .ld_from = ld_start};
                if (a.col != 1) {
                    kern->pack_rows(s.a, a.row, a.col, s.m, deep, rows);
                    s.a = rows;
                    s.lda = 0;
                }
                for (size_t j = 0; j < cols; j += width) {
                    s.b = columns + j * deep;
                    s.n = DEQ_MIN(width, cols - j);
                    s.from = start ? start + r * ld_start + c + j : NULL;
                    s.y = y + r * ldy + c + j;
                    kern->mm_strip(&s);
                }
            }
        }
}

void deq_gemm_xwt(size_t m, size_t n, size_t k, const float *x, size_t ldx, const float *w, size_t ldw,
                  const float *from, size_t ld_from, float *y, size_t ldy)
{
    product(m, n, k, (struct view){x, ldx, 1}, (struct view){w, 1, ldw}, from, ld_from, y, ldy);
}

void deq_gemm_dyw(size_t m, size_t n, size_t k, const float *dy, size_t lddy, const float *w, size_t ldw,
                  const float *from, size_t ld_from, float *dx, size_t lddx)
{
    product(m, k, n, (struct view){dy, lddy, 1}, (struct view){w, ldw, 1}, from, ld_from, dx, lddx);
}

void deq_gemm_dytx(size_t m, size_t n, size_t k, const float *dy, size_t lddy, const float *x, size_t ldx, float *dw,
                   size_t lddw)
{
    product(n, k, m, (struct view){dy, 1, lddy}, (struct view){x, ldx, 1}, dw, lddw, dw, lddw);
}
