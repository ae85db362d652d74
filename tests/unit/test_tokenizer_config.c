/* core/text/tokenizer_config.c: the tokens at the ends, from the file beside tokenizer.json and into it. */
#include "core/text/tokenizer_config.h"

#include <stdlib.h>
#include <unistd.h>

#include "core/base/io.h"
#include "core/base/mem.h"
#include "tests/unit/scratch.h"
#include "tests/unit/tokenizers.h"

static bool write_text(const char *path, const char *text)
{
    return !deq_io_replace(path, &(struct deq_part){text, strlen(text)}, 1, NULL);
}

TEST(tokenizer_config_beside)
{
    char dir[] = "/tmp/deq-tokenizer-XXXXXX", path[64], config[64], *text = NULL;
    struct deq_err err = {0};
    size_t len;
    int64_t eos = 9, bos = 9;
    REQUIRE(mkdtemp(dir) != NULL);
    snprintf(path, sizeof path, "%s/tokenizer.json", dir);
    snprintf(config, sizeof config, "%s/tokenizer_config.json", dir);
    struct deq_tokenizer *tok = parse_tokenizer(SMALL);
    CHECK(!deq_tokenizer_config_ends(dir, tok, &bos, &eos, &err) && eos == -1); /* no file, no usual name */
    CHECK(write_text(path, SMALL) && !deq_tokenizer_config_save(path, -1, 7, 3, &err));
    CHECK(!deq_io_read(config, 1 << 16, &text, &len, &err) && strstr(text, "\"eos_token\": \"<s>\"") &&
          strstr(text, "\"unk_token\": \" \"") && strstr(text, "\"PreTrainedTokenizerFast\""));
    deq_free(text);
    CHECK(!deq_tokenizer_config_ends(dir, tok, &bos, &eos, &err) && eos == 7);
    static const struct {
        const char *text, *message;
    } bad[] = {{"{\"eos_token\": \"</s>\"}", "eos_token: \"</s>\" is not among the added tokens"},
               {"{\"eos_token\": 7}", "eos_token: expected a string"}, {"[]", "expected an object"}, {"{", "line 1"}};
    for (size_t i = 0; i < DEQ_COUNT(bad); i++)
        CHECK(write_text(config, bad[i].text) && deq_tokenizer_config_ends(dir, tok, &bos, &eos, &err) == DEQ_EFORMAT &&
              strstr(err.text, bad[i].message));
    CHECK(write_text(config, "{\"eos_token\": {\"content\": \"<s>\"}}") &&
          !deq_tokenizer_config_ends(dir, tok, &bos, &eos, &err) && eos == 7);
    CHECK(write_text(config, "{\"eos_token\": null}") &&
          !deq_tokenizer_config_ends(dir, tok, &bos, &eos, &err) && eos == -1);
    CHECK(!unlink(config));
    snprintf(config, sizeof config, "%s/other.json", dir); /* no model directory: nothing beside it */
    CHECK(!deq_tokenizer_config_save(config, -1, 7, -1, &err));
    CHECK(!unlink(path) && !rmdir(dir));
    deq_tokenizer_free(tok);
}

/* SMALL, whose special token has another name. */
#define USUAL                                                                                                      \
    "{\"version\": \"1.0\", \"added_tokens\": [{\"id\": 1, \"content\": \"<|bos|>\", \"special\": true}], "           \
    "\"normalizer\": null, \"pre_tokenizer\": " BYTE_LEVEL ", \"post_processor\": null, \"decoder\": " BYTE_LEVEL     \
    ", \"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"<|bos|>\": 1}, \"merges\": []}}"

/* What begins a text: the file's word counts, then the post-processor's token, then a usual name where no file is. */
TEST(tokenizer_config_begins)
{
    static const char none[] = "\"post_processor\": null", template[] =
        "\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": \"<s>\"}}, "
        "{\"Sequence\": {\"id\": \"A\"}}], \"special_tokens\": {\"<s>\": {\"ids\": [7]}}}";
    static const struct {
        bool in_template, usual_name;
        const char *config;
        int64_t bos;
    } t[] = {
        {false, false, NULL, -1},
        {true, false, NULL, 7},
        {true, false, "{\"bos_token\": \"<s>\"}", 7},
        {true, false, "{\"bos_token\": \"<s>\", \"add_bos_token\": false}", -1},
        {false, false, "{\"bos_token\": \"<s>\", \"add_bos_token\": true}", 7},
        {false, false, "{\"bos_token\": \"<s>\"}", -1},
        {false, false, "{\"add_bos_token\": true}", -1},
        {false, true, NULL, 1},
        {false, true, "{}", -1},
    };
    struct deq_err err = {0};
    int64_t bos, eos;
    REQUIRE(scratch_begin());
    for (size_t i = 0; i < DEQ_COUNT(t); i++) {
        char *json = text_with(t[i].usual_name ? USUAL : SMALL, none, t[i].in_template ? template : none);
        struct deq_tokenizer *tok = parse_tokenizer(json);
        REQUIRE(tok);
        if (t[i].config)
            scratch_put("tokenizer_config.json", t[i].config);
        CHECK_MSG(!deq_tokenizer_config_ends(scratch_dir(), tok, &bos, &eos, &err) && bos == t[i].bos,
                  "%zu: %lld %s", i, (long long)bos, err.text);
        if (t[i].config)
            CHECK(!remove(scratch_path("tokenizer_config.json")));
        deq_tokenizer_free(tok);
        deq_free(json);
    }
    scratch_end(NULL, NULL);
}
