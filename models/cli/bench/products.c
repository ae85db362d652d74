#include "models/cli/bench/products.h"

#include <stdio.h>

#include "core/base/mem.h"
#include "core/base/rng.h"
#include "models/cli/bench/floor.h"
#include "models/cli/cli.h"

static const size_t row_counts[] = {1, 3, 8, 16, 17, 32, 33, 64, 256, 512};
static const size_t OUT_MAX = (size_t)1 << 26; /* numbers of one result; larger ones are left out */

struct one {
    const char *name;
    const struct deq_packed *w;
    size_t rows;
    uint64_t times;
    struct bench_series seconds;
    const float *x;
    void *prepared;
    float *y;
};

static void multiply(void *ctx, unsigned thread, unsigned n)
{
    const struct one *o = ctx;
    const struct deq_operand x = deq_operand(o->w->format, o->x, o->w->k, o->prepared, o->w->k);
    for (uint64_t i = 0; i < o->times; i++)
        deq_multiply(&x, o->rows, o->w, o->y, o->w->n, thread, n, NULL, NULL);
}

struct sizes { /* the most that a case reads, prepares and writes */
    size_t x, prepared_bytes, y;
};

/* All cases of all matrices; one NULL: counts them. */
static size_t cases(const struct bench_subject *s, bool quick, struct one *one, struct sizes *sizes)
{
    size_t n = 0;
    for (size_t i = 0; i < s->weights->n_params; i++) {
        const struct deq_param *p = &s->weights->params[i];
        const struct deq_packed *const held[] = {p->packed, p->turned};
        for (size_t h = 0; h < DEQ_COUNT(held); h++)
            for (size_t r = 0; r < (quick ? 3 : DEQ_COUNT(row_counts)) && held[h] && held[h]->data; r++) {
                if (held[h]->n * row_counts[r] > OUT_MAX)
                    continue;
                const size_t k = held[h]->k, rows = row_counts[r];
                sizes->x = DEQ_MAX(sizes->x, k * rows);
                sizes->prepared_bytes = DEQ_MAX(sizes->prepared_bytes, deq_prepared_bytes(held[h]->format, k) * rows);
                sizes->y = DEQ_MAX(sizes->y, held[h]->n * rows);
                if (one)
                    one[n] = (struct one){.name = p->name, .w = held[h], .rows = rows};
                n++;
            }
    }
    return n;
}

/* What a format makes of the rows is made anew before each sample: all cases share the memory. */
static void prepare(const struct one *o)
{
    for (size_t r = 0; r < o->rows; r++)
        deq_prepare(o->w->format, o->x + r * o->w->k, o->w->k, o->prepared, r);
}

static void run(struct bench_machine *m, const char *name, struct one *one, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        prepare(&one[i]);
        bench_calibrate(m, multiply, &one[i], &one[i].times);
    }
    for (unsigned r = 0; r < m->rounds; r++)
        for (size_t i = 0; i < n; i++) {
            cli_progress("%s: products, round %u of %u, %s on %zu rows", name, r + 1, m->rounds, one[i].name,
                         one[i].rows);
            prepare(&one[i]);
            bench_series_add(&one[i].seconds, bench_time(m, true, multiply, &one[i]) / (double)one[i].times);
        }
}

static json_t *figures(struct bench_machine *m, struct one *o)
{
    const double t = bench_series_median(&o->seconds);
    const struct bench_floor floor = bench_floor_product(m, o->w, o->rows);
    return json_pack("{s:s, s:s, s:I, s:I, s:I, s:f, s:f, s:f, s:s, s:f}", "matrix", o->name, "format",
                     bench_format_name(o->w->format), "n", (json_int_t)o->w->n, "k", (json_int_t)o->w->k, "rows",
                     (json_int_t)o->rows, "us", 1e6 * t, "gop_per_s",
                     2e-9 * (double)o->w->n * (double)o->w->k * (double)o->rows / t, "floor_us", 1e6 * floor.seconds,
                     "floor_of", floor.of_bytes ? "bytes" : "multiply-adds", "fraction", floor.seconds / t);
}

json_t *bench_products(struct bench_machine *m, const struct bench_subject *s, bool quick, struct deq_err *err)
{
    struct sizes sizes = {0};
    const size_t n = cases(s, quick, NULL, &sizes);
    struct one *one = DEQ_NEW_ARRAY(struct one, n);
    float *x = DEQ_NEW_ARRAY(float, sizes.x), *y = DEQ_NEW_ARRAY(float, sizes.y);
    void *prepared = deq_alloc(sizes.prepared_bytes);
    json_t *list = json_array();
    bool ok = one && x && y && prepared && list;
    if (ok) {
        cases(s, quick, one, &sizes);
        for (size_t i = 0; i < sizes.x; i++)
            x[i] = (float)(2 * deq_rng_uniform(5, 0, i) - 1);
        for (size_t i = 0; i < n; i++) {
            one[i].x = x;
            one[i].prepared = prepared;
            one[i].y = y;
        }
        run(m, s->name, one, n);
    }
    for (size_t i = 0; ok && i < n; i++)
        ok = !json_array_append_new(list, figures(m, &one[i]));
    deq_free(one);
    deq_free(x);
    deq_free(y);
    deq_free(prepared);
    if (ok)
        return list;
    json_decref(list);
    (void)deq_fail(err, DEQ_ENOMEM, "no memory for products");
    return NULL;
}
