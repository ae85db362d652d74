/* server/api/ep_tokens.c: text to tokens and back. */
#include "tests/unit/inside.h"
#include "tests/unit/test.h"

TEST(ep_tokens_there_and_back)
{
    static struct outcome o;
    char body[1 << 12];
    REQUIRE(inside_begin(NULL));
    inside_ask("POST", "/tokenize", "{\"prompt\":\"The king\\n\"}", &o);
    CHECK_EQ(o.status, 200);
    const char *tokens = strchr(o.text, '['), *end = strchr(o.text, ']');
    CHECK(!strncmp(o.text, "{\"tokens\":[", 11) && tokens && end && strstr(end, ",\"max_model_len\":2048}"));
    snprintf(body, sizeof body, "{\"tokens\":%.*s}", (int)(end + 1 - tokens), tokens);
    inside_ask("POST", "/detokenize", body, &o);
    CHECK_EQ(o.text, "{\"prompt\":\"The king\\n\",\"content\":\"The king\\n\"}");
    /* a special token is read as one, or as the text that it is; and shown */
    inside_ask("POST", "/tokenize", "{\"content\":\"<|endoftext|>\"}", &o);
    CHECK_EQ(o.text, "{\"tokens\":[0],\"count\":1,\"max_model_len\":2048}");
    inside_ask("POST", "/tokenize", "{\"content\":\"<|endoftext|>\",\"parse_special\":false}", &o);
    CHECK(!strstr(o.text, "[0]"));
    inside_ask("POST", "/detokenize", "{\"tokens\":[0]}", &o);
    CHECK_EQ(o.text, "{\"prompt\":\"<|endoftext|>\",\"content\":\"<|endoftext|>\"}");
    /* a character that is cut is told as such */
    inside_ask("POST", "/tokenize", "{\"prompt\":\"\xe2\x82\xac\"}", &o);
    CHECK(strstr(o.text, "\"count\":3"));
    snprintf(body, sizeof body, "{\"tokens\":[%.*s]}", (int)strcspn(o.text + 11, ","), o.text + 11);
    inside_ask("POST", "/detokenize", body, &o);
    CHECK_EQ(o.text, "{\"prompt\":\"\xef\xbf\xbd\",\"content\":\"\xef\xbf\xbd\"}");
    inside_ask("POST", "/detokenize", "{\"tokens\":[9999]}", &o);
    CHECK_EQ(o.status, 400);
    inside_ask("GET", "/tokenizer_info", "", &o);
    CHECK(o.status == 200 && strstr(o.text, "\"eos_token\":\"<|endoftext|>\"") && strstr(o.text, "\"eos_token_id\":0"));
    inside_end();
}
