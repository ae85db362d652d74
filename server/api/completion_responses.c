/* The words of /v1/responses, OpenAI's Responses API: one message of text, as one object or as typed events that are
 * numbered through. The last event is response.completed, response.incomplete or, behind an error event,
 * response.failed; there is no [DONE]. */
#include <stdio.h>
#include <string.h>

#include "server/api/answer.h"
#include "server/api/completion.h"
#include "server/api/reply.h"

enum { OBJECT_MAX_BYTES = 256 << 20 };

static const char IN_PROGRESS[] = "in_progress";
/* What a response says and nobody can ask otherwise. */
static const char CONSTANTS[] = "\"background\":false,\"parallel_tool_calls\":true,\"previous_response_id\":null,"
                                "\"reasoning\":{\"effort\":null,\"summary\":null},\"service_tier\":\"default\","
                                "\"store\":false,\"tool_choice\":\"auto\",\"tools\":[],";

static const char *status_of(const struct completion *c)
{
    return !strcmp(finish_word(c->choices[0].finish), "length") ? "incomplete" : "completed";
}

/* --- Objects --- */

static void add_part(const struct deq_buf *text, const struct deq_buf *logprobs, struct deq_buf *out)
{
    deq_buf_str(out, "{\"type\":\"output_text\",\"text\":");
    reply_buf(out, text);
    deq_buf_str(out, ",\"annotations\":[],\"logprobs\":");
    reply_list(out, logprobs);
    deq_buf_str(out, "}");
}

/* The message; in progress it is empty. */
static void add_message(const struct completion *c, const char *status, struct deq_buf *out)
{
    const struct choice *ch = &c->choices[0];
    deq_buf_fmt(out, "{\"id\":\"msg_%s\",\"type\":\"message\",\"role\":\"assistant\",\"status\":\"%s\",\"content\":[",
                c->request_id, status);
    if (status != IN_PROGRESS)
        add_part(&ch->shown, &ch->logprobs.tokens, out);
    deq_buf_str(out, "]}");
}

static void add_usage(const struct completion *c, struct deq_buf *out)
{
    const struct job *j = &c->prompts[0].job;
    const size_t in = c->state.tokens + j->prompt.n, text = c->choices[0].tokens;
    deq_buf_fmt(out,
                "{\"input_tokens\":%zu,\"input_tokens_details\":{\"cached_tokens\":%zu},\"output_tokens\":%zu,"
                "\"output_tokens_details\":{\"reasoning_tokens\":0},\"total_tokens\":%zu}",
                in, j->admission.cached_tokens, text, in + text);
}

/* status: in_progress, completed, incomplete or, with an error, failed. */
static void add_response(const struct completion *c, const char *status, const char *error, struct deq_buf *out)
{
    const bool has_text = !error && status != IN_PROGRESS;
    deq_buf_fmt(out, "{\"id\":\"resp_%s\",\"object\":\"response\",\"created_at\":%lld,\"status\":\"%s\",\"error\":",
                c->request_id, (long long)c->created, status);
    if (error) {
        deq_buf_str(out, "{\"code\":\"server_error\",\"message\":");
        reply_string(out, error, strlen(error));
        deq_buf_str(out, "}");
    } else {
        deq_buf_str(out, "null");
    }
    deq_buf_fmt(out, ",\"incomplete_details\":%s,\"model\":",
                !strcmp(status, "incomplete") ? "{\"reason\":\"max_output_tokens\"}" : "null");
    reply_string(out, c->served->name, strlen(c->served->name));
    deq_buf_str(out, ",\"output\":[");
    if (has_text)
        add_message(c, status, out);
    deq_buf_str(out, "],");
    deq_buf_add(out, c->req.told, c->req.told_len);
    deq_buf_str(out, CONSTANTS);
    deq_buf_str(out, "\"usage\":");
    if (has_text) {
        add_usage(c, out);
        deq_buf_str(out, ",");
        completion_report(c, c->choices, 1, out);
    } else {
        deq_buf_str(out, "null,\"deq\":null");
    }
    deq_buf_fmt(out, ",\"system_fingerprint\":\"%s\"}", c->served->info.fingerprint);
}

/* --- Events --- */

static void begin_event(struct completion *c, const char *type, struct deq_buf *out)
{
    deq_buf_fmt(out, "event: %s\ndata: {\"type\":\"%s\",\"sequence_number\":%llu", type, type,
                (unsigned long long)c->events++);
}

static void end_event(struct deq_buf *out)
{
    deq_buf_str(out, "}\n\n");
}

static void response_event(struct completion *c, const char *type, const char *status, const char *error,
                           struct deq_buf *out)
{
    begin_event(c, type, out);
    deq_buf_str(out, ",\"response\":");
    add_response(c, status, error, out);
    end_event(out);
}

