/* deq tokenizer words: the tokenizer.json of a word-level model, its vocabulary counted from training
 * texts or read from a file. */
#include <stdio.h>
#include <string.h>

#include "core/base/base.h"
#include "core/base/err.h"
#include "core/base/mem.h"
#include "core/base/text.h"
#include "core/text/tokenizer_config.h"
#include "core/text/wordlevel.h"
#include "models/cli/cli.h"

enum { MAX_FILES = 64 };
#define MAX_TEXT_BYTES ((size_t)4 << 30) /* of one file; WikiText-103's training text is half a gibibyte */

static enum deq_rc count(const char *const *paths, size_t n, const char *out, const char *vocab_out,
                         struct deq_wordlevel_info *info, uint64_t *ret_words, struct deq_err *err)
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

struct flags {
    const char *out, *vocab, *vocab_out;
    bool json;
};

static const struct deq_opt flags[] = {
    {"--out", DEQ_OPT_ARG, offsetof(struct flags, out), 0, 0, NULL, "FILE",
     "the tokenizer.json to write; replaced whole or not at all (required)"},
    {"--vocab", DEQ_OPT_ARG, offsetof(struct flags, vocab), 0, 0, NULL, "FILE",
     "take the words from FILE, one a line in the order of ids, instead of texts"},
    {"--vocab-out", DEQ_OPT_ARG, offsetof(struct flags, vocab_out), 0, 0, NULL, "FILE",
     "also write the counted words in that form"},
    {"--json", DEQ_OPT_BOOL, offsetof(struct flags, json), 0, 0, NULL, NULL, "print one JSON object"},
};

static const struct deq_command command = {
    .usage = "deq tokenizer words --out FILE (TEXT_FILE... | --vocab FILE) [options]",
    .about = "Makes a word-level tokenizer.json with the ids of the DEQ authors' code: <eos>, then words by count.",
    .flags = {flags, DEQ_COUNT(flags)},
    .min_args = 0,
    .max_args = MAX_FILES,
};

int cmd_tokenizer_words(int argc, char **argv)
{
    const char *args[MAX_FILES];
    size_t n;
    struct flags f = {0};
    int code = cli_parse("tokenizer words", &command, argc, argv, &f, args, &n);
    if (code >= 0)
        return code;
    struct deq_err err;
    struct deq_wordlevel_info info;
    uint64_t words = 0;
    if (!f.out || !n == !f.vocab || (f.vocab && f.vocab_out))
        return cli_usage("tokenizer words", "expected --out and either texts or --vocab");
    if (f.vocab_out && !strcmp(f.out, f.vocab_out))
        return cli_usage("tokenizer words", "--out and --vocab-out name one file, %s", f.out);
    FILE *to = f.vocab_out && cli_report(f.vocab_out) == stderr ? stderr : cli_report(f.out);
    if (f.vocab ? deq_wordlevel_from_vocab(f.vocab, 0, f.out, &info, &err)
                : count(args, n, f.out, f.vocab_out, &info, &words, &err))
        return cli_fail("tokenizer words", err.text);
    if (deq_tokenizer_config_save(f.out, -1, info.eos_id, info.unk_id, &err))
        return cli_fail("tokenizer words", err.text);
    if (f.json)
        fprintf(to, "{\"vocab_size\": %u, \"eos_token_id\": %lld, \"unk_token_id\": %lld, \"words\": %llu}\n",
                info.n_words, (long long)info.eos_id, (long long)info.unk_id, (unsigned long long)words);
    else
        fprintf(to, "%s: %u words, <eos> is %lld, the unknown word %lld (-1: none)\n", f.out, info.n_words,
                (long long)info.eos_id, (long long)info.unk_id);
    return CLI_OK;
}
