/* Attention, a part of kern_body.h: over float32 pages and over 16-bit pages, with the relative term and without. The
 * bits of a row are the same whatever rows read with it. */
enum { P = DEQ_KV_PAGE_TOK };

#define INLINED __attribute__((always_inline)) static inline

/* Rows from i on that have the same lists of pages. */
static size_t attn_sharing(const struct deq_attn_args *a, size_t i)
{
    size_t n = 1;
    while (i + n < a->n && a->row[i + n].k == a->row[i].k)
        n++;
    return n;
}

/* --- float32 --- */

/* Scores of `rows` rows over all pages, masked, and their maxima. Each score is one chain over d; ATTN_TILE chains run
 * side by side to hide the latency of an FMA, and rows share what is loaded of a page. */
INLINED void attn_scores(const struct deq_attn_args *a, const struct deq_attn_row *row, size_t p0, size_t n_pages,
                         const void *const *pages, vf *top, const int rows, const bool relative)
{
    const int at_once = ATTN_TILE / rows;
    const vf scale = vf_set1(a->scale);
    for (int i = 0; i < rows; i++)
        top[i] = vf_set1(-INFINITY);
    for (size_t p = 0; p < n_pages; p += (size_t)at_once) {
        const size_t n = DEQ_MIN((size_t)at_once, n_pages - p);
        vf s[ATTN_TILE];
        const float *k[ATTN_TILE], *r[ATTN_TILE];
        for (int q = 0; q < at_once; q++) {
            const size_t at = p + ((size_t)q < n ? (size_t)q : 0); /* past the end the first again: dropped */
            k[q] = pages[at];
            for (int i = 0; i < rows; i++) {
                s[i * at_once + q] = vf_set1(0.0f);
                if (relative) /* column of lane 0: distance t - j */
                    r[i * at_once + q] = a->rel + (ptrdiff_t)a->rel_zero - (ptrdiff_t)row[i].t +
                                         (ptrdiff_t)((p0 + at) * P);
            }
        }
        for (size_t d = 0; d < a->d_head; d++)
            for (int q = 0; q < at_once; q++) {
                const vf key = vf_ld(k[q] + d * P);
                for (int i = 0; i < rows; i++) {
                    vf *to = &s[i * at_once + q];
                    *to = vf_fma(vf_set1(row[i].qc[d]), key, *to);
                    if (relative)
                        *to = vf_fma(vf_set1(row[i].qr[d]), vf_ld(r[i * at_once + q] + d * a->rel_stride), *to);
                }
            }
        for (int i = 0; i < rows; i++)
            for (size_t q = 0; q < n; q++) {
                float *out = row[i].scores + (p + q) * P;
                vf_st(out, vf_mul(s[i * at_once + (int)q], scale));
                const size_t j0 = (p0 + p + q) * P;
                for (size_t l = 0; l < P && (j0 < row[i].lo || j0 + P > row[i].t); l++)
                    if (j0 + l < row[i].lo || j0 + l > row[i].t)
                        out[l] = -INFINITY;
                top[i] = vf_max(vf_ld(out), top[i]);
            }
    }
}

/* o += sum_j w_j v_j over positions from <= j < to, each output one chain over j. */
INLINED void attn_sum(const struct deq_attn_args *a, const struct deq_attn_row *row, size_t p0,
                      const void *const *pages, size_t from, size_t to, size_t c, vf *o, const int rows,
                      const int vecs)
{
    while (from < to) {
        const size_t end = DEQ_MIN(to, DEQ_ROUND_UP(from + 1, (size_t)P));
        const float *v = (const float *)pages[from / P - p0] + (from % P) * a->v_stride + c;
        for (; from < end; from++, v += a->v_stride)
            for (int i = 0; i < rows; i++) {
                const vf w = vf_set1(row[i].scores[from - p0 * P]);
                for (int k = 0; k < vecs; k++)
                    o[i * vecs + k] = vf_fma(w, vf_ld(v + k * 16), o[i * vecs + k]);
            }
    }
}

/* Only positions that a row sees are read for it: a page may hold another sequence's leftovers past them, and another
 * row's position may not be finite. */
