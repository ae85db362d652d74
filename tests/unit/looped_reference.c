#include "tests/unit/looped_reference.h"

#include <math.h>
#include <string.h>

#include "core/base/rng.h"

enum { QKV_MAX = 160, ACT_MAX = 128 };

/* --- Models --- */

const char *const looped_variant_names[LOOPED_VARIANTS] = {"attractor", "parcae", "parcae-linear", "huginn", "grouped",
                                                           "bare"};

static void families(struct deq_looped_arch *a, int i)
{
    if (i == 0) { /* Attractor */
        a->n_layer[DEQ_PRELUDE] = 2;
        a->n_layer[DEQ_CORE] = 2;
        a->qk_norm = a->core_gates = true;
        a->gamma_max = 0.75f;
        a->embed_scale = 5.5f;
        a->logit_scale = 0.3f;
    } else if (i == 1) { /* Parcae */
        a->n_layer[DEQ_PRELUDE] = a->n_layer[DEQ_CORE] = a->n_layer[DEQ_CODA] = 2;
        a->injection = DEQ_INJECT_DIAGONAL;
        a->core_size = 48;
        a->core_head = 3;
        a->core_inner = 56;
        a->qk_norm = a->prelude_norm = a->core_output = true;
        a->value_embeds[DEQ_PRELUDE] = 2;
        a->value_embeds[DEQ_CORE] = 3;
        a->value_embeds[DEQ_CODA] = 1;
        a->base.vocab.head_untied = true;
    } else if (i == 2) { /* the same with another injection */
        a->n_layer[DEQ_PRELUDE] = a->n_layer[DEQ_CORE] = 1;
        a->injection = DEQ_INJECT_LINEAR;
        a->core_size = 40;
        a->qk_norm = a->core_output = true;
        a->value_embeds[DEQ_PRELUDE] = 1;
        a->logit_softcap = 1.5f;
    } else { /* Huginn */
        a->n_layer[DEQ_PRELUDE] = a->n_layer[DEQ_CODA] = 1;
        a->n_layer[DEQ_CORE] = 2;
        a->injection = DEQ_INJECT_LINEAR;
        a->norm = DEQ_LAYER_SANDWICH;
        a->ffn = DEQ_FFN_SWIGLU;
        a->qk_bias = a->core_norm = true;
        a->norm_eps = 1e-6f;
    }
}

struct deq_looped_arch *looped_variant(int i)
{
    struct deq_looped_arch *a = (struct deq_looped_arch *)deq_arch_new(&deq_looped_kind);
    if (!a)
        return NULL;
    a->base.vocab.size = 41;
    a->base.vocab.d_model = 36; /* neither a multiple of a vector nor of a panel */
    a->base.serving.row_window = 4;
    a->n_head = 4;
    a->d_head = 10;
    a->d_inner = 44;
    a->max_positions = 32;
    if (i < 4) {
        families(a, i);
    } else if (i == 4) { /* groups of heads, halves, PRE with SwiGLU, x + e, a coda, a predictor */
        a->n_layer[DEQ_PRELUDE] = a->n_layer[DEQ_CORE] = a->n_layer[DEQ_CODA] = 1;
        a->n_kv_head = 2;
        a->injection = DEQ_INJECT_ADD;
        a->ffn = DEQ_FFN_SWIGLU;
        a->rope_pairs = DEQ_ROPE_HALVES;
        a->qk_norm = a->qk_bias = true;
        a->value_embeds[DEQ_CORE] = a->value_embeds[DEQ_CODA] = 1;
        a->base.predictor_hidden = 18;
    } else { /* no prelude at all */
        a->n_layer[DEQ_CORE] = 1;
        a->n_kv_head = 1;
        a->norm = DEQ_LAYER_SANDWICH;
    }
    return a;
}

void looped_random_weights(struct deq_weights *w)
{
    for (size_t i = 0; i < w->n_params; i++) {
        const struct deq_param *p = &w->params[i];
        const double size = p->rows ? sqrt((double)p->cols) : 3, mean = p->role == DEQ_ROLE_GAIN;
        for (size_t j = 0; p->role != DEQ_ROLE_FIXED && j < p->count; j++)
            w->data[p->offset + j] = (float)(deq_rng_normal(9, i, j) / size + mean);
    }
}

/* --- The equations --- */

static void linear(const float *w, size_t n, size_t k, const double *x, double *y)
{
    for (size_t i = 0; i < n; i++) {
        y[i] = 0;
        for (size_t j = 0; j < k; j++)
            y[i] += (double)w[i * k + j] * x[j];
    }
}

/* y may be x */
static void rms(const double *x, size_t n, double eps, const float *gain, double *y)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += x[i] * x[i];
    const double by = 1 / sqrt(sum / (double)n + eps);
    for (size_t i = 0; i < n; i++)
        y[i] = x[i] * by * (gain ? (double)gain[i] : 1);
}

