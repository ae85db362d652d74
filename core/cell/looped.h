/* The looped kind: a transformer with layers before and after a weight-tied core that is iterated to its fixed point,
 * or a fixed number of times (Attractor, arXiv 2605.12466; Parcae, arXiv 2604.12946; Huginn, Geiping et al. 2025).
 *
 *     e = prelude(s_e E[token]);  prelude_norm: e = rms(e)           once a token, with keys and values of its own
 *     a = injection(z, e):   PROPOSAL  z + e      ADD  z + e        the map of the fixed point:  f(z) = core(a),
 *                            DIAGONAL  z * exp(-dt exp(A)) + dt * (B e),  dt = softplus(b)     PROPOSAL: core(a) - z
 *                            LINEAR    W_z z + W_e e
 *     y = W_C z (core_output);  y = rms(y; final norm) (core_norm);  y = coda(y)
 *     logits = s_l W_head rms(y; final norm);   logit_softcap c: c tanh(logits / c)
 *
 * Iterates of PROPOSAL begin at e, the prelude's proposal; of the others at zero. A position's keys and values in the
 * core are those of its last evaluation: one set, whatever the depth. The layer, with
 * rms(x; g) = g x / sqrt(mean x^2 + eps):
 *
 *     PRE       x = x + g_a * attn(rms(x; n1));   x = x + g_f * ffn(rms(x; n2))     g = gamma_max sigmoid(raw), or 1
 *     SANDWICH  x = rms(attn(rms(x; n1)) + x; n2);   x = rms(ffn(rms(x; n3)) + x; n4)
 *     attn      q, k, v = W x (+ bias of q, k);  rope;  qk_norm: q, k = rms(q), rms(k) by head, without gains
 *               v = v + 2 sigmoid(W_g x[0 .. 31]) * VE[token], a gate a head, where the layer has value embeddings
 *               W_o softmax(q . k / sqrt(d)) v, causal; head h reads keys and values of head h * Hkv / H
 *     ffn       RELU2  W_2 (relu(W_1 x)^2 / 2);      SWIGLU  W_2 (silu(a) * b),  a, b = W_1 x
 *     rope      pair i turns by position * base^(-2i/d): neighbours (2i, 2i+1), or halves (i, i + d/2)
 *
 * looped.c is the cell on rows (serving), looped_seq.c the form on whole sequences (training, scoring);
 * tests/unit/test_looped.c compares the two. */
#ifndef DEQ_CELL_LOOPED_H
#define DEQ_CELL_LOOPED_H

#include "core/cell/kind.h"
#include "core/cell/predictor.h"
#include "core/cell/vocabulary.h"
#include "core/math/kern.h"

enum { DEQ_LAYERS_MAX = 64, DEQ_VALUE_GATE_IN = 32 };

enum deq_layer_norm { DEQ_LAYER_PRE, DEQ_LAYER_SANDWICH };
enum deq_layer_ffn { DEQ_FFN_RELU2, DEQ_FFN_SWIGLU };
enum deq_injection { DEQ_INJECT_PROPOSAL, DEQ_INJECT_ADD, DEQ_INJECT_DIAGONAL, DEQ_INJECT_LINEAR };
enum deq_part { DEQ_PRELUDE, DEQ_CORE, DEQ_CODA, DEQ_PARTS };

struct deq_looped_arch {
    struct deq_arch base;
    uint32_t n_head, n_kv_head; /* H; Hkv, which divides it, 0: H */
    uint32_t d_head;            /* d, even */
    uint32_t d_inner;           /* F */
    uint32_t core_size;         /* S: width of the state; 0: hidden_size D */
    uint32_t core_head;         /* the core's own H (= Hkv); 0: as the other layers */
    uint32_t core_inner;        /* the core's own F; 0: as the others */
    uint32_t n_layer[DEQ_PARTS];
    uint32_t max_positions;     /* no position lies past it */
    enum deq_layer_norm norm;
    enum deq_layer_ffn ffn;
    enum deq_injection injection;
    bool qk_norm, qk_bias;
    bool core_gates;            /* layers of the core have g_a, g_f */
    bool prelude_norm, core_output, core_norm;
    uint32_t value_embeds[DEQ_PARTS]; /* layer i of a part has value embeddings: bit i */
    float gamma_max;
    float embed_scale, logit_scale; /* s_e, s_l */
    float logit_softcap;            /* 0: none */
    float norm_eps, qk_norm_eps;
    enum deq_rope_pairs rope_pairs;
    float rope_base;                /* of a model that is trained here; an imported one has its authors' table */
};

