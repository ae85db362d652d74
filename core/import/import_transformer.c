/* The DEQ transformer: locuslab/deq DEQ-Sequence/models/deq_transformer.py (v2.0) and torchdeq's deq-zoo/deq-seq and
 * deq-lm. */
#include <stdio.h>
#include <string.h>

#include "core/cell/transformer.h"
#include "core/import/source.h"

enum { DEFAULT_HORIZON = 1000 /* local_size or 1000, in all three */, DEFAULT_STEPS = 12 };

static bool is_lm(const struct deq_import_job *j)
{
    return j->source == &deq_source_torchdeq_lm;
}

static bool is_seq(const struct deq_import_job *j)
{
    return j->source == &deq_source_torchdeq_seq;
}

/* --- The constructor's arguments --- */

static const char *const others[] = {
    "eval_n_layer", "dropout", "dropatt", "wnorm", "pretrain_steps", "load", "f_solver", "b_solver", "stop_mode",
    "b_thres", "b_max_iter", "f_tol", "b_tol", "f_eps", "b_eps", "logging", "args", "torch_version", NULL};

static void read_norm(struct deq_import_job *j, struct deq_fields *f)
{
    struct deq_entries *e = &j->entries;
    const json_t *norm = deq_fields_take(f, "norm", false);
    const char *name = json_string_value(norm);
    if (norm && (!name || (strcmp(name, "weight_norm") && strcmp(name, "none"))))
        f->rc = deq_fail(f->err, DEQ_EFORMAT,
                         "%s: norm: \"%s\" is not supported, expected null or weight_norm (spectral norm: fold it "
                         "first with torchdeq.norm.remove_norm and save again)", f->file, name ? name : "?");
    e->weight_norm.clip_value = e->weight_norm.target_norm = 1;
    deq_fields_bool(f, "norm_no_scale", &e->weight_norm.no_scale);
    deq_fields_bool(f, "norm_clip", &e->weight_norm.clip);
    deq_fields_double(f, "norm_clip_value", 1e-30, 1e30, &e->weight_norm.clip_value);
    deq_fields_double(f, "norm_target_norm", 1e-30, 1e30, &e->weight_norm.target_norm);
}

static void read_vocab(struct deq_import_job *j, struct deq_fields *f)
{
    struct deq_vocab *v = &j->arch->vocab;
    uint32_t n_ties = 0;
    v->head_bias = true;
    v->div_val = 1;
    deq_fields_u32(f, "n_token", true, 2, 1 << 22, &v->size);
    deq_fields_u32(f, "d_model", true, 2, 1 << 14, &v->d_model);
    v->d_embed = v->d_model;
    deq_fields_u32(f, "d_embed", false, 1, 1 << 14, &v->d_embed);
    deq_fields_u32(f, "div_val", false, 1, 1 << 10, &v->div_val);
    deq_fields_u32s(f, "cutoffs", DEQ_CUTOFFS_MAX, 1, v->size - 1, v->cutoffs, &v->n_cutoffs);
    deq_fields_bool(f, "tie_weights", &j->tie_weights);
    deq_fields_bools(f, "tie_projs", DEQ_CUTOFFS_MAX + 1, j->tie_projs, &n_ties);
}

