#include "tests/fuzz/members.h"

#include "tests/fuzz/fuzz.h"

enum { DEPTH_MAX = 3, ELEMENTS_MAX = 3 };

static json_t *any_number(double lo, double hi, bool whole, uint64_t *random)
{
    static const double some[] = {-1,  0,   1,    2,      3,   4,      5,       7,    8,           16,  17,
                                  20,  21,  48,   63,     64,  65,     100,     128,  200,         201, 255,
                                  383, 384, 4096, 100000, 1e9, 100001, 1e9 + 1, 1e18, 2147483648.0};
    const unsigned way = fuzz_next(random) % 4;
    const double step = whole ? 1 : 1e-3, off = ((double)(fuzz_next(random) % 3) - 1) * step;
    double x = some[fuzz_next(random) % DEQ_COUNT(some)] * (whole || fuzz_next(random) % 2 ? 1 : 1e-2);
    if (way < 2 && hi > lo)
        x = (way ? hi : lo) + off;
    return whole && x > -1e18 && x < 1e18 ? json_integer((json_int_t)x) : json_real(x);
}

static json_t *any_text(uint64_t *random)
{
    static const char *const some[] = {
        "",
        "a",
        "b",
        "ab",
        "tiny",
        "The cat",
        "END",
        "\n",
        ".a",
        "a.b",
        "../a",
        "(a|b)+",
        "a{2,}",
        "<|endoftext|>",
        "root ::= \"a\" root?",
        "{\"type\": \"integer\"}",
        "\xc3\xa9",
        "\xf0\x9f\x98\x80",
        "user",
        "logprobs",
        "message.output_text.logprobs",
        "One day, Tom had a red ball. He liked to play with it. He would throw it and throw it in the air."};
    return json_string(some[fuzz_next(random) % DEQ_COUNT(some)]);
}

static json_t *any_texts(uint64_t *random)
{
    json_t *all = json_array();
    for (size_t i = fuzz_next(random) % (ELEMENTS_MAX + 1); i--;)
        json_array_append_new(all, any_text(random));
    return all;
}

static json_t *any_ids(uint64_t *random)
{
    json_t *all = json_array();
    for (size_t i = fuzz_next(random) % (fuzz_next(random) % 8 ? 5 : 25); i--;)
        json_array_append_new(all, any_number(0, 383, true, random));
    return all;
}

static json_t *any_biases(uint64_t *random)
{
    json_t *all = json_object();
    for (size_t i = fuzz_next(random) % 4; i--;) {
        char key[8];
        snprintf(key, sizeof key, "%u", (unsigned)(fuzz_next(random) % 400));
        json_object_set_new(all, key, any_number(-100, 100, false, random));
    }
    return all;
}

/* One of the words behind a colon. */
static json_t *any_word(const char *words, uint64_t *random)
{
    size_t n = 1, nth;
    for (const char *s = words; *s; s++)
        n += *s == ',';
    for (nth = fuzz_next(random) % n; nth--;)
        words = strchr(words, ',') + 1;
    words += *words == ' ';
    return json_stringn(words, strcspn(words, ","));
}

static const struct fields *inner_of(const struct fields *f, const char *name)
{
    for (size_t i = 0; i < FIELDS_INNER_MAX && f->inner[i]; i++)
        if (!strcmp(f->inner[i]->name, name))
            return f->inner[i];
    return NULL;
}

static void set_any(json_t *o, const struct fields *f, unsigned depth, uint64_t *random);

static json_t *any_object(const struct fields *f, unsigned depth, uint64_t *random)
{
    json_t *o = json_object();
    for (size_t i = 1 + fuzz_next(random) % ELEMENTS_MAX; f && i--;)
        set_any(o, f, depth, random);
    return o;
}

static json_t *any_schema(uint64_t *random)
{
    static const char *const some[] = {
        "{}",
        "{\"type\": \"integer\"}",
        "{\"enum\": [1, \"a\", null]}",
        "{\"const\": null}",
        "{\"type\": \"string\", \"maxLength\": 3}",
        "{\"type\": \"object\", \"properties\": {\"a\": {\"type\": \"boolean\"}}, \"required\": [\"a\"]}",
        "{\"type\": \"array\", \"items\": {\"type\": \"number\"}, \"maxItems\": 2}"};
    return json_loads(some[fuzz_next(random) % DEQ_COUNT(some)], 0, NULL);
}

/* Of what its type is in words; any of some kinds when that says several. */
static json_t *any_other(const struct fields *f, const struct field *row, unsigned depth, uint64_t *random)
{
    const char *colon = strstr(row->type, ": ");
    if (colon)
        return any_word(colon + 2, random);
    const bool many = !strncmp(row->type, "array", 5),
               texts = strstr(row->type, "strings") || strstr(row->type, "texts");
    if (strstr(row->type, "object of"))
        return any_biases(random);
    if (strstr(row->type, "Schema"))
        return any_schema(random);
    if (strstr(row->type, "integer") || strstr(row->type, "number"))
        return any_number(row->lo, row->hi, strstr(row->type, "integer"), random);
    if (inner_of(f, row->name) || !strcmp(row->type, "object")) {
        json_t *one = any_object(inner_of(f, row->name), depth + 1, random);
        return many ? json_pack("[o]", one) : one;
    }
    if (strstr(row->type, "ids") && (fuzz_next(random) % 2 || (many && !texts)))
        return any_ids(random);
    return texts && (many || fuzz_next(random) % 2) ? any_texts(random) : any_text(random);
}

/* A member of the table, of its kind and about its range; one time in sixteen of another kind. */
static void set_any(json_t *o, const struct fields *f, unsigned depth, uint64_t *random)
{
    const struct field *row = &f->rows[fuzz_next(random) % f->n];
    json_t *v;
    if (depth > DEPTH_MAX)
        return;
    if (fuzz_next(random) % 16 == 0)
        v = fuzz_next(random) % 2 ? any_text(random) : any_ids(random);
    else if (row->kind == BOOL)
        v = json_boolean(fuzz_next(random) % 2);
    else if (row->kind == OTHER)
        v = any_other(f, row, depth, random);
    else
        v = any_number(row->lo, row->hi, row->kind == INT, random);
    json_object_set_new(o, row->name, v);
}

size_t fuzz_mutate_members(uint8_t *body, size_t n, size_t max, const struct fields *f, uint64_t *random)
{
    json_t *root = json_loadb((const char *)body, n, JSON_ALLOW_NUL, NULL);
    if (!json_is_object(root)) {
        json_decref(root);
        root = json_object();
    }
    for (size_t rounds = 1 + fuzz_next(random) % 4; rounds--;) {
        const struct fields *inner = fuzz_next(random) % 2 ? f->inner[fuzz_next(random) % FIELDS_INNER_MAX] : NULL;
        json_t *v = inner ? json_object_get(root, inner->name) : NULL;
        v = json_is_array(v) ? json_array_get(v, fuzz_next(random) % (json_array_size(v) + 1)) : v;
        const struct fields *of = json_is_object(v) ? inner : f;
        json_t *const o = json_is_object(v) ? v : root;
        if (fuzz_next(random) % 8)
            set_any(o, of, 0, random);
        else
            json_object_del(o, of->rows[fuzz_next(random) % of->n].name);
    }
    char *text = json_dumps(root, JSON_COMPACT);
    const size_t k = text ? strlen(text) : max + 1;
    if (k <= max)
        memcpy(body, text, k);
    free(text);
    json_decref(root);
    return k <= max ? k : n;
}