extern const struct deq_kind deq_looped_kind;

/* Shape of the layers of one part. */
struct deq_layer_shape {
    size_t width;                   /* D, or S of the core */
    size_t n_head, n_kv_head, d_head, d_inner;
    bool gates;
};

struct deq_layer_weights {
    float *norm[4];        /* n1 .. n4 [width]; PRE has two */
    float *qkv_w;          /* [(H + 2 Hkv) d, width]   rows: all heads' q, then k, then v */
    float *qk_bias;        /* [(H + Hkv) d] or NULL */
    float *out_w;          /* [width, H d] */
    float *up_w;           /* [F, width], of SWIGLU [2F, width]: a, then b */
    float *down_w;         /* [width, F] */
    float *gate_attn, *gate_ffn; /* raw [width] or NULL */
    float *value_gate;     /* W_g [Hkv, DEQ_VALUE_GATE_IN] or NULL */
    float *value_embed;    /* VE [V, Hkv d] or NULL */
    struct {
        struct deq_packed qkv, out, up, down, value_embed;
    } packed;
};

struct deq_looped_weights {
    struct deq_weights base;
    struct deq_looped_arch arch;
    struct deq_vocabulary vocabulary;
    struct deq_layer_weights layer[DEQ_PARTS][DEQ_LAYERS_MAX];
    float *rope;                /* [max_positions, d]: cosine and sine of pair 0, of pair 1, .. ; never trained */
    float *prelude_norm;        /* [D] or NULL */
    float *decay_log, *step_bias; /* A, b [S], of DIAGONAL */
    float *inject_w;            /* B or W_e [S, D] */
    float *state_w;             /* W_z [S, S], of LINEAR */
    float *core_out_w;          /* W_C [D, S] or NULL */
    float *final_norm;          /* [D] */
    struct deq_predictor predictor;
    struct {
        struct deq_packed inject, state, core_out;
    } packed;
};

static inline const struct deq_looped_arch *deq_looped_arch(const struct deq_arch *a)
{
    return (const struct deq_looped_arch *)a;
}
static inline struct deq_looped_weights *deq_looped_weights(struct deq_weights *w)
{
    return (struct deq_looped_weights *)w;
}
/* S, the width of a state */
static inline size_t deq_looped_state(const struct deq_looped_arch *a)
{
    return a->core_size ? a->core_size : a->base.vocab.d_model;
}
struct deq_layer_shape deq_looped_layer(const struct deq_looped_arch *a, enum deq_part part);

/* What the vectors of the weights stand for, n numbers each: gates gamma_max sigmoid(raw); of DIAGONAL decay
 * exp(-dt exp(A)) and step dt = softplus(b). */
void deq_looped_gates(const struct deq_looped_arch *a, const float *raw, size_t n, float *gate);
void deq_looped_decay(const float *decay_log, const float *step_bias, size_t n, float *decay, float *step);

/* The table of turns, as PyTorch's code computes it: frequency, then angle, each rounded to float32.
 * out [positions, d_head] */
void deq_rope_table(size_t positions, size_t d_head, float base, float *out);

/* The kind's row ops (kind.h). */
struct deq_cell deq_looped_shape(const struct deq_arch *a, size_t max_rows, uint32_t n_pages, unsigned threads);
enum deq_rc deq_looped_open(const struct deq_weights *w, size_t max_rows, uint32_t n_pages, struct deq_pool *pool,
                            struct deq_cell **ret, struct deq_err *err);

#endif
