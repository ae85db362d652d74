#include "core/import/import.h"

#include <jansson.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/buf.h"
#include "core/base/io.h"
#include "core/base/json.h"
#include "core/base/mem.h"
#include "core/base/text.h"
#include "core/data/torchfile.h"
#include "core/cell/config.h"
#include "core/cell/transformer.h"
#include "core/text/tokenizer_config.h"
#include "core/text/wordlevel.h"

enum { CONFIG_MAX_BYTES = 1 << 20, NAME = 128, DEFAULT_HORIZON = 1000 /* local_size or 1000, in all three sources */ };

enum source { LOCUSLAB, TORCHDEQ_SEQ, TORCHDEQ_LM };
static const char *const sources[] = {"locuslab-deq-transformer", "torchdeq-seq", "torchdeq-lm"};

/* What the constructor was told, beyond the architecture. */
struct constructor {
    enum source source;
    bool clip, no_scale; /* torchdeq's weight norm: min(g / ||v||, clip_value); target_norm instead of g */
    double clip_value, target_norm;
    bool tie_weights, tie_projs[DEQ_CUTOFFS_MAX + 1]; /* as configured; what is tied, the numbers tell */
    uint32_t steps;      /* evaluations that the model was trained with; 0: not said */
};

struct import {
    const struct deq_import_opts *o;
    struct deq_torchfile *file;
    bool *used; /* [tensors of the file] */
    size_t n_used;
    char prefix[NAME]; /* of every entry of the model: "", "module.", "model_state_dict." */
    struct constructor how;
    struct deq_transformer_arch arch;
    struct deq_transformer_weights *w;
    float *scratch; /* a tensor while it is rearranged or compared */
    size_t scratch_n;
    struct deq_buf notes; /* lines, each with its zero */
    struct deq_err *err;
};