static void arguments(struct deq_import_job *j, struct deq_fields *f)
{
    struct deq_transformer_arch *a = (struct deq_transformer_arch *)j->arch;
    bool pre = false;
    uint32_t steps = DEFAULT_STEPS;
    j->tie_weights = true;
    read_vocab(j, f);
    deq_fields_u32(f, "n_head", true, 1, 1024, &a->n_head);
    deq_fields_u32(f, "d_head", true, 1, 1024, &a->d_head);
    deq_fields_u32(f, "d_inner", true, 1, 1 << 18, &a->d_inner);
    if (is_lm(j))
        deq_fields_u32(f, "n_layer", false, 1, DEQ_BLOCKS_MAX, &a->n_block);
    else
        (void)deq_fields_take(f, "n_layer", false); /* of the network that it is compared with */
    deq_fields_u32(f, "tgt_len", false, 1, 1 << 16, &a->base.segment_len);
    deq_fields_u32(f, "mem_len", false, 0, 1 << 16, &a->base.segment_memory);
    deq_fields_u32(f, "local_size", false, 0, 1 << 16, &a->attn_window);
    deq_fields_u32(f, "f_thres", false, 1, 100000, &steps);
    deq_fields_u32(f, "f_max_iter", false, 1, 100000, &steps);
    deq_fields_bool(f, "pre_lnorm", &pre);
    read_norm(j, f);
    if (!a->attn_window)
        a->attn_window = DEFAULT_HORIZON;
    a->norm_affine = is_lm(j);
    a->norm = is_lm(j) ? DEQ_NORM_PRE_SUB : !pre ? DEQ_NORM_POST : is_seq(j) ? DEQ_NORM_PRE_LN : DEQ_NORM_PRE;
    if (is_lm(j))
        deq_source_serve_steps(&a->base, steps);
    else
        deq_source_serve_equilibrium(&a->base);
    if (!f->rc && !is_lm(j) && (size_t)a->n_head * a->d_head != a->base.vocab.d_model)
        f->rc = deq_fail(f->err, DEQ_EFORMAT,
                         "%s: n_head: %u heads of d_head %u are not d_model %u, which this model's injection needs",
                         f->file, a->n_head, a->d_head, a->base.vocab.d_model);
}

/* --- The vocabulary's both ends --- */

/* The source has one matrix for all clusters where the embeddings have one width. */
static bool by_cluster(const struct deq_vocab *v)
{
    return v->div_val > 1;
}

static enum deq_rc ties(struct deq_import_job *j)
{
    struct deq_vocab *v = &j->arch->vocab;
    struct deq_entries *e = &j->entries;
    enum deq_rc rc = DEQ_OK;
    const unsigned n = by_cluster(v) ? deq_clusters(v) : 1;
    char x[DEQ_ENTRY_NAME], y[DEQ_ENTRY_NAME];
    for (unsigned c = 0; c < n && !rc; c++) {
        bool equal = true;
        snprintf(x, sizeof x, "word_emb.emb_layers.%u.weight", c);
        snprintf(y, sizeof y, "crit.out_layers.%u.weight", c);
        const size_t rows = by_cluster(v) ? deq_cluster_size(v, c) : v->size;
        rc = deq_entries_same(e, x, y, DEQ_SHAPE2(rows, deq_cluster_embed(v, c)), &equal);
        v->head_untied = v->head_untied || !equal;
        if (!rc && !equal && j->tie_weights)
            deq_entries_note(e, "%s differs from %s, though tie_weights says they are one: both are kept", y, x);
    }
    for (unsigned c = 0; c < deq_clusters(v) && !rc && deq_projects(v); c++) {
        bool equal = true;
        snprintf(x, sizeof x, "word_emb.emb_projs.%u.weight", by_cluster(v) ? c : 0);
        snprintf(y, sizeof y, "crit.out_projs.%u.weight", c);
        rc = deq_entries_same(e, x, y, DEQ_SHAPE2(v->d_model, deq_cluster_embed(v, c)), &equal);
        v->proj_untied[c] = !equal;
        if (!rc && !equal && j->tie_projs[c])
            deq_entries_note(e, "%s differs from %s, though tie_projs says they are one: both are kept", y, x);
    }
    return rc;
}

static enum deq_rc read_words(struct deq_import_job *j, const struct deq_vocabulary *w)
{
    const struct deq_vocab *v = &j->arch->vocab;
    enum deq_rc rc = DEQ_OK;
    char name[DEQ_ENTRY_NAME];
    if (!by_cluster(v)) {
        rc = deq_source_by_cluster(j, "word_emb.emb_layers.0.weight", deq_cluster_embed(v, 0), w->embed);
        if (!rc && deq_source_wants(j, &w->head[0]))
            rc = deq_source_by_cluster(j, "crit.out_layers.0.weight", deq_cluster_embed(v, 0), w->head);
        return rc ? rc : deq_source_copy(j, &w->head_bias, 0, "crit.out_layers.0.bias", DEQ_SHAPE1(v->size));
    }
    for (unsigned c = 0; c < deq_clusters(v) && !rc; c++) {
        const size_t n = deq_cluster_size(v, c), E = deq_cluster_embed(v, c);
        snprintf(name, sizeof name, "word_emb.emb_layers.%u.weight", c);
        rc = deq_source_copy(j, &w->embed[c], 0, name, DEQ_SHAPE2(n, E));
        snprintf(name, sizeof name, "crit.out_layers.%u.weight", c);
        if (!rc && deq_source_wants(j, &w->head[c]))
            rc = deq_source_copy(j, &w->head[c], 0, name, DEQ_SHAPE2(n, E));
        snprintf(name, sizeof name, "crit.out_layers.%u.bias", c);
        if (!rc)
            rc = deq_source_copy(j, &w->head_bias, deq_cluster_begin(v, c), name, DEQ_SHAPE1(n));
    }
    return rc;
}

