/* How well a model foresees a text: the log-probability of each token given those before it, and bits a byte of all.
 * A prompt that nothing continues has its logits shown at every position (want_prompt).
 *
 *     ./score MODEL_DIR "Once upon a time" */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include <deq.h>

struct score {
    const struct deq_model *model;
    const struct deq_tokens *text;
    uint32_t vocab_size;
    double nats;
};

static enum deq_verdict on_event(void *ctx, const struct deq_event *e)
{
    struct score *s = ctx;
    if (e->kind == DEQ_EVENT_PROMPT && e->position + 1 < s->text->n) { /* the logits there are of the next token */
        const uint32_t next = s->text->ids[e->position + 1];
        const struct deq_log_normaliser all = deq_log_normaliser(e->logits, s->vocab_size);
        const float logprob = deq_logprob(&all, e->logits[next]);
        size_t n;
        const char *bytes = deq_token_bytes(s->model, next, &n);
        printf("%9.4f  %2u evaluations  %.*s\n", logprob, e->evaluations, (int)n, bytes);
        s->nats -= logprob;
    }
    return DEQ_CONTINUE;
}

int main(int argc, char **argv)
{
    struct deq_err err = {DEQ_OK, ""};
    struct deq_model *model = NULL;
    struct deq_engine *engine = NULL;
    struct deq_tokens text = {NULL, 0, 0};
    const struct deq_engine_opts opts = {.threads = deq_cores()};
    if (argc != 3) {
        fprintf(stderr, "usage: score MODEL_DIR TEXT\n");
        return 2;
    }
    if (!deq_model_load(argv[1], NULL, &model, &err) && !deq_engine_new(model, &opts, &engine, &err) &&
        !deq_encode(model, argv[2], strlen(argv[2]), false, &text, &err)) {
        struct score score = {model, &text, deq_model_info(model).vocab_size, 0};
        struct deq_request request = deq_request_defaults(model);
        request.prompt = text.ids;
        request.n_prompt = text.n;
        request.max_tokens = 0;
        request.want_prompt = true;
        request.event = on_event;
        request.ctx = &score;
        if (!deq_submit(engine, &request, NULL, &err)) {
            while (deq_active(engine))
                deq_step(engine);
            printf("%.3f bits a byte\n", score.nats / log(2) / (double)strlen(argv[2]));
        }
    }
    if (err.code)
        fprintf(stderr, "score: %s\n", err.text);
    deq_tokens_free(&text);
    deq_engine_free(engine);
    deq_model_free(model);
    return err.code ? 1 : 0;
}