static void item_event(struct completion *c, const char *type, const char *status, struct deq_buf *out)
{
    begin_event(c, type, out);
    deq_buf_str(out, ",\"output_index\":0,\"item\":");
    add_message(c, status, out);
    end_event(out);
}

/* An event about the one part of the message. */
static void begin_part_event(struct completion *c, const char *type, struct deq_buf *out)
{
    begin_event(c, type, out);
    deq_buf_fmt(out, ",\"item_id\":\"msg_%s\",\"output_index\":0,\"content_index\":0", c->request_id);
}

static void part_event(struct completion *c, const char *type, const struct deq_buf *text,
                       const struct deq_buf *logprobs, struct deq_buf *out)
{
    begin_part_event(c, type, out);
    deq_buf_str(out, ",\"part\":");
    add_part(text, logprobs, out);
    end_event(out);
}

static struct deq_buf new_buffer(const struct completion *c)
{
    return (struct deq_buf){.max = OBJECT_MAX_BYTES, .allowance = &c->channel->allowance};
}

static bool write_events(struct completion *c, struct deq_buf *b)
{
    const bool ok = channel_write(c->channel, b);
    deq_buf_free(b);
    return ok;
}

/* The last events; the status is that of an error, or 200. */
static void write_end(struct completion *c, int status, struct deq_buf *b)
{
    if (write_events(c, b))
        channel_finish(c->channel, status, NULL, false);
    else
        answer_cut(c->channel);
}

void response_begin(struct completion *c)
{
    const struct deq_buf none = {0};
    struct deq_buf b = new_buffer(c);
    response_event(c, "response.created", IN_PROGRESS, NULL, &b);
    response_event(c, "response.in_progress", IN_PROGRESS, NULL, &b);
    item_event(c, "response.output_item.added", IN_PROGRESS, &b);
    part_event(c, "response.content_part.added", &none, &none, &b);
    (void)write_events(c, &b);
}

static struct deq_buf since(const struct deq_buf *b, size_t at)
{
    at = DEQ_MIN(at, b->len); /* one that failed is empty */
    return (struct deq_buf){.data = b->data + at, .len = b->len - at, .failed = b->failed};
}

bool response_delta(struct choice *ch)
{
    struct completion *c = ch->c;
    const struct deq_buf text = since(&ch->shown, ch->told), logprobs = since(&ch->logprobs.tokens, ch->told_logprobs);
    struct deq_buf b = new_buffer(c);
    begin_part_event(c, "response.output_text.delta", &b);
    deq_buf_str(&b, ",\"delta\":");
    reply_buf(&b, &text);
    deq_buf_str(&b, ",\"logprobs\":");
    reply_list(&b, &logprobs);
    end_event(&b);
    ch->told = ch->shown.len;
    ch->told_logprobs = ch->logprobs.tokens.len;
    return write_events(c, &b);
}

static void end_stream(struct completion *c)
{
    const struct choice *ch = &c->choices[0];
    const char *status = status_of(c);
    struct deq_buf b = new_buffer(c);
    begin_part_event(c, "response.output_text.done", &b);
    deq_buf_str(&b, ",\"text\":");
    reply_buf(&b, &ch->shown);
    deq_buf_str(&b, ",\"logprobs\":");
    reply_list(&b, &ch->logprobs.tokens);
    end_event(&b);
    part_event(c, "response.content_part.done", &ch->shown, &ch->logprobs.tokens, &b);
    item_event(c, "response.output_item.done", status, &b);
    response_event(c, !strcmp(status, "completed") ? "response.completed" : "response.incomplete", status, NULL, &b);
    write_end(c, 200, &b);
}

void response_answer(struct completion *c)
{
    struct deq_buf b = new_buffer(c);
    if (c->req.stream) {
        end_stream(c);
        return;
    }
    add_response(c, status_of(c), NULL, &b);
    answer_whole(c->channel, 200, "application/json", &b);
    deq_buf_free(&b);
}

/* The error as our other streams have it too, which makes OpenAI's clients raise it; then the end. */
void response_error(struct completion *c)
{
    const char *const code = exchange_failure_code(&c->failure), *const message = c->failure.message;
    const int status = exchange_failure_status(&c->failure);
    struct deq_buf b = new_buffer(c), error = new_buffer(c);
    reply_error(&error, status, code, NULL, message);
    /* of {"error": {...}} what is inside */
    const struct deq_buf inside = {
        .data = error.data + 1, .len = error.len - DEQ_MIN(error.len, (size_t)2), .failed = error.failed};
    begin_event(c, "error", &b);
    deq_buf_fmt(&b, ",\"code\":\"%s\",\"param\":null,\"message\":", code);
    reply_string(&b, message, strlen(message));
    deq_buf_str(&b, ",");
    deq_buf_append(&b, &inside);
    end_event(&b);
    response_event(c, "response.failed", "failed", message, &b);
    deq_buf_free(&error);
    write_end(c, status, &b);
}