static double sigmoid(double x)
{
    return 1 / (1 + exp(-x));
}

static void turn(double *x, const float *table, size_t d, enum deq_rope_pairs pairs)
{
    for (size_t i = 0; i < d / 2; i++) {
        double *a = pairs == DEQ_ROPE_HALVES ? x + i : x + 2 * i, *b = pairs == DEQ_ROPE_HALVES ? x + d / 2 + i : a + 1;
        const double c = (double)table[2 * i], s = (double)table[2 * i + 1], before = *a;
        *a = before * c - *b * s;
        *b = *b * c + before * s;
    }
}

struct layer {
    const struct deq_looped_weights *w;
    const struct deq_layer_weights *l;
    struct deq_layer_shape s;
    double qkv[LOOPED_T_MAX][QKV_MAX]; /* by position: q, k, v */
};

static void queries_keys_values(struct layer *y, const double *x, size_t t, uint32_t token)
{
    const struct deq_looped_arch *a = &y->w->arch;
    const size_t d = y->s.d_head, Q = y->s.n_head * d, K = y->s.n_kv_head * d;
    double n[LOOPED_W_MAX], *q = y->qkv[t], *v = q + Q + K;
    rms(x, y->s.width, (double)a->norm_eps, y->l->norm[0], n);
    linear(y->l->qkv_w, Q + 2 * K, y->s.width, n, q);
    for (size_t i = 0; a->qk_bias && i < Q + K; i++)
        q[i] += (double)y->l->qk_bias[i];
    for (size_t h = 0; h < y->s.n_head + y->s.n_kv_head; h++) {
        turn(q + h * d, y->w->rope + t * d, d, a->rope_pairs);
        if (a->qk_norm)
            rms(q + h * d, d, (double)a->qk_norm_eps, NULL, q + h * d);
    }
    for (size_t i = 0; y->l->value_gate && i < K; i++) {
        double gate;
        linear(y->l->value_gate + i / d * DEQ_VALUE_GATE_IN, 1, DEQ_VALUE_GATE_IN, n, &gate);
        v[i] += 2 * sigmoid(gate) * (double)y->l->value_embed[token * K + i];
    }
}

static void attention(const struct layer *y, size_t t, double *out)
{
    const size_t d = y->s.d_head, H = y->s.n_head, Hkv = y->s.n_kv_head;
    for (size_t h = 0; h < H; h++) {
        const size_t key = (H + h * Hkv / H) * d, value = key + Hkv * d;
        double sum = 0;
        memset(out + h * d, 0, d * sizeof *out);
        for (size_t j = 0; j <= t; j++) {
            double s = 0;
            for (size_t i = 0; i < d; i++)
                s += y->qkv[t][h * d + i] * y->qkv[j][key + i];
            const double weight = exp(s / sqrt((double)d));
            sum += weight;
            for (size_t i = 0; i < d; i++)
                out[h * d + i] += weight * y->qkv[j][value + i];
        }
        for (size_t i = 0; i < d; i++)
            out[h * d + i] /= sum;
    }
}

static void feed_forward(const struct layer *y, const double *n, double *out)
{
    const bool swiglu = y->w->arch.ffn == DEQ_FFN_SWIGLU;
    const size_t F = y->s.d_inner;
    double act[ACT_MAX];
    linear(y->l->up_w, swiglu ? 2 * F : F, y->s.width, n, act);
    for (size_t i = 0; i < F; i++)
        act[i] = swiglu ? act[i] * sigmoid(act[i]) * act[F + i] : act[i] > 0 ? act[i] * act[i] / 2 : 0;
    linear(y->l->down_w, y->s.width, F, act, out);
}

/* x += g branch; SANDWICH: then normed */
static void add_branch(const struct layer *y, double *x, const double *branch, const float *raw, const float *norm)
{
    for (size_t i = 0; i < y->s.width; i++)
        x[i] += branch[i] * (y->s.gates ? (double)y->w->arch.gamma_max * sigmoid((double)raw[i]) : 1);
    if (y->w->arch.norm == DEQ_LAYER_SANDWICH)
        rms(x, y->s.width, (double)y->w->arch.norm_eps, norm, x);
}

