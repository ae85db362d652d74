/* The equilibria z* of a text: how many evaluations each position took, how far from a fixed point its state is, and
 * how much it turns from the one before (the cosine of the angle between both).
 *
 *     ./equilibria MODEL_DIR "Once upon a time" [TOLERANCE] */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <deq.h>

struct view {
    const struct deq_model *model;
    const struct deq_tokens *text;
    uint32_t dim;
    float *before; /* [dim] the last position's state: an event's is borrowed */
};

static double cosine(const float *a, const float *b, uint32_t n)
{
    double ab = 0, aa = 0, bb = 0;
    for (uint32_t i = 0; i < n; i++) {
        ab += (double)a[i] * (double)b[i];
        aa += (double)a[i] * (double)a[i];
        bb += (double)b[i] * (double)b[i];
    }
    return ab / sqrt(aa * bb);
}

static enum deq_verdict on_event(void *ctx, const struct deq_event *e)
{
    struct view *v = ctx;
    size_t n;
    const char *bytes;
    if (e->kind != DEQ_EVENT_PROMPT)
        return DEQ_CONTINUE;
    bytes = deq_token_bytes(v->model, v->text->ids[e->position], &n);
    printf("%4zu  %2u evaluations  residual %.1e%s  ", e->position, e->evaluations, e->residual,
           e->converged ? "" : " (not converged)");
    if (e->position)
        printf("cosine %6.3f  ", cosine(v->before, e->state, v->dim));
    else
        printf("%13s  ", "");
    printf("%.*s\n", (int)n, bytes);
    memcpy(v->before, e->state, v->dim * sizeof *v->before);
    return DEQ_CONTINUE;
}

int main(int argc, char **argv)
{
    struct deq_err err = {DEQ_OK, ""};
    struct deq_model *model = NULL;
    struct deq_engine *engine = NULL;
    struct deq_tokens text = {NULL, 0, 0};
    struct view view = {NULL, &text, 0, NULL};
    const struct deq_engine_opts opts = {.threads = deq_cores()};
    if (argc < 3 || argc > 4) {
        fprintf(stderr, "usage: equilibria MODEL_DIR TEXT [TOLERANCE]\n");
        return 2;
    }
    if (!deq_model_load(argv[1], NULL, &model, &err) && !deq_engine_new(model, &opts, &engine, &err) &&
        !deq_encode(model, argv[2], strlen(argv[2]), false, &text, &err)) {
        struct deq_request request = deq_request_defaults(model);
        view.model = model;
        view.dim = deq_model_info(model).state_dim;
        view.before = calloc(view.dim, sizeof *view.before);
        if (!view.before)
            return 1;
        request.prompt = text.ids;
        request.n_prompt = text.n;
        request.max_tokens = 0;
        request.states = DEQ_STATES_ALL;
        if (argc == 4)
            request.solve.tol = strtof(argv[3], NULL);
        request.event = on_event;
        request.ctx = &view;
        if (!deq_submit(engine, &request, NULL, &err))
            while (deq_active(engine))
                deq_step(engine);
    }
    if (err.code)
        fprintf(stderr, "equilibria: %s\n", err.text);
    free(view.before);
    deq_tokens_free(&text);
    deq_engine_free(engine);
    deq_model_free(model);
    return err.code ? 1 : 0;
}