INLINED void attn_columns(const struct deq_attn_args *a, const struct deq_attn_row *row, size_t p0,
                          const void *const *pages, const float *inv, size_t c, const int rows, const int vecs)
{
    vf o[ATTN_TILE];
    for (int i = 0; i < rows * vecs; i++)
        o[i] = vf_set1(0.0f);
    if (rows == 1) {
        attn_sum(a, row, p0, pages, row->lo, row->t + 1, c, o, 1, vecs);
    } else {
        const struct deq_attn_row *last = row + 1;
        attn_sum(a, row, p0, pages, row->lo, DEQ_MIN(last->lo, row->t + 1), c, o, 1, vecs);
        attn_sum(a, row, p0, pages, last->lo, row->t + 1, c, o, 2, vecs);
        attn_sum(a, last, p0, pages, DEQ_MAX(last->lo, row->t + 1), last->t + 1, c, o + vecs, 1, vecs);
    }
    for (int i = 0; i < rows * vecs; i++)
        vf_st(row[i / vecs].out + c + i % vecs * 16, vf_mul(o[i], vf_set1(inv[i / vecs])));
}

/* All columns from c on that come in vectors of so many; returns where it stopped. */
INLINED size_t attn_values(const struct deq_attn_args *a, const struct deq_attn_row *row, size_t p0,
                           const void *const *pages, const float *inv, size_t c, const int rows, const int vecs)
{
    for (; c + 16 * (size_t)vecs <= a->v_stride; c += 16 * (size_t)vecs)
        attn_columns(a, row, p0, pages, inv, c, rows, vecs);
    return c;
}

INLINED void attn_rows(const struct deq_attn_args *a, const struct deq_attn_row *row, const int rows)
{
    const size_t p0 = row[0].lo / P, n_pages = row[rows - 1].t / P - p0 + 1, skip = p0 - row->first;
    vf top[ATTN_TILE];
    float inv[ATTN_TILE];
    if (a->rel)
        attn_scores(a, row, p0, n_pages, row->k + skip, top, rows, true);
    else
        attn_scores(a, row, p0, n_pages, row->k + skip, top, rows, false);
    for (int i = 0; i < rows; i++)
        inv[i] = 1.0f / exp_sum(row[i].scores, row[i].scores, vf_hmax(top[i]), n_pages * P);
    size_t c = attn_values(a, row, p0, row->v + skip, inv, 0, rows, ATTN_TILE / rows);
    if (rows < ATTN_TILE / 2)
        c = attn_values(a, row, p0, row->v + skip, inv, c, rows, ATTN_TILE / 2 / rows);
    (void)attn_values(a, row, p0, row->v + skip, inv, c, rows, 1);
}

static void attn(const struct deq_attn_args *a)
{
    for (size_t i = 0, n; i < a->n; i += n) {
        n = DEQ_MIN(attn_sharing(a, i), (size_t)2);
        if (n == 2)
            attn_rows(a, a->row + i, 2);
        else
            attn_rows(a, a->row + i, 1);
    }
}

/* --- 16 bits: two numbers in a word, 65536 * high + low ---
 *
 * Pages are prefetched while those before them are read: they lie anywhere, each too short for the machine to see. */

/* The high number is rounded with the low one in mind: the whole word read as an integer is the high number, 65536
 * times as large, within half a unit. So it costs a conversion, and the low one a shift more. */
static float pack_i16(const float *x, size_t n, int32_t *pairs)
{
    const size_t half = DEQ_PAIRS(n);
    float by;
    const float scale = int_scale(x, n, &by);
    for (size_t i = 0; i < half; i += 16) {
        const size_t n_high = n - half > i ? n - half - i : 0;
        vf low = vf_set1(0.0f), high = low;
        if (by != 0) {
            low = vf_round(vf_mul(ld_n(x + i, half - i, 0), vf_set1(by)));
            high = vf_mul(ld_n(x + half + i, n_high, 0), vf_set1(by));
        }
        vf_st_pairs(pairs + i, low, vf_round(vf_fma(low, vf_set1(-0x1p-16f), high)));
    }
    return scale * 0x1p-16f; /* what is read is 65536 times as large */
}

/* out[i][16 p + lane] = scale[lane] * sum_d q[i][d] k[d][lane] over pages of pairs [half, 16] and their scales [16]; a
 * sum is one chain, over the pairs, low before high */
