/* Golden files, as `deq check` reads them, of models of a few numbers and all three kinds: what is taken has every
 * segment from the first token on, and a difference, which is no NaN, for each tensor that was compared. Input: a
 * letter for the model, the file. */
#include "core/score/golden.h"

#include <ctype.h>
#include <math.h>

#include "core/base/mem.h"
#include "core/cell/config.h"
#include "core/score/segment.h"
#include "tests/fuzz/mutate.h"

enum { MODELS = 3, LOOPED = 2, EVALUATIONS = 3, DIGITS_MAX = 2 };

static const char *const configs[MODELS] = {
    "{\"model_type\": \"deq_transformer\", \"vocab_size\": 3, \"hidden_size\": 2, \"num_attention_heads\": 1, "
    "\"head_dim\": 2, \"intermediate_size\": 2, \"num_blocks\": 1, \"attention_window\": 4, \"norm\": \"pre\", "
    "\"deq\": {\"warm_start\": \"zero\"}}",
    "{\"model_type\": \"deq_trellis\", \"vocab_size\": 3, \"hidden_size\": 2, \"state_size\": 3, "
    "\"deq\": {\"warm_start\": \"zero\"}}",
    "{\"model_type\": \"deq_looped\", \"vocab_size\": 3, \"hidden_size\": 4, \"num_attention_heads\": 1, "
    "\"head_dim\": 4, \"intermediate_size\": 2, \"num_prelude_layers\": 1, \"num_core_layers\": 1, \"norm\": \"pre\", "
    "\"max_position_embeddings\": 4096, \"injection\": \"proposal\", \"qk_norm\": true, "
    "\"deq\": {\"warm_start\": \"proposal\"}}",
};

static const struct deq_plain *model_of(unsigned model)
{
    static struct deq_plain known[MODELS];
    struct deq_plain *m = &known[model];
    struct deq_err err;
    uint64_t random = 1;
    if (m->weights)
        return m;
    if (deq_config_parse(configs[model], strlen(configs[model]), "config", &m->arch, &err) ||
        deq_weights_new(m->arch, &m->weights, &err)) {
        fprintf(stderr, "%s\n", err.text);
        abort();
    }
    for (size_t i = 0; i < m->weights->n; i++)
        m->weights->data[i] = (float)(fuzz_next(&random) % 1000) * 1e-3f - 0.5f;
    return m;
}

static struct deq_solver_opts solver_of(const struct deq_plain *m)
{
    struct deq_solver_opts o = deq_golden_solver(m->arch);
    o.max_iter = EVALUATIONS;
    return o;
}

/* A name that asks for hundreds of evaluations costs what it says. */
static bool is_dear(const char *s, size_t n)
{
    size_t digits = 0;
    for (size_t i = 0; i < n; i++) {
        digits = isdigit((unsigned char)s[i]) ? digits + 1 : 0;
        if (digits > DIGITS_MAX && i + 1 < n && s[i + 1] == '.')
            return true;
    }
    return false;
}

static void check(const struct deq_golden_report *r)
{
    double worst = 0;
    FUZZ_HOLDS(r->sequences && r->segments && r->n_tensors >= 2 * r->segments);
    FUZZ_HOLDS(r->evaluations <= EVALUATIONS + 1 && r->evaluations_all >= r->evaluations && r->residual_max >= 0);
    for (size_t i = 0; i < r->n_tensors; i++) {
        FUZZ_HOLDS(memchr(r->tensor[i].name, 0, sizeof r->tensor[i].name) && r->tensor[i].error >= 0);
        worst = fmax(worst, i < 2 * r->segments ? r->tensor[i].error : 0);
    }
    FUZZ_HOLDS(worst == fmax(r->z_error, r->logprob_error));
}

FUZZ(golden)
{
    static const uint32_t depths[] = {1, 2};
    const unsigned model = fuzz_letter(&data, &n, MODELS);
    const struct deq_plain *m = model_of(model);
    const struct deq_solver_opts o = solver_of(m);
    struct deq_golden_report r;
    struct deq_cache_gaps gaps[DEQ_COUNT(depths)];
    struct deq_err err;
    if (is_dear((const char *)data, n))
        return;
    const char *path = fuzz_file(data, n);
    enum deq_rc rc = deq_golden_compare(m, path, &o, NULL, NULL, &r, &err);
    if (rc) {
        fuzz_check_err(rc, &err);
    } else {
        check(&r);
        deq_golden_report_free(&r);
    }
    rc = deq_golden_caches(m, path, &o, depths, DEQ_COUNT(depths), gaps, &err);
    if (rc)
        fuzz_check_err(rc, &err);
    FUZZ_HOLDS(!rc == (model == LOOPED) || rc == DEQ_EFORMAT || rc == DEQ_EINVAL || rc == DEQ_ENUMERIC);
}

