/* libdeq within somebody else's event loop: lines of standard input are prompts, taken whenever they come, and all that
 * are under way share every evaluation of the cell. Each is printed when its text is whole; one for which the engine
 * has no room yet (DEQ_EFULL) waits, and the pipe behind it.
 *
 * The loop is poll's. While nothing is to be solved it sleeps until there is input; while something is, it looks for
 * input without waiting between two steps, which take about a millisecond.
 *
 *     printf 'Once upon a time\nTom had a red ball.\n' | ./loop MODEL_DIR */
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <deq.h>

enum { TEXTS = 8, LINE = 1024, ANSWER = 1 << 16 };

struct loop {
    struct deq_model *model;
    struct deq_engine *engine;
    struct text {
        struct loop *loop;
        int busy;
        int64_t before;
        struct deq_text *shown; /* whole characters, and nothing from a line's end on */
        struct deq_buf out;
    } text[TEXTS];
    char line[LINE];
    size_t n_line;
};

static enum deq_verdict on_event(void *ctx, const struct deq_event *e)
{
    struct text *t = ctx;
    size_t n;
    const char *bytes;
    if (e->kind == DEQ_EVENT_END) {
        if (e->finish != DEQ_FINISH_STOP)
            deq_text_end(t->shown, &t->out);
        printf("%.*s  [%s]\n", (int)t->out.len, t->out.data ? t->out.data : "", deq_finish_name(e->finish));
        deq_text_free(t->shown);
        t->shown = NULL;
        deq_buf_free(&t->out);
        t->busy = 0;
    } else if (e->kind == DEQ_EVENT_TOKEN &&
               (bytes = deq_token_text(t->loop->model, t->before, e->token, &n)) != NULL) {
        t->before = e->token;
        if (deq_text_push(t->shown, bytes, n, &t->out) >= 0)
            return DEQ_STOP;
    }
    return DEQ_CONTINUE;
}

static struct text *free_text(struct loop *l)
{
    for (int i = 0; i < TEXTS; i++)
        if (!l->text[i].busy)
            return &l->text[i];
    return NULL;
}

/* DEQ_EFULL: not now. Other errors are told, and the prompt is done with. */
static enum deq_rc begin(struct loop *l, struct text *t, const char *prompt, size_t len)
{
    static const char *const stop[] = {"\n"};
    static const size_t stop_len[] = {1};
    struct deq_err err;
    struct deq_tokens tokens = {NULL, 0, 0};
    struct deq_request request = deq_request_defaults(l->model);
    enum deq_rc rc = deq_text_new(stop, stop_len, 1, &t->shown, &err);
    t->loop = l;
    deq_buf_init(&t->out, ANSWER);
    if (!rc)
        rc = deq_encode(l->model, prompt, len, false, &tokens, &err);
    if (!rc) {
        request.prompt = tokens.ids;
        request.n_prompt = tokens.n;
        request.max_tokens = 60;
        request.event = on_event;
        request.ctx = t;
        t->before = tokens.n ? (int64_t)tokens.ids[tokens.n - 1] : -1;
        rc = deq_submit(l->engine, &request, NULL, &err); /* which has copied what was borrowed */
    }
    t->busy = !rc;
    if (rc) {
        deq_text_free(t->shown);
        t->shown = NULL;
    }
    if (rc && rc != DEQ_EFULL)
        fprintf(stderr, "loop: %s\n", err.text);
    deq_tokens_free(&tokens);
    return rc;
}

/* Lines that are whole become texts while there is room. Returns whether one waits. */
static int take_lines(struct loop *l)
{
    char *end;
    struct text *t = NULL;
    while ((end = memchr(l->line, '\n', l->n_line)) != NULL && (t = free_text(l)) != NULL) {
        const size_t len = (size_t)(end - l->line);
        if (begin(l, t, l->line, len) == DEQ_EFULL)
            break;
        l->n_line -= len + 1;
        memmove(l->line, end + 1, l->n_line);
    }
    return end != NULL;
}

/* Returns 0 at the end of the input, or of a line that is too long. */
static int take_input(struct loop *l)
{
    const ssize_t n = read(STDIN_FILENO, l->line + l->n_line, LINE - l->n_line);
    if (n > 0)
        l->n_line += (size_t)n;
    return n > 0;
}

int main(int argc, char **argv)
{
    struct loop l = {0};
    struct deq_err err = {DEQ_OK, ""};
    const struct deq_engine_opts opts = {.threads = deq_cores(), .max_sequences = TEXTS};
    int open = argc == 2;
    if (!open) {
        fprintf(stderr, "usage: loop MODEL_DIR < prompts\n");
        return 2;
    }
    if (deq_model_load(argv[1], NULL, &l.model, &err) || deq_engine_new(l.model, &opts, &l.engine, &err))
        fprintf(stderr, "loop: %s\n", err.text);
    while (!err.code && (open || take_lines(&l) || deq_active(l.engine))) {
        struct pollfd input = {STDIN_FILENO, POLLIN, 0};
        if (open && !take_lines(&l) && poll(&input, 1, deq_active(l.engine) ? 0 : -1) > 0)
            open = take_input(&l);
        if (deq_active(l.engine))
            deq_step(l.engine);
    }
    deq_engine_free(l.engine);
    deq_model_free(l.model);
    return err.code ? 1 : 0;
}
