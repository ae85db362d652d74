/* The answers of /v1/completions and /v1/chat/completions as JSON: one object, or an event a chunk. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/api/answer.h"
#include "server/api/completion.h"
#include "server/api/reply.h"

enum {
    HEAD_MAX_BYTES = 4096,
    ANSWER_MAX_BYTES = 1 << 30,
    CHUNK_KEPT_BYTES = 16 << 10, /* of memory for the next; a prompt's scores come once */
};

const char *finish_word(enum deq_finish f)
{
    /* OpenAI's protocol has these two; choices that ended otherwise are told as errors, or not at all */
    static const char *const words[] = {[DEQ_FINISH_LENGTH] = "length",
                                        [DEQ_FINISH_EOS] = "stop",
                                        [DEQ_FINISH_STOP] = "stop",
                                        [DEQ_FINISH_CANCELED] = "stop",
                                        [DEQ_FINISH_NUMERIC] = "stop",
                                        [DEQ_FINISH_DEADLINE] = "length",
                                        [DEQ_FINISH_BUDGET] = "length"};
    _Static_assert(DEQ_COUNT(words) == DEQ_FINISH_COUNT, "a word for each end");
    return words[f];
}

static size_t best_of(const struct completion *c)
{
    return (size_t)c->req.best_of;
}

/* --- Choices --- */

/* Beyond what is told. A buffer that failed is empty, and has what makes the answer fail. */
static bool is_more(const struct deq_buf *b, size_t told)
{
    return b->failed || b->len > told;
}

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
        take_list(ch, out, ",\"logprobs\":{\"content\":", &ch->logprobs.tokens);
        deq_buf_str(out, "}");
        return;
    }
    take_list(ch, out, ",\"logprobs\":{\"tokens\":", &ch->logprobs.tokens);
    take_list(ch, out, ",\"token_logprobs\":", &ch->logprobs.values);
    take_list(ch, out, ",\"top_logprobs\":", &ch->logprobs.top);
    take_list(ch, out, ",\"text_offset\":", &ch->logprobs.offsets);
    deq_buf_str(out, "}");
}

static void add_ids(const struct deq_tokens *t, struct deq_buf *out)
{
    for (size_t i = 0; i < t->n; i++)
        deq_buf_fmt(out, "%s%u", i ? "," : "", t->ids[i]);
}

/* The rows behind the tokens; the last time also how many are not told. */
static void add_trace(struct choice *ch, const char *finish, struct deq_buf *out)
{
    take_list(ch, out, "\"trace\":{\"tokens\":", &ch->trace.tokens);
    take_list(ch, out, ",\"dropped\":", &ch->trace.dropped);
    if (finish && ch->dropped > TRACE_DROPPED_MAX)
        deq_buf_fmt(out, ",\"dropped_more\":%u", ch->dropped - TRACE_DROPPED_MAX);
    deq_buf_str(out, "}");
}

static void add_solves(struct choice *ch, struct solve_lists *l, struct deq_buf *out)
{
    take_list(ch, out, "\"iters\":", &l->iters);
    take_list(ch, out, ",\"residual\":", &l->residuals);
    take_list(ch, out, ",\"warm\":", &l->starts);
}

static void add_telemetry(struct choice *ch, const char *finish, struct deq_buf *out)
{
    const struct completion_request *r = &ch->c->req;
    if (!r->telemetry && !r->trace)
        return;
    deq_buf_str(out, ",\"deq\":{");
    if (r->telemetry) {
        add_solves(ch, &ch->solves, out);
        if (is_more(&ch->prompt_solves.iters, 0)) {
            deq_buf_str(out, ",\"prompt\":{");
            add_solves(ch, &ch->prompt_solves, out);
            deq_buf_str(out, "}");
        }
    }
    if (r->trace) {
        deq_buf_str(out, r->telemetry ? "," : "");
        add_trace(ch, finish, out);
    }
    deq_buf_str(out, "}");
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
    add_telemetry(ch, finish, out);
}