static enum deq_rc read_vocabulary(struct deq_import_job *j, struct deq_vocabulary *w)
{
    const struct deq_vocab *v = &j->arch->vocab;
    char name[DEQ_ENTRY_NAME];
    enum deq_rc rc = read_words(j, w);
    for (unsigned c = 0; c < deq_clusters(v) && !rc; c++) {
        const struct deq_entry_shape shape = DEQ_SHAPE2(v->d_model, deq_cluster_embed(v, c));
        snprintf(name, sizeof name, "word_emb.emb_projs.%u.weight", by_cluster(v) ? c : 0);
        if (deq_source_wants(j, &w->embed_proj[c]))
            rc = deq_source_copy(j, &w->embed_proj[c], 0, name, shape);
        snprintf(name, sizeof name, "crit.out_projs.%u.weight", c);
        if (!rc && deq_source_wants(j, &w->head_proj[c]))
            rc = deq_source_copy(j, &w->head_proj[c], 0, name, shape);
    }
    return rc || !v->n_cutoffs ? rc : deq_source_tails(j, "crit.cluster_weight", "crit.cluster_bias", w);
}

/* --- The cell --- */

/* Rows by head, [H, (q k v), Dh], to rows by kind, [(q k v), H, Dh]; each of `cols` numbers, in the second half of the
 * scratch. */
static void by_kind(struct deq_import_job *j, float *x, size_t cols)
{
    const struct deq_transformer_arch *a = deq_transformer_arch(j->arch);
    const size_t H = a->n_head, Dh = a->d_head, n = 3 * H * Dh * cols;
    float *scratch = j->entries.scratch;
    memcpy(scratch, x, n * sizeof(float));
    for (size_t h = 0; h < H; h++)
        for (size_t k = 0; k < 3; k++)
            memcpy(x + (k * H + h) * Dh * cols, scratch + (h * 3 + k) * Dh * cols, Dh * cols * sizeof(float));
}

static enum deq_rc read_block(struct deq_import_job *j, unsigned l)
{
    const struct deq_transformer_arch *a = deq_transformer_arch(j->arch);
    struct deq_block_weights *b = &deq_transformer_weights(j->weights)->block[l];
    float *x = j->entries.scratch + j->entries.half;
    const size_t D = a->base.vocab.d_model, H = a->n_head, Dh = a->d_head, HD = H * Dh, F = a->d_inner;
    const char *inject = is_lm(j) ? "injection" : "inject_conv";
    char attn[DEQ_ENTRY_NAME / 2], ffn[DEQ_ENTRY_NAME / 2], name[DEQ_ENTRY_NAME];
    snprintf(attn, sizeof attn, is_lm(j) ? "func.dec_attn.%u" : "func.dec_attn", l);
    snprintf(ffn, sizeof ffn, is_lm(j) ? "func.pos_ff.%u" : "func.pos_ff", l);
    const struct {
        const char *of, *part;
        bool normed;       /* a matrix that may have weight norm; part is without ".weight" */
        size_t rows, cols; /* cols 0: a vector */
        float **to;        /* which the architecture may not have: a norm without weights */
        bool by_head;      /* rows of q, k, v, of torchdeq-lm */
    } parts[] = {
        {inject, "", true, 3 * HD, D, &b->inject_w, is_lm(j)},
        {inject, ".bias", false, 3 * HD, 0, &b->inject_b, is_lm(j)},
        {attn, ".qkv_net", true, 3 * HD, D, &b->qkv_w, is_lm(j)},
        {attn, ".r_net", true, HD, D, &b->rel_w, false},
        {attn, ".o_net", true, D, HD, &b->out_w, false},
        {attn, ".o_net.bias", false, D, 0, &b->out_b, false},
        {ffn, ".ff1_net", true, F, D, &b->up_w, false},
        {ffn, ".ff1_net.bias", false, F, 0, &b->up_b, false},
        {ffn, ".ff2_net", true, D, F, &b->down_w, false},
        {ffn, ".ff2_net.bias", false, D, 0, &b->down_b, false},
        {attn, ".r_w_bias", false, H, Dh, &b->r_w, false},
        {attn, ".r_r_bias", false, H, Dh, &b->r_r, false},
        {attn, ".ln1.weight", false, D, 0, &b->attn_norm_g, false},
        {attn, ".ln1.bias", false, D, 0, &b->attn_norm_b, false},
        {attn, ".ln2.weight", false, HD, 0, &b->sub_norm_g, false},
        {attn, ".ln2.bias", false, HD, 0, &b->sub_norm_b, false},
        {ffn, ".ln.weight", false, D, 0, &b->ffn_norm_g, false},
        {ffn, ".ln.bias", false, D, 0, &b->ffn_norm_b, false},
    };
    enum deq_rc rc = DEQ_OK;
    for (size_t i = 0; i < DEQ_COUNT(parts) && !rc; i++) {
        const size_t rows = parts[i].rows, cols = parts[i].cols;
        if (!deq_source_wants(j, parts[i].to))
            continue;
        snprintf(name, sizeof name, "%s%s", parts[i].of, parts[i].part);
        rc = parts[i].normed ? deq_entries_matrix(&j->entries, name, rows, cols, x)
                             : deq_entries_read(&j->entries, name, cols ? DEQ_SHAPE2(rows, cols) : DEQ_SHAPE1(rows), x);
        if (!rc && parts[i].by_head)
            by_kind(j, x, cols ? cols : 1);
        if (!rc)
            rc = deq_source_put(j, parts[i].to, 0, rows * (cols ? cols : 1), x);
    }
    return rc;
}

