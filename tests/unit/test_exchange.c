/* server/api/exchange.c: errors as answers, with their status, code, and when to try again. */
#include "server/api/exchange.h"

#include "tests/unit/test.h"

static struct exchange fresh(void)
{
    struct exchange x = {.reply_type = "text/plain", .reply.max = 1 << 12};
    deq_buf_str(&x.reply, "half an answer");
    return x;
}

TEST(exchange_errors)
{
    struct exchange x = fresh();
    exchange_error(&x, 404, "unknown_path", NULL, "no \"such\" thing");
    CHECK_EQ(x.status, 404);
    CHECK(!x.reply_type && !x.retry_after_ms);
    CHECK_EQ(x.reply.data,
             "{\"error\":{\"message\":\"no \\\"such\\\" thing\",\"type\":\"not_found_error\",\"param\":null,"
                           "\"code\":\"unknown_path\"}}"); /* and nothing of what was there */
    deq_buf_free(&x.reply);

    x = fresh();
    exchange_no_memory(&x);
    CHECK(x.status == 503 && x.retry_after_ms == 1000 && strstr(x.reply.data, "\"out_of_memory\""));
    deq_buf_free(&x.reply);

    struct request_error e = {.status = 400, .code = "invalid_value", .param = "top_p", .message = "top_p: no"};
    x = (struct exchange){.reply.max = 1 << 12};
    exchange_request_error(&x, &e);
    CHECK(x.status == 400 && !x.retry_after_ms);
    CHECK_EQ(x.reply.data,
             "{\"error\":{\"message\":\"top_p: no\",\"type\":\"invalid_request_error\",\"param\":\"top_p\","
                           "\"code\":\"invalid_value\"}}");
    deq_buf_free(&x.reply);

    e = (struct request_error){.status = 400, .code = "context_length_exceeded", .param = "prompt", .message = "long",
                               .n_prompt_tokens = 201, .n_ctx = 200};
    x = (struct exchange){.reply.max = 1 << 12};
    exchange_request_error(&x, &e);
    CHECK(strstr(x.reply.data, "\"n_prompt_tokens\":201,\"n_ctx\":200"));
    deq_buf_free(&x.reply);

    e = (struct request_error){.status = 503, .code = "out_of_memory", .message = "later"};
    x = (struct exchange){.reply.max = 1 << 12};
    exchange_request_error(&x, &e);
    CHECK(x.status == 503 && x.retry_after_ms == 1000);
    deq_buf_free(&x.reply);
}
