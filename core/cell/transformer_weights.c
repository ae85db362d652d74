/* The weights of the cell on rows: from a file or from memory into the packed form that transformer.h describes, each matrix once. */
#include <string.h>

#include "core/base/mem.h"
#include "core/cell/transformer.h"
#include "core/math/kern.h"

void deq_transformer_relative(const struct deq_transformer *t, unsigned block, size_t reach, float *scratch, float *rel)
{
    const size_t D = t->arch.vocab.d_model, HD = (size_t)t->arch.n_head * t->arch.d_head, stride = deq_rel_stride(reach), zero = deq_rel_zero(reach);
    const float *w = t->block[block].rel_w;
    for (size_t d = 0; d < reach; d++) {
        deq_sinusoid((uint32_t)d, (uint32_t)D, scratch);
        for (size_t i = 0; i < HD; i++)
            rel[i * stride + zero - d] = deq_kern()->dot(w + i * D, scratch, D);
    }
}

static enum deq_rc pack(struct deq_transformer *t, const struct deq_param *p, const float *x, struct deq_packed *ret, struct deq_err *err)
{
    return deq_pack(x, p->rows, p->cols, t->bf16, ret, err);
}

static enum deq_rc pack_transposed(struct deq_transformer *t, const struct deq_param *p, const float *x, struct deq_packed *ret, struct deq_err *err)
{
    const struct deq_param turned = {.rows = p->cols, .cols = p->rows};
    float *y = DEQ_NEW_ARRAY(float, p->count);
    if (!y)
        return deq_fail(err, DEQ_ENOMEM, "no memory to pack tensor %s", p->name);
    for (size_t i = 0; i < p->rows; i++)
        for (size_t j = 0; j < p->cols; j++)
            y[j * p->rows + i] = x[i * p->cols + j];
    enum deq_rc rc = pack(t, &turned, y, ret, err);
    deq_free(y);
    return rc;
}

/* Matrix p, with the numbers x, goes where the cell looks for it. */
static enum deq_rc place(struct deq_transformer *t, const struct deq_param *p, const float *x, struct deq_err *err)
{
    const struct deq_weights *w = t->vectors;
    struct deq_vocabulary *v = &t->vocabulary;
    for (unsigned c = 0; c < deq_clusters(&t->arch.vocab); c++) {
        if (p->slot == &w->embed[c])
            return pack(t, p, x, t->arch.vocab.head_untied ? &v->embed[c] : &v->head[c], err);
        if (p->slot == &w->head[c])
            return pack(t, p, x, &v->head[c], err);
        if (p->slot == &w->head_proj[c])
            return pack_transposed(t, p, x, &v->head_proj[c], err);
        if (p->slot == &w->embed_proj[c]) {
            enum deq_rc rc = pack(t, p, x, &v->embed_proj[c], err);
            return rc || t->arch.vocab.proj_untied[c] ? rc : pack_transposed(t, p, x, &v->head_proj[c], err);
        }
    }
    for (unsigned l = 0; l < t->arch.n_block; l++) {
        const struct deq_block_weights *b = &w->block[l];
        struct deq_packed_block *to = &t->block[l];
        const struct {
            float *const *slot;
            struct deq_packed *packed;
        } of[] = {{&b->inject_w, &to->inject}, {&b->qkv_w, &to->qkv}, {&b->out_w, &to->out}, {&b->up_w, &to->up}, {&b->down_w, &to->down}};
        for (size_t i = 0; i < DEQ_COUNT(of); i++)
            if (p->slot == of[i].slot)
                return pack(t, p, x, of[i].packed, err);
        float **const own = p->slot == &b->rel_w ? &to->rel_w : p->slot == &b->r_w ? &to->r_w : p->slot == &b->r_r ? &to->r_r : NULL;
        if (own) { /* used as it is */
            if (!(*own = DEQ_NEW_ARRAY(float, p->count)))
                return deq_fail(err, DEQ_ENOMEM, "no memory for tensor %s", p->name);
            memcpy(*own, x, p->count * sizeof(float));
            return DEQ_OK;
        }
    }
    if (p->slot == &w->pred_tok_w)
        return pack(t, p, x, &t->pred_tok, err);
    if (p->slot == &w->pred_state_w)
        return pack(t, p, x, &t->pred_state, err);
    if (p->slot == &w->pred_out_w)
        return pack(t, p, x, &t->pred_out, err);
    if (p->slot == &w->tails_w)
        return pack(t, p, x, &v->tails, err);
    return deq_fail(err, DEQ_EINVAL, "tensor %s has no place in the cell", p->name);
}

/* What `place` makes of all matrices, and the vectors as they are. */
static uint64_t held_bytes(const struct deq_weights *w, bool bf16)
{
    const struct deq_arch *a = &w->arch;
    uint64_t bytes = w->n * sizeof(float);
    for (size_t i = 0; i < w->n_params; i++) {
        const struct deq_param *p = &w->params[i];
        const struct deq_packed as_is = {.n = p->rows, .k = p->cols, .bf16 = bf16}, turned = {.n = p->cols, .k = p->rows, .bf16 = bf16};
        bool plain = !p->rows, head_proj = false, tied = false;
        for (unsigned l = 0; l < a->n_block; l++)
            plain = plain || p->slot == &w->block[l].rel_w || p->slot == &w->block[l].r_w || p->slot == &w->block[l].r_r;
        for (unsigned c = 0; c < deq_clusters(&a->vocab); c++) {
            tied = tied || (p->slot == &w->embed_proj[c] && !a->vocab.proj_untied[c]);
            head_proj = head_proj || p->slot == &w->head_proj[c];
        }
        if (plain)
            bytes += p->rows ? p->count * sizeof(float) : 0;
        else
            bytes += (head_proj ? 0 : deq_packed_bytes(&as_is)) + (head_proj || tied ? deq_packed_bytes(&turned) : 0);
    }
    return bytes;
}

