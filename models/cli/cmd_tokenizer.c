/* deq tokenizer train|words|encode|decode: the tokenizer by itself, for making one and for looking at one. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/base/base.h"
#include "core/base/buf.h"
#include "core/base/err.h"
#include "core/base/io.h"
#include "core/base/mem.h"
#include "core/base/text.h"
#include "core/base/utf8.h"
#include "core/data/bpe_train.h"
#include "core/data/tokenizer.h"
#include "models/cli/cli.h"

enum { EXIT_USAGE = 2 };

#define MAX_TEXT_BYTES ((size_t)DEQ_BPE_TRAIN_MAX_BYTES)

static const char help_all[] =
    "usage: deq tokenizer train  --vocab-size N --out FILE [--json] TEXT_FILE...\n"
    "       deq tokenizer words  --out FILE (TEXT_FILE... | --vocab FILE) [--vocab-out FILE] [--json]\n"
    "       deq tokenizer encode MODEL [TEXT | --file FILE] [--special] [--json | --hex]\n"
    "       deq tokenizer decode MODEL [ID...] [--skip-special] [--hex]\n"
    "\n"
    "MODEL is a tokenizer.json or a directory with one (or with vocab.json and merges.txt).\n"
    "`deq tokenizer train --help` and so on tell more.\n";

static const char help_train[] =
    "usage: deq tokenizer train --vocab-size N --out FILE [--json] TEXT_FILE...\n"
    "\n"
    "Trains a byte-level BPE vocabulary on plain text and writes a tokenizer.json.\n"
    "A line that is exactly <|endoftext|> separates documents and is not trained on.\n"
    "\n"
    "  --vocab-size N   tokens, with <|endoftext|> and the 256 bytes (257..1048576)\n"
    "  --out FILE       where to write; replaced whole or not at all\n"
    "  --json           print the outcome as one JSON object\n";

static const char help_encode[] =
    "usage: deq tokenizer encode MODEL [TEXT | --file FILE] [--special] [--json | --hex]\n"
    "\n"
    "Prints the token ids of a text: the argument, a file, or standard input. Files and input are read as a model's texts are: a line end of\n"
    "CR LF is LF, and a byte order mark is none of the text.\n"
    "\n"
    "  --file FILE   read the text from FILE\n"
    "  --special     recognise special tokens such as <|endoftext|> in the text\n"
    "  --json        print ids, pieces, counts as one JSON object\n"
    "  --hex         many texts: each line of input is one text in hexadecimal, each line of output its ids\n";

static const char help_decode[] =
    "usage: deq tokenizer decode MODEL [ID...] [--skip-special] [--hex]\n"
    "\n"
    "Prints the text of token ids: the arguments, or numbers on standard input.\n"
    "\n"
    "  --skip-special   leave special tokens out\n"
    "  --hex            many lists: each line of input is one list of ids, each line of output its bytes in hexadecimal\n";

static int usage(const char *help, const char *what, const char *which)
{
    fprintf(stderr, "deq tokenizer: %s%s%s\n%s", what, which ? ": " : "", which ? which : "", help);
    return EXIT_USAGE;
}

static int report(const struct deq_err *err)
{
    fprintf(stderr, "deq tokenizer: %s\n", err->text);
    return EXIT_FAILURE;
}

static int print_all(const struct deq_buf *b)
{
    if (b->failed)
        return fprintf(stderr, "deq tokenizer: no memory for the output\n"), EXIT_FAILURE;
    fwrite(b->data ? b->data : "", 1, b->len, stdout); /* main looks whether it arrived */
    return EXIT_SUCCESS;
}

static bool parse_u32(const char *s, uint32_t *ret)
{
    char *end;
    if (*s < '0' || *s > '9')
        return false;
    errno = 0;
    unsigned long v = strtoul(s, &end, 10);
    if (errno || *end || v > UINT32_MAX)
        return false;
    *ret = (uint32_t)v;
    return true;
}

/* s is UTF-8: the caller has replaced what is not, for a token can be half a character. */
static void json_string(struct deq_buf *out, const char *s, size_t n)
{
    deq_buf_str(out, "\"");
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        if (c == '"' || c == '\\')
            deq_buf_fmt(out, "\\%c", c);
        else if (c < 0x20)
            deq_buf_fmt(out, "\\u%04x", c);
        else
            deq_buf_add(out, s + i, 1);
    }
    deq_buf_str(out, "\"");
}

/* ---- train ---- */

static double seconds_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void show_progress(void *ctx, size_t done, size_t total)
{
    (void)ctx;
    fprintf(stderr, "\r%zu of %zu merges%s", done, total, done == total ? "\n" : "");
}

