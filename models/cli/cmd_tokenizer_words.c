/* deq tokenizer words: the tokenizer.json of a word-level model, its vocabulary counted from training texts or read from a file. */
#include <stdio.h>
#include <string.h>

#include "core/base/base.h"
#include "core/base/err.h"
#include "core/base/mem.h"
#include "core/base/text.h"
#include "core/data/wordlevel.h"
#include "models/cli/cli.h"

enum { MAX_FILES = 64 };
#define MAX_TEXT_BYTES ((size_t)4 << 30) /* of one file; WikiText-103's training text is half a gibibyte */

static enum deq_rc count(const char *const *paths, size_t n, const char *out, const char *vocab_out, struct deq_wordlevel_info *info, uint64_t *ret_words,
                         struct deq_err *err)
{
    struct deq_wordcount c;
    enum deq_rc rc = deq_wordcount_init(&c, err);
    for (size_t i = 0; i < n && !rc; i++) {
        char *text;
        size_t len;
        cli_progress("%s", paths[i]);
        if ((rc = deq_text_read(paths[i], MAX_TEXT_BYTES, &text, &len, err)))
            break;
        rc = deq_wordcount_add(&c, paths[i], text, len, err);
        deq_free(text);
    }
    cli_progress_end();
    if (!rc)
        rc = deq_wordcount_write(&c, out, vocab_out, info, err);
    *ret_words = c.n_words;
    deq_wordcount_free(&c);
    return rc;
}

int cmd_tokenizer_words(int argc, char **argv)
{
    const char *args[MAX_FILES], *out = NULL, *vocab = NULL, *vocab_out = NULL;
    size_t n;
    bool json = false;
    const struct cli_flag flags[] = {
        {.name = "--out", .value = "FILE", .help = "the tokenizer.json to write; replaced whole or not at all", .text = &out},
        {.name = "--vocab", .value = "FILE", .help = "take the words from FILE, one a line in the order of ids, instead of texts", .text = &vocab},
        {.name = "--vocab-out", .value = "FILE", .help = "also write the counted words in that form", .text = &vocab_out},
        {.name = "--json", .help = "print one JSON object", .on = &json},
    };
    const struct cli_command c = {.usage = "deq tokenizer words --out FILE (TEXT_FILE... | --vocab FILE) [flags]",
                                  .about = "Makes a word-level tokenizer.json with the ids of the DEQ authors' code: <eos>, then words by count.",
                                  .flags = flags, .n_flags = sizeof flags / sizeof *flags, .min_args = 0, .max_args = MAX_FILES};
    int code = cli_parse(&c, argc, argv, args, &n);
    if (code >= 0)
        return code;
    struct deq_err err;
    struct deq_wordlevel_info info;
    uint64_t words = 0;
    if (!out || !n == !vocab || (vocab && vocab_out)) {
        fprintf(stderr, "deq tokenizer words: expected --out and either texts or --vocab\n");
        return CLI_USAGE;
    }
    if (vocab_out && !strcmp(out, vocab_out)) {
        fprintf(stderr, "deq tokenizer words: --out and --vocab-out name one file, %s\n", out);
        return CLI_USAGE;
    }
    if (vocab ? deq_wordlevel_from_vocab(vocab, 0, out, &info, &err) : count(args, n, out, vocab_out, &info, &words, &err))
        return cli_fail("tokenizer words", err.text);
    if (json)
        printf("{\"vocab_size\": %u, \"eos_token_id\": %lld, \"unk_token_id\": %lld, \"words\": %llu}\n", info.n_words, (long long)info.eos_id,
               (long long)info.unk_id, (unsigned long long)words);
    else
        printf("%s: %u words, <eos> is %lld, the unknown word %lld (-1: none)\n", out, info.n_words, (long long)info.eos_id, (long long)info.unk_id);
    return CLI_OK;
}