static enum deq_rc weights(struct deq_import_job *j)
{
    enum deq_rc rc = deq_entries_room(&j->entries);
    if (!rc)
        rc = read_vocabulary(j, &deq_transformer_weights(j->weights)->vocabulary);
    for (unsigned l = 0; l < deq_transformer_arch(j->arch)->n_block && !rc; l++)
        rc = read_block(j, l);
    /* the sinusoids' frequencies, which follow from d_model */
    return rc ? rc : deq_entries_pass(&j->entries, "pos_emb.inv_freq", DEQ_SHAPE1(j->arch->vocab.d_model / 2));
}

/* --- What is told --- */

static const char *variant_locuslab(const struct deq_import_job *j)
{
    const bool post = deq_transformer_arch(j->arch)->norm == DEQ_NORM_POST;
    return post ? "locuslab/deq, post-norm" : "locuslab/deq, pre-norm";
}

static const char *variant_seq(const struct deq_import_job *j)
{
    const bool post = deq_transformer_arch(j->arch)->norm == DEQ_NORM_POST;
    return post ? "torchdeq deq-seq, post-norm" : "torchdeq deq-seq, pre-norm";
}

static const char *variant_lm(const struct deq_import_job *j)
{
    (void)j;
    return "torchdeq deq-lm";
}

static void card(const struct deq_arch *arch, struct deq_buf *b)
{
    static const char *const norms[] = {"post", "pre", "pre_sub", "pre_ln"};
    const struct deq_transformer_arch *a = deq_transformer_arch(arch);
    deq_buf_fmt(b, "%u block%s, D %u, %u heads of %u, FFN %u, norm `%s`, attention window %u", a->n_block,
                a->n_block == 1 ? "" : "s", arch->vocab.d_model, a->n_head, a->d_head, a->d_inner, norms[a->norm],
                a->attn_window);
}

#define TRANSFORMER \
    .what = "deep equilibrium transformer", .kind = &deq_transformer_kind, .anchor = "word_emb.emb_layers.0.weight", \
    .others = others, .arguments = arguments, .ties = ties, .weights = weights, .card = card
const struct deq_source deq_source_locuslab_transformer = {.model_type = "locuslab-deq-transformer",
                                                           .variant = variant_locuslab, TRANSFORMER};
const struct deq_source deq_source_torchdeq_seq = {.model_type = "torchdeq-seq", .variant = variant_seq, TRANSFORMER};
const struct deq_source deq_source_torchdeq_lm = {.model_type = "torchdeq-lm", .variant = variant_lm, TRANSFORMER};
