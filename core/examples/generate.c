/* Continues a prompt, printing the text while it is found. The smallest whole use of libdeq.
 *
 *     cc -std=c99 generate.c $(pkg-config --cflags --libs deq) -o generate
 *     ./generate /usr/local/share/deqd/models/stories "Once upon a time" */
#include <stdio.h>
#include <string.h>

#include <deq.h>

struct shown {
    const struct deq_model *model;
    int64_t before; /* the token that the text ends with: what the next one adds may depend on it */
};

/* Called inside deq_step, token by token in the order of the text. */
static enum deq_verdict on_event(void *ctx, const struct deq_event *e)
{
    struct shown *s = ctx;
    size_t n;
    const char *bytes;
    if (e->kind != DEQ_EVENT_TOKEN || !(bytes = deq_token_text(s->model, s->before, e->token, &n)))
        return DEQ_CONTINUE; /* the end, or a special token, which has no text */
    fwrite(bytes, 1, n, stdout);
    fflush(stdout);
    s->before = e->token;
    return DEQ_CONTINUE;
}

int main(int argc, char **argv)
{
    struct deq_err err = {DEQ_OK, ""};
    struct deq_model *model = NULL;
    struct deq_engine *engine = NULL;
    struct deq_tokens prompt = {NULL, 0, 0};
    const struct deq_engine_opts opts = {.threads = deq_cores()};
    if (argc != 3) {
        fprintf(stderr, "usage: generate MODEL_DIR PROMPT\n");
        return 2;
    }
    if (!deq_model_load(argv[1], NULL, &model, &err) && !deq_engine_new(model, &opts, &engine, &err) &&
        !deq_encode(model, argv[2], strlen(argv[2]), false, &prompt, &err) && deq_begin_text(model, &prompt)) {
        struct shown shown = {model, -1};
        struct deq_request request = deq_request_defaults(model);
        request.prompt = prompt.ids;
        request.n_prompt = prompt.n;
        request.max_tokens = 40;
        request.event = on_event;
        request.ctx = &shown;
        if (prompt.n)
            shown.before = prompt.ids[prompt.n - 1];
        if (!deq_submit(engine, &request, NULL, &err)) {
            printf("%s", argv[2]);
            while (deq_active(engine))
                deq_step(engine);
            printf("\n");
        }
    }
    if (err.code)
        fprintf(stderr, "generate: %s\n", err.text);
    deq_tokens_free(&prompt);
    deq_engine_free(engine);
    deq_model_free(model);
    return err.code ? 1 : 0;
}