INLINED void pair_dots(const float *const *q, size_t half, const void *const *pages, size_t n_pages, float *const *out,
                       const int rows)
{
    const int at_once = ATTN_TILE / rows;
    for (size_t p = 0; p < n_pages; p += (size_t)at_once) {
        const size_t n = DEQ_MIN((size_t)at_once, n_pages - p);
        vf s[ATTN_TILE];
        const int32_t *k[ATTN_TILE], *next[ATTN_TILE];
        for (int j = 0; j < at_once; j++) {
            k[j] = pages[p + ((size_t)j < n ? (size_t)j : 0)]; /* past the end the first again: dropped */
            next[j] = pages[DEQ_MIN(p + (size_t)(at_once + j), n_pages - 1)];
        }
        for (int i = 0; i < ATTN_TILE; i++)
            s[i] = vf_set1(0.0f);
        for (size_t w = 0; w < half; w++)
            for (int j = 0; j < at_once; j++) {
                __builtin_prefetch(next[j] + w * P);
                const vf low = vf_ld_low(k[j] + w * P), high = vf_ld_high(k[j] + w * P);
                for (int i = 0; i < rows; i++) {
                    vf *to = &s[i * at_once + j];
                    *to = vf_fma(vf_set1(q[i][w]), low, *to);
                    *to = vf_fma(vf_set1(q[i][half + w]), high, *to);
                }
            }
        for (int i = 0; i < rows; i++)
            for (size_t j = 0; j < n; j++)
                vf_st(out[i] + (p + j) * P, vf_mul(s[i * at_once + (int)j], vf_ld((const float *)(k[j] + half * P))));
    }
}

/* Relative scores of rows of any sequences, by column of the table. */
INLINED void pair_relative(const struct deq_attn_args *a, const struct deq_attn_row *row, const int rows)
{
    size_t first = SIZE_MAX, last = 0;
    const float *q[ATTN_TILE];
    float *out[ATTN_TILE];
    for (int i = 0; i < rows; i++) {
        first = DEQ_MIN(first, (a->rel_zero + row[i].first * P - row[i].t) / P);
        last = DEQ_MAX(last, (a->rel_zero + row[i].last * P + P - 1 - row[i].t) / P);
    }
    for (int i = 0; i < rows; i++) {
        q[i] = row[i].qr;
        out[i] = row[i].relative + first * P;
    }
    pair_dots(q, DEQ_PAIRS(a->d_head), a->rel_pages + first, last - first + 1, out, rows);
}

/* From the products with keys to weights of values; returns the sum of the softmax. Pages that other rows see and this
 * one does not get weight 0, whatever they hold. */
static float pair_weights(const struct deq_attn_args *a, const struct deq_attn_row *row, size_t p0, size_t n_pages)
{
    const vf scale = vf_set1(a->scale);
    const float *e = a->rel_pages ? row->relative + (a->rel_zero + p0 * P - row->t) : NULL;
    vf top = vf_set1(-INFINITY);
    for (size_t p = 0; p < n_pages; p++) {
        float *s = row->scores + p * P;
        const size_t j0 = (p0 + p) * P;
        __builtin_prefetch(row->v[p0 + p - row->first]);
        vf_st(s, vf_mul(e ? vf_add(vf_ld(s), vf_ld(e + p * P)) : vf_ld(s), scale));
        for (size_t l = 0; l < P && (j0 < row->lo || j0 + P > row->t); l++)
            if (j0 + l < row->lo || j0 + l > row->t)
                s[l] = -INFINITY;
        top = vf_max(vf_ld(s), top);
    }
    const float sum = exp_sum(row->scores, row->scores, vf_hmax(top), n_pages * P);
    for (size_t p = 0; p < n_pages; p++) {
        float *w = row->scores + p * P;
        const size_t j0 = (p0 + p) * P;
        vf_st(w, vf_mul(vf_ld(w), vf_ld(row->v[p0 + p - row->first])));
        for (size_t l = 0; l < P && (j0 < row->lo || j0 + P > row->t); l++)
            if (j0 + l < row->lo || j0 + l > row->t)
                w[l] = 0.0f;
    }
    return sum;
}

