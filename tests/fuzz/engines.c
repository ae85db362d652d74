#include "tests/fuzz/engines.h"

#include "tests/fuzz/fuzz.h"

enum { STEPS_MAX = 5000 };

const char *const fuzz_models[FUZZ_MODELS] = {"tiny", "tiny-trellis", "tiny-looped"};

struct deq_saved_of fuzz_saved_of(const char *format, unsigned model)
{
    return (struct deq_saved_of){format, fuzz_models[model], "float32", "0123456789abcdef",
                                 "00000000000000000000000000000000"};
}

struct deq_engine *fuzz_engine(unsigned model)
{
    const struct deq_engine_opts opts = {.threads = 1, .max_sequences = 1, .max_rows = 64, .max_positions = 64,
                                         .prefill_block = 16};
    struct deq_engine *e;
    FUZZ_HOLDS(!deq_engine_new(fuzz_model(fuzz_models[model]), &opts, &e, NULL));
    return e;
}

static enum deq_verdict on_event(void *ctx, const struct deq_event *e)
{
    *(unsigned *)ctx += e->kind == DEQ_EVENT_END;
    return DEQ_CONTINUE;
}

struct deq_request fuzz_request(unsigned model, const struct deq_state *behind)
{
    static uint32_t tokens[FUZZ_TOKENS_MAX];
    struct deq_request q = deq_request_defaults(fuzz_model(fuzz_models[model]));
    for (uint32_t i = 0; i < FUZZ_TOKENS_MAX; i++)
        tokens[i] = 1 + i % 5;
    q.prompt = behind ? NULL : tokens;
    q.n_prompt = behind ? 0 : FUZZ_TOKENS;
    q.state = behind;
    q.max_tokens = 2;
    q.solve.max_iter = DEQ_MIN(q.solve.max_iter, 3u);
    q.solve.min_iter = DEQ_MIN(q.solve.min_iter, q.solve.max_iter);
    q.event = on_event;
    return q;
}

void fuzz_solve(struct deq_engine *e, const struct deq_request *as)
{
    struct deq_request q = *as;
    struct deq_err err;
    unsigned ends = 0, steps = 0;
    q.ctx = &ends;
    const enum deq_rc rc = deq_submit(e, &q, NULL, &err);
    if (rc)
        fuzz_check_err(rc, &err);
    while (!rc && deq_active(e)) {
        FUZZ_HOLDS(++steps < STEPS_MAX);
        deq_step(e);
    }
    FUZZ_HOLDS(rc || ends == 1);
    const struct deq_engine_stats s = deq_engine_stats(e);
    FUZZ_HOLDS(!s.pages_used && !s.pages_reserved);
}
