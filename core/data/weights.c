#include "core/data/weights.h"

#include <stdio.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/data/safetensors.h"
#include "core/math/elementary.h"
#include "core/math/half.h"

/* One walk defines the layout: the first pass (data NULL) counts, the second sets pointers. */
struct walk {
    struct deq_weights *w;
    size_t n, n_params;
    bool overflow;
};

static void put(struct walk *k, float **slot, size_t rows, size_t cols, const char *fmt, unsigned block)
{
    size_t count;
    if (!deq_mul_size(rows ? rows : 1, cols, &count) || count > ((size_t)1 << 40)) {
        k->overflow = true;
        return;
    }
    const bool held = !rows || !k->w->vectors_only;
    if (k->w->params) {
        struct deq_param *p = &k->w->params[k->n_params];
        char name[DEQ_PARAM_NAME];
        snprintf(name, sizeof name, "blocks.%u.", block);
        snprintf(p->name, sizeof p->name, "%s%s", block == UINT32_MAX ? "" : name, fmt);
        p->rows = rows;
        p->cols = cols;
        p->offset = k->n;
        p->count = count;
        p->slot = slot;
        *slot = held ? k->w->data + k->n : NULL;
    }
    k->n_params++;
    k->n += held ? DEQ_ROUND_UP(count, (size_t)16) : 0; /* every tensor starts at a cache line */
}

static void put_norm(struct walk *k, float **g, float **b, size_t n, const char *weight, const char *bias, unsigned block)
{
    put(k, g, 0, n, weight, block);
    put(k, b, 0, n, bias, block);
}

/* "embed.weight" of the only cluster, "embed.2.weight" of one among several */
static void put_cluster(struct walk *k, float **slot, size_t rows, size_t cols, const char *what, const char *kind, unsigned c)
{
    char name[DEQ_PARAM_NAME];
    if (k->w->arch.vocab.n_cutoffs)
        snprintf(name, sizeof name, "%s.%u.%s", what, c, kind);
    else
        snprintf(name, sizeof name, "%s.%s", what, kind);
    put(k, slot, rows, cols, name, UINT32_MAX);
}

static void walk_vocabulary(struct walk *k)
{
    struct deq_weights *w = k->w;
    const struct deq_arch *a = &w->arch;
    const bool projects = deq_projects(&a->vocab);
    for (unsigned c = 0; c < deq_clusters(&a->vocab); c++) {
        put_cluster(k, &w->embed[c], deq_cluster_size(&a->vocab, c), deq_cluster_embed(&a->vocab, c), "embed", "weight", c);
        if (projects)
            put_cluster(k, &w->embed_proj[c], a->vocab.d_model, deq_cluster_embed(&a->vocab, c), "embed", "proj.weight", c);
        if (a->vocab.head_untied)
            put_cluster(k, &w->head[c], deq_cluster_size(&a->vocab, c), deq_cluster_embed(&a->vocab, c), "head", "weight", c);
        if (projects && a->vocab.proj_untied[c])
            put_cluster(k, &w->head_proj[c], a->vocab.d_model, deq_cluster_embed(&a->vocab, c), "head", "proj.weight", c);
    }
    if (a->vocab.head_bias)
        put(k, &w->head_bias, 0, a->vocab.size, "head.bias", UINT32_MAX);
    if (a->vocab.n_cutoffs) {
        put(k, &w->tails_w, a->vocab.n_cutoffs, deq_cluster_embed(&a->vocab, 0), "head.tails.weight", UINT32_MAX);
        put(k, &w->tails_b, 0, a->vocab.n_cutoffs, "head.tails.bias", UINT32_MAX);
    }
}

