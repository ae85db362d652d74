/* deq tokenizer train|words|encode|decode: the tokenizer by itself, for making one and for looking at one. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/base.h"
#include "core/base/buf.h"
#include "core/base/clock.h"
#include "core/base/err.h"
#include "core/base/io.h"
#include "core/base/mem.h"
#include "core/base/text.h"
#include "core/base/utf8.h"
#include "core/text/bpe_train.h"
#include "core/text/tokenizer.h"
#include "core/text/tokenizer_config.h"
#include "models/cli/cli.h"

enum { MAX_FILES = 1024 };
#define MAX_TEXT_BYTES ((size_t)DEQ_BPE_TRAIN_MAX_BYTES)

static int report(const struct deq_err *err)
{
    fprintf(stderr, "deq tokenizer: %s\n", err->text);
    return EXIT_FAILURE;
}

static int print_all(const struct deq_buf *b, FILE *to)
{
    if (b->failed)
        return fprintf(stderr, "deq tokenizer: no memory for the output\n"), EXIT_FAILURE;
    fwrite(b->data ? b->data : "", 1, b->len, to); /* main looks whether it arrived */
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

static void show_progress(void *ctx, size_t done, size_t total)
{
    (void)ctx;
    fprintf(stderr, "\r%zu of %zu merges%s", done, total, done == total ? "\n" : "");
}

struct train_flags {
    uint32_t vocab_size;
    const char *out;
    bool json;
};

static const struct deq_opt train_flags[] = {
    {"--vocab-size", DEQ_OPT_U32, offsetof(struct train_flags, vocab_size), DEQ_BPE_TRAIN_MIN_VOCAB,
     DEQ_BPE_TRAIN_MAX_VOCAB, NULL, NULL, "tokens, with <|endoftext|> and the 256 bytes (required)"},
    {"--out", DEQ_OPT_ARG, offsetof(struct train_flags, out), 0, 0, NULL, "FILE",
     "where to write; replaced whole or not at all (required)"},
    {"--json", DEQ_OPT_BOOL, offsetof(struct train_flags, json), 0, 0, NULL, NULL,
     "print the outcome as one JSON object"},
};

static const struct deq_command train_command = {
    .usage = "deq tokenizer train --vocab-size N --out FILE [--json] TEXT_FILE...",
    .about = "Trains a byte-level BPE vocabulary on plain text and writes a tokenizer.json. "
             "A line that is exactly <|endoftext|> separates documents and is not trained on.",
    .flags = {train_flags, DEQ_COUNT(train_flags)},
    .min_args = 1,
    .max_args = MAX_FILES,
};

/* All texts as one; one file's end is no context for the next one's beginning. */
static enum deq_rc read_texts(const char *const *paths, size_t n, struct deq_buf *text, struct deq_err *err)
{
    for (size_t i = 0; i < n; i++) {
        char *data;
        size_t len;
        enum deq_rc rc = deq_text_read(paths[i], MAX_TEXT_BYTES, &data, &len, err);
        if (rc)
            return rc;
        if (i)
            deq_buf_str(text, "\n<|endoftext|>\n");
        deq_buf_add(text, data, len);
        deq_free(data);
    }
    if (text->failed)
        return deq_fail(err, DEQ_EINVAL, "the texts are too large together: the limit is %zu bytes", MAX_TEXT_BYTES);
    deq_buf_str(text, ""); /* data is there, for no text too */
    return text->failed ? deq_fail(err, DEQ_ENOMEM, "no memory for the texts") : DEQ_OK;
}

static void describe(const struct train_flags *f, const struct deq_buf *text, uint32_t n, size_t n_tokens,
                     double seconds, struct deq_buf *line)
{
    const double ratio = n_tokens ? (double)text->len / (double)n_tokens : 0;
    if (f->json)
        deq_buf_fmt(line,
                    "{\"vocab_size\": %u, \"merges\": %u, \"bytes\": %zu, \"bytes_per_token\": %.4f, "
                    "\"seconds\": %.3f}\n",
                    n, n - DEQ_BPE_TRAIN_MIN_VOCAB, text->len, ratio, seconds);
    else
        deq_buf_fmt(line, "%s: %u tokens (%u merges) from %zu bytes in %.1f s, %.2f bytes per token\n", f->out, n,
                    n - DEQ_BPE_TRAIN_MIN_VOCAB, text->len, seconds, ratio);
    if (n < f->vocab_size)
        fprintf(stderr, "deq tokenizer: the text has no more pairs: %u tokens instead of %u\n", n, f->vocab_size);
}

