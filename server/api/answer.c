#include "server/api/answer.h"

#include "server/api/reply.h"

#define NO_MEMORY                                                                                                      \
    "{\"error\":{\"message\":\"out of memory; try again later\",\"type\":\"unavailable_error\","                      \
    "\"param\":null,\"code\":\"out_of_memory\"}}"

const char answer_no_memory[] = NO_MEMORY;

static void out_of_memory(struct channel *c)
{
    const bool streaming = channel_settle(c);
    channel_retry_after(c, ANSWER_RETRY_MS);
    channel_last_words(c, streaming ? "data: " NO_MEMORY "\n\n" : answer_no_memory);
    channel_finish(c, 503, "application/json", false);
}

void answer_whole(struct channel *c, int status, const char *content_type, struct deq_buf *b)
{
    if (b->failed) {
        out_of_memory(c);
        return;
    }
    channel_give(c, b);
    channel_finish(c, status, content_type, false);
}

void answer_error(struct channel *c, int status, const char *code, const char *message)
{
    struct deq_buf b;
    const bool streaming = channel_settle(c);
    deq_buf_init(&b, 4096);
    if (streaming)
        deq_buf_str(&b, "data: ");
    reply_error(&b, status, code, NULL, message);
    if (streaming)
        deq_buf_str(&b, "\n\n");
    if (!streaming)
        answer_whole(c, status, "application/json", &b);
    else if (channel_write(c, &b))
        channel_finish(c, status, NULL, false);
    else
        answer_cut(c);
    deq_buf_free(&b);
}

void answer_cut(struct channel *c)
{
    if (channel_starved(c))
        out_of_memory(c);
    else
        channel_finish(c, 500, "application/json", true);
}