static int train(int argc, char **argv)
{
    uint32_t vocab_size = 0;
    const char *out_path = NULL;
    bool json = false, only_files = false;
    int n_files = 0;
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i];
        if (only_files || a[0] != '-' || !a[1]) {
            argv[n_files++] = argv[i];
        } else if (!strcmp(a, "--help")) {
            fputs(help_train, stdout);
            return EXIT_SUCCESS;
        } else if (!strcmp(a, "--")) {
            only_files = true;
        } else if (!strcmp(a, "--json")) {
            json = true;
        } else if (!strcmp(a, "--vocab-size")) {
            if (++i == argc || !parse_u32(argv[i], &vocab_size))
                return usage(help_train, "--vocab-size wants a number", i < argc ? argv[i] : NULL);
        } else if (!strcmp(a, "--out")) {
            if (++i == argc)
                return usage(help_train, "--out wants a file", NULL);
            out_path = argv[i];
        } else {
            return usage(help_train, "unknown option", a);
        }
    }
    if (vocab_size && (vocab_size < DEQ_BPE_TRAIN_MIN_VOCAB || vocab_size > DEQ_BPE_TRAIN_MAX_VOCAB))
        return usage(help_train, "--vocab-size is outside 257..1048576", NULL);
    if (!vocab_size || !out_path || !n_files)
        return usage(help_train, !vocab_size ? "--vocab-size is missing" : !out_path ? "--out is missing" : "no text file", NULL);

    struct deq_err err = {0};
    struct deq_buf text, file, line;
    struct deq_tokenizer *tok = NULL;
    struct deq_tokens tokens = {0};
    int rc = EXIT_FAILURE;
    double begin = seconds_now();
    deq_buf_init(&text, MAX_TEXT_BYTES);
    deq_buf_init(&file, DEQ_TOKENIZER_MAX_FILE_BYTES);
    deq_buf_init(&line, 4096);
    for (int i = 0; i < n_files; i++) {
        char *data;
        size_t len;
        if (deq_text_read(argv[i], MAX_TEXT_BYTES, &data, &len, &err)) {
            report(&err);
            goto out;
        }
        if (i)
            deq_buf_str(&text, "\n<|endoftext|>\n"); /* one file's end is no context for the next one's beginning */
        deq_buf_add(&text, data, len);
        deq_free(data);
    }
    if (text.failed) {
        fprintf(stderr, "deq tokenizer: the texts are too large together: the limit is %zu bytes\n", MAX_TEXT_BYTES);
        goto out;
    }
    struct deq_bpe_train_opts opts = {.vocab_size = vocab_size, .progress = isatty(STDERR_FILENO) ? show_progress : NULL};
    struct deq_part part;
    if (deq_bpe_train(text.data ? text.data : "", text.len, &opts, &file, &err)) {
        report(&err);
        goto out;
    }
    double seconds = seconds_now() - begin;
    part = (struct deq_part){file.data, file.len};
    /* what was written is read back: the ratio below is that of the file, and a file that cannot be loaded never appears */
    if (deq_tokenizer_parse(file.data, file.len, out_path, &tok, &err) ||
        deq_tokenizer_encode(tok, text.data ? text.data : "", text.len, true, &tokens, &err) ||
        deq_io_replace(out_path, &part, 1, &err)) {
        report(&err);
        goto out;
    }
    uint32_t n = deq_tokenizer_vocab_size(tok);
    double ratio = tokens.n ? (double)text.len / (double)tokens.n : 0;
    if (json)
        deq_buf_fmt(&line,
                    "{\"vocab_size\": %u, \"merges\": %u, \"bytes\": %zu, \"bytes_per_token\": %.4f, \"seconds\": %.3f}\n", n,
                    n - DEQ_BPE_TRAIN_MIN_VOCAB, text.len, ratio, seconds);
    else
        deq_buf_fmt(&line, "%s: %u tokens (%u merges) from %zu bytes in %.1f s, %.2f bytes per token\n", out_path, n,
                    n - DEQ_BPE_TRAIN_MIN_VOCAB, text.len, seconds, ratio);
    if (n < vocab_size)
        fprintf(stderr, "deq tokenizer: the text has no more pairs: %u tokens instead of %u\n", n, vocab_size);
    rc = print_all(&line);
out:
    deq_tokens_free(&tokens);
    deq_tokenizer_free(tok);
    deq_buf_free(&text);
    deq_buf_free(&file);
    deq_buf_free(&line);
    return rc;
}

/* ---- encode ---- */

static int hex_digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static void print_ids(struct deq_buf *out, const struct deq_tokens *t, const char *between)
{
    for (size_t i = 0; i < t->n; i++)
        deq_buf_fmt(out, "%s%u", i ? between : "", t->ids[i]);
}

