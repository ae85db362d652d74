/* core/import/chat_template.c: chat templates in use become chats that give the text which Jinja2 gives
 * (templates.json was made with it), and what is not understood is named. */
#include "core/import/chat_template.h"

#include <jansson.h>
#include <stdlib.h>

#include "core/base/utf8.h"
#include "tests/unit/scratch.h"
#include "tests/unit/tokenizers.h"

/* Byte-level BPE of a line end and of special tokens: of other bytes it makes no tokens. */
static struct deq_tokenizer *with_special(void)
{
    static const char *const special[] = {"<|end_turn|>", "<|im_end|>", "<|eot_id|>", "</s>", "<|end|>"};
    struct deq_buf json;
    struct deq_tokenizer *tok = NULL;
    deq_buf_init(&json, 1 << 16);
    deq_buf_str(&json, "{\"version\": \"1.0\", \"truncation\": null, \"padding\": null, \"normalizer\": null, "
                       "\"post_processor\": null, \"pre_tokenizer\": " BYTE_LEVEL ", \"decoder\": " BYTE_LEVEL
                       ", \"added_tokens\": [");
    for (size_t i = 0; i < DEQ_COUNT(special); i++)
        deq_buf_fmt(&json, "%s{\"id\": %zu, \"content\": \"%s\", \"single_word\": false, \"lstrip\": false, "
                           "\"rstrip\": false, \"normalized\": false, \"special\": true}", i ? ", " : "", i,
                    special[i]);
    deq_buf_str(&json, "], \"model\": {\"type\": \"BPE\", \"dropout\": null, \"unk_token\": null, "
                       "\"continuing_subword_prefix\": \"\", \"end_of_word_suffix\": \"\", \"fuse_unk\": false, "
                       "\"byte_fallback\": false, \"ignore_merges\": false, \"merges\": [], \"vocab\": {");
    for (size_t i = 0; i < DEQ_COUNT(special); i++)
        deq_buf_fmt(&json, "\"%s\": %zu, ", special[i], i);
    deq_buf_str(&json, "\"\xc4\x8a\": 5, \"!\": 6}}}");
    if (!json.failed)
        tok = parse_tokenizer(json.data);
    deq_buf_free(&json);
    return tok;
}

/* What the server makes of a conversation by this chat. */
static void fill_in(const struct deq_chat *c, const json_t *messages, size_t from, size_t n, struct deq_buf *out)
{
    deq_buf_str(out, c->begin);
    for (size_t i = from; i < from + n; i++) {
        const json_t *m = json_array_get(messages, i);
        const char *role = json_string_value(json_object_get(m, "role")),
                   *content = json_string_value(json_object_get(m, "content"));
        size_t begin, end;
        deq_utf8_strip(content, strlen(content), &begin, &end);
        for (const char *at = c->message; *at;) {
            if (!strncmp(at, "{role}", 6))
                deq_buf_str(out, role), at += 6;
            else if (!strncmp(at, "{content}", 9))
                deq_buf_str(out, content), at += 9;
            else if (!strncmp(at, "{content_trimmed}", 17))
                deq_buf_add(out, content + begin, end - begin), at += 17;
            else
                deq_buf_add(out, at++, 1);
        }
    }
    deq_buf_str(out, c->reply);
}

static void check_filled(const struct deq_chat *c, const json_t *messages, size_t from, size_t n, const char *want)
{
    struct deq_buf text;
    deq_buf_init(&text, 1 << 14);
    fill_in(c, messages, from, n, &text);
    CHECK_EQ(text.failed ? "" : text.data, want);
    deq_buf_free(&text);
}

static const char *word(const json_t *o, const char *key)
{
    return json_string_value(json_object_get(o, key));
}