#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
enum { TENSORS_MAX = 16, TOKENS_MAX = 8 };

struct begun {
    struct deq_tensor_out t[TENSORS_MAX];
    char name[TENSORS_MAX][DEQ_GOLDEN_NAME];
    size_t n;
};

static void add(struct begun *b, enum deq_dtype type, uint64_t streams, uint64_t t, uint64_t last, const char *name)
{
    snprintf(b->name[b->n], sizeof b->name[b->n], "%s", name);
    b->t[b->n] = (struct deq_tensor_out){b->name[b->n], type, last ? 3 : 2, {streams, t, last}, NULL};
    b->n++;
}

/* One of zeros, of some sequences and segments, and of what looped models have besides. */
static size_t begin_with(unsigned model, uint64_t *random, uint8_t *data, size_t max)
{
    static const char *const states[] = {"start",      "steps2.state",  "loop1.state",
                                         "zero.state", "stream2.state", "bf16eps.state"},
                             *const others[] = {"steps1.logprobs", "r3.logprobs", "zero.logprobs", "stream.logprobs"};
    const struct deq_plain *m = model_of(model);
    const struct deq_solver_opts o = solver_of(m);
    const size_t streams = 1 + fuzz_next(random) % 2, V = m->arch->vocab.size;
    size_t all = 0, bytes = 0;
    char name[DEQ_GOLDEN_NAME];
    struct deq_segment *s;
    struct begun b = {.n = 1};
    struct deq_buf head;
    FUZZ_HOLDS(!deq_segment_new(m->arch, m->weights, 1, 1, 0, &o, &s, NULL));
    const size_t S = s->seq->shown_dim, D = s->seq->state_dim;
    deq_segment_free(s);
    for (size_t i = 0, t = TOKENS_MAX; i < 1 + fuzz_next(random) % 3 && all < TOKENS_MAX; i++, all += t) {
        t = fuzz_piece(random, t, TOKENS_MAX - all);
        snprintf(name, sizeof name, "segment%zu.equilibrium", i);
        add(&b, DEQ_F32, streams, t, S, name);
        snprintf(name, sizeof name, "segment%zu.logprobs", i);
        add(&b, DEQ_F32, streams, t, V, name);
    }
    for (size_t i = 0; model == LOOPED && i < DEQ_COUNT(states); i++)
        if (fuzz_next(random) % 4 == 0)
            add(&b, DEQ_F32, streams, all, D, states[i]);
    for (size_t i = 0; model == LOOPED && i < DEQ_COUNT(others); i++)
        if (fuzz_next(random) % 4 == 0 && b.n < TENSORS_MAX)
            add(&b, DEQ_F32, streams, all, V, others[i]);
    b.t[0] = (struct deq_tensor_out){"tokens", DEQ_I64, 2, {streams, all}, NULL};
    for (size_t i = 0; i < b.n; i++)
        bytes += streams * b.t[i].shape[1] * (i ? b.t[i].shape[2] * sizeof(float) : sizeof(int64_t));
    deq_buf_init(&head, 1 << 16);
    FUZZ_HOLDS(deq_safetensors_header(b.t, b.n, NULL, &head));
    const size_t n = DEQ_MIN(1 + head.len + bytes, max);
    memset(data, 0, n);
    data[0] = (uint8_t)('A' + model);
    memcpy(data + 1, head.data, DEQ_MIN(head.len, n - 1));
    deq_buf_free(&head);
    return n;
}

FUZZ_MUTATOR
{
    uint64_t random = seed;
    const unsigned model = fuzz_next(&random) % MODELS;
    if (n < 16 || fuzz_next(&random) % 16 == 0)
        n = begin_with(model, &random, data, max);
    return n < 2 ? n : 1 + fuzz_mutate_safetensors(data + 1, n - 1, max - 1, seed, false);
}
#endif