/* Every line of data is one text. Decodes in place. */
static enum deq_rc encode_hex_lines(const struct deq_tokenizer *tok, char *data, size_t len, bool special, struct deq_buf *out,
                                    struct deq_err *err)
{
    struct deq_tokens t = {0};
    enum deq_rc rc = DEQ_OK;
    size_t line = 1;
    for (size_t at = 0; at < len && !rc; line++) {
        size_t n = 0, i = at;
        char *text = data + at;
        for (; i + 1 < len && hex_digit(data[i]) >= 0 && hex_digit(data[i + 1]) >= 0; i += 2)
            text[n++] = (char)(hex_digit(data[i]) << 4 | hex_digit(data[i + 1]));
        if (i < len && data[i] != '\n') {
            rc = deq_fail(err, DEQ_EINVAL, "line %zu: expected pairs of hexadecimal digits", line);
            break;
        }
        at = i + 1;
        t.n = 0;
        rc = deq_tokenizer_encode(tok, text, n, special, &t, err);
        print_ids(out, &t, " ");
        deq_buf_str(out, "\n");
    }
    deq_tokens_free(&t);
    return rc;
}

static void print_encoded_json(struct deq_buf *out, const struct deq_tokenizer *tok, const struct deq_tokens *t, size_t text_len)
{
    deq_buf_str(out, "{\"ids\": [");
    print_ids(out, t, ", ");
    deq_buf_str(out, "], \"tokens\": [");
    for (size_t i = 0; i < t->n; i++) {
        struct deq_buf clean;
        size_t n;
        const char *bytes = deq_tokenizer_bytes(tok, t->ids[i], &n);
        deq_buf_init(&clean, 4 * n + 4);
        if (!deq_utf8_sanitize(&clean, bytes, n))
            out->failed = true;
        deq_buf_str(out, i ? ", " : "");
        json_string(out, clean.data, clean.len);
        deq_buf_free(&clean);
    }
    deq_buf_fmt(out, "], \"n_tokens\": %zu, \"n_bytes\": %zu}\n", t->n, text_len);
}

/* Standard input, as a text file. */
static enum deq_rc read_input(char **ret_text, size_t *ret_len, struct deq_err *err)
{
    static const char name[] = "standard input";
    enum deq_rc rc = deq_io_read_fd(STDIN_FILENO, name, MAX_TEXT_BYTES, ret_text, ret_len, err);
    return rc ? rc : deq_text_clean(name, *ret_text, ret_len, err);
}

static int encode(int argc, char **argv)
{
    const char *model = NULL, *text = NULL, *path = NULL;
    bool special = false, json = false, hex = false, only_text = false;
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i];
        if (only_text || a[0] != '-' || !a[1]) {
            if (model && text)
                return usage(help_encode, "one text is enough (quote it)", a);
            *(model ? &text : &model) = a;
        } else if (!strcmp(a, "--help")) {
            fputs(help_encode, stdout);
            return EXIT_SUCCESS;
        } else if (!strcmp(a, "--")) {
            only_text = true;
        } else if (!strcmp(a, "--special")) {
            special = true;
        } else if (!strcmp(a, "--json")) {
            json = true;
        } else if (!strcmp(a, "--hex")) {
            hex = true;
        } else if (!strcmp(a, "--file")) {
            if (++i == argc)
                return usage(help_encode, "--file wants a file", NULL);
            path = argv[i];
        } else {
            return usage(help_encode, "unknown option", a);
        }
    }
    if (!model)
        return usage(help_encode, "MODEL is missing", NULL);
    if ((text && path) || (json && hex))
        return usage(help_encode, json ? "--json or --hex, not both" : "TEXT or --file, not both", NULL);

    struct deq_err err = {0};
    struct deq_tokenizer *tok = NULL;
    struct deq_tokens tokens = {0};
    struct deq_buf out;
    char *data = NULL;
    size_t len = 0;
    int rc = EXIT_FAILURE;
    enum deq_rc failed;
    deq_buf_init(&out, SIZE_MAX / 4);
    if ((failed = deq_tokenizer_load(model, &tok, &err)))
        goto out;
    if (text) {
        len = strlen(text);
        failed = (data = deq_strdup(text)) ? DEQ_OK : deq_fail(&err, DEQ_ENOMEM, "no memory for the text");
    } else {
        failed = path ? deq_text_read(path, MAX_TEXT_BYTES, &data, &len, &err) : read_input(&data, &len, &err);
    }
    if (failed)
        goto out;
    if (hex) {
        failed = encode_hex_lines(tok, data, len, special, &out, &err);
    } else if (!(failed = deq_tokenizer_encode(tok, data, len, special, &tokens, &err))) {
        if (json) {
            print_encoded_json(&out, tok, &tokens, len);
        } else {
            print_ids(&out, &tokens, " ");
            deq_buf_str(&out, "\n");
        }
    }
    if (!failed)
        rc = print_all(&out);