static void walk(struct walk *k)
{
    struct deq_weights *w = k->w;
    const struct deq_arch *a = &w->arch;
    const size_t D = a->vocab.d_model, HDh = (size_t)a->n_head * a->d_head, F = a->d_inner, Hp = a->predictor_hidden;
    k->n = k->n_params = 0;
    walk_vocabulary(k);
    for (unsigned l = 0; l < a->n_block; l++) {
        struct deq_block_weights *b = &w->block[l];
        put(k, &b->inject_w, deq_inject_dim(a), D, "inject.weight", l);
        put(k, &b->inject_b, 0, deq_inject_dim(a), "inject.bias", l);
        put(k, &b->qkv_w, 3 * HDh, D, "attn.qkv.weight", l);
        put(k, &b->rel_w, HDh, D, "attn.rel.weight", l);
        put(k, &b->r_w, a->n_head, a->d_head, "attn.content_bias", l);
        put(k, &b->r_r, a->n_head, a->d_head, "attn.position_bias", l);
        put(k, &b->out_w, D, HDh, "attn.out.weight", l);
        put(k, &b->out_b, 0, D, "attn.out.bias", l);
        put(k, &b->up_w, F, D, "ffn.up.weight", l);
        put(k, &b->up_b, 0, F, "ffn.up.bias", l);
        put(k, &b->down_w, D, F, "ffn.down.weight", l);
        put(k, &b->down_b, 0, D, "ffn.down.bias", l);
        if (a->norm_affine) {
            put_norm(k, &b->attn_norm_g, &b->attn_norm_b, D, "attn_norm.weight", "attn_norm.bias", l);
            if (a->norm == DEQ_NORM_PRE_SUB)
                put_norm(k, &b->sub_norm_g, &b->sub_norm_b, HDh, "sub_norm.weight", "sub_norm.bias", l);
            put_norm(k, &b->ffn_norm_g, &b->ffn_norm_b, D, "ffn_norm.weight", "ffn_norm.bias", l);
        }
    }
    if (a->final_norm)
        put_norm(k, &w->final_norm_g, &w->final_norm_b, D, "final_norm.weight", "final_norm.bias", UINT32_MAX);
    w->n_main = k->n;
    if (Hp) {
        put(k, &w->pred_tok_w, Hp, D, "predictor.token.weight", UINT32_MAX);
        put(k, &w->pred_state_w, Hp, D, "predictor.state.weight", UINT32_MAX);
        put(k, &w->pred_b, 0, Hp, "predictor.bias", UINT32_MAX);
        put(k, &w->pred_out_w, D, Hp, "predictor.out.weight", UINT32_MAX);
        put(k, &w->pred_out_b, 0, D, "predictor.out.bias", UINT32_MAX);
    }
}

static enum deq_rc new_weights(const struct deq_arch *arch, bool vectors_only, struct deq_weights **ret, struct deq_err *err)
{
    struct deq_weights *w = DEQ_NEW(struct deq_weights);
    if (!w)
        return deq_fail(err, DEQ_ENOMEM, "no memory for weights");
    w->arch = *arch;
    w->vectors_only = vectors_only;
    struct walk k = {.w = w};
    walk(&k);
    if (k.overflow) {
        deq_free(w);
        return deq_fail(err, DEQ_EFORMAT, "the configured shapes are too large");
    }
    w->n = k.n;
    w->n_params = k.n_params;
    w->data = DEQ_NEW_ARRAY(float, k.n);
    w->params = DEQ_NEW_ARRAY(struct deq_param, k.n_params);
    if (!w->data || !w->params) {
        deq_weights_free(w);
        return deq_fail(err, DEQ_ENOMEM, "no memory for %zu parameters", k.n);
    }
    walk(&k);
    *ret = w;
    return DEQ_OK;
}

enum deq_rc deq_weights_new(const struct deq_arch *arch, struct deq_weights **ret, struct deq_err *err)
{
    return new_weights(arch, false, ret, err);
}

enum deq_rc deq_weights_new_vectors(const struct deq_arch *arch, struct deq_weights **ret, struct deq_err *err)
{
    return new_weights(arch, true, ret, err);
}

void deq_weights_free(struct deq_weights *w)
{
    if (!w)
        return;
    deq_free(w->data);
    deq_free(w->params);
    deq_free(w);
}