static void layers(const struct deq_looped_weights *w, enum deq_part part, const uint32_t *tokens, size_t n,
                   double x[][LOOPED_W_MAX])
{
    const bool sandwich = w->arch.norm == DEQ_LAYER_SANDWICH;
    for (unsigned i = 0; i < w->arch.n_layer[part]; i++) {
        struct layer y = {.w = w, .l = &w->layer[part][i], .s = deq_looped_layer(&w->arch, part)};
        double out[QKV_MAX], branch[LOOPED_W_MAX], normed[LOOPED_W_MAX];
        for (size_t t = 0; t < n; t++)
            queries_keys_values(&y, x[t], t, tokens[t]);
        for (size_t t = 0; t < n; t++) {
            attention(&y, t, out);
            linear(y.l->out_w, y.s.width, y.s.n_head * y.s.d_head, out, branch);
            add_branch(&y, x[t], branch, y.l->gate_attn, y.l->norm[1]);
            rms(x[t], y.s.width, (double)w->arch.norm_eps, y.l->norm[sandwich ? 2 : 1], normed);
            feed_forward(&y, normed, branch);
            add_branch(&y, x[t], branch, y.l->gate_ffn, y.l->norm[3]);
        }
    }
}

static void prelude(const struct deq_looped_weights *w, const uint32_t *tokens, struct looped_reference *r)
{
    const struct deq_looped_arch *a = &w->arch;
    const size_t D = a->base.vocab.d_model, S = deq_looped_state(a);
    for (size_t t = 0; t < r->t; t++)
        for (size_t i = 0; i < D; i++)
            r->e[t][i] = (double)a->embed_scale * (double)w->vocabulary.embed[0][tokens[t] * D + i];
    layers(w, DEQ_PRELUDE, tokens, r->t, r->e);
    for (size_t t = 0; t < r->t; t++) {
        if (a->prelude_norm)
            rms(r->e[t], D, (double)a->norm_eps, w->prelude_norm, r->e[t]);
        memcpy(r->in[t], r->e[t], sizeof r->in[t]);
        if (w->inject_w)
            linear(w->inject_w, S, D, r->e[t], r->in[t]);
        for (size_t i = 0; w->step_bias && i < S; i++)
            r->in[t][i] *= log1p(exp((double)w->step_bias[i]));
    }
}

static void core(const struct deq_looped_weights *w, const uint32_t *tokens, const float *z,
                 struct looped_reference *r)
{
    const size_t S = deq_looped_state(&w->arch);
    for (size_t t = 0; t < r->t; t++) {
        double from[LOOPED_W_MAX];
        for (size_t i = 0; i < S; i++)
            from[i] = (double)z[t * S + i];
        for (size_t i = 0; w->decay_log && i < S; i++)
            from[i] *= exp(-log1p(exp((double)w->step_bias[i])) * exp((double)w->decay_log[i]));
        if (w->state_w)
            linear(w->state_w, S, S, from, r->f[t]);
        else
            memcpy(r->f[t], from, sizeof from);
        for (size_t i = 0; i < S; i++)
            r->f[t][i] += r->in[t][i];
    }
    layers(w, DEQ_CORE, tokens, r->t, r->f);
    for (size_t i = 0; w->arch.injection == DEQ_INJECT_PROPOSAL && i < r->t * S; i++)
        r->f[i / S][i % S] -= (double)z[i];
}

static void coda(const struct deq_looped_weights *w, const uint32_t *tokens, const float *z,
                 struct looped_reference *r)
{
    const struct deq_looped_arch *a = &w->arch;
    const size_t D = a->base.vocab.d_model, S = deq_looped_state(a);
    for (size_t t = 0; t < r->t; t++) {
        double from[LOOPED_W_MAX];
        for (size_t i = 0; i < S; i++)
            from[i] = (double)z[t * S + i];
        if (a->core_output)
            linear(w->core_out_w, D, S, from, r->y[t]);
        else
            memcpy(r->y[t], from, sizeof from);
        if (a->core_norm)
            rms(r->y[t], D, (double)a->norm_eps, w->final_norm, r->y[t]);
    }
    layers(w, DEQ_CODA, tokens, r->t, r->y);
    for (size_t t = 0; t < r->t; t++) {
        rms(r->y[t], D, (double)a->norm_eps, w->final_norm, r->y[t]);
        for (size_t i = 0; i < D; i++)
            r->y[t][i] *= (double)a->logit_scale;
    }
}

void looped_reference(const struct deq_weights *base, const uint32_t *tokens, const float *z, size_t t,
                      struct looped_reference *ret)
{
    const struct deq_looped_weights *w = (const struct deq_looped_weights *)base;
    memset(ret, 0, sizeof *ret);
    ret->t = t;
    prelude(w, tokens, ret);
    core(w, tokens, z, ret);
    coda(w, tokens, z, ret);
}

void looped_reference_logits(const struct deq_weights *base, const struct looped_reference *r, size_t t, double *logits)
{
    const struct deq_looped_weights *w = (const struct deq_looped_weights *)base;
    const struct deq_vocab *v = &w->arch.base.vocab;
    const double cap = (double)w->arch.logit_softcap;
    linear(v->head_untied ? w->vocabulary.head[0] : w->vocabulary.embed[0], v->size, v->d_model, r->y[t], logits);
    for (size_t i = 0; cap > 0 && i < v->size; i++)
        logits[i] = cap * tanh(logits[i] / cap);
}