out:
    if (failed)
        report(&err);
    deq_free(data);
    deq_buf_free(&out);
    deq_tokens_free(&tokens);
    deq_tokenizer_free(tok);
    return rc;
}

/* ---- decode ---- */

/* Reads the ids of one line, or of all lines when `newline_ends` is false. Returns the place after it, NULL on a bad number. */
static char *read_ids(char *p, const char *end, bool newline_ends, struct deq_tokens *t, struct deq_err *err)
{
    while (p < end) {
        if (*p == '\n' && newline_ends)
            return p + 1;
        if (strchr(" \t\r\n,[]", *p) && *p) {
            p++;
            continue;
        }
        char *word = p, saved;
        uint32_t id;
        while (p < end && *p && !strchr(" \t\r\n,[]", *p))
            p++;
        saved = *p; /* the data is NUL-terminated past its end */
        *p = 0;
        bool ok = parse_u32(word, &id);
        if (!ok) {
            deq_fail(err, DEQ_EINVAL, "expected token ids, found \"%.40s\"", word);
            return NULL;
        }
        *p = saved;
        if (!deq_tokens_push(t, id)) {
            deq_fail(err, DEQ_ENOMEM, "no memory for the ids");
            return NULL;
        }
    }
    return p;
}

static bool decode_lines(const struct deq_tokenizer *tok, char *data, size_t len, bool skip, bool hex, struct deq_buf *out,
                         struct deq_err *err)
{
    struct deq_tokens t = {0};
    struct deq_buf bytes;
    bool ok = true;
    deq_buf_init(&bytes, SIZE_MAX / 4);
    for (char *p = data, *end = data + len; p < end && ok;) {
        t.n = 0;
        deq_buf_reset(&bytes);
        p = read_ids(p, end, hex, &t, err);
        ok = p && !deq_tokenizer_decode(tok, t.ids, t.n, skip, hex ? &bytes : out, err);
        for (size_t i = 0; i < bytes.len && ok; i++)
            deq_buf_fmt(out, "%02x", (unsigned char)bytes.data[i]);
        if (hex)
            deq_buf_str(out, "\n");
    }
    deq_buf_free(&bytes);
    deq_tokens_free(&t);
    return ok;
}

static int decode(int argc, char **argv)
{
    const char *model = NULL;
    bool skip = false, hex = false;
    int rc = EXIT_FAILURE;
    struct deq_err err = {0};
    struct deq_tokenizer *tok = NULL;
    struct deq_buf out, ids;
    char *data = NULL;
    size_t len = 0;
    deq_buf_init(&out, SIZE_MAX / 4);
    deq_buf_init(&ids, MAX_TEXT_BYTES);
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i];
        if (a[0] != '-' || !a[1]) {
            if (model)
                deq_buf_fmt(&ids, "%s ", a);
            else
                model = a;
        } else if (!strcmp(a, "--help")) {
            fputs(help_decode, stdout);
            rc = EXIT_SUCCESS;
            goto out;
        } else if (!strcmp(a, "--skip-special")) {
            skip = true;
        } else if (!strcmp(a, "--hex")) {
            hex = true;
        } else {
            rc = usage(help_decode, "unknown option", a);
            goto out;
        }
    }
    if (!model) {
        rc = usage(help_decode, "MODEL is missing", NULL);
        goto out;
    }
    if (deq_tokenizer_load(model, &tok, &err) ||
        (!ids.len && read_input(&data, &len, &err)) ||
        !decode_lines(tok, ids.len ? ids.data : data, ids.len ? ids.len : len, skip, hex, &out, &err))
        rc = report(&err);
    else
        rc = print_all(&out);
out:
    deq_tokenizer_free(tok);
    deq_free(data);
    deq_buf_free(&out);
    deq_buf_free(&ids);
    return rc;
}

int cmd_tokenizer(int argc, char **argv)
{
    static const struct {
        const char *name;
        int (*run)(int argc, char **argv);
    } commands[] = {{"train", train}, {"words", cmd_tokenizer_words}, {"encode", encode}, {"decode", decode}};
    if (argc < 2)
        return usage(help_all, "train, words, encode or decode?", NULL);
    if (!strcmp(argv[1], "--help")) {
        fputs(help_all, stdout);
        return EXIT_SUCCESS;
    }
    for (size_t i = 0; i < DEQ_COUNT(commands); i++)
        if (!strcmp(argv[1], commands[i].name))
            return commands[i].run(argc - 1, argv + 1);
    return usage(help_all, "unknown command", argv[1]);
}
