#include "core/import/source.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/json.h"

void deq_source_serve_equilibrium(struct deq_arch *a)
{
    a->serving.solver = (struct deq_solver_opts){.method = DEQ_ANDERSON, .memory = 5, .max_iter = 64, .min_iter = 1,
                                                 .tol = 1e-3f, .beta = 1, .reg = 1e-4f};
    a->serving.row_window = DEQ_ROW_WINDOW;
    a->serving.numeric = DEQ_CLASS_INT16;
}

void deq_source_serve_steps(struct deq_arch *a, uint32_t steps)
{
    a->serving.solver = (struct deq_solver_opts){.method = DEQ_PICARD, .memory = 5, .max_iter = steps, .min_iter = 1,
                                                 .tol = 0, .beta = 1, .reg = 1e-4f};
    a->serving.row_window = 1;
    a->serving.numeric = DEQ_CLASS_FLOAT32; /* nothing contracts what rounding adds in a step */
}

void deq_source_serve_loops(struct deq_arch *a, uint32_t loops)
{
    a->serving.solver = (struct deq_solver_opts){.method = DEQ_PICARD, .memory = 5, .max_iter = loops, .min_iter = 1,
                                                 .tol = 1e-3f, .beta = 1, .reg = 1e-4f};
    a->serving.row_window = 1; /* rows of a window would loop over what is not settled before them */
    a->serving.numeric = DEQ_CLASS_INT16;
}

const char *deq_source_value(const json_t *v, char *out, size_t cap)
{
    char *text = json_is_string(v) ? NULL : deq_json_text(v, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(7));
    snprintf(out, cap, "%s", json_is_string(v) ? json_string_value(v) : text ? text : "?");
    free(text); /* jansson's */
    return out;
}

/* --- Tensors --- */

bool deq_source_wants(const struct deq_import_job *j, float *const *to)
{
    return deq_weights_param(j->weights, to);
}

enum deq_rc deq_source_put(struct deq_import_job *j, float *const *to, size_t first, size_t n, const float *x)
{
    return deq_weights_file_put(j->file, deq_weights_param(j->weights, to), first, n, x, j->entries.err);
}

enum deq_rc deq_source_copy(struct deq_import_job *j, float *const *to, size_t first, const char *name,
                            struct deq_entry_shape shape)
{
    struct deq_entries *e = &j->entries;
    const struct deq_checkpoint_tensor *t = NULL;
    enum deq_rc rc = deq_entries_find(e, name, shape, &t);
    for (uint64_t i = 0; !rc && i < t->count; i += DEQ_ENTRY_PIECE) {
        const size_t n = (size_t)DEQ_MIN(t->count - i, (uint64_t)DEQ_ENTRY_PIECE);
        rc = deq_entries_piece(e, t, i, n, e->piece);
        if (!rc)
            rc = deq_source_put(j, to, first + i, n, e->piece);
    }
    return rc;
}

enum deq_rc deq_source_by_cluster(struct deq_import_job *j, const char *name, size_t cols, float *const *to)
{
    const struct deq_vocab *v = &j->arch->vocab;
    struct deq_entries *e = &j->entries;
    enum deq_rc rc = deq_entries_read(e, name, DEQ_SHAPE2(v->size, cols), e->scratch);
    for (unsigned c = 0; c < deq_clusters(v) && !rc; c++)
        rc = deq_source_put(j, &to[c], 0, deq_cluster_size(v, c) * cols, e->scratch + deq_cluster_begin(v, c) * cols);
    return rc;
}

enum deq_rc deq_source_tails(struct deq_import_job *j, const char *weight, const char *bias, struct deq_vocabulary *v)
{
    struct deq_entries *e = &j->entries;
    const size_t C = v->shape.n_cutoffs, E = deq_cluster_head(&v->shape, 0);
    enum deq_rc rc = deq_entries_read(e, weight, DEQ_SHAPE2(C, E), e->scratch);
    for (size_t c = 0; c < C && !rc; c++)
        rc = deq_source_put(j, &v->tails_w, c * E, E, e->scratch + (C - 1 - c) * E);
    if (!rc)
        rc = deq_entries_read(e, bias, DEQ_SHAPE1(C), e->scratch);
    for (size_t c = 0; c < C && !rc; c++)
        rc = deq_source_put(j, &v->tails_b, c, 1, e->scratch + C - 1 - c);
    return rc;
}

/* --- Switches --- */

/* Whether `text` is one of "a|b|c". */
static bool among(const char *choices, const char *text)
{
    const size_t n = strlen(text);
    for (const char *at = choices; *at; at += strcspn(at, "|"), at += *at == '|')
        if (strcspn(at, "|") == n && !memcmp(at, text, n))
            return true;
    return false;
}

void deq_source_switches(struct deq_import_job *j, struct deq_fields *f, const struct deq_switch *s)
{
    char text[80];
    for (; s && s->key; s++) {
        const json_t *v = deq_fields_take(f, s->key, s->required);
        if (!v || among(s->values, deq_source_value(v, text, sizeof text)))
            continue;
        if (s->idle)
            deq_entries_note(&j->entries, "note: %s: %s has no influence on what is computed", s->key, text);
        else
            f->rc = deq_fail(f->err, DEQ_EFORMAT, "%s: %s%s: %s is not supported, only %s", f->file, f->prefix, s->key,
                             text, *s->values ? s->values : "null");
    }
}