/* FNV-1a's step on whole words */
static uint64_t mix(uint64_t h, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], 4);
        h = (h ^ bits) * 0x100000001b3u;
        h ^= h >> 29;
    }
    return h;
}

/* Where a tensor's numbers come from: weights in memory, or a file that deq_weights_check has passed. */
struct source {
    const struct deq_weights *w;
    const struct deq_safetensors *file;
    float *scratch; /* [largest tensor], for the file */
};

static enum deq_rc build(const struct source *from, bool bf16, struct deq_transformer *t, struct deq_err *err)
{
    enum deq_rc rc = DEQ_OK;
    t->vocabulary.vectors = t->vectors;
    t->bf16 = bf16;
    t->bytes = held_bytes(t->vectors, bf16);
    t->fingerprint = 0xcbf29ce484222325u;
    for (size_t i = 0; i < t->vectors->n_params && !rc; i++) {
        const struct deq_param *p = &t->vectors->params[i];
        const float *x = from->w ? from->w->data + from->w->params[i].offset : from->scratch;
        if (from->file)
            rc = deq_tensor_to_f32(from->file, deq_safetensors_find(from->file, p->name), from->scratch, err);
        if (rc)
            break;
        t->parameters += p->count;
        t->fingerprint = mix(t->fingerprint, x, p->count);
        if (p->rows)
            rc = place(t, p, x, err);
        else
            memcpy(*p->slot, x, p->count * sizeof(float));
    }
    return rc;
}

enum deq_rc deq_transformer_new(const struct deq_weights *w, bool bf16, struct deq_transformer **ret, struct deq_err *err)
{
    struct deq_transformer *t = DEQ_NEW(struct deq_transformer);
    if (!t)
        return deq_fail(err, DEQ_ENOMEM, "no memory for the model");
    t->arch = w->arch;
    enum deq_rc rc = deq_weights_new_vectors(&t->arch, &t->vectors, err);
    if (!rc)
        rc = build(&(struct source){.w = w}, bf16, t, err);
    if (rc)
        deq_transformer_free(t);
    else
        *ret = t;
    return rc;
}

/* Numbers of the largest tensor: the scratch of loading. */
static size_t largest(const struct deq_weights *w)
{
    size_t n = 0;
    for (size_t i = 0; i < w->n_params; i++)
        n = DEQ_MAX(n, w->params[i].count);
    return n;
}

enum deq_rc deq_transformer_load(const char *path, const struct deq_arch *a, struct deq_transformer **ret, struct deq_err *err)
{
    struct source from = {0};
    struct deq_safetensors *file = NULL;
    bool bf16 = false;
    struct deq_transformer *t = DEQ_NEW(struct deq_transformer);
    if (!t)
        return deq_fail(err, DEQ_ENOMEM, "no memory for the model");
    t->arch = *a;
    enum deq_rc rc = deq_safetensors_open(path, &file, err);
    if (!rc)
        rc = deq_weights_new_vectors(a, &t->vectors, err);
    if (!rc)
        rc = deq_weights_check(t->vectors, file, path, &bf16, err);
    if (!rc) {
        from.file = file;
        from.scratch = DEQ_NEW_ARRAY(float, largest(t->vectors));
        rc = from.scratch ? build(&from, bf16, t, err) : deq_fail(err, DEQ_ENOMEM, "%s: no memory to read it", path);
    }
    deq_free(from.scratch);
    deq_safetensors_close(file);
    if (rc)
        deq_transformer_free(t);
    else
        *ret = t;
    return rc;
}

enum deq_rc deq_transformer_check(const char *path, const struct deq_arch *a, uint64_t *ret_bytes, uint64_t *ret_load_bytes, struct deq_err *err)
{
    struct deq_safetensors *file = NULL;
    struct deq_weights *w = NULL;
    bool bf16;
    enum deq_rc rc = deq_safetensors_open(path, &file, err);
    if (!rc)
        rc = deq_weights_new_vectors(a, &w, err);
    if (!rc)
        rc = deq_weights_check(w, file, path, &bf16, err);
    if (!rc) {
        *ret_bytes = held_bytes(w, bf16);
        *ret_load_bytes = largest(w) * sizeof(float);
    }
    deq_safetensors_close(file);
    deq_weights_free(w);
    return rc;
}

void deq_transformer_free(struct deq_transformer *t)
{
    if (!t)
        return;
    deq_vocabulary_free(&t->vocabulary);
    deq_packed_free(&t->pred_tok);
    deq_packed_free(&t->pred_state);
    deq_packed_free(&t->pred_out);
    for (unsigned l = 0; l < t->arch.n_block; l++) {
        struct deq_packed_block *p = &t->block[l];
        deq_packed_free(&p->inject);
        deq_packed_free(&p->qkv);
        deq_packed_free(&p->out);
        deq_packed_free(&p->up);
        deq_packed_free(&p->down);
        deq_free(p->rel_w);
        deq_free(p->r_w);
        deq_free(p->r_r);
    }
    deq_weights_free(t->vectors);
    deq_free(t);
}
