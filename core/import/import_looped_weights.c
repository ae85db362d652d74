/* Looped models' entries (names and shapes: models/README.md), in whatever family's names. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/import/import_looped.h"

static const char embedding[] = "transformer.wte.weight", head[] = "lm_head.weight", turns[] = "freqs_cis";
static const char *const part_name[DEQ_PARTS] = {"prelude", "core_block", "coda"};

static const struct deq_looped_arch *arch_of(const struct deq_import_job *j)
{
    return deq_looped_arch(j->arch);
}

enum deq_rc deq_import_looped_ties(struct deq_import_job *j)
{
    const struct deq_vocab *v = &j->arch->vocab;
    struct deq_entries *e = &j->entries;
    bool equal = true;
    if (v->head_untied || !deq_entries_has(e, head))
        return DEQ_OK;
    const enum deq_rc rc = deq_entries_same(e, embedding, head, DEQ_SHAPE2(v->size, v->d_model), &equal);
    return rc || equal ? rc
                       : deq_fail(e->err, DEQ_EFORMAT, "%s: entry %s%s: differs from %s, though tie_embeddings says "
                                  "that they are one", e->checkpoint, e->prefix, head, embedding);
}

/* --- Positions --- */

/* The authors' own table, unless it was rounded with the rest: angles of thousands leave a bf16 cosine nothing. */
static enum deq_rc read_turns(struct deq_import_job *j, float *out)
{
    const struct deq_looped_arch *a = arch_of(j);
    const struct deq_entry_shape shape = DEQ_SHAPE5(1, a->max_positions, 1, a->d_head / 2, 2);
    struct deq_entries *e = &j->entries;
    deq_rope_table(a->max_positions, a->d_head, a->rope_base, out);
    if (!deq_entries_has(e, turns))
        return DEQ_OK;
    const enum deq_dtype dtype = deq_entries_dtype(e, turns);
    if (dtype == DEQ_BF16 || dtype == DEQ_F16) {
        deq_entries_note(e, "note: %s is %s: computed anew from rope_base %g", turns, deq_dtype_name(dtype),
                         (double)a->rope_base);
        return deq_entries_pass(e, turns, shape);
    }
    const size_t n = (size_t)a->max_positions * a->d_head;
    const enum deq_rc rc = deq_entries_read(e, turns, shape, e->scratch);
    double worst = 0;
    for (size_t i = 0; i < n && !rc; i++)
        worst = fmax(worst, fabs((double)e->scratch[i] - (double)out[i]));
    if (worst > 1e-2) /* roundings of the angle stay below a tenth of it */
        deq_entries_note(e, "note: %s is not the table of rope_base %g: it is kept as it stands", turns,
                         (double)a->rope_base);
    if (!rc)
        memcpy(out, e->scratch, n * sizeof *out);
    return rc;
}

/* --- Layers --- */

/* An entry of a layer, by rows, into tensor `to` behind its first `first` numbers; to NULL: the architecture has
 * none. */
struct layer_entry {
    const char *name;
    float *to;
    size_t first, rows, cols; /* cols 0: a vector */
};

static enum deq_rc read_layer_entries(struct deq_import_job *j, enum deq_part part, unsigned i,
                                      const struct layer_entry *t, size_t n)
{
    char name[DEQ_ENTRY_NAME];
    enum deq_rc rc = DEQ_OK;
    for (size_t k = 0; k < n && !rc; k++) {
        if (!t[k].to)
            continue;
        snprintf(name, sizeof name, "transformer.%s.%u.%s", part_name[part], i, t[k].name);
        rc = deq_entries_read(&j->entries, name, t[k].cols ? DEQ_SHAPE2(t[k].rows, t[k].cols) : DEQ_SHAPE1(t[k].rows),
                              t[k].to + t[k].first);
    }
    return rc;
}

/* Attractor's and Parcae's block: q, k, v apart. */
static enum deq_rc read_pre_norm_layer(struct deq_import_job *j, enum deq_part part, unsigned i)
{
    const struct deq_looped_arch *a = arch_of(j);
    const struct deq_layer_shape s = deq_looped_layer(a, part);
    const struct deq_layer_weights *l = &deq_looped_weights(j->weights)->layer[part][i];
    const size_t D = s.width, Q = s.n_head * s.d_head, K = s.n_kv_head * s.d_head, F = s.d_inner;
    const struct layer_entry entries[] = {
        {"norm_1.weight", l->norm[0], 0, D, 0},       {"norm_2.weight", l->norm[1], 0, D, 0},
        {"attn.c_q.weight", l->qkv_w, 0, Q, D},       {"attn.c_k.weight", l->qkv_w, Q * D, K, D},
        {"attn.c_v.weight", l->qkv_w, (Q + K) * D, K, D}, {"attn.c_proj.weight", l->out_w, 0, D, Q},
        {"mlp.fc.weight", l->up_w, 0, F, D},          {"mlp.proj.weight", l->down_w, 0, D, F},
        {"raw_gamma_attn", l->gate_attn, 0, D, 0},    {"raw_gamma_mlp", l->gate_ffn, 0, D, 0},
    };
    return read_layer_entries(j, part, i, entries, DEQ_COUNT(entries));
}

static enum deq_rc read_vocabulary(struct deq_import_job *j, struct deq_vocabulary *w)
{
    const struct deq_entry_shape shape = DEQ_SHAPE2(w->shape.size, w->shape.d_model);
    const enum deq_rc rc = deq_entries_read(&j->entries, embedding, shape, w->embed[0]);
    return rc || !w->head[0] ? rc : deq_entries_read(&j->entries, head, shape, w->head[0]);
}

enum deq_rc deq_import_looped_weights(struct deq_import_job *j)
{
    struct deq_looped_weights *w = deq_looped_weights(j->weights);
    enum deq_rc rc = read_vocabulary(j, &w->vocabulary);
    if (!rc)
        rc = read_turns(j, w->rope);
    for (unsigned p = 0; p < DEQ_PARTS; p++)
        for (unsigned i = 0; i < w->arch.n_layer[p] && !rc; i++)
            rc = read_pre_norm_layer(j, p, i);
    return rc ? rc : deq_entries_read(&j->entries, "transformer.ln_f.weight", DEQ_SHAPE1(w->vocabulary.shape.d_model),
                                      w->final_norm);
}
