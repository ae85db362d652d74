#include "models/cli/bench/shape.h"

#include <math.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/base/rng.h"
#include "core/cell/config.h"
#include "core/cell/looped.h"
#include "core/cell/transformer.h"
#include "core/text/wordlevel.h"
#include "models/cli/bench/scratch.h"

enum { POSITIONS = 2048, SEED = 1, PIECE = 1 << 16, DRAWN = 1000003 /* a prime: no rows of a matrix are equal */ };

struct bench_shape {
    const char *name;
    uint32_t vocab, d_model, n_head, d_head, d_inner;
    bool clusters;
    uint32_t n_layer[DEQ_PARTS]; /* of the looped kind */
    enum deq_injection injection;
    float gamma_max;             /* 0: no gates */
};

static const struct bench_shape shapes[] = {
    {"S", 4096, 256, 8, 32, 1024, .clusters = false},
    {"M", 8192, 512, 8, 64, 2048, .clusters = false},
    {"W", 267735, 700, 10, 70, 48000, .clusters = true},
    {"attractor-140m", 32768, 1024, 8, 128, 4096, .n_layer = {7, 1, 0}, .gamma_max = 0.75f},
    {"attractor-770m", 32768, 1280, 10, 128, 5120, .n_layer = {35, 2, 0}, .gamma_max = 0.9f},
    {"parcae-140m", 32768, 768, 6, 128, 3072, .n_layer = {2, 2, 2}, .injection = DEQ_INJECT_DIAGONAL},
};

const struct bench_shape *bench_shape_find(const char *name)
{
    for (size_t i = 0; i < DEQ_COUNT(shapes); i++)
        if (!strcmp(name, shapes[i].name))
            return &shapes[i];
    return NULL;
}

/* --- Architectures --- */

static void be_transformer(const struct bench_shape *s, struct deq_arch *a)
{
    struct deq_transformer_arch *t = (struct deq_transformer_arch *)a;
    a->vocab.head_bias = true;
    if (s->clusters) {
        const uint32_t cutoffs[] = {20000, 40000, 200000};
        a->vocab.n_cutoffs = DEQ_COUNT(cutoffs);
        memcpy(a->vocab.cutoffs, cutoffs, sizeof cutoffs);
        a->vocab.d_embed = s->d_model;
        a->vocab.div_val = 4;
        a->vocab.proj_untied[0] = true;
    }
    a->serving.solver.tol = 1e-3f;
    t->n_head = s->n_head;
    t->d_head = s->d_head;
    t->d_inner = s->d_inner;
    t->n_block = 1;
    t->attn_window = POSITIONS;
    t->norm = DEQ_NORM_POST;
    t->norm_affine = true;
}

static void be_looped(const struct bench_shape *s, struct deq_arch *a)
{
    struct deq_looped_arch *l = (struct deq_looped_arch *)a;
    const bool proposes = s->injection == DEQ_INJECT_PROPOSAL;
    l->n_head = s->n_head;
    l->d_head = s->d_head;
    l->d_inner = s->d_inner;
    l->max_positions = POSITIONS;
    memcpy(l->n_layer, s->n_layer, sizeof l->n_layer);
    l->injection = s->injection;
    l->qk_norm = true;
    l->core_gates = s->gamma_max > 0;
    l->gamma_max = s->gamma_max > 0 ? s->gamma_max : 1;
    l->prelude_norm = l->core_output = !proposes;
    for (unsigned p = 0; p < DEQ_PARTS && !proposes; p++)
        l->value_embeds[p] = 2; /* every other layer */
    a->kind->serving(a, &a->serving);
    /* as the authors evaluate them */
    a->serving.solver = (struct deq_solver_opts){.method = proposes ? DEQ_ANDERSON : DEQ_PICARD, .memory = 5,
                                                 .max_iter = proposes ? 64 : 8, .min_iter = 1,
                                                 .tol = proposes ? 1e-4f : 1e-3f, .beta = 1, .reg = 1e-4f};
    a->serving.numeric = DEQ_CLASS_INT16;
}

struct deq_arch *bench_shape_architecture(const struct bench_shape *s)
{
    const bool looped = s->n_layer[DEQ_CORE] > 0;
    struct deq_arch *a = deq_arch_new(looped ? &deq_looped_kind : &deq_transformer_kind);
    if (!a)
        return NULL;
    a->vocab = (struct deq_vocab){.size = s->vocab, .d_model = s->d_model, .eos_id = -1};
    if (looped)
        be_looped(s, a);
    else
        be_transformer(s, a);
    return a;
}

