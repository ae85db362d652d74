#include "tests/unit/answers.h"

enum deq_verdict record_answer(void *ctx, const struct deq_event *e)
{
    struct answer *a = ctx;
    if (e->kind == DEQ_EVENT_END) {
        a->ended = true;
        a->finish = e->finish;
        a->prompt_residual_max = e->prompt_residual_max;
        a->prompt_converged = e->prompt_converged;
        a->tol_max = e->tol_max;
        return DEQ_CONTINUE;
    }
    a->not_converged += !e->converged;
    if (e->kind == DEQ_EVENT_PROMPT) {
        if (a->all_logits && e->logits)
            memcpy(a->all_logits + e->position * a->vocab, e->logits, a->vocab * sizeof(float));
        a->prompt_positions++;
        return DEQ_CONTINUE;
    }
    a->token[a->n] = e->token;
    a->evaluations[a->n] = e->evaluations;
    a->residual[a->n] = e->residual;
    a->logprob[a->n] = 0;
    if (e->logits) {
        const struct deq_log_normaliser n = deq_log_normaliser(e->logits, a->vocab);
        a->logprob[a->n] = deq_logprob(&n, e->logits[e->token]);
    }
    a->n++;
    return a->stop_after && a->n == a->stop_after ? DEQ_STOP : DEQ_CONTINUE;
}

enum deq_verdict record_choice(void *ctx, const struct deq_event *e)
{
    return record_answer(&((struct choices *)ctx)->a[e->choice], e);
}

bool same_answer(const struct answer *a, const struct answer *b)
{
    return a->n == b->n && a->finish == b->finish && a->prompt_residual_max == b->prompt_residual_max &&
           a->prompt_converged == b->prompt_converged && !memcmp(a->token, b->token, a->n * sizeof *a->token) &&
           !memcmp(a->evaluations, b->evaluations, a->n * sizeof *a->evaluations) &&
           !memcmp(a->logprob, b->logprob, a->n * sizeof *a->logprob) &&
           !memcmp(a->residual, b->residual, a->n * sizeof *a->residual);
}

void run_all(struct deq_engine *e)
{
    for (int guard = 0; deq_active(e) && guard < 200000; guard++)
        deq_step(e);
    CHECK(deq_active(e) == 0);
    const struct deq_engine_stats s = deq_engine_stats(e);
    const uint64_t *count = (const uint64_t *)&s;
    uint64_t most = 0;
    for (size_t i = 0; i < sizeof s / sizeof *count; i++)
        most = DEQ_MAX(most, count[i]);
    CHECK(most < 1ull << 40); /* nothing was counted below zero */
}

struct deq_model *model_in(const char *dir, enum deq_class numeric)
{
    struct deq_err err;
    struct deq_model *m = NULL;
    CHECK_MSG(deq_model_load(dir, &numeric, &m, &err) == DEQ_OK, "%s", err.text);
    return m;
}

struct deq_model *tiny_model(void)
{
    return model_in(TINY, DEQ_CLASS_FLOAT32);
}

struct deq_model *tiny_trellis(void)
{
    return model_in(TINY_TRELLIS, DEQ_CLASS_FLOAT32);
}

struct deq_model *tiny_looped(void)
{
    return model_in(TINY_LOOPED, DEQ_CLASS_FLOAT32);
}

struct deq_engine *tiny_engine(const struct deq_model *m, unsigned threads, unsigned sequences)
{
    struct deq_err err;
    struct deq_engine *e = NULL;
    const struct deq_engine_opts opts = {.threads = threads, .max_sequences = sequences, .max_positions = 500,
                                         .max_rows = DEQ_MAX(64u, 16 * sequences), .prefill_block = 32};
    CHECK_MSG(deq_engine_new(m, &opts, &e, &err) == DEQ_OK, "%s", err.text);
    return e;
}

struct deq_request tiny_request(const struct deq_model *m, const struct deq_tokens *p, uint32_t max_tokens,
                                struct answer *a)
{
    struct deq_request q = deq_request_defaults(m);
    a->vocab = deq_model_info(m).vocab_size;
    q.prompt = p->ids;
    q.n_prompt = p->n;
    q.max_tokens = max_tokens;
    q.want_logits = true;
    q.ignore_eos = true;
    q.event = record_answer;
    q.ctx = a;
    return q;
}

struct deq_engine *toy_engine(const struct deq_toy *of, unsigned threads, unsigned sequences,
                              struct deq_cell **ret_cell)
{
    const struct deq_vocab vocab = {.size = (uint32_t)of->dim, .eos_id = -1};
    const struct deq_serving serving = {.solver = {.method = DEQ_ANDERSON, .memory = 3, .max_iter = 200, .tol = 1e-5f,
                                                   .beta = 1, .reg = 1e-4f},
                                        .row_window = 4};
    const struct deq_cell shape = deq_toy_shape(of, 0, 0);
    const struct deq_engine_opts asked = {.max_sequences = sequences, .max_positions = 400, .prefill_block = 16,
                                          .max_rows = 64};
    struct deq_engine_opts opts;
    struct deq_pool *pool;
    struct deq_cell *cell = NULL;
    struct deq_engine *e = NULL;
    CHECK(deq_pool_new(threads, &pool, NULL) == DEQ_OK && deq_engine_opts_fill(&shape, &asked, &opts, NULL) == DEQ_OK &&
          deq_toy_open(of, opts.max_rows, deq_engine_pages(&shape, &opts), pool, &cell, NULL) == DEQ_OK);
    CHECK(deq_engine_open(cell, &vocab, &serving, pool, &opts, &e, NULL) == DEQ_OK);
    if (ret_cell)
        *ret_cell = cell;
    return e;
}

struct deq_request toy_request(const uint32_t *prompt, size_t n, uint32_t max_tokens, struct answer *a)
{
    a->vocab = 24;
    return (struct deq_request){.prompt = prompt, .n_prompt = n, .max_tokens = max_tokens, .want_logits = true,
                                .sampling = {.top_p = 1},
                                .solve = {.solver = DEQ_ANDERSON, .tol = 1e-5f, .max_iter = 200, .window = 4},
                                .event = record_answer, .ctx = a};
}

struct deq_tokens encode_text(const struct deq_model *m, const char *text)
{
    struct deq_tokens t = {0};
    CHECK(deq_encode(m, text, strlen(text), false, &t, NULL) == DEQ_OK);
    return t;
}

struct answer ask(struct deq_engine *e, const struct deq_request *q, struct deq_admission *ret)
{
    struct answer a = {.vocab = ((struct answer *)q->ctx)->vocab};
    struct deq_request one = *q;
    struct deq_admission unused;
    one.ctx = &a;
    CHECK(deq_submit(e, &one, ret ? ret : &unused, NULL) == DEQ_OK);
    run_all(e);
    CHECK(a.ended);
    return a;
}
