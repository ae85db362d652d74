/* Looped models' entries (names and shapes: core/import/README.md), in whatever family's names. */
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
static enum deq_rc read_turns(struct deq_import_job *j, float *const *to)
{
    const struct deq_looped_arch *a = arch_of(j);
    const struct deq_entry_shape shape = DEQ_SHAPE5(1, a->max_positions, 1, a->d_head / 2, 2);
    const size_t n = (size_t)a->max_positions * a->d_head;
    struct deq_entries *e = &j->entries;
    const enum deq_dtype dtype = deq_entries_has(e, turns) ? deq_entries_dtype(e, turns) : DEQ_BF16;
    const bool rounded = dtype == DEQ_BF16 || dtype == DEQ_F16;
    float *computed = DEQ_NEW_ARRAY(float, n), *stored = rounded ? NULL : DEQ_NEW_ARRAY(float, n);
    enum deq_rc rc = computed && (rounded || stored)
                         ? DEQ_OK : deq_fail(e->err, DEQ_ENOMEM, "%s: no memory for %s", e->checkpoint, turns);
    if (!rc)
        deq_rope_table(a->max_positions, a->d_head, a->rope_base, computed);
    if (!rc)
        rc = rounded ? deq_entries_pass(e, turns, shape) : deq_entries_read(e, turns, shape, stored);
    double worst = 0;
    for (size_t i = 0; i < n && !rc && stored; i++)
        worst = fmax(worst, fabs((double)stored[i] - (double)computed[i]));
    if (worst > 1e-2) /* roundings of the angle stay below a tenth of it */
        deq_entries_note(e, "note: %s is not the table of rope_base %g: it is kept as it stands", turns,
                         (double)a->rope_base);
    if (!rc && rounded && deq_entries_has(e, turns))
        deq_entries_note(e, "note: %s is %s: computed anew from rope_base %g", turns, deq_dtype_name(dtype),
                         (double)a->rope_base);
    if (!rc)
        rc = deq_source_put(j, to, 0, n, stored ? stored : computed);
    deq_free(computed);
    deq_free(stored);
    return rc;
}

/* --- Layers --- */

/* An entry of a layer, by rows, into tensor `to`, if the architecture has it, behind its first `first` numbers. */
struct layer_entry {
    const char *name;
    float **to;
    size_t first, rows, cols; /* cols 0: a vector */
};

static enum deq_rc read_layer_entries(struct deq_import_job *j, enum deq_part part, unsigned i,
                                      const struct layer_entry *t, size_t n)
{
    char name[DEQ_ENTRY_NAME];
    enum deq_rc rc = DEQ_OK;
    for (size_t k = 0; k < n && !rc; k++) {
        if (!deq_source_wants(j, t[k].to))
            continue;
        snprintf(name, sizeof name, "transformer.%s.%u.%s", part_name[part], i, t[k].name);
        rc = deq_source_copy(j, t[k].to, t[k].first, name,
                             t[k].cols ? DEQ_SHAPE2(t[k].rows, t[k].cols) : DEQ_SHAPE1(t[k].rows));
    }
    return rc;
}

/* Attractor's and Parcae's block: q, k, v apart. */
static enum deq_rc read_pre_norm_layer(struct deq_import_job *j, enum deq_part part, unsigned i)
{
    const struct deq_looped_arch *a = arch_of(j);
    const struct deq_layer_shape s = deq_looped_layer(a, part);
    struct deq_layer_weights *l = &deq_looped_weights(j->weights)->layer[part][i];
    const size_t D = s.width, Q = s.n_head * s.d_head, K = s.n_kv_head * s.d_head, F = s.d_inner;
    const struct layer_entry entries[] = {
        {"norm_1.weight", &l->norm[0], 0, D, 0},       {"norm_2.weight", &l->norm[1], 0, D, 0},
        {"attn.c_q.weight", &l->qkv_w, 0, Q, D},       {"attn.c_k.weight", &l->qkv_w, Q * D, K, D},
        {"attn.c_v.weight", &l->qkv_w, (Q + K) * D, K, D}, {"attn.c_proj.weight", &l->out_w, 0, D, Q},
        {"mlp.fc.weight", &l->up_w, 0, F, D},          {"mlp.proj.weight", &l->down_w, 0, D, F},
        {"raw_gamma_attn", &l->gate_attn, 0, D, 0},    {"raw_gamma_mlp", &l->gate_ffn, 0, D, 0},
    };
    return read_layer_entries(j, part, i, entries, DEQ_COUNT(entries));
}