/* --- Weights --- */

/* Uniform numbers; a matrix of fan-in n and mean square s^2 / n gives outputs of s times its inputs' size, which makes
 * f a contraction. */
static float top_of(const struct deq_param *p)
{
    static const double size[] = {[DEQ_ROLE_EMBED] = 1, [DEQ_ROLE_MATRIX] = 0.3, [DEQ_ROLE_RESIDUAL_OUT] = 0.5,
                                  [DEQ_ROLE_BIAS] = 0.1};
    return (float)(sqrt(3) * size[p->role] / (deq_role_is_matrix(p->role) ? sqrt((double)p->cols) : 1));
}

/* drawn [DRAWN] numbers in -1..1, which come again and again, in every tensor from another one on; piece [PIECE] */
static enum deq_rc put_tensor(struct deq_weights_file *f, const struct deq_param *p, size_t number, const float *drawn,
                              float *piece, struct deq_err *err)
{
    enum deq_rc rc = DEQ_OK;
    size_t at = number * 7919 % DRAWN;
    for (size_t i = 0, n; i < p->count && !rc; i += n) {
        n = DEQ_MIN(p->count - i, (size_t)PIECE);
        for (size_t j = 0; j < n; j++, at = at + 1 < DRAWN ? at + 1 : 0)
            piece[j] = p->role == DEQ_ROLE_GAIN ? 1 : top_of(p) * drawn[at];
        rc = deq_weights_file_put(f, p, i, n, piece, err);
    }
    return rc;
}

/* The one table that is never trained is the looped kind's of turns. */
static enum deq_rc put_turns(struct deq_weights_file *f, const struct deq_param *p, const struct deq_arch *a,
                             struct deq_err *err)
{
    const struct deq_looped_arch *l = deq_looped_arch(a);
    float *turns = DEQ_NEW_ARRAY(float, p->count);
    if (!turns)
        return deq_fail(err, DEQ_ENOMEM, "no memory for %s", p->name);
    deq_rope_table(l->max_positions, l->d_head, l->rope_base, turns);
    const enum deq_rc rc = deq_weights_file_put(f, p, 0, p->count, turns, err);
    deq_free(turns);
    return rc;
}

static enum deq_rc write_weights(const char *path, const struct deq_arch *a, bool bf16, struct deq_err *err)
{
    struct deq_weights *table = NULL;
    struct deq_weights_file *f = NULL;
    float *drawn = DEQ_NEW_ARRAY(float, DRAWN), *piece = DEQ_NEW_ARRAY(float, PIECE);
    enum deq_rc rc = drawn && piece ? deq_weights_table(a, &table, err)
                                    : deq_fail(err, DEQ_ENOMEM, "%s: no memory to make it", path);
    for (size_t i = 0; i < DRAWN && !rc; i++)
        drawn[i] = (float)(2 * deq_rng_uniform(SEED, 0, i) - 1);
    if (!rc)
        rc = deq_weights_create(path, table, bf16, &f, err);
    for (size_t i = 0; f && i < table->n_params && !rc; i++)
        rc = table->params[i].role == DEQ_ROLE_FIXED ? put_turns(f, &table->params[i], a, err)
                                                     : put_tensor(f, &table->params[i], i, drawn, piece, err);
    if (f)
        rc = deq_weights_file_finish(f, rc, err);
    deq_weights_free(table);
    deq_free(drawn);
    deq_free(piece);
    return rc;
}

enum deq_rc bench_shape_write(const struct bench_shape *s, const struct deq_arch *a, const char *dir,
                              struct deq_err *err)
{
    char path[BENCH_SCRATCH_PATH];
    bench_scratch_path(path, dir, "model.safetensors");
    enum deq_rc rc = write_weights(path, a, s->n_layer[DEQ_CORE] > 0, err);
    bench_scratch_path(path, dir, "config.json");
    if (!rc)
        rc = deq_config_save(path, a, NULL, err);
    bench_scratch_path(path, dir, "tokenizer.json");
    if (!rc)
        rc = deq_wordlevel_placeholder(a->vocab.size, path, err);
    return rc;
}