/* Columns c .. c + 16*vecs - 1 of both halves, each one chain over all positions of the pages. */
INLINED void pair_columns(const struct deq_attn_args *a, const struct deq_attn_row *row, const void *const *pages,
                          size_t n_pages, const float *inv, size_t c, const int rows, const int vecs)
{
    const size_t half = DEQ_PAIRS(a->d_head), high_n = a->d_head - half;
    vf o[ATTN_TILE];
    for (int i = 0; i < 2 * rows * vecs; i++)
        o[i] = vf_set1(0.0f);
    for (size_t p = 0; p < n_pages; p++) {
        const int32_t *v = (const int32_t *)pages[p] + P + c,
                      *next = (const int32_t *)pages[DEQ_MIN(p + 2, n_pages - 1)] + P + c;
        for (size_t l = 0; l < P; l++, v += a->v_stride, next += a->v_stride)
            for (int k = 0; k < vecs; k++) {
                __builtin_prefetch(next + k * 16);
                const vf low = vf_ld_low(v + k * 16), high = vf_ld_high(v + k * 16);
                for (int i = 0; i < rows; i++) {
                    vf *to = &o[2 * (i * vecs + k)];
                    const vf w = vf_set1(row[i].scores[p * P + l]);
                    to[0] = vf_fma(w, low, to[0]);
                    to[1] = vf_fma(w, high, to[1]);
                }
            }
    }
    for (int i = 0; i < rows; i++)
        for (int k = 0; k < vecs; k++) {
            /* + 0: a sum of nothing but zeros has the sign that it would have alone */
            const vf by = vf_set1(inv[i]), zero = vf_set1(0.0f), *from = &o[2 * (i * vecs + k)];
            const size_t at = c + (size_t)k * 16;
            if (at < half)
                st_n(row[i].out + at, vf_fma(from[0], by, zero), half - at);
            if (at < high_n)
                st_n(row[i].out + half + at, vf_fma(from[1], by, zero), high_n - at);
        }
}

INLINED void pair_values(const struct deq_attn_args *a, const struct deq_attn_row *row, const void *const *pages,
                         size_t n_pages, const float *inv, const int rows)
{
    const int vecs = ATTN_TILE / 2 / rows;
    size_t c = 0;
    for (; c + 16 * (size_t)vecs <= a->v_stride; c += 16 * (size_t)vecs)
        pair_columns(a, row, pages, n_pages, inv, c, rows, vecs);
    for (; vecs > 2 && c + 32 <= a->v_stride; c += 32)
        pair_columns(a, row, pages, n_pages, inv, c, rows, 2);
    for (; c < a->v_stride; c += 16)
        pair_columns(a, row, pages, n_pages, inv, c, rows, 1);
}

INLINED void pair_rows(const struct deq_attn_args *a, const struct deq_attn_row *row, const int rows)
{
    const size_t p0 = row[0].lo / P, n_pages = row[rows - 1].t / P - p0 + 1, skip = p0 - row->first;
    const float *q[ATTN_TILE];
    float *out[ATTN_TILE], inv[ATTN_TILE];
    for (int i = 0; i < rows; i++) {
        q[i] = row[i].qc;
        out[i] = row[i].scores;
    }
    pair_dots(q, DEQ_PAIRS(a->d_head), row->k + skip, n_pages, out, rows);
    for (int i = 0; i < rows; i++)
        inv[i] = 1.0f / pair_weights(a, row + i, p0, n_pages);
    for (int i = 0; i < rows; i += 2)
        if (rows > 1)
            pair_values(a, row + i, row->v + skip, n_pages, inv + i, 2);
        else
            pair_values(a, row, row->v + skip, n_pages, inv, 1);
}

static void attn_i16(const struct deq_attn_args *a)
{
    for (size_t i = 0, n; a->rel_pages && i < a->n; i += n) {
        n = a->n - i >= 4 ? 4 : a->n - i >= 2 ? 2 : 1;
        if (n == 4)
            pair_relative(a, a->row + i, 4);
        else if (n == 2)
            pair_relative(a, a->row + i, 2);
        else
            pair_relative(a, a->row + i, 1);
    }
    for (size_t i = 0, n; i < a->n; i += n) {
        n = attn_sharing(a, i);
        n = n >= 4 ? 4 : n >= 2 ? 2 : 1;
        if (n == 4)
            pair_rows(a, a->row + i, 4);
        else if (n == 2)
            pair_rows(a, a->row + i, 2);
        else
            pair_rows(a, a->row + i, 1);
    }
}