/* Told when all went well: what fails says one thing only. */
static void __attribute__((format(printf, 2, 3))) note(struct import *m, const char *fmt, ...)
{
    char line[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    deq_buf_add(&m->notes, line, strlen(line) + 1);
}

static void tell_notes(const struct import *m)
{
    for (size_t at = 0; m->o->note && at < m->notes.len; at += strlen(m->notes.data + at) + 1)
        m->o->note(m->o->ctx, m->notes.data + at);
}

/* --- The constructor's arguments --- */

struct args {
    const json_t *obj;
    const char *file;
    enum deq_rc rc;
    struct deq_err *err;
};

static const json_t *arg(struct args *a, const char *key, bool required)
{
    const json_t *v = json_object_get(a->obj, key);
    if ((!v || json_is_null(v)) && required && !a->rc)
        a->rc = deq_fail(a->err, DEQ_EFORMAT, "%s: %s: missing, expected the constructor's argument", a->file, key);
    return a->rc || !v || json_is_null(v) ? NULL : v;
}

static uint32_t arg_u32(struct args *a, const char *key, bool required, uint32_t lo, uint32_t hi, uint32_t otherwise)
{
    const json_t *v = arg(a, key, required);
    if (v && (!json_is_integer(v) || json_integer_value(v) < lo || json_integer_value(v) > hi)) {
        a->rc = deq_fail(a->err, DEQ_EFORMAT, "%s: %s: expected an integer in %u..%u", a->file, key, lo, hi);
        return otherwise;
    }
    return v ? (uint32_t)json_integer_value(v) : otherwise;
}

static bool arg_bool(struct args *a, const char *key, bool otherwise)
{
    const json_t *v = arg(a, key, false);
    if (v && !json_is_boolean(v))
        a->rc = deq_fail(a->err, DEQ_EFORMAT, "%s: %s: expected true or false", a->file, key);
    return json_is_boolean(v) ? json_is_true(v) : otherwise;
}

static double arg_number(struct args *a, const char *key, double otherwise)
{
    const json_t *v = arg(a, key, false);
    if (v && (!json_is_number(v) || !(json_number_value(v) > 0)))
        a->rc = deq_fail(a->err, DEQ_EFORMAT, "%s: %s: expected a number above 0", a->file, key);
    return json_is_number(v) ? json_number_value(v) : otherwise;
}

/* Arguments that do not change what the model computes, or are read here. Another key may be a misspelt one, which would silently be another model. */
static const char *const known_args[] = {
    "model_type", "n_token", "n_layer", "eval_n_layer", "n_head", "d_model", "d_head", "d_inner", "dropout", "dropatt", "tie_weights", "d_embed",
    "div_val", "tie_projs", "pre_lnorm", "wnorm", "tgt_len", "mem_len", "local_size", "pretrain_steps", "cutoffs", "load", "f_solver", "b_solver",
    "stop_mode", "f_thres", "b_thres", "f_max_iter", "b_max_iter", "f_tol", "b_tol", "f_eps", "b_eps", "norm", "norm_no_scale", "norm_target_norm",
    "norm_clip", "norm_clip_value", "logging", "args", "torch_version"};

static enum deq_rc read_norm(struct args *a, struct constructor *how)
{
    const json_t *norm = arg(a, "norm", false);
    const char *name = json_string_value(norm);
    if (norm && (!name || (strcmp(name, "weight_norm") && strcmp(name, "none"))))
        a->rc = deq_fail(a->err, DEQ_EFORMAT, "%s: norm: \"%s\" is not supported, expected null or weight_norm (spectral norm: fold it first with "
                         "torchdeq.norm.remove_norm and save again)", a->file, name ? name : "?");
    how->no_scale = arg_bool(a, "norm_no_scale", false);
    how->clip = arg_bool(a, "norm_clip", false);
    how->clip_value = arg_number(a, "norm_clip_value", 1);
    how->target_norm = arg_number(a, "norm_target_norm", 1);
    return a->rc;
}

static enum deq_rc read_constructor(const char *path, struct constructor *how, struct deq_transformer_arch *ret, struct deq_err *err)
{
    char *text;
    size_t len, i;
    json_error_t je;
    enum deq_rc rc = deq_text_read(path, CONFIG_MAX_BYTES, &text, &len, err);
    if (rc)
        return rc;
    json_t *root = NULL;
    rc = deq_json_parse(text, len, JSON_REJECT_DUPLICATES, &root, &je);
    deq_free(text);
    if (rc == DEQ_ENOMEM)
        return deq_fail(err, rc, "%s: no memory to read it", path);
    if (!json_is_object(root)) {
        json_decref(root);
        return deq_fail(err, DEQ_EFORMAT, "%s: line %d column %d: %s", path, root ? 1 : je.line, root ? 1 : je.column, root ? "expected an object" : je.text);
    }
    struct args a = {.obj = root, .file = path, .err = err};
    const char *key, *type = json_string_value(json_object_get(root, "model_type"));
    json_t *v;
    json_object_foreach(root, key, v) {
        bool known = false;
        for (i = 0; i < DEQ_COUNT(known_args) && !known; i++)
            known = !strcmp(key, known_args[i]);
        if (!known && !a.rc)
            a.rc = deq_fail(err, DEQ_EFORMAT, "%s: %s: not an argument of the constructor; remove it if it has no influence on the model", path, key);
    }
    for (i = 0; i < DEQ_COUNT(sources) && type && strcmp(type, sources[i]); i++)
        ;
    if (!a.rc && (!type || i == DEQ_COUNT(sources)))
        a.rc = deq_fail(err, DEQ_EFORMAT, "%s: model_type: %s, expected \"%s\", \"%s\" or \"%s\"", path,
                        type ? type : json_object_get(root, "model_type") ? "not a string" : "missing", sources[0], sources[1], sources[2]);
    how->source = a.rc ? LOCUSLAB : (enum source)i;
    const bool lm = how->source == TORCHDEQ_LM, pre = arg_bool(&a, "pre_lnorm", false);
    struct deq_transformer_arch r = {.n_block = 1, .norm_eps = 1e-5f, .base = {.kind = &deq_transformer_kind, .vocab.eos_id = -1, .vocab.head_bias = true, .serving = {.solver = deq_solver_defaults(), .warm = DEQ_WARM_ZERO}}};
    r.base.vocab.size = arg_u32(&a, "n_token", true, 2, 1 << 22, 2);
    r.base.vocab.d_model = arg_u32(&a, "d_model", true, 2, 1 << 14, 2);
    r.n_head = arg_u32(&a, "n_head", true, 1, 1024, 1);
    r.d_head = arg_u32(&a, "d_head", true, 1, 1024, 1);
    r.d_inner = arg_u32(&a, "d_inner", true, 1, 1 << 18, 1);
    r.base.vocab.d_embed = arg_u32(&a, "d_embed", false, 1, 1 << 14, r.base.vocab.d_model);
    r.base.vocab.div_val = arg_u32(&a, "div_val", false, 1, 1 << 10, 1);
    if (lm)
        r.n_block = arg_u32(&a, "n_layer", false, 1, DEQ_BLOCKS_MAX, 1);
    r.base.segment_len = arg_u32(&a, "tgt_len", false, 1, 1 << 16, 0);
    r.base.segment_memory = arg_u32(&a, "mem_len", false, 0, 1 << 16, 0);
    r.attn_window = arg_u32(&a, "local_size", false, 0, 1 << 16, 0);
    r.attn_window = r.attn_window ? r.attn_window : DEFAULT_HORIZON;
    how->steps = arg_u32(&a, "f_max_iter", false, 1, 100000, arg_u32(&a, "f_thres", false, 1, 100000, 0));
    const json_t *cuts = arg(&a, "cutoffs", false);
    if (cuts && (!json_is_array(cuts) || json_array_size(cuts) > DEQ_CUTOFFS_MAX))
        a.rc = deq_fail(err, DEQ_EFORMAT, "%s: cutoffs: expected an array of at most %d integers", path, DEQ_CUTOFFS_MAX);
    for (i = 0; !a.rc && cuts && i < json_array_size(cuts); i++) {
        const json_t *c = json_array_get(cuts, i);
        if (!json_is_integer(c) || json_integer_value(c) < 1 || json_integer_value(c) >= r.base.vocab.size)
            a.rc = deq_fail(err, DEQ_EFORMAT, "%s: cutoffs[%zu]: expected an integer in 1..%u", path, i, r.base.vocab.size - 1);
        else
            r.base.vocab.cutoffs[r.base.vocab.n_cutoffs++] = (uint32_t)json_integer_value(c);
    }
    how->tie_weights = arg_bool(&a, "tie_weights", true);
    const json_t *ties = arg(&a, "tie_projs", false);
    if (ties && !json_is_array(ties))
        a.rc = deq_fail(err, DEQ_EFORMAT, "%s: tie_projs: expected an array of booleans", path);
    for (i = 0; !a.rc && ties && i < json_array_size(ties) && i <= DEQ_CUTOFFS_MAX; i++)
        how->tie_projs[i] = json_is_true(json_array_get(ties, i));
    rc = read_norm(&a, how);
    json_decref(root);
    if (rc)
        return rc;
    r.norm = lm ? DEQ_NORM_PRE_SUB : !pre ? DEQ_NORM_POST : how->source == LOCUSLAB ? DEQ_NORM_PRE : DEQ_NORM_PRE_LN;
    r.norm_affine = lm;
    r.base.serving.row_window = lm ? 1 : 8;
    if (lm) /* trained with a fixed number of steps from zero, and served so: its state need not have an equilibrium */
        r.base.serving.solver = (struct deq_solver_opts){.method = DEQ_PICARD, .memory = 5, .max_iter = how->steps ? how->steps : 12, .min_iter = 1, .tol = 0, .beta = 1, .reg = 1e-4f};
    else
        r.base.serving.solver = (struct deq_solver_opts){.method = DEQ_ANDERSON, .memory = 5, .max_iter = 64, .min_iter = 1, .tol = 1e-3f, .beta = 1, .reg = 1e-4f};
    if (!lm && (size_t)r.n_head * r.d_head != r.base.vocab.d_model)
        return deq_fail(err, DEQ_EFORMAT, "%s: n_head: %u heads of d_head %u are not d_model %u, which this model's injection needs", path, r.n_head,
                        r.d_head, r.base.vocab.d_model);
    for (i = 1; i < r.base.vocab.n_cutoffs; i++)
        if (r.base.vocab.cutoffs[i] <= r.base.vocab.cutoffs[i - 1])
            return deq_fail(err, DEQ_EFORMAT, "%s: cutoffs: %u does not rise above the %u before it", path, r.base.vocab.cutoffs[i], r.base.vocab.cutoffs[i - 1]);
    if (!deq_cluster_embed(&r.base.vocab, r.base.vocab.n_cutoffs))
        return deq_fail(err, DEQ_EFORMAT, "%s: div_val: d_embed %u divided %u times by %u leaves nothing", path, r.base.vocab.d_embed, r.base.vocab.n_cutoffs, r.base.vocab.div_val);
    rc = deq_arch_check(&r.base, path, err);
    if (!rc)
        *ret = r;
    return rc;
}

/* --- Entries of the checkpoint --- */

/* Appends what stands before the first dot of a name, unless it is there. */
static void add_top(struct deq_buf *list, const char *name)
{
    const size_t n = strcspn(name, ".");
    for (size_t at = 0; at + n <= list->len; at += strcspn(list->data + at, ",") + 2)
        if (!memcmp(list->data + at, name, n) && (at + n == list->len || list->data[at + n] == ','))
            return;
    if (list->len)
        deq_buf_str(list, ", ");
    deq_buf_add(list, name, n);
}

/* What a user sees at the top of the checkpoint, to tell what it is; full at some names. */
static enum deq_rc no_model(struct import *m, const char *anchor)
{
    struct deq_buf list;
    deq_buf_init(&list, 160);
    for (size_t i = 0; i < deq_torchfile_count(m->file); i++)
        add_top(&list, deq_torchfile_at(m->file, i)->name);
    for (size_t i = 0; i < deq_torchfile_ignored_count(m->file); i++)
        add_top(&list, deq_torchfile_ignored_at(m->file, i)->name);
    enum deq_rc rc = deq_fail(m->err, DEQ_EFORMAT, "%s: entry %s: missing; this is not a state dict of %s; at its top: %s%s", m->o->checkpoint, anchor,
                              sources[m->how.source], list.len ? list.data : "nothing", list.failed ? "..." : "");
    deq_buf_free(&list);
    return rc;
}

/* The entries' common prefix is whatever stands before the embedding's name. */
static enum deq_rc find_prefix(struct import *m)
{
    static const char anchor[] = "word_emb.emb_layers.0.weight";
    bool found = false;
    for (size_t i = 0; i < deq_torchfile_count(m->file); i++) {
        const char *name = deq_torchfile_at(m->file, i)->name;
        const size_t n = strlen(name), k = sizeof anchor - 1;
        if (n < k || strcmp(name + n - k, anchor) || (n > k && name[n - k - 1] != '.'))
            continue;
        if (found)
            return deq_fail(m->err, DEQ_EFORMAT, "%s: holds two models, %s%s and %s; save one state dict", m->o->checkpoint, m->prefix, anchor, name);
        if (n - k >= sizeof m->prefix)
            return deq_fail(m->err, DEQ_EFORMAT, "%s: entry %s: its name is too long", m->o->checkpoint, name);
        memcpy(m->prefix, name, n - k);
        found = true;
    }
    return found ? DEQ_OK : no_model(m, anchor);
}

static const struct deq_torchfile_tensor *entry(struct import *m, const char *name)
{
    char full[3 * NAME];
    snprintf(full, sizeof full, "%s%s", m->prefix, name);
    const struct deq_torchfile_tensor *t = deq_torchfile_find(m->file, full);
    if (t) {
        const size_t i = (size_t)(t - deq_torchfile_at(m->file, 0));
        m->n_used += !m->used[i];
        m->used[i] = true;
    }
    return t;
}

static void shape_text(const struct deq_torchfile_tensor *t, char *out, size_t cap)
{
    size_t n = (size_t)snprintf(out, cap, "[");
    for (unsigned d = 0; d < t->n_dims && n < cap; d++)
        n += (size_t)snprintf(out + n, cap - n, "%s%llu", d ? ", " : "", (unsigned long long)t->shape[d]);
    if (n < cap)
        snprintf(out + n, cap - n, "]");
}

/* Entry `name`, [rows, cols] (rows 0: [cols]), maybe with dimensions of 1 behind, to out. */
static enum deq_rc read_shaped(struct import *m, const char *name, size_t rows, size_t cols, float *out)
{
    const struct deq_torchfile_tensor *t = entry(m, name);
    if (!t)
        return deq_fail(m->err, DEQ_EFORMAT, "%s: entry %s%s: missing, expected shape [%zu%s%.0zu]", m->o->checkpoint, m->prefix, name, rows ? rows : cols,
                        rows ? ", " : "", rows ? cols : 0);
    const unsigned want = rows ? 2 : 1;
    bool fits = t->n_dims >= want && t->shape[0] == (rows ? rows : cols) && (!rows || t->shape[1] == cols);
    for (unsigned d = want; fits && d < t->n_dims; d++)
        fits = t->shape[d] == 1;
    if (!fits) {
        char got[160];
        shape_text(t, got, sizeof got);
        return deq_fail(m->err, DEQ_EFORMAT, "%s: entry %s: has shape %s, expected [%zu%s%.0zu] by %s", m->o->checkpoint, t->name, got, rows ? rows : cols,
                        rows ? ", " : "", rows ? cols : 0, m->o->config);
    }
    return deq_torchfile_read(m->file, t, out, m->err);
}

static enum deq_rc vector(struct import *m, const char *name, size_t n, float *out)
{
    return read_shaped(m, name, 0, n, out);
}

/* `name`.weight, or folded from weight_g and weight_v */
static enum deq_rc matrix(struct import *m, const char *name, size_t rows, size_t cols, float *out)
{
    char part[2 * NAME];
    snprintf(part, sizeof part, "%s.weight_v", name);
    if (!entry(m, part)) {
        snprintf(part, sizeof part, "%s.weight", name);
        return read_shaped(m, part, rows, cols, out);
    }
    enum deq_rc rc = read_shaped(m, part, rows, cols, out);
    if (rc)
        return rc;
    float *g = m->scratch;
    snprintf(part, sizeof part, "%s.weight_g", name);
    if (!m->how.no_scale)
        rc = read_shaped(m, part, rows, 1, g);
    for (size_t r = 0; r < rows && !rc; r++) {
        double sum = 0;
        for (size_t k = 0; k < cols; k++)
            sum += (double)out[r * cols + k] * (double)out[r * cols + k];
        double factor = (m->how.no_scale ? m->how.target_norm : (double)g[r]) / sqrt(sum);
        if (m->how.clip && factor > m->how.clip_value)
            factor = m->how.clip_value;
        if (!isfinite(factor) || sum <= 0)
            return deq_fail(m->err, DEQ_EFORMAT, "%s: entry %s%s.weight_v: row %zu is zero, its weight norm has no direction", m->o->checkpoint, m->prefix,
                            name, r);
        for (size_t k = 0; k < cols; k++)
            out[r * cols + k] = (float)(factor * (double)out[r * cols + k]);
    }
    return rc;
}

/* Rows by head, [H, (q k v), Dh], to rows by kind, [(q k v), H, Dh]; each of `cols` numbers. */
static void by_kind(const struct import *m, float *x, size_t cols)
{
    const size_t H = m->arch.n_head, Dh = m->arch.d_head, n = 3 * H * Dh * cols;
    memcpy(m->scratch, x, n * sizeof(float));
    for (size_t h = 0; h < H; h++)
        for (size_t k = 0; k < 3; k++)
            memcpy(x + (k * H + h) * Dh * cols, m->scratch + (h * 3 + k) * Dh * cols, Dh * cols * sizeof(float));
}

/* --- The vocabulary's both ends --- */

/* Shape of the c-th matrix of the source: it has one for all clusters where the embeddings have one width. */
static size_t source_rows(const struct deq_transformer_arch *a, unsigned c)
{
    return a->base.vocab.div_val > 1 ? deq_cluster_size(&a->base.vocab, c) : a->base.vocab.size;
}

static enum deq_rc same(struct import *m, const char *x_name, const char *y_name, size_t rows, size_t cols, bool *ret)
{
    float *x = m->scratch, *y = m->scratch + rows * cols;
    enum deq_rc rc = read_shaped(m, x_name, rows, cols, x);
    if (!rc)
        rc = read_shaped(m, y_name, rows, cols, y);
    if (!rc)
        *ret = !memcmp(x, y, rows * cols * sizeof(float));
    return rc;
}

/* Which matrices the two ends share, by their numbers. */
static enum deq_rc find_ties(struct import *m)
{
    struct deq_transformer_arch *a = &m->arch;
    enum deq_rc rc = DEQ_OK;
    const unsigned n = a->base.vocab.div_val > 1 ? deq_clusters(&a->base.vocab) : 1;
    char x[NAME], y[NAME];
    for (unsigned c = 0; c < n && !rc; c++) {
        bool equal = true;
        snprintf(x, sizeof x, "word_emb.emb_layers.%u.weight", c);
        snprintf(y, sizeof y, "crit.out_layers.%u.weight", c);
        rc = same(m, x, y, source_rows(a, c), deq_cluster_embed(&a->base.vocab, c), &equal);
        a->base.vocab.head_untied = a->base.vocab.head_untied || !equal;
        if (!rc && !equal && m->how.tie_weights)
            note(m, "%s differs from %s, though tie_weights says they are one: both are kept", y, x);
    }
    for (unsigned c = 0; c < deq_clusters(&a->base.vocab) && !rc && deq_projects(&a->base.vocab); c++) {
        bool equal = true;
        snprintf(x, sizeof x, "word_emb.emb_projs.%u.weight", a->base.vocab.div_val > 1 ? c : 0);
        snprintf(y, sizeof y, "crit.out_projs.%u.weight", c);
        rc = same(m, x, y, a->base.vocab.d_model, deq_cluster_embed(&a->base.vocab, c), &equal);
        a->base.vocab.proj_untied[c] = !equal;
        if (!rc && !equal && m->how.tie_projs[c])
            note(m, "%s differs from %s, though tie_projs says they are one: both are kept", y, x);
    }
    return rc;
}

/* Rows of cluster c of a matrix (or, cols 1, of a vector) that the source holds by cluster, or whole. */
static enum deq_rc cluster_rows(struct import *m, const char *list, const char *kind, unsigned c, size_t cols, bool flat, float *out)
{
    const struct deq_transformer_arch *a = &m->arch;
    const bool whole = a->base.vocab.div_val <= 1 && a->base.vocab.n_cutoffs;
    const size_t rows = source_rows(a, c);
    char name[NAME];
    snprintf(name, sizeof name, "%s.%u.%s", list, a->base.vocab.div_val > 1 ? c : 0, kind);
    float *to = whole ? m->scratch : out;
    enum deq_rc rc = flat ? vector(m, name, rows, to) : read_shaped(m, name, rows, cols, to);
    if (!rc && whole)
        memcpy(out, m->scratch + deq_cluster_begin(&a->base.vocab, c) * cols, deq_cluster_size(&a->base.vocab, c) * cols * sizeof(float));
    return rc;
}

static enum deq_rc read_vocabulary(struct import *m)
{
    struct deq_vocabulary *w = &m->w->vocabulary;
    const struct deq_transformer_arch *a = &m->arch;
    const size_t D = a->base.vocab.d_model, C = a->base.vocab.n_cutoffs;
    enum deq_rc rc = DEQ_OK;
    char name[NAME];
    for (unsigned c = 0; c < deq_clusters(&a->base.vocab) && !rc; c++) {
        const size_t E = deq_cluster_embed(&a->base.vocab, c);
        rc = cluster_rows(m, "word_emb.emb_layers", "weight", c, E, false, w->embed[c]);
        if (!rc && w->head[c])
            rc = cluster_rows(m, "crit.out_layers", "weight", c, E, false, w->head[c]);
        if (!rc)
            rc = cluster_rows(m, "crit.out_layers", "bias", c, 1, true, w->head_bias + deq_cluster_begin(&a->base.vocab, c));
        snprintf(name, sizeof name, "word_emb.emb_projs.%u.weight", a->base.vocab.div_val > 1 ? c : 0);
        if (!rc && w->embed_proj[c])
            rc = read_shaped(m, name, D, E, w->embed_proj[c]);
        snprintf(name, sizeof name, "crit.out_projs.%u.weight", c);
        if (!rc && w->head_proj[c])
            rc = read_shaped(m, name, D, E, w->head_proj[c]);
    }
    if (!rc && C) { /* cluster c is read off head_logprob[:, -c]: the source's rows count from the rarest */
        const size_t E = deq_cluster_embed(&a->base.vocab, 0);
        rc = read_shaped(m, "crit.cluster_weight", C, E, m->scratch);
        for (size_t c = 0; c < C && !rc; c++)
            memcpy(w->tails_w + c * E, m->scratch + (C - 1 - c) * E, E * sizeof(float));
        if (!rc)
            rc = vector(m, "crit.cluster_bias", C, m->scratch);
        for (size_t c = 0; c < C && !rc; c++)
            w->tails_b[c] = m->scratch[C - 1 - c];
    }
    return rc;
}

/* --- The cell --- */

static enum deq_rc read_block(struct import *m, unsigned l)
{
    const struct deq_transformer_arch *a = &m->arch;
    const struct deq_block_weights *b = &m->w->block[l];
    const size_t D = a->base.vocab.d_model, H = a->n_head, Dh = a->d_head, HD = H * Dh, F = a->d_inner;
    const bool lm = m->how.source == TORCHDEQ_LM;
    const char *inject = lm ? "injection" : "inject_conv";
    char attn[NAME / 2], ffn[NAME / 2], name[NAME];
    snprintf(attn, sizeof attn, lm ? "func.dec_attn.%u" : "func.dec_attn", l);
    snprintf(ffn, sizeof ffn, lm ? "func.pos_ff.%u" : "func.pos_ff", l);
    const struct {
        const char *of, *part;
        size_t rows, cols; /* rows 0: a vector; else a matrix that may have weight norm */
        float *to;
    } parts[] = {
        {inject, "", 3 * HD, D, b->inject_w},   {inject, ".bias", 0, 3 * HD, b->inject_b}, {attn, ".qkv_net", 3 * HD, D, b->qkv_w},
        {attn, ".r_net", HD, D, b->rel_w},      {attn, ".o_net", D, HD, b->out_w},         {attn, ".o_net.bias", 0, D, b->out_b},
        {ffn, ".ff1_net", F, D, b->up_w},       {ffn, ".ff1_net.bias", 0, F, b->up_b},     {ffn, ".ff2_net", D, F, b->down_w},
        {ffn, ".ff2_net.bias", 0, D, b->down_b},
        {attn, ".ln1.weight", 0, D, b->attn_norm_g}, {attn, ".ln1.bias", 0, D, b->attn_norm_b},
        {attn, ".ln2.weight", 0, HD, b->sub_norm_g}, {attn, ".ln2.bias", 0, HD, b->sub_norm_b},
        {ffn, ".ln.weight", 0, D, b->ffn_norm_g},    {ffn, ".ln.bias", 0, D, b->ffn_norm_b},
    };
    enum deq_rc rc = DEQ_OK;
    for (size_t i = 0; i < DEQ_COUNT(parts) && !rc; i++) {
        if (!parts[i].to)
            continue; /* norms without weights */
        snprintf(name, sizeof name, "%s%s", parts[i].of, parts[i].part);
        rc = parts[i].rows ? matrix(m, name, parts[i].rows, parts[i].cols, parts[i].to) : vector(m, name, parts[i].cols, parts[i].to);
        if (m->o->progress)
            m->o->progress(m->o->ctx, m->n_used, deq_torchfile_count(m->file), name);
    }
    snprintf(name, sizeof name, "%s.r_w_bias", attn);
    if (!rc)
        rc = read_shaped(m, name, H, Dh, b->r_w);
    snprintf(name, sizeof name, "%s.r_r_bias", attn);
    if (!rc)
        rc = read_shaped(m, name, H, Dh, b->r_r);
    if (!rc && lm) {
        by_kind(m, b->inject_w, D);
        by_kind(m, b->inject_b, 1);
        by_kind(m, b->qkv_w, D);
    }
    return rc;
}

/* Every entry of the model must have been used. What stands elsewhere in the file (an optimiser's moments) is another matter. */
static enum deq_rc none_left(struct import *m)
{
    (void)entry(m, "pos_emb.inv_freq"); /* the sinusoids' frequencies, which follow from d_model */
    size_t elsewhere = 0;
    for (size_t i = 0; i < deq_torchfile_count(m->file); i++) {
        const char *name = deq_torchfile_at(m->file, i)->name;
        if (m->used[i])
            continue;
        if (strncmp(name, m->prefix, strlen(m->prefix)))
            elsewhere++;
        else
            return deq_fail(m->err, DEQ_EFORMAT, "%s: entry %s: not part of a %s with the arguments of %s", m->o->checkpoint, name, sources[m->how.source],
                            m->o->config);
    }
    if (elsewhere)
        note(m, "ignored: %zu tensors outside \"%s\"", elsewhere, m->prefix);
    for (size_t i = 0; i < deq_torchfile_ignored_count(m->file) && i < 20; i++) {
        const struct deq_torchfile_ignored *g = deq_torchfile_ignored_at(m->file, i);
        note(m, "ignored: %s (%s)", g->name, g->what);
    }
    if (deq_torchfile_ignored_count(m->file) > 20)
        note(m, "ignored: %zu more entries that are no tensors of numbers", deq_torchfile_ignored_count(m->file) - 20);
    return DEQ_OK;
}

/* --- The directory --- */

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static const char *const norms[] = {"post", "pre", "pre_sub", "pre_ln"};

static enum deq_rc write_card(const struct import *m, const char *path, const struct deq_import_report *r)
{
    const struct deq_transformer_arch *a = &m->arch;
    struct deq_buf b;
    deq_buf_init(&b, 1 << 16);
    deq_buf_fmt(&b, "# %s\n\nA deep equilibrium transformer, imported from `%s` (%s).\n\n| | |\n|---|---|\n", base_name(m->o->out_dir),
                base_name(m->o->checkpoint), r->variant);
    deq_buf_fmt(&b, "| parameters | %llu |\n| cell | %u block%s, D %u, %u heads of %u, FFN %u, norm `%s`, attention window %u |\n",
                (unsigned long long)r->parameters, a->n_block, a->n_block == 1 ? "" : "s", a->base.vocab.d_model, a->n_head, a->d_head, a->d_inner,
                norms[a->norm], a->attn_window);
    deq_buf_fmt(&b, "| vocabulary | %u tokens", a->base.vocab.size);
    for (uint32_t i = 0; i < a->base.vocab.n_cutoffs; i++)
        deq_buf_fmt(&b, "%s%u", i ? ", " : ", cut at ", a->base.vocab.cutoffs[i]);
    deq_buf_fmt(&b, "%s |\n", m->o->vocab ? "" : "; no word list was given: tokens are shown as <0>, <1>, ...");
    deq_buf_fmt(&b, "| solved by | %s, ", deq_solver_name(a->base.serving.solver.method));
    if (a->base.serving.solver.tol > 0)
        deq_buf_fmt(&b, "to a relative residual of %g, at most %u evaluations |\n", (double)a->base.serving.solver.tol, a->base.serving.solver.max_iter);
    else
        deq_buf_fmt(&b, "exactly %u steps |\n", a->base.serving.solver.max_iter);
    deq_buf_str(&b, "\nData, licence and measured perplexity are not in a checkpoint: add them here.\n");
    enum deq_rc rc = b.failed ? deq_fail(m->err, DEQ_ENOMEM, "no memory for the card") : DEQ_OK;
    if (!rc)
        rc = deq_io_replace(path, &(struct deq_part){b.data, b.len}, 1, m->err);
    deq_buf_free(&b);
    return rc;
}

static enum deq_rc write_files(struct import *m, const char *dir, const struct deq_import_report *r)
{
    char path[4096];
    struct deq_wordlevel_info words = {.eos_id = -1, .unk_id = -1};
    enum deq_rc rc;
    if (!deq_io_join(path, sizeof path, dir, "model.safetensors"))
        return deq_fail(m->err, DEQ_EINVAL, "%s: path too long", dir);
    deq_io_join(path, sizeof path, dir, "tokenizer.json"); /* shorter names */
    rc = m->o->vocab ? deq_wordlevel_from_vocab(m->o->vocab, m->arch.base.vocab.size, path, &words, m->err)
                     : deq_wordlevel_placeholder(m->arch.base.vocab.size, path, m->err);
    if (!rc)
        rc = deq_tokenizer_config_save(path, words.eos_id, words.unk_id, m->err);
    m->arch.base.vocab.eos_id = words.eos_id;
    json_t *from = json_pack("{s:s, s:s}", "imported_from", base_name(m->o->checkpoint), "model_type", sources[m->how.source]);
    char *provenance = from ? json_dumps(from, 0) : NULL; /* NULL also where a name is not UTF-8 */
    json_decref(from);
    deq_io_join(path, sizeof path, dir, "config.json");
    if (!rc)
        rc = deq_config_save(path, &m->arch.base, provenance, m->err);
    free(provenance); /* jansson's */
    deq_io_join(path, sizeof path, dir, "model.safetensors");
    if (!rc)
        rc = deq_weights_save(path, &m->w->base, false, m->err);
    deq_io_join(path, sizeof path, dir, "README.md");
    return rc ? rc : write_card(m, path, r);
}

static const char *variant(const struct import *m)
{
    static const char *const names[][3] = {{"locuslab/deq, post-norm", "torchdeq deq-seq, post-norm", ""},
                                           {"locuslab/deq, pre_lnorm", "torchdeq deq-seq, pre_lnorm", ""}};
    return m->how.source == TORCHDEQ_LM ? "torchdeq deq-lm" : names[m->arch.norm != DEQ_NORM_POST][m->how.source];
}

/* The file's largest tensor, twice: what comparing, slicing and rearranging need. Nothing is read before its shape was checked, so a shape that only the
 * configuration claims reserves nothing. */
static size_t scratch_floats(const struct import *m)
{
    size_t n = 0;
    for (size_t i = 0; i < deq_torchfile_count(m->file); i++)
        n = DEQ_MAX(n, (size_t)deq_torchfile_at(m->file, i)->count);
    return 2 * n;
}

enum deq_rc deq_import(const struct deq_import_opts *o, struct deq_import_report *ret, struct deq_err *err)
{
    struct import m = {.o = o, .err = err};
    deq_buf_init(&m.notes, 1 << 16);
    enum deq_rc rc = deq_io_exists(o->out_dir) ? deq_fail(err, DEQ_EINVAL, "%s: exists already; an import writes a new directory", o->out_dir) : DEQ_OK;
    if (!rc)
        rc = read_constructor(o->config, &m.how, &m.arch, err);
    if (!rc)
        rc = deq_torchfile_open(o->checkpoint, &m.file, err);
    if (!rc)
        rc = find_prefix(&m);
    if (!rc) {
        m.used = DEQ_NEW_ARRAY(bool, deq_torchfile_count(m.file) + 1);
        m.scratch = DEQ_NEW_ARRAY(float, scratch_floats(&m));
        if (!m.used || !m.scratch)
            rc = deq_fail(err, DEQ_ENOMEM, "%s: no memory to read it", o->checkpoint);
    }
    if (!rc)
        rc = find_ties(&m);
    if (!rc)
        rc = deq_weights_new(&m.arch.base, (struct deq_weights **)&m.w, err);
    if (!rc)
        rc = read_vocabulary(&m);
    for (unsigned l = 0; l < m.arch.n_block && !rc; l++)
        rc = read_block(&m, l);
    if (!rc)
        rc = none_left(&m);
    if (!rc) {
        struct deq_import_report r = {.variant = variant(&m), .tensors = m.n_used,
                                      .ignored = deq_torchfile_count(m.file) - m.n_used + deq_torchfile_ignored_count(m.file)};
        for (size_t i = 0; i < m.w->base.n_params; i++)
            r.parameters += m.w->base.params[i].count;
        struct deq_new_dir dir;
        rc = deq_io_dir_begin(o->out_dir, &dir, err);
        if (!rc)
            rc = deq_io_dir_end(&dir, write_files(&m, dir.part, &r), err);
        r.vocab = m.arch.base.vocab;
        if (!rc) {
            tell_notes(&m);
            *ret = r;
        }
    }
    deq_buf_free(&m.notes);
    deq_weights_free(m.w ? &m.w->base : NULL);
    deq_torchfile_close(m.file);
    deq_free(m.used);
    deq_free(m.scratch);
    return rc;
}