static int train(int argc, char **argv)
{
    const char *args[MAX_FILES];
    size_t n;
    struct train_flags f = {0};
    int code = cli_parse("tokenizer train", &train_command, argc, argv, &f, args, &n);
    if (code >= 0)
        return code;
    if (!f.vocab_size || !f.out)
        return cli_usage("tokenizer train", "%s is missing", f.vocab_size ? "--out" : "--vocab-size");
    struct deq_err err;
    struct deq_buf text, file, line;
    struct deq_tokenizer *tok = NULL;
    struct deq_tokens tokens = {0};
    const struct deq_bpe_train_opts opts = {.vocab_size = f.vocab_size,
                                            .progress = isatty(STDERR_FILENO) ? show_progress : NULL};
    const double begin = deq_now_s();
    FILE *to = cli_report(f.out);
    deq_buf_init(&text, MAX_TEXT_BYTES);
    deq_buf_init(&file, DEQ_TOKENIZER_MAX_FILE_BYTES);
    deq_buf_init(&line, 8192);
    enum deq_rc rc = read_texts(args, n, &text, &err);
    if (!rc)
        rc = deq_bpe_train(text.data, text.len, &opts, &file, &err);
    const double seconds = deq_now_s() - begin;
    const struct deq_part part = {file.data, file.len};
    /* what was written is read back: the ratio is that of the file, and a file that cannot be loaded never appears */
    if (!rc)
        rc = deq_tokenizer_parse(file.data, file.len, f.out, &tok, &err);
    if (!rc)
        rc = deq_tokenizer_encode(tok, text.data, text.len, true, &tokens, &err);
    if (!rc)
        rc = deq_io_replace(f.out, &part, 1, &err);
    if (!rc)
        rc = deq_tokenizer_config_save(f.out, -1, deq_tokenizer_id(tok, "<|endoftext|>"), -1, &err);
    if (!rc)
        describe(&f, &text, deq_tokenizer_vocab_size(tok), tokens.n, seconds, &line);
    code = rc ? report(&err) : print_all(&line, to);
    deq_tokens_free(&tokens);
    deq_tokenizer_free(tok);
    deq_buf_free(&text);
    deq_buf_free(&file);
    deq_buf_free(&line);
    return code;
}

/* ---- encode ---- */