/* Huginn's: q, k, v stacked as here, both halves of the gated network too. */
static enum deq_rc read_sandwich_layer(struct deq_import_job *j, enum deq_part part, unsigned i)
{
    const struct deq_looped_arch *a = arch_of(j);
    const struct deq_layer_shape s = deq_looped_layer(a, part);
    struct deq_layer_weights *l = &deq_looped_weights(j->weights)->layer[part][i];
    const size_t D = s.width, Q = s.n_head * s.d_head, K = s.n_kv_head * s.d_head, F = s.d_inner;
    const struct layer_entry entries[] = {
        {"norm_1.weight", &l->norm[0], 0, D, 0},   {"norm_2.weight", &l->norm[1], 0, D, 0},
        {"norm_3.weight", &l->norm[2], 0, D, 0},   {"norm_4.weight", &l->norm[3], 0, D, 0},
        {"attn.Wqkv.weight", &l->qkv_w, 0, Q + 2 * K, D}, {"attn.proj.weight", &l->out_w, 0, D, Q},
        {"mlp.fc.weight", &l->up_w, 0, 2 * F, D},  {"mlp.proj.weight", &l->down_w, 0, D, F},
    };
    char name[DEQ_ENTRY_NAME];
    const enum deq_rc rc = read_layer_entries(j, part, i, entries, DEQ_COUNT(entries));
    if (rc || !a->qk_bias)
        return rc;
    snprintf(name, sizeof name, "transformer.%s.%u.attn.qk_bias", part_name[part], i);
    return deq_source_copy(j, &l->qk_bias, 0, name, DEQ_SHAPE4(2, 1, s.n_head, s.d_head));
}

/* Parcae's: the table is the model's, by the layer's place, and an idle one as wide as the model's heads, whatever the
 * core's are; the gate is the layer's. One without the other is idle. */
static enum deq_rc read_value_embeddings(struct deq_import_job *j, enum deq_part part, unsigned i, unsigned place)
{
    const struct deq_layer_shape s = deq_looped_layer(arch_of(j), part), outer = deq_looped_layer(arch_of(j), DEQ_CODA);
    struct deq_layer_weights *l = &deq_looped_weights(j->weights)->layer[part][i];
    const size_t V = j->arch->vocab.size;
    const struct deq_entry_shape of_gate = DEQ_SHAPE2(s.n_kv_head, DEQ_VALUE_GATE_IN);
    /* other families have more layers than the masks have bits */
    const bool table = (uint64_t)j->value_tables[part] >> i & 1, gate = (uint64_t)j->value_gates[part] >> i & 1;
    char name[DEQ_ENTRY_NAME];
    enum deq_rc rc = DEQ_OK;
    snprintf(name, sizeof name, "value_embeds.%u.weight", place);
    if (table)
        rc = gate ? deq_source_copy(j, &l->value_embed, 0, name, DEQ_SHAPE2(V, s.n_kv_head * s.d_head))
                  : deq_entries_pass(&j->entries, name, DEQ_SHAPE2(V, outer.n_kv_head * outer.d_head));
    snprintf(name, sizeof name, "transformer.%s.%u.attn.ve_gate.weight", part_name[part], i);
    if (!rc && gate)
        rc = table ? deq_source_copy(j, &l->value_gate, 0, name, of_gate)
                   : deq_entries_pass(&j->entries, name, of_gate);
    return rc;
}