static void add_choice(struct choice *ch, size_t index, const char *finish, bool delta, bool first, struct deq_buf *out)
{
    const bool chat = ch->c->req.chat;
    deq_buf_str(out, "{\"index\":");
    deq_buf_uint(out, index);
    deq_buf_str(out, ",");
    if (chat)
        deq_buf_fmt(out, "\"%s\":{%s", delta ? "delta" : "message", first ? "\"role\":\"assistant\"" : "");
    if (!chat) {
        deq_buf_str(out, "\"text\":");
        reply_buf(out, &ch->shown);
    } else if (is_more(&ch->shown, 0) || !delta || first) {
        deq_buf_str(out, first ? ",\"content\":" : "\"content\":");
        reply_buf(out, &ch->shown);
    }
    if (chat)
        deq_buf_str(out, delta ? "}" : ",\"refusal\":null}");
    spend(ch, &ch->shown);
    add_logprobs(ch, out);
    if (finish)
        deq_buf_fmt(out, ",\"finish_reason\":\"%s\"", finish);
    else
        deq_buf_str(out, ",\"finish_reason\":null");
    add_extras(ch, finish, first, out);
    deq_buf_str(out, "}");
}

void completion_head(struct completion *c)
{
    deq_buf_init(&c->head, HEAD_MAX_BYTES);
    deq_buf_init(&c->chunk, ANSWER_MAX_BYTES);
    c->chunk.allowance = &c->channel->allowance;
    deq_buf_fmt(&c->head,
                "{\"id\":\"%s-%s\",\"object\":\"%s\",\"created\":%lld,\"model\":\"%s\",\"system_fingerprint\":\"%s\","
                "\"choices\":[",
                c->req.chat ? "chatcmpl" : "cmpl", c->request_id,
                !c->req.chat ? "text_completion" : c->req.stream ? "chat.completion.chunk" : "chat.completion",
                (long long)c->created, c->served->name, c->served->info.fingerprint);
}

static void add_usage(const struct completion *c, struct deq_buf *out)
{
    uint64_t prompt = 0, text = 0, cached = 0;
    for (size_t i = 0; i < c->req.n_prompts; i++) {
        prompt += c->state.tokens + c->prompts[i].job.prompt.n;
        cached += c->prompts[i].taken_cached;
    }
    for (size_t i = 0; i < c->req.n_prompts * best_of(c); i++)
        text += c->choices[i].taken_tokens;
    deq_buf_fmt(out,
                "\"usage\":{\"prompt_tokens\":%llu,\"completion_tokens\":%llu,\"total_tokens\":%llu,"
                "\"prompt_tokens_details\":{\"cached_tokens\":%llu}}",
                (unsigned long long)prompt, (unsigned long long)text, (unsigned long long)(prompt + text),
                (unsigned long long)cached);
}

void completion_report(const struct completion *c, const struct choice *ch, size_t n, struct deq_buf *out)
{
    const struct deq_solve_params *p = &c->req.solve;
    double sum = 0;
    uint64_t tokens = 0, cached = 0, prompt_positions = 0, prompt_evaluations = 0, text_evaluations = 0;
    uint32_t iters_max = 0;
    float residual_max = 0, tol_max = p->tol;
    bool converged = true, approximate = false, deadline = false;
    for (size_t i = 0; i < n; i++) {
        sum += ch[i].iters_sum;
        tokens += ch[i].tokens;
        prompt_positions += ch[i].prompt_positions;
        prompt_evaluations += ch[i].prompt_evaluations;
        text_evaluations = DEQ_MAX(text_evaluations, ch[i].text_evaluations);
        iters_max = DEQ_MAX(iters_max, ch[i].iters_max);
        residual_max = fmaxf(residual_max, ch[i].residual_max);
        tol_max = fmaxf(tol_max, ch[i].tol_max);
        converged = converged && ch[i].converged;
        deadline = deadline || ch[i].finish == DEQ_FINISH_DEADLINE;
        const struct deq_admission *a = &c->prompts[ch[i].prompt].job.admission;
        approximate = approximate || a->approximate;
        cached = DEQ_MAX(cached, (uint64_t)a->cached_tokens);
    }
    deq_buf_fmt(out,
                "\"deq\":{\"tol\":%.6g,\"tol_effective\":%.6g,\"depth\":\"%s\",\"stop\":\"%s\","
                "\"solver\":\"%s\",\"warm_start\":\"%s\",\"window\":%u,\"prefill_window\":%u,\"iters_mean\":%.6g,"
                "\"iters_max\":%u,\"prompt_iters_mean\":%.6g,\"residual_max\":",
                (double)p->tol, (double)tol_max, c->prompts[0].job.elastic ? "elastic" : "fixed",
                deq_stop_rule_name(p->stop), deq_solver_name(p->solver),
                deq_warm_name(p->warm_start), p->window, deq_prefill_window(p->window, p->prefill_window),
                tokens ? sum / (double)tokens : 0.0, iters_max,
                prompt_positions ? (double)prompt_evaluations / (double)prompt_positions : 0.0);
    reply_residual(out, p->max_iter ? residual_max : NAN);
    deq_buf_fmt(out, ",\"converged\":%s,\"cache\":\"%s\",\"seed\":%lld%s", converged && !deadline ? "true" : "false",
                c->state.state ? "state" : approximate ? "approximate" : cached ? "exact" : "none",
                (long long)c->req.seed,
                deadline ? ",\"deadline_exceeded\":true" : "");
    if (p->max_evaluations)
        deq_buf_fmt(out, ",\"max_evaluations\":%llu,\"evaluations\":%llu,\"budget_exhausted\":%s",
                    (unsigned long long)p->max_evaluations, (unsigned long long)text_evaluations,
                    text_evaluations >= p->max_evaluations ? "true" : "false");
    deq_buf_str(out, "}");
}

