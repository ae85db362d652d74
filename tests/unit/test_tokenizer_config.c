/* core/text/tokenizer_config.c: the end token, from the file beside tokenizer.json and into it. */
#include "core/text/tokenizer_config.h"

#include <stdlib.h>
#include <unistd.h>

#include "core/base/io.h"
#include "core/base/mem.h"
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
    int64_t eos = 9;
    REQUIRE(mkdtemp(dir) != NULL);
    snprintf(path, sizeof path, "%s/tokenizer.json", dir);
    snprintf(config, sizeof config, "%s/tokenizer_config.json", dir);
    struct deq_tokenizer *tok = parse_tokenizer(SMALL);
    CHECK(!deq_tokenizer_config_eos(dir, tok, &eos, &err) && eos == -1); /* no file, no usual name */
    CHECK(write_text(path, SMALL) && !deq_tokenizer_config_save(path, 7, 3, &err));
    CHECK(!deq_io_read(config, 1 << 16, &text, &len, &err) && strstr(text, "\"eos_token\": \"<s>\"") &&
          strstr(text, "\"unk_token\": \" \"") && strstr(text, "\"PreTrainedTokenizerFast\""));
    deq_free(text);
    CHECK(!deq_tokenizer_config_eos(dir, tok, &eos, &err) && eos == 7);
    static const struct {
        const char *text, *message;
    } bad[] = {{"{\"eos_token\": \"</s>\"}", "eos_token: \"</s>\" is not among the added tokens"},
               {"{\"eos_token\": 7}", "eos_token: expected a string"}, {"[]", "expected an object"}, {"{", "line 1"}};
    for (size_t i = 0; i < DEQ_COUNT(bad); i++)
        CHECK(write_text(config, bad[i].text) && deq_tokenizer_config_eos(dir, tok, &eos, &err) == DEQ_EFORMAT &&
              strstr(err.text, bad[i].message));
    CHECK(write_text(config, "{\"eos_token\": {\"content\": \"<s>\"}}") &&
          !deq_tokenizer_config_eos(dir, tok, &eos, &err) && eos == 7);
    CHECK(write_text(config, "{\"eos_token\": null}") && !deq_tokenizer_config_eos(dir, tok, &eos, &err) && eos == -1);
    CHECK(!unlink(config));
    snprintf(config, sizeof config, "%s/other.json", dir); /* no model directory: nothing beside it */
    CHECK(!deq_tokenizer_config_save(config, 7, -1, &err));
    CHECK(!unlink(path) && !rmdir(dir));
    deq_tokenizer_free(tok);
}
