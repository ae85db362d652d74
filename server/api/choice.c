/* What tokens add up to: a choice's text, log-probabilities and telemetry, and with echo those of its prompt; as news
 * on the engine's thread, as JSON lists on the connection's. */
#include <math.h>
#include <string.h>

#include "server/api/completion.h"
#include "server/api/reply.h"

enum { TEXT_MAX_BYTES = 256 << 20 };

static struct deq_buf new_buffer(const struct completion *c)
{
    return (struct deq_buf){.max = TEXT_MAX_BYTES, .allowance = &c->channel->allowance};
}

static struct solve_lists new_solves(const struct completion *c)
{
    const struct deq_buf b = new_buffer(c);
    return (struct solve_lists){b, b, b};
}

static void solves_free(struct solve_lists *l)
{
    deq_buf_free(&l->iters);
    deq_buf_free(&l->residuals);
    deq_buf_free(&l->starts);
}

static struct news new_news(const struct completion *c)
{
    struct news n = {.text = new_buffer(c)};
    n.tokens = n.top = n.text;
    trace_news_init(&n.trace, &n.text);
    return n;
}

static void news_free(struct news *n)
{
    deq_buf_free(&n->text);
    deq_buf_free(&n->tokens);
    deq_buf_free(&n->top);
    trace_news_free(&n->trace);
}

/* --- Before submission, and on the engine's thread --- */

/* Fills t's log-probability and leaves its alternatives, where the request asks for lists. Returns the first. */
static float add_logprob(const struct completion *c, struct news *n, struct token_news *t, const float *logits)
{
    const uint32_t vocab_size = c->served->info.vocab_size;
    const struct deq_log_normaliser normaliser = deq_log_normaliser(logits, vocab_size);
    t->predicted = true;
    t->logprob = deq_logprob(&normaliser, logits[t->token]);
    if (c->req.logprobs >= 0)
        t->n_top = (uint16_t)logprobs_find(&c->req, logits, vocab_size, &normaliser, &n->top);
    return t->logprob;
}

static bool wants_tokens(const struct completion_request *r)
{
    return r->token_ids || r->telemetry || r->trace || r->logprobs >= 0;
}

void prompt_free(struct prompt *p)
{
    news_free(&p->news);
    news_free(&p->taken);
    logprobs_free(&p->logprobs);
    solves_free(&p->solves);
    deq_buf_free(&p->echo);
    deq_tokens_free(&p->job.prompt);
}

/* The prompt's text; ids may cut a character at its end, and JSON holds only whole ones. */
static void echo_text(struct prompt *p)
{
    struct deq_buf bytes;
    deq_buf_init(&bytes, TEXT_MAX_BYTES);
    int64_t prev = -1;
    for (size_t i = 0; i < p->job.prompt.n; i++) {
        size_t n;
        const char *b = deq_token_text(p->c->served->model, prev, p->job.prompt.ids[i], &n);
        if (!b)
            continue;
        deq_buf_add(&bytes, b, n);
        prev = p->job.prompt.ids[i];
    }
    (void)deq_buf_carry(&p->echo, &bytes);
    const size_t whole = deq_utf8_complete(bytes.data, bytes.len);
    p->n_cut = bytes.len - whole;
    deq_utf8_sanitize(&p->echo, bytes.data, whole);
    if (p->n_cut)
        memcpy(p->cut, bytes.data + whole, p->n_cut);
    deq_buf_free(&bytes);
}

void prompt_init(struct prompt *p)
{
    p->echo = new_buffer(p->c);
    p->news = p->taken = new_news(p->c);
    logprobs_init(&p->logprobs, TEXT_MAX_BYTES, &p->c->channel->allowance);
    p->solves = new_solves(p->c);
    p->prev = -1;
    if (!p->c->req.echo)
        return;
    echo_text(p);
    prompt_add(p, p->job.prompt.ids[0], NULL);
}

void prompt_add(struct prompt *p, uint32_t token, const struct deq_event *e)
{
    struct completion *c = p->c;
    size_t n = 0;
    const char *bytes = deq_token_text(c->served->model, p->prev, token, &n);
    const size_t offset = deq_utf8_pass(&p->place, bytes, n);
    if (c->req.logprobs >= 0) {
        struct token_news t = {.token = token, .offset = (uint32_t)offset};
        if (e) {
            t.evaluations = e->evaluations;
            t.residual = e->residual;
            t.start = (uint8_t)e->start;
            t.start_cached = e->start_cached;
            (void)add_logprob(c, &p->news, &t, e->logits);
        }
        deq_buf_add(&p->news.tokens, &t, sizeof t);
    }
    if (bytes)
        p->prev = token;
}