/* Of a request that has ended. */
static struct timings timings_of(const struct completion *c)
{
    struct timings t = {0};
    for (size_t i = 0; i < c->req.n_prompts; i++)
        timings_add(&t, &c->prompts[i].job, c->ended_ns);
    for (size_t i = 0; i < c->req.n_prompts * best_of(c); i++) {
        const struct choice *ch = &c->choices[i];
        t.predicted_n += ch->tokens;
        t.predicted_evaluations += (uint64_t)ch->iters_sum;
        t.prompt_evaluations += ch->prompt_evaluations;
    }
    return t;
}

static void add_timings(const struct completion *c, struct deq_buf *out)
{
    const struct timings t = timings_of(c);
    deq_buf_str(out, ",\"timings\":");
    timings_json(&t, out);
}

/* --- Stream --- */

bool choice_has_news(const struct choice *ch)
{
    return is_more(&ch->shown, ch->told) || is_more(&ch->logprobs.tokens, ch->told_logprobs) || is_more(&ch->ids, 0) ||
           is_more(&ch->solves.iters, 0) || is_more(&ch->trace.tokens, 0);
}

bool choice_send(struct choice *ch, const char *finish)
{
    struct completion *c = ch->c;
    struct deq_buf *b = &c->chunk;
    if (c->req.responses)
        return finish || response_delta(ch);
    const bool first = !ch->sent;
    ch->sent = true;
    deq_buf_reset(b);
    deq_buf_str(b, "data: ");
    deq_buf_append(b, &c->head);
    add_choice(ch, (size_t)(ch - c->choices), finish, true, first, b);
    deq_buf_str(b, "]");
    if (c->req.continuous_usage) {
        deq_buf_str(b, ",");
        add_usage(c, b);
    } else if (c->req.include_usage) {
        deq_buf_str(b, ",\"usage\":null");
    }
    if (finish) {
        deq_buf_str(b, ",");
        completion_report(c, ch, 1, b);
    }
    deq_buf_str(b, "}\n\n");
    const bool ok = channel_write(c->channel, b);
    if (b->cap > CHUNK_KEPT_BYTES)
        deq_buf_free(b);
    return ok;
}

static void end_stream(struct completion *c)
{
    struct deq_buf b;
    for (size_t i = 0; i < c->req.n_prompts * best_of(c); i++) /* those whose deadline came first, beside others */
        if (!c->choices[i].finished)
            (void)choice_send(&c->choices[i], finish_word(c->choices[i].finish));
    deq_buf_init(&b, 1 << 16);
    if (c->req.include_usage || c->req.timings) {
        deq_buf_str(&b, "data: ");
        deq_buf_append(&b, &c->head);
        deq_buf_str(&b, "]");
        if (c->req.include_usage) {
            deq_buf_str(&b, ",");
            add_usage(c, &b);
        }
        if (c->req.timings)
            add_timings(c, &b);
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
    if (!c->req.stream) {
        const struct timings t = timings_of(c);
        timings_tell(&t, c->channel);
    }
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
    if (c->req.timings)
        add_timings(c, &b);
    deq_buf_str(&b, "}");
    answer_whole(c->channel, 200, "application/json", &b);
    deq_buf_free(&b);
}

void completion_error(struct completion *c)
{
    if (c->req.responses && channel_settle(c->channel))
        response_error(c);
    else
        exchange_fail(c->channel, c->served->sched, &c->failure);
}