TEST(chat_templates_in_use)
{
    struct deq_tokenizer *tok = with_special();
    json_t *root = json_load_file("tests/golden/chat/templates.json", 0, NULL);
    REQUIRE(tok && root);
    const json_t *cases = json_object_get(root, "cases"), *messages = json_object_get(root, "messages");
    size_t taken = 0;
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *o = json_array_get(cases, i);
        const char *text = word(o, "template"), *refused = word(o, "refused");
        struct deq_chat c = {0};
        struct deq_err err = {0};
        const enum deq_rc rc = deq_chat_template_derive(text, strlen(text), word(o, "bos_token"), word(o, "eos_token"),
                                                        tok, &c, &err);
        if (refused) {
            CHECK_MSG(rc == DEQ_EFORMAT && strstr(err.text, refused), "%s: %d %s", word(o, "name"), rc, err.text);
            continue;
        }
        CHECK_MSG(!rc, "%s: %s", word(o, "name"), err.text);
        check_filled(&c, messages, 0, json_array_size(messages), word(o, "text"));
        check_filled(&c, messages, 1, 1, word(o, "alone"));
        CHECK_EQ(c.stop, word(o, "stop") ? word(o, "stop") : "\n  #\n");
        taken++;
    }
    CHECK_EQ(taken, 7);
    json_decref(root);
    deq_tokenizer_free(tok);
}

/* A template's file is read before its configuration, of a list the one called default. */
TEST(chat_template_places)
{
#define ONE(x) "{% for message in messages %}{{ '" x "' + message.content }}{% endfor %}"
    static const struct {
        const char *config, *jinja, *message;
    } good[] = {{"{}", NULL, ""},
                {"{\"chat_template\": null}", NULL, ""},
                {"{\"chat_template\": \"" ONE("a") "\"}", NULL, "a{content}"},
                {"{\"chat_template\": [{\"name\": \"tool_use\", \"template\": \"{% x %}\"}, {\"name\": \"default\", "
                 "\"template\": \"" ONE("b") "\"}]}", NULL, "b{content}"},
                {"{\"chat_template\": \"" ONE("a") "\", \"bos_token\": {\"content\": \"<s>\"}}",
                 "{{ bos_token }}" ONE("c") "\n", "c{content}"}},
      bad[] = {{"{\"chat_template\": 7}", NULL, "chat_template: expected a text, or a list"},
               {"{\"chat_template\": [{\"name\": \"tool_use\", \"template\": \"x\"}]}", NULL,
                "chat_template: expected a text, or a list"},
               {"{\"chat_template\": \"{{ x }}\"}", NULL, "chat_template: line 1: x is not understood"},
               {"{}", "\n{% macro x() %}", "chat_template.jinja: line 2: macro x() is not understood"},
               {"{}", "\x01", "chat_template.jinja: control characters"}};
    struct deq_tokenizer *tok = parse_tokenizer(SMALL);
    REQUIRE(tok && scratch_begin());
    for (size_t i = 0; i < DEQ_COUNT(good) + DEQ_COUNT(bad); i++) {
        const bool ok = i < DEQ_COUNT(good);
        const char *config = ok ? good[i].config : bad[i - DEQ_COUNT(good)].config,
                   *jinja = ok ? good[i].jinja : bad[i - DEQ_COUNT(good)].jinja;
        struct deq_chat c;
        struct deq_err err = {0};
        scratch_put("tokenizer_config.json", config);
        if (jinja)
            scratch_put("chat_template.jinja", jinja);
        const enum deq_rc rc = deq_chat_template_load(scratch_dir(), tok, &c, &err);
        if (jinja)
            CHECK(!remove(scratch_path("chat_template.jinja")));
        CHECK_MSG(rc == (ok ? DEQ_OK : DEQ_EFORMAT), "%s: %s", config, err.text);
        if (ok)
            CHECK_EQ(c.message, good[i].message);
        else
            CHECK_MSG(strstr(err.text, bad[i - DEQ_COUNT(good)].message), "%s", err.text);
        if (ok)
            CHECK_EQ(c.begin, jinja ? "<s>" : "");
    }
    scratch_end("tokenizer_config.json", NULL);
    deq_tokenizer_free(tok);
}
