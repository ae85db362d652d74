/* Files of tokenizers: tokenizer.json of both kinds; GPT-2's vocab.json and merges.txt; tokenizer_config.json.
 *
 * Input: a letter for what it is, the file, a zero byte, and a text to encode (of the second: merges.txt). */
#include "core/text/tokenizer_config.h"
#include "core/text/tokenizer_impl.h"
#include "tests/fuzz/mutate.h"
#include "tests/fuzz/tokens.h"

#include "core/base/json.h"

enum { FILE_JSON, FILE_GPT2, FILE_CONFIG, FILES };

/* As core/text/tokenizer.h has it. */
static bool is_exact(const struct deq_tokenizer *tok)
{
    bool exact = tok->model == MODEL_BPE && !tok->prefix_space && !tok->n_forms;
    for (size_t i = 0; i < tok->n_added; i++)
        exact = exact && !tok->added[i].lstrip && !tok->added[i].rstrip;
    return exact;
}

static void use(struct deq_tokenizer *tok, const char *text, size_t n)
{
    const int64_t begin = deq_tokenizer_begin(tok);
    size_t len;
    FUZZ_HOLDS(deq_tokenizer_vocab_size(tok) && deq_tokenizer_vocab_size(tok) <= DEQ_TOKENIZER_MAX_IDS);
    FUZZ_HOLDS(begin < 0 || deq_tokenizer_bytes(tok, (uint32_t)begin, &len));
    FUZZ_HOLDS(!deq_tokenizer_bytes(tok, deq_tokenizer_vocab_size(tok), &len));
    fuzz_check_tokenizer(tok, text, n, is_exact(tok));
    deq_tokenizer_free(tok);
}

static void config(const char *dir)
{
    static struct deq_tokenizer *tok;
    int64_t bos, eos;
    struct deq_err err;
    json_t *root = NULL;
    if (!tok)
        FUZZ_HOLDS(!deq_tokenizer_load("tests/golden/tiny", &tok, &err));
    enum deq_rc rc = deq_tokenizer_config_ends(dir, tok, &bos, &eos, &err);
    if (rc)
        fuzz_check_err(rc, &err);
    else
        FUZZ_HOLDS(bos >= -1 && eos >= -1 && bos < deq_tokenizer_vocab_size(tok) &&
                   eos < deq_tokenizer_vocab_size(tok));
    if (!deq_tokenizer_config_read(dir, &root, &err))
        (void)deq_tokenizer_config_token(root, "eos_token");
    json_decref(root);
}

FUZZ(tokenizer)
{
    const uint8_t *text;
    size_t n_text;
    const unsigned kind = fuzz_letter(&data, &n, FILES);
    const size_t front = fuzz_split(data, n, &text, &n_text);
    struct deq_tokenizer *tok;
    struct deq_err err;
    enum deq_rc rc;
    if (kind == FILE_CONFIG) {
        fuzz_put("tokenizer", "tokenizer_config.json", data, n);
        config(fuzz_dir("tokenizer"));
        return;
    }
    if (kind == FILE_GPT2) {
        fuzz_put("gpt2", "vocab.json", data, front);
        fuzz_put("gpt2", "merges.txt", text, n_text);
        rc = deq_tokenizer_load(fuzz_dir("gpt2"), &tok, &err);
    } else {
        rc = deq_tokenizer_parse((const char *)data, front, "fuzz", &tok, &err);
    }
    if (rc)
        fuzz_check_err(rc, &err);
    else
        use(tok, (const char *)text, n_text);
}

#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
FUZZ_MUTATOR
{
    return fuzz_mutate_json_in(data, n, max, seed, 1);
}
#endif