static enum deq_rc read_layers(struct deq_import_job *j)
{
    const struct deq_looped_arch *a = arch_of(j);
    unsigned place = 0;
    enum deq_rc rc = DEQ_OK;
    for (unsigned p = 0; p < DEQ_PARTS; p++)
        for (unsigned i = 0; i < a->n_layer[p] && !rc; i++, place++) {
            rc = a->norm == DEQ_LAYER_SANDWICH ? read_sandwich_layer(j, p, i) : read_pre_norm_layer(j, p, i);
            if (!rc)
                rc = read_value_embeddings(j, p, i, place);
        }
    return rc;
}

/* --- Around them --- */

/* W [S, S + D] on [z, e], cut between its columns, as many rows at a time as a piece has room for. */
static enum deq_rc read_linear_injection(struct deq_import_job *j, const char *name, struct deq_looped_weights *w)
{
    const size_t D = j->arch->vocab.d_model, S = deq_looped_state(&w->arch), most = DEQ_ENTRY_PIECE / (S + D);
    struct deq_entries *e = &j->entries;
    float *of_z = e->piece + DEQ_ENTRY_PIECE, *of_e = of_z + most * S;
    const struct deq_checkpoint_tensor *t = NULL;
    enum deq_rc rc = deq_entries_find(e, name, DEQ_SHAPE2(S, S + D), &t);
    for (size_t r = 0; r < S && !rc; r += most) {
        const size_t n = DEQ_MIN(S - r, most);
        rc = deq_entries_piece(e, t, r * (S + D), n * (S + D), e->piece);
        for (size_t i = 0; i < n && !rc; i++) {
            memcpy(of_z + i * S, e->piece + i * (S + D), S * sizeof *of_z);
            memcpy(of_e + i * D, e->piece + i * (S + D) + S, D * sizeof *of_e);
        }
        if (!rc)
            rc = deq_source_put(j, &w->state_w, r * S, n * S, of_z);
        if (!rc)
            rc = deq_source_put(j, &w->inject_w, r * D, n * D, of_e);
    }
    return rc;
}

static enum deq_rc read_around(struct deq_import_job *j, struct deq_looped_weights *w)
{
    const size_t D = j->arch->vocab.d_model, S = deq_looped_state(&w->arch);
    const bool sandwich = w->arch.norm == DEQ_LAYER_SANDWICH;
    const struct {
        const char *name;
        float **to; /* if the architecture has it */
        struct deq_entry_shape shape;
    } entries[] = {
        {embedding, &w->vocabulary.embed[0], DEQ_SHAPE2(j->arch->vocab.size, D)},
        {head, &w->vocabulary.head[0], DEQ_SHAPE2(j->arch->vocab.size, D)},
        {"transformer.ln_prelude.weight", &w->prelude_norm, DEQ_SHAPE1(D)},
        {"transformer.adapter.A_log", &w->decay_log, DEQ_SHAPE1(S)},
        {"transformer.adapter.dt_bias", &w->step_bias, DEQ_SHAPE1(S)},
        {"transformer.C.weight", &w->core_out_w, DEQ_SHAPE2(D, S)},
        {"transformer.ln_f.weight", &w->final_norm, DEQ_SHAPE1(D)},
    };
    enum deq_rc rc = DEQ_OK;
    for (size_t i = 0; i < DEQ_COUNT(entries) && !rc; i++)
        if (deq_source_wants(j, entries[i].to))
            rc = deq_source_copy(j, entries[i].to, 0, entries[i].name, entries[i].shape);
    if (!rc && w->arch.injection == DEQ_INJECT_DIAGONAL)
        rc = deq_source_copy(j, &w->inject_w, 0, "transformer.adapter.B", DEQ_SHAPE2(S, D));
    if (!rc && w->arch.injection == DEQ_INJECT_LINEAR)
        rc = read_linear_injection(j, sandwich ? "transformer.adapter.weight" : "transformer.adapter.adapter.weight",
                                   w);
    return rc;
}

enum deq_rc deq_import_looped_weights(struct deq_import_job *j)
{
    struct deq_looped_weights *w = deq_looped_weights(j->weights);
    enum deq_rc rc = read_around(j, w);
    if (!rc)
        rc = read_turns(j, &w->rope);
    return rc ? rc : read_layers(j);
}
