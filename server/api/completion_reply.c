#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/mem.h"
#include "server/api/answer.h"
#include "server/api/completion.h"
#include "server/api/reply.h"

enum { ANSWER_MAX_BYTES = 1 << 30, TOP_MAX = 1024 };

const char *finish_word(enum deq_finish f)
{
    /* OpenAI's protocol has these two; choices that ended otherwise are told as errors, or not at all */
    static const char *const words[] = {[DEQ_FINISH_LENGTH] = "length",
                                        [DEQ_FINISH_EOS] = "stop",
                                        [DEQ_FINISH_STOP] = "stop",
                                        [DEQ_FINISH_CANCELED] = "stop",
                                        [DEQ_FINISH_NUMERIC] = "stop",
                                        [DEQ_FINISH_DEADLINE] = "length"};
    _Static_assert(DEQ_COUNT(words) == DEQ_FINISH_COUNT, "a word for each end");
    return words[f];
}

static size_t best_of(const struct completion *c)
{
    return (size_t)c->req.best_of;
}

/* --- Tokens --- */

/* A token as a string: its text, or "bytes:\xe2\x80" when it is part of a character, or "token_id:N" where asked for. */
static void token_string(const struct completion *c, uint32_t id, struct deq_buf *out)
{
    size_t n;
    const char *b = deq_token_bytes(c->served->model, id, &n);
    deq_buf_reset(out);
    if (c->req.tokens_as_ids) {
        deq_buf_fmt(out, "token_id:%u", id);
        return;
    }
    if (b && deq_utf8_valid(b, n)) {
        deq_buf_add(out, b, n);
        return;
    }
    deq_buf_str(out, "bytes:");
    for (size_t i = 0; b && i < n; i++)
        deq_buf_fmt(out, "\\x%02x", (unsigned char)b[i]);
}

/* A choice's or a prompt's lists, which take the same entries. */
struct lists {
    struct deq_buf *tokens, *values, *top, *offsets;
};

