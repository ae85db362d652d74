/* What tokens add up to: a choice's text, log-probabilities and telemetry, and with echo those of its prompt. */
#include <math.h>
#include <string.h>

#include "server/api/completion.h"
#include "server/api/reply.h"

enum { TEXT_MAX_BYTES = 256 << 20 };

static struct deq_buf new_buffer(const struct completion *c)
{
    return (struct deq_buf){.max = TEXT_MAX_BYTES, .allowance = &c->channel->allowance};
}

static struct logprob_entry entry_of(const struct completion *c, uint32_t token, const float *logits, size_t offset)
{
    const uint32_t vocab_size = c->served->info.vocab_size;
    struct logprob_entry e = {.token = token, .offset = offset, .logits = logits, .vocab_size = vocab_size};
    if (logits)
        e.normaliser = deq_log_normaliser(logits, vocab_size);
    return e;
}

/* --- Prompts --- */

void prompt_free(struct prompt *p)
{
    logprobs_free(&p->logprobs);
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
    logprobs_init(&p->logprobs, TEXT_MAX_BYTES, &p->c->channel->allowance);
    p->prev = -1;
    if (!p->c->req.echo)
        return;
    echo_text(p);
    prompt_add(p, p->job.prompt.ids[0], NULL);
}

void prompt_add(struct prompt *p, uint32_t token, const float *logits)
{
    struct completion *c = p->c;
    size_t n = 0;
    const char *bytes = deq_token_text(c->served->model, p->prev, token, &n);
    const size_t offset = deq_utf8_pass(&p->place, bytes, n);
    if (c->req.logprobs >= 0) {
        const struct logprob_entry e = entry_of(c, token, logits, offset);
        logprobs_add(&p->logprobs, &c->req, c->served->model, &e);
    }
    if (bytes)
        p->prev = token;
}

/* --- Choices --- */

bool choice_init(struct completion *c, size_t i)
{
    struct choice *ch = &c->choices[i];
    ch->c = c;
    ch->prompt = i / (size_t)c->req.best_of;
    ch->shown = ch->ids = ch->iters = ch->residuals = ch->starts = new_buffer(c);
    logprobs_init(&ch->logprobs, TEXT_MAX_BYTES, &c->channel->allowance);
    ch->stopped = -1;
    ch->stop_token = -1;
    ch->converged = true;
    if (deq_text_new((const char *const *)c->req.stop, c->req.stop_len, c->req.n_stops, &ch->text, NULL))
        return false;
    if (c->req.chat) /* the template's last word stands before them */
        deq_text_skip_blanks(ch->text);
    return true;
}

void choice_free(struct choice *ch)
{
    deq_buf_free(&ch->shown);
    deq_buf_free(&ch->ids);
    deq_buf_free(&ch->iters);
    deq_buf_free(&ch->residuals);
    deq_buf_free(&ch->starts);
    logprobs_free(&ch->logprobs);
    deq_text_free(ch->text);
}

/* For best_of, and for the lists where they are asked for. */
static void add_logprob(struct choice *ch, const struct deq_event *e, size_t offset)
{
    const struct logprob_entry entry = entry_of(ch->c, e->token, e->logits, offset);
    ch->logprob_sum += (double)deq_logprob(&entry.normaliser, e->logits[e->token]);
    if (ch->c->req.logprobs >= 0)
        logprobs_add(&ch->logprobs, &ch->c->req, ch->c->served->model, &entry);
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
    if (e->logits)
        add_logprob(ch, e, offset);
    if (c->req.token_ids)
        deq_buf_fmt(&ch->ids, "%u,", e->token);
    if (c->req.telemetry) {
        deq_buf_fmt(&ch->iters, "%u,", e->evaluations);
        reply_number(&ch->residuals, e->residual);
        deq_buf_str(&ch->residuals, ",");
        deq_buf_fmt(&ch->starts, "\"%s\",", e->start_cached ? "prefix" : deq_warm_name(e->start));
    }
    if (bytes) {
        ch->prev = e->token;
        ch->stopped = deq_text_push(ch->text, bytes, n, &ch->shown);
    }
}

void choice_begin(struct choice *ch)
{
    const struct prompt *p = &ch->c->prompts[ch->prompt];
    if (ch->begun)
        return;
    ch->begun = true;
    ch->prev = p->job.prompt.ids[p->job.prompt.n - 1];
    if (!ch->c->req.echo)
        return;
    (void)deq_buf_append(&ch->shown, &p->echo);
    logprobs_append(&ch->logprobs, &p->logprobs);
    deq_text_begin(ch->text, p->cut, p->n_cut);
    ch->place = p->place;
}

void choice_end(struct choice *ch)
{
    choice_begin(ch);
    deq_text_end(ch->text, &ch->shown);
}