enum deq_rc deq_weights_check(const struct deq_weights *w, const struct deq_safetensors *f, const char *path, bool *ret_bf16, struct deq_err *err)
{
    bool all_bf16 = true;
    for (size_t i = 0; i < w->n_params; i++) {
        const struct deq_param *p = &w->params[i];
        const struct deq_tensor *t = deq_safetensors_find(f, p->name);
        char want[64], got[64];
        if (p->rows)
            snprintf(want, sizeof want, "[%zu, %zu]", p->rows, p->cols);
        else
            snprintf(want, sizeof want, "[%zu]", p->cols);
        if (!t)
            return deq_fail(err, DEQ_EFORMAT, "%s: tensor %s: missing, expected shape %s", path, p->name, want);
        bool fits = p->rows ? t->n_dims == 2 && t->shape[0] == p->rows && t->shape[1] == p->cols
                            : t->n_dims == 1 && t->shape[0] == p->cols;
        if (!fits) {
            snprintf(got, sizeof got, "%u dimensions [%llu, %llu]", t->n_dims, (unsigned long long)(t->n_dims ? t->shape[0] : 0),
                     (unsigned long long)(t->n_dims > 1 ? t->shape[1] : 0));
            return deq_fail(err, DEQ_EFORMAT, "%s: tensor %s: has %s, expected %s (config.json)", path, p->name, got, want);
        }
        all_bf16 = all_bf16 && t->dtype == DEQ_BF16;
    }
    for (size_t i = 0; i < deq_safetensors_count(f); i++) {
        const char *name = deq_safetensors_at(f, i)->name;
        bool known = false;
        for (size_t j = 0; j < w->n_params && !known; j++)
            known = !strcmp(name, w->params[j].name);
        if (!known)
            return deq_fail(err, DEQ_EFORMAT, "%s: tensor %s: not part of a model with this config.json", path, name);
    }
    if (ret_bf16)
        *ret_bf16 = all_bf16;
    return DEQ_OK;
}

enum deq_rc deq_weights_load(const char *path, const struct deq_arch *arch, struct deq_weights **ret, bool *ret_bf16, struct deq_err *err)
{
    struct deq_safetensors *f = NULL;
    struct deq_weights *w = NULL;
    bool bf16;
    enum deq_rc rc = deq_safetensors_open(path, &f, err);
    if (!rc)
        rc = deq_weights_new_vectors(arch, &w, err);
    if (!rc)
        rc = deq_weights_check(w, f, path, &bf16, err);
    if (!rc) { /* only now is it known that the file holds what the configuration claims */
        deq_weights_free(w);
        w = NULL;
        rc = deq_weights_new(arch, &w, err);
    }
    for (size_t i = 0; !rc && i < w->n_params; i++)
        rc = deq_tensor_to_f32(f, deq_safetensors_find(f, w->params[i].name), w->data + w->params[i].offset, err);
    deq_safetensors_close(f);
    if (rc) {
        deq_weights_free(w);
        return rc;
    }
    *ret = w;
    if (ret_bf16)
        *ret_bf16 = bf16;
    return DEQ_OK;
}

enum deq_rc deq_weights_save(const char *path, const struct deq_weights *w, bool bf16, struct deq_err *err)
{
    enum deq_rc rc = DEQ_OK;
    struct deq_tensor_out *out = DEQ_NEW_ARRAY(struct deq_tensor_out, w->n_params);
    uint16_t *half = bf16 ? DEQ_NEW_ARRAY(uint16_t, w->n) : NULL;
    if (!out || (bf16 && !half)) {
        rc = deq_fail(err, DEQ_ENOMEM, "%s: no memory to write it", path);
        goto out;
    }
    for (size_t i = 0; bf16 && i < w->n; i++)
        half[i] = deq_f32_to_bf16(w->data[i]);
    for (size_t i = 0; i < w->n_params; i++) {
        const struct deq_param *p = &w->params[i];
        out[i] = (struct deq_tensor_out){.name = p->name,
                                         .dtype = bf16 ? DEQ_BF16 : DEQ_F32,
                                         .n_dims = p->rows ? 2 : 1,
                                         .shape = {p->rows ? p->rows : p->cols, p->cols},
                                         .data = bf16 ? (const void *)(half + p->offset) : (const void *)(w->data + p->offset)};
    }
    static const char *const meta[] = {"format", "deq_transformer", NULL};
    rc = deq_safetensors_write(path, out, w->n_params, meta, err);
out:
    deq_free(half);
    deq_free(out);
    return rc;
}

static const double LN_10000 = 9.210340371976184;

void deq_sinusoid(uint32_t d, uint32_t d_model, float *out)
{
    uint32_t half = d_model / 2;
    for (uint32_t i = 0; i < half; i++) {
        double sine, cosine;
        deq_sincos(d * deq_exp(-2.0 * i / d_model * LN_10000), &sine, &cosine);
        out[i] = (float)sine;
        out[half + i] = (float)cosine;
    }
}