/* "top": of the completions endpoint a map of token and logprob; of chat a list of objects, with the token's own fields around it. */
static void add_entry(const struct completion *c, struct lists l, uint32_t token, const float *logits, size_t offset)
{
    const uint32_t V = c->served->info.vocab_size;
    uint32_t ids[2 * TOP_MAX];
    float values[2 * TOP_MAX];
    uint32_t n = DEQ_MIN((uint32_t)c->req.logprobs, DEQ_MIN(V, (uint32_t)TOP_MAX));
    struct deq_buf name;
    deq_buf_init(&name, 1 << 16);
    token_string(c, token, &name);
    if (!logits) { /* the first of a text: nothing predicts it */
        reply_buf(l.tokens, &name);
        deq_buf_str(l.tokens, ",");
        deq_buf_str(l.values, "null,");
        deq_buf_str(l.top, "null,");
        deq_buf_fmt(l.offsets, "%zu,", offset);
        deq_buf_free(&name);
        return;
    }
    const float own = deq_logprob(logits, V, token);
    deq_top_logprobs(logits, V, n, ids, values);
    for (size_t i = 0; i < c->req.logprob_ids.n && n < DEQ_COUNT(ids); i++) {
        ids[n] = c->req.logprob_ids.ids[i];
        values[n] = deq_logprob(logits, V, ids[n]);
        n++;
    }
    if (c->req.chat) {
        struct deq_buf *out = l.tokens; /* chat has one list of objects */
        for (uint32_t i = 0; i <= n; i++) { /* the token itself, then the alternatives, each once */
            bool again = false;
            for (uint32_t k = 1; k < i; k++)
                again = again || ids[k - 1] == ids[i - 1];
            if (again)
                continue;
            const uint32_t id = i ? ids[i - 1] : token;
            size_t n_bytes;
            const char *bytes = deq_token_bytes(c->served->model, id, &n_bytes);
            token_string(c, id, &name);
            deq_buf_str(out, "{\"token\":");
            reply_buf(out, &name);
            deq_buf_str(out, ",\"logprob\":");
            reply_number(out, i ? values[i - 1] : own);
            deq_buf_str(out, ",\"bytes\":[");
            for (size_t k = 0; bytes && k < n_bytes; k++)
                deq_buf_fmt(out, "%s%u", k ? "," : "", (unsigned char)bytes[k]);
            deq_buf_str(out, i == 0 ? "],\"top_logprobs\":[" : "]},");
        }
        if (n && out->len) /* without the last comma */
            out->len--;
        deq_buf_str(out, "]},");
    } else {
        bool own_in = false;
        reply_buf(l.tokens, &name);
        deq_buf_str(l.tokens, ",");
        reply_number(l.values, own);
        deq_buf_str(l.values, ",");
        deq_buf_str(l.top, "{");
        for (uint32_t i = 0; i < n; i++) {
            bool twice = false; /* logprob_token_ids may name what is among the most probable */
            for (uint32_t k = 0; k < i; k++)
                twice = twice || ids[k] == ids[i];
            if (twice)
                continue;
            own_in = own_in || ids[i] == token;
            token_string(c, ids[i], &name);
            if (l.top->len && l.top->data[l.top->len - 1] != '{')
                deq_buf_str(l.top, ",");
            reply_buf(l.top, &name);
            deq_buf_str(l.top, ":");
            reply_number(l.top, values[i]);
        }
        if (!own_in) { /* "may be up to logprobs + 1": the sampled one is always in */
            token_string(c, token, &name);
            if (l.top->len && l.top->data[l.top->len - 1] != '{')
                deq_buf_str(l.top, ",");
            reply_buf(l.top, &name);
            deq_buf_str(l.top, ":");
            reply_number(l.top, own);
        }
        deq_buf_str(l.top, "},");
        deq_buf_fmt(l.offsets, "%zu,", offset);
    }
    deq_buf_free(&name);
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
        ch->logprob_sum += (double)deq_logprob(e->logits, c->served->info.vocab_size, e->token);
    if (c->req.logprobs >= 0)
        add_entry(c, (struct lists){&ch->lp_tokens, &ch->lp_values, &ch->lp_top, &ch->lp_offsets}, e->token, e->logits, offset);
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

void prompt_add(struct prompt *p, uint32_t token, const float *logits)
{
    struct completion *c = p->c;
    size_t n = 0;
    const char *bytes = deq_token_text(c->served->model, p->prev, token, &n);
    const size_t offset = deq_utf8_pass(&p->place, bytes, n);
    if (c->req.logprobs >= 0)
        add_entry(c, (struct lists){&p->lp_tokens, &p->lp_values, &p->lp_top, &p->lp_offsets}, token, logits, offset);
    if (bytes)
        p->prev = token;
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
    (void)deq_buf_append(&ch->lp_tokens, &p->lp_tokens);
    (void)deq_buf_append(&ch->lp_values, &p->lp_values);
    (void)deq_buf_append(&ch->lp_top, &p->lp_top);
    (void)deq_buf_append(&ch->lp_offsets, &p->lp_offsets);
    deq_text_begin(ch->text, p->cut, p->n_cut);
    ch->place = p->place;
}

void choice_end(struct choice *ch)
{
    choice_begin(ch);
    deq_text_end(ch->text, &ch->shown);
}

/* --- JSON --- */

/* What was appended to an answer is needed no more; a stream needs its memory again soon. */
static void spend(const struct choice *ch, struct deq_buf *b)
{
    if (ch->c->req.stream)
        deq_buf_reset(b);
    else
        deq_buf_free(b);
}

/* Appends the list without its last comma, and empties it. */
static void take_list(const struct choice *ch, struct deq_buf *out, const char *before, struct deq_buf *list)
{
    deq_buf_str(out, before);
    reply_list(out, list);
    spend(ch, list);
}

static void add_logprobs(struct choice *ch, struct deq_buf *out)
{
    if (ch->c->req.logprobs < 0) {
        deq_buf_str(out, ",\"logprobs\":null");
        return;
    }
    if (ch->c->req.chat) {
        take_list(ch, out, ",\"logprobs\":{\"content\":", &ch->lp_tokens);
        deq_buf_str(out, "}");
        return;
    }
    take_list(ch, out, ",\"logprobs\":{\"tokens\":", &ch->lp_tokens);
    take_list(ch, out, ",\"token_logprobs\":", &ch->lp_values);
    take_list(ch, out, ",\"top_logprobs\":", &ch->lp_top);
    take_list(ch, out, ",\"text_offset\":", &ch->lp_offsets);
    deq_buf_str(out, "}");
}

static void add_ids(const struct deq_tokens *t, struct deq_buf *out)
{
    for (size_t i = 0; i < t->n; i++)
        deq_buf_fmt(out, "%s%u", i ? "," : "", t->ids[i]);
}

static void add_extras(struct choice *ch, const char *finish, bool first, struct deq_buf *out)
{
    const struct completion_request *r = &ch->c->req;
    if (finish && ch->stopped >= 0) {
        deq_buf_str(out, ",\"stop_reason\":");
        reply_string(out, r->stop[ch->stopped], r->stop_len[ch->stopped]);
    } else if (finish && ch->stop_token >= 0) {
        deq_buf_fmt(out, ",\"stop_reason\":%lld", (long long)ch->stop_token);
    }
    if (r->token_ids) {
        take_list(ch, out, ",\"token_ids\":", &ch->ids);
        if (first) {
            deq_buf_str(out, ",\"prompt_token_ids\":[");
            add_ids(&ch->c->prompts[ch->prompt].job.prompt, out);
            deq_buf_str(out, "]");
        }
    }
    if (r->telemetry) {
        take_list(ch, out, ",\"deq\":{\"iters\":", &ch->iters);
        take_list(ch, out, ",\"residual\":", &ch->residuals);
        take_list(ch, out, ",\"warm\":", &ch->starts);
        deq_buf_str(out, "}");
    }
}

static void add_choice(struct choice *ch, size_t index, const char *finish, bool delta, bool first, struct deq_buf *out)
{
    const bool chat = ch->c->req.chat;
    deq_buf_fmt(out, "{\"index\":%zu,", index);
    if (chat)
        deq_buf_fmt(out, "\"%s\":{%s", delta ? "delta" : "message", first ? "\"role\":\"assistant\"" : "");
    if (!chat) {
        deq_buf_str(out, "\"text\":");
        reply_buf(out, &ch->shown);
    } else if (ch->shown.len || !delta || first) {
        deq_buf_str(out, first ? ",\"content\":" : "\"content\":");
        reply_buf(out, &ch->shown);
    }
    if (chat)
        deq_buf_str(out, delta ? "}" : ",\"refusal\":null}");
    spend(ch, &ch->shown);
    add_logprobs(ch, out);
    deq_buf_fmt(out, finish ? ",\"finish_reason\":\"%s\"" : ",\"finish_reason\":null", finish);
    add_extras(ch, finish, first, out);
    deq_buf_str(out, "}");
}

void completion_head(struct completion *c)
{
    deq_buf_fmt(&c->head, "{\"id\":\"%s-%s\",\"object\":\"%s\",\"created\":%lld,\"model\":\"%s\",\"system_fingerprint\":\"%s\",\"choices\":[",
                c->req.chat ? "chatcmpl" : "cmpl", c->request_id,
                !c->req.chat ? "text_completion" : c->req.stream ? "chat.completion.chunk" : "chat.completion", (long long)c->created, c->served->name,
                c->served->info.fingerprint);
}

static void add_usage(const struct completion *c, struct deq_buf *out)
{
    uint64_t prompt = 0, text = 0, cached = 0;
    for (size_t i = 0; i < c->req.n_prompts; i++) {
        prompt += c->prompts[i].job.prompt.n;
        cached += c->prompts[i].job.admission.cached_tokens;
    }
    for (size_t i = 0; i < c->req.n_prompts * best_of(c); i++)
        text += c->choices[i].tokens;
    deq_buf_fmt(out, "\"usage\":{\"prompt_tokens\":%llu,\"completion_tokens\":%llu,\"total_tokens\":%llu,\"prompt_tokens_details\":{\"cached_tokens\":%llu}}",
                (unsigned long long)prompt, (unsigned long long)text, (unsigned long long)(prompt + text), (unsigned long long)cached);
}

void completion_report(const struct completion *c, const struct choice *ch, size_t n, struct deq_buf *out)
{
    const struct deq_solve_params *p = &c->req.solve;
    double sum = 0;
    uint64_t tokens = 0, cached = 0, prompt_positions = 0, prompt_evaluations = 0;
    uint32_t iters_max = 0;
    float residual_max = 0;
    bool converged = true, approximate = false, deadline = false;
    for (size_t i = 0; i < n; i++) {
        sum += ch[i].iters_sum;
        tokens += ch[i].tokens;
        prompt_positions += ch[i].prompt_positions;
        prompt_evaluations += ch[i].prompt_evaluations;
        iters_max = DEQ_MAX(iters_max, ch[i].iters_max);
        residual_max = fmaxf(residual_max, ch[i].residual_max);
        converged = converged && ch[i].converged;
        deadline = deadline || ch[i].finish == DEQ_FINISH_DEADLINE;
        const struct deq_admission *a = &c->prompts[ch[i].prompt].job.admission;
        approximate = approximate || a->approximate;
        cached = DEQ_MAX(cached, (uint64_t)a->cached_tokens);
    }
    deq_buf_fmt(out, "\"deq\":{\"tol\":%.6g,\"solver\":\"%s\",\"warm_start\":\"%s\",\"window\":%u,\"iters_mean\":%.6g,\"iters_max\":%u,\"prompt_iters_mean\":%.6g,\"residual_max\":",
                (double)p->tol, deq_solver_name(p->solver), deq_warm_name(p->warm_start), p->window, tokens ? sum / (double)tokens : 0.0, iters_max,
                prompt_positions ? (double)prompt_evaluations / (double)prompt_positions : 0.0);
    reply_number(out, residual_max);
    deq_buf_fmt(out, ",\"converged\":%s,\"cache\":\"%s\",\"seed\":%lld%s}", converged && !deadline ? "true" : "false",
                approximate ? "approximate" : cached ? "exact" : "none", (long long)c->req.seed,
                deadline ? ",\"deadline_exceeded\":true" : "");
}

/* --- Stream --- */

bool choice_has_news(const struct choice *ch)
{
    return ch->shown.len > ch->told || ch->lp_tokens.len > ch->told_logprobs || ch->ids.len || ch->iters.len;
}

bool choice_send(struct choice *ch, const char *finish)
{
    struct completion *c = ch->c;
    struct deq_buf b;
    if (c->req.responses)
        return finish || response_delta(ch);
    const bool first = !ch->sent;
    ch->sent = true;
    deq_buf_init(&b, ANSWER_MAX_BYTES);
    b.allowance = &c->channel->allowance;
    deq_buf_str(&b, "data: ");
    deq_buf_append(&b, &c->head);
    add_choice(ch, (size_t)(ch - c->choices), finish, true, first, &b);
    deq_buf_str(&b, "]");
    if (c->req.continuous_usage) {
        deq_buf_str(&b, ",");
        add_usage(c, &b);
    } else if (c->req.include_usage) {
        deq_buf_str(&b, ",\"usage\":null");
    }
    if (finish) {
        deq_buf_str(&b, ",");
        completion_report(c, ch, 1, &b);
    }
    deq_buf_str(&b, "}\n\n");
    const bool ok = channel_write(c->channel, &b);
    deq_buf_free(&b);
    return ok;
}

static void end_stream(struct completion *c)
{
    struct deq_buf b;
    deq_buf_init(&b, 1 << 16);
    if (c->req.include_usage) {
        deq_buf_str(&b, "data: ");
        deq_buf_append(&b, &c->head);
        deq_buf_str(&b, "],");
        add_usage(c, &b);
        deq_buf_str(&b, "}\n\n");
    }
    deq_buf_str(&b, "data: [DONE]\n\n");
    if (channel_write(c->channel, &b))
        channel_finish(c->channel, 200, NULL, false);
    else
        answer_cut(c->channel);
    deq_buf_free(&b);
}

/* --- Whole --- */

static int by_logprob(const void *a, const void *b)
{
    const struct choice *x = *(const struct choice *const *)a, *y = *(const struct choice *const *)b;
    const double mx = x->tokens ? x->logprob_sum / x->tokens : 0, my = y->tokens ? y->logprob_sum / y->tokens : 0;
    return mx != my ? (mx > my ? -1 : 1) : x < y ? -1 : 1;
}

void completion_answer(struct completion *c)
{
    if (c->req.responses) {
        response_answer(c);
        return;
    }
    if (c->req.stream) {
        end_stream(c);
        return;
    }
    struct deq_buf b;
    struct choice *order[1024]; /* the bound of limits.max_n */
    size_t index = 0;
    deq_buf_init(&b, ANSWER_MAX_BYTES);
    b.allowance = &c->channel->allowance;
    deq_buf_append(&b, &c->head);
    for (size_t i = 0; i < c->req.n_prompts; i++) {
        for (size_t k = 0; k < best_of(c); k++)
            order[k] = &c->choices[i * best_of(c) + k];
        if (c->req.best_of > c->req.n)
            qsort(order, best_of(c), sizeof *order, by_logprob);
        for (size_t k = 0; k < (size_t)c->req.n; k++) {
            deq_buf_str(&b, index ? "," : "");
            add_choice(order[k], index++, finish_word(order[k]->finish), false, true, &b);
        }
    }
    deq_buf_str(&b, "],");
    add_usage(c, &b);
    deq_buf_str(&b, ",");
    completion_report(c, c->choices, c->req.n_prompts * best_of(c), &b);
    deq_buf_str(&b, "}");
    answer_whole(c->channel, 200, "application/json", &b);
    deq_buf_free(&b);
}

void completion_error(struct completion *c, int status, const char *code, const char *message)
{
    if (!strcmp(code, "solver_diverged"))
        channel_no_retry(c->channel);
    if (status == 503)
        channel_retry_after(c->channel, sched_retry_ms(c->served->sched));
    if (c->req.responses && channel_settle(c->channel))
        response_error(c, status, code, message);
    else
        answer_error(c->channel, status, code, message);
}