bool choice_init(struct completion *c, size_t i)
{
    struct choice *ch = &c->choices[i];
    ch->c = c;
    ch->prompt = i / (size_t)c->req.best_of;
    ch->news = ch->taken = new_news(c);
    ch->shown = ch->ids = new_buffer(c);
    ch->solves = ch->prompt_solves = new_solves(c);
    trace_lists_init(&ch->trace, &ch->shown);
    logprobs_init(&ch->logprobs, TEXT_MAX_BYTES, &c->channel->allowance);
    ch->stopped = -1;
    ch->stop_token = -1;
    ch->converged = true;
    if (deq_text_new((const char *const *)c->req.stop, c->req.stop_len, c->req.n_stops, &ch->text, NULL))
        return false;
    if (c->req.chat && !c->req.form) /* the template's last word stands before them */
        deq_text_skip_blanks(ch->text);
    return true;
}

void choice_free(struct choice *ch)
{
    news_free(&ch->news);
    news_free(&ch->taken);
    deq_buf_free(&ch->shown);
    deq_buf_free(&ch->ids);
    solves_free(&ch->solves);
    solves_free(&ch->prompt_solves);
    trace_lists_free(&ch->trace);
    logprobs_free(&ch->logprobs);
    deq_text_free(ch->text);
}

void choice_add(struct choice *ch, const struct deq_event *e)
{
    struct completion *c = ch->c;
    const bool special = deq_token_is_special(c->served->model, e->token);
    ch->iters_sum += e->evaluations;
    ch->iters_max = DEQ_MAX(ch->iters_max, e->evaluations);
    ch->residual_max = fmaxf(ch->residual_max, e->residual);
    ch->converged = ch->converged && e->converged;
    if (special && !c->req.ignore_eos && (int64_t)e->token == c->served->info.eos_id)
        return; /* the end of the text is not part of it */
    size_t n = 0;
    const char *bytes = deq_token_text(c->served->model, ch->prev, e->token, &n);
    const size_t offset = deq_utf8_pass(&ch->place, bytes, n);
    ch->tokens++;
    struct token_news t = {.token = e->token,
                           .evaluations = e->evaluations,
                           .residual = e->residual,
                           .offset = (uint32_t)offset,
                           .start = (uint8_t)e->start,
                           .start_cached = e->start_cached};
    if (e->logits) /* for best_of, or for the lists */
        ch->logprob_sum += (double)add_logprob(c, &ch->news, &t, e->logits);
    if (wants_tokens(&c->req))
        deq_buf_add(&ch->news.tokens, &t, sizeof t);
    if (e->trace)
        trace_add(&ch->news.trace, e);
    if (bytes) {
        ch->prev = e->token;
        ch->stopped = deq_text_push(ch->text, bytes, n, &ch->news.text);
    }
}

void choice_dropped(struct choice *ch, const struct deq_event *e)
{
    if (ch->dropped++ < TRACE_DROPPED_MAX)
        trace_add(&ch->news.trace, e);
}

void choice_begin(struct choice *ch)
{
    const struct completion *c = ch->c;
    const struct prompt *p = &c->prompts[ch->prompt];
    if (ch->begun)
        return;
    ch->begun = true;
    ch->prev = p->job.prompt.n ? p->job.prompt.ids[p->job.prompt.n - 1]
                               : deq_state_info(c->state.state).tokens[c->state.tokens - 1];
    if (!c->req.echo)
        return;
    (void)deq_buf_append(&ch->news.text, &p->echo);
    deq_text_begin(ch->text, p->cut, p->n_cut);
    ch->place = p->place;
}

void choice_end(struct choice *ch)
{
    choice_begin(ch);
    deq_text_end(ch->text, &ch->news.text);
}

size_t choice_announce(struct choice *ch)
{
    const size_t n = ch->news.text.len + ch->news.tokens.len / sizeof(struct token_news) * ch->c->req.token_bytes;
    const size_t more = n - ch->announced;
    ch->announced = n;
    return more;
}

/* --- On the connection's thread --- */

/* What was rendered before is empty, and its memory is used again. */
static void swap_news(struct news *a, struct news *b)
{
    const struct news t = *a;
    *a = *b;
    *b = t;
}