static int hex_digit(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

static void print_ids(struct deq_buf *out, const struct deq_tokens *t, const char *between)
{
    for (size_t i = 0; i < t->n; i++)
        deq_buf_fmt(out, "%s%u", i ? between : "", t->ids[i]);
}

/* Every line of data is one text. Decodes in place. */
static enum deq_rc encode_hex_lines(const struct deq_tokenizer *tok, char *data, size_t len, bool special,
                                    struct deq_buf *out, struct deq_err *err)
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

static void print_encoded_json(struct deq_buf *out, const struct deq_tokenizer *tok, const struct deq_tokens *t,
                               size_t text_len)
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

struct encode_flags {
    const char *file;
    bool special, json, hex;
};

static const struct deq_opt encode_flags[] = {
    {"--file", DEQ_OPT_ARG, offsetof(struct encode_flags, file), 0, 0, NULL, "FILE", "read the text from FILE"},
    {"--special", DEQ_OPT_BOOL, offsetof(struct encode_flags, special), 0, 0, NULL, NULL,
     "recognise special tokens such as <|endoftext|> in the text"},
    {"--json", DEQ_OPT_BOOL, offsetof(struct encode_flags, json), 0, 0, NULL, NULL,
     "print ids, pieces, counts as one JSON object"},
    {"--hex", DEQ_OPT_BOOL, offsetof(struct encode_flags, hex), 0, 0, NULL, NULL,
     "many texts: each line of input is one text in hexadecimal, each line of output its ids"},
};

static const struct deq_command encode_command = {
    .usage = "deq tokenizer encode MODEL [TEXT | --file FILE] [--special] [--json | --hex]",
    .about = "Prints the token ids of a text: the argument, a file, or standard input. Files and input are "
             "read as a model's texts are: a line end of CR LF is LF, and a byte order mark is none of the text.",
    .flags = {encode_flags, DEQ_COUNT(encode_flags)},
    .min_args = 1,
    .max_args = 2,
};

/* Standard input, as a text file. */
static enum deq_rc read_input(char **ret_text, size_t *ret_len, struct deq_err *err)
{
    static const char name[] = "standard input";
    enum deq_rc rc = deq_io_read_fd(STDIN_FILENO, name, MAX_TEXT_BYTES, ret_text, ret_len, err);
    return rc ? rc : deq_text_clean(name, *ret_text, ret_len, err);
}

/* text, or the file, or standard input */
static enum deq_rc read_text(const char *text, const char *path, char **ret, size_t *ret_len, struct deq_err *err)
{
    if (!text)
        return path ? deq_text_read(path, MAX_TEXT_BYTES, ret, ret_len, err) : read_input(ret, ret_len, err);
    *ret_len = strlen(text);
    return (*ret = deq_strdup(text)) ? DEQ_OK : deq_fail(err, DEQ_ENOMEM, "no memory for the text");
}

static int encode(int argc, char **argv)
{
    const char *args[2];
    size_t n;
    struct encode_flags f = {0};
    int code = cli_parse("tokenizer encode", &encode_command, argc, argv, &f, args, &n);
    if (code >= 0)
        return code;
    const char *text = n > 1 ? args[1] : NULL;
    if ((text && f.file) || (f.json && f.hex))
        return cli_usage("tokenizer encode", "%s",
                         f.json && f.hex ? "--json or --hex, not both" : "TEXT or --file, not both");
    struct deq_err err;
    struct deq_tokenizer *tok = NULL;
    struct deq_tokens tokens = {0};
    struct deq_buf out;
    char *data = NULL;
    size_t len = 0;
    deq_buf_init(&out, SIZE_MAX / 4);
    enum deq_rc rc = deq_tokenizer_load(args[0], &tok, &err);
    if (!rc)
        rc = read_text(text, f.file, &data, &len, &err);
    if (!rc && f.hex)
        rc = encode_hex_lines(tok, data, len, f.special, &out, &err);
    else if (!rc)
        rc = deq_tokenizer_encode(tok, data, len, f.special, &tokens, &err);
    if (!rc && f.json) {
        print_encoded_json(&out, tok, &tokens, len);
    } else if (!rc && !f.hex) {
        print_ids(&out, &tokens, " ");
        deq_buf_str(&out, "\n");
    }
    code = rc ? report(&err) : print_all(&out, stdout);
    deq_free(data);
    deq_buf_free(&out);
    deq_tokens_free(&tokens);
    deq_tokenizer_free(tok);
    return code;
}

/* ---- decode ---- */

/* Reads the ids of one line, or of all lines when `newline_ends` is false. Returns the place after
 * it, NULL on a bad number. */
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

static bool decode_lines(const struct deq_tokenizer *tok, char *data, size_t len, bool skip, bool hex,
                         struct deq_buf *out, struct deq_err *err)
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

struct decode_flags {
    bool skip_special, hex;
};

static const struct deq_opt decode_flags[] = {
    {"--skip-special", DEQ_OPT_BOOL, offsetof(struct decode_flags, skip_special), 0, 0, NULL, NULL,
     "leave special tokens out"},
    {"--hex", DEQ_OPT_BOOL, offsetof(struct decode_flags, hex), 0, 0, NULL, NULL,
     "many lists: each line of input is one list of ids, each line of output its bytes in hexadecimal"},
};

static const struct deq_command decode_command = {
    .usage = "deq tokenizer decode MODEL [ID...] [--skip-special] [--hex]",
    .about = "Prints the text of token ids: the arguments, or numbers on standard input.",
    .flags = {decode_flags, DEQ_COUNT(decode_flags)},
    .min_args = 1,
    .max_args = SIZE_MAX,
};

static int decode(int argc, char **argv)
{
    const char **args = DEQ_NEW_ARRAY(const char *, (size_t)argc);
    size_t n, len = 0;
    struct decode_flags f = {0};
    struct deq_err err;
    if (!args)
        return cli_fail("tokenizer decode", "no memory for the arguments");
    int code = cli_parse("tokenizer decode", &decode_command, argc, argv, &f, args, &n);
    if (code >= 0) {
        deq_free(args);
        return code;
    }
    struct deq_tokenizer *tok = NULL;
    struct deq_buf out, ids;
    char *data = NULL;
    deq_buf_init(&out, SIZE_MAX / 4);
    deq_buf_init(&ids, MAX_TEXT_BYTES);
    for (size_t i = 1; i < n; i++)
        deq_buf_fmt(&ids, "%s ", args[i]);
    if (deq_tokenizer_load(args[0], &tok, &err) ||
        (!ids.len && read_input(&data, &len, &err)) ||
        !decode_lines(tok, ids.len ? ids.data : data, ids.len ? ids.len : len, f.skip_special, f.hex, &out, &err))
        code = report(&err);
    else
        code = print_all(&out, stdout);
    deq_tokenizer_free(tok);
    deq_free(data);
    deq_buf_free(&out);
    deq_buf_free(&ids);
    deq_free(args);
    return code;
}

int cmd_tokenizer(int argc, char **argv)
{
    static const struct cli_command commands[] = {
        {"train", train, "train a byte-level BPE vocabulary on text"},
        {"words", cmd_tokenizer_words, "make a word-level tokenizer of text or of a vocabulary"},
        {"encode", encode, "print the token ids of a text"},
        {"decode", decode, "print the text of token ids"},
    };
    static const struct cli_choice all = {
        .name = "deq tokenizer",
        .kind = "Command",
        .about = "Makes tokenizers (tokenizer.json) and looks at what they do. `deq tokenizer COMMAND --help` "
                 "tells more of a command.",
        .each = commands,
        .n = DEQ_COUNT(commands),
    };
    return cli_choose(&all, argc, argv);
}