void prompt_take(struct prompt *p)
{
    swap_news(&p->news, &p->taken);
    p->taken_cached = p->cached;
}

void choice_take(struct choice *ch)
{
    swap_news(&ch->news, &ch->taken);
    ch->announced = 0;
    ch->taken_tokens = ch->tokens;
    ch->taken_begun = ch->begun;
    ch->taken_over = ch->over;
}

/* What was taken is rendered; a stream needs its memory again soon. */
static void spend(const struct completion *c, struct news *n)
{
    if (!c->req.stream) {
        news_free(n);
        return;
    }
    deq_buf_reset(&n->text);
    deq_buf_reset(&n->tokens);
    deq_buf_reset(&n->top);
    trace_news_reset(&n->trace);
}

static void render_logprobs(const struct completion *c, const struct news *n, struct logprob_lists *l)
{
    const struct token_news *t = (const struct token_news *)n->tokens.data;
    const struct logprob *top = (const struct logprob *)n->top.data;
    if (c->req.logprobs < 0 || !deq_buf_carry(&l->tokens, &n->tokens) || !deq_buf_carry(&l->tokens, &n->top))
        return;
    for (size_t i = 0; i < n->tokens.len / sizeof *t; i++) {
        const struct logprob_entry e = {.token = {t[i].token, t[i].logprob},
                                        .predicted = t[i].predicted,
                                        .offset = t[i].offset,
                                        .top = top,
                                        .n_top = t[i].n_top};
        logprobs_add(l, &c->req, c->served->model, &e);
        top += t[i].n_top;
    }
}

static void render_solve(struct solve_lists *l, const struct token_news *t)
{
    deq_buf_uint(&l->iters, t->evaluations);
    deq_buf_str(&l->iters, ",");
    reply_residual(&l->residuals, t->residual);
    deq_buf_str(&l->residuals, ",");
    deq_buf_fmt(&l->starts, "\"%s\",", t->start_cached ? "prefix" : deq_warm_name((enum deq_warm)t->start));
}

/* Of the position that foresaw each token; nothing foresaw the first. */
static void render_prompt_solves(struct prompt *p)
{
    const struct token_news *t = (const struct token_news *)p->taken.tokens.data;
    if (!p->c->req.telemetry || !deq_buf_carry(&p->solves.iters, &p->taken.tokens))
        return;
    for (size_t i = 0; i < p->taken.tokens.len / sizeof *t; i++) {
        if (t[i].predicted) {
            render_solve(&p->solves, &t[i]);
            continue;
        }
        deq_buf_str(&p->solves.iters, "null,");
        deq_buf_str(&p->solves.residuals, "null,");
        deq_buf_str(&p->solves.starts, "null,");
    }
}

void prompt_render(struct prompt *p)
{
    render_logprobs(p->c, &p->taken, &p->logprobs);
    render_prompt_solves(p);
    spend(p->c, &p->taken);
}

/* What its prompt has, which other choices of it show too. */
static void take_echo(struct choice *ch, const struct prompt *p)
{
    ch->echoed = true;
    logprobs_append(&ch->logprobs, &p->logprobs);
    (void)deq_buf_append(&ch->prompt_solves.iters, &p->solves.iters);
    (void)deq_buf_append(&ch->prompt_solves.residuals, &p->solves.residuals);
    (void)deq_buf_append(&ch->prompt_solves.starts, &p->solves.starts);
}

void choice_render(struct choice *ch)
{
    const struct completion *c = ch->c;
    const struct token_news *t = (const struct token_news *)ch->taken.tokens.data;
    if (ch->taken_begun && !ch->echoed)
        take_echo(ch, &c->prompts[ch->prompt]);
    (void)deq_buf_append(&ch->shown, &ch->taken.text);
    if (c->req.token_ids)
        (void)deq_buf_carry(&ch->ids, &ch->taken.tokens);
    if (c->req.telemetry)
        (void)deq_buf_carry(&ch->solves.iters, &ch->taken.tokens);
    for (size_t i = 0; i < ch->taken.tokens.len / sizeof *t; i++) {
        if (c->req.token_ids) {
            deq_buf_uint(&ch->ids, t[i].token);
            deq_buf_str(&ch->ids, ",");
        }
        if (c->req.telemetry)
            render_solve(&ch->solves, &t[i]);
    }
    if (c->req.trace)
        trace_render(&ch->trace, &ch->taken.trace);
    render_logprobs(c, &ch->taken, &ch->logprobs);
    spend(c, &ch->taken);
}
