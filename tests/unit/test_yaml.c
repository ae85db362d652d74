/* core/base/yaml.c: the YAML of a configuration, each item with its place; the rest is refused where it is. */
#include "core/base/yaml.h"

#include <stdlib.h>

#include "core/base/buf.h"
#include "core/base/mem.h"
#include "tests/unit/test.h"

static enum deq_rc on_item(void *ctx, const struct deq_yaml_item *i, struct deq_err *err)
{
    if (i->kind == DEQ_YAML_SEQUENCE)
        return DEQ_OK;
    if (i->kind != DEQ_YAML_SCALAR) {
        deq_buf_fmt(ctx, "%s=%s@%u:%u/%u:%u[%d] ", i->key, i->kind == DEQ_YAML_NULL ? "null" : "{}", i->line, i->column,
                    i->key_line, i->key_column, i->index);
        return DEQ_OK;
    }
    if (!strcmp(i->value, "stop"))
        return deq_fail(err, DEQ_ECANCELED, "stopped at %s", i->key);
    deq_buf_fmt(ctx, "%s=%s@%u:%u/%u:%u[%d] ", i->key, i->value, i->line, i->column, i->key_line, i->key_column,
                i->index);
    return DEQ_OK;
}

TEST(yaml_items)
{
    static const struct {
        const char *text, *items;
    } t[] = {
        {"", ""},
        {"# only a comment\n", ""},
        {"a: 1\n", "a=1@1:4/1:1[-1] "},
        {"a: 1\nb:\n  c: x y\n  d: [p, 'q']\ne: \"\"\n",
         "a=1@1:4/1:1[-1] b.c=x y@3:6/3:3[-1] b.d=p@4:7/4:3[0] b.d=q@4:10/4:3[1] e=@5:4/5:1[-1] "},
        {"a:\n  b:\n    c: 1\n  d: 2\ne: 3\n", "a.b.c=1@3:8/3:5[-1] a.d=2@4:6/4:3[-1] e=3@5:4/5:1[-1] "},
        {"a: []\nb: {}\nc: ~\n", "b={}@2:5/2:1[-1] c=null@3:4/3:1[-1] "},
        {"a:\nb: null\nc: [Null, NULL]\nd:\n  # e: 1\n",
         "a=null@1:3/1:1[-1] b=null@2:4/2:1[-1] c=null@3:5/3:1[0] c=null@3:11/3:1[1] d=null@4:3/4:1[-1] "},
        {"a: \"null\"\nb: '~'\nc: \"\"\nd: nULL\n",
         "a=null@1:4/1:1[-1] b=~@2:4/2:1[-1] c=@3:4/3:1[-1] d=nULL@4:4/4:1[-1] "},
        {"a: {b: {}}\nc: 1\n", "a.b={}@1:9/1:5[-1] c=1@2:4/2:1[-1] "},
        {"~\n", ""},
        {"---\nnull\n...\n", ""},
        {"l:\n- 1\n- 2\nm: 3\r\n", "l=1@2:3/1:1[0] l=2@3:3/1:1[1] m=3@4:4/4:1[-1] "},
        {"a.b: 1\n", "a.b=1@1:6/1:1[-1] "},
        {"\xc3\xa4: \"\\u20ac\"\n", "\xc3\xa4=\xe2\x82\xac@1:4/1:1[-1] "},
    };
    for (size_t i = 0; i < DEQ_COUNT(t); i++) {
        struct deq_buf b;
        struct deq_err e = {0};
        deq_buf_init(&b, 1000);
        deq_buf_str(&b, "");
        CHECK_MSG(!deq_yaml_walk(t[i].text, strlen(t[i].text), "t.yaml", on_item, &b, &e), "case %zu: %s", i, e.text);
        CHECK_MSG(!strcmp(b.data, t[i].items), "case %zu: %s", i, b.data);
        deq_buf_free(&b);
    }
}

TEST(yaml_refuses)
{
    static const struct {
        const char *text, *place, *what;
    } t[] = {
        {"a: &x 1\nb: *x\n", "line 1, column 4", "anchors"},
        {"a: 1\nb: *x\n", "line 2, column 4", "alias"},
        {"a: !!str 1\n", "line 1, column 4", "tags"},
        {"!x\na: 1\n", "line 1, column 1", "tags"},
        {"a: &x {b: 1}\n", "line 1, column 4", "anchors"},
        {"a: &x [b]\n", "line 1, column 4", "anchors"},
        {"a: 1\n---\nb: 2\n", "line 2, column 1", "second document"},
        {"a: 1\na: 2\n", "line 2, column 1", "twice: a"},
        {"a:\n  b: 1\n  b: 2\n", "line 3, column 3", "twice: a.b"},
        {"a: {b: 1}\na: {c: 1}\n", "line 2, column 1", "twice: a"},
        {"a.b: 1\na: {b: 1}\n", "line 2, column 5", "twice: a.b"},
        {"a:\n- [1]\n", "line 2, column 3", "sequence"},
        {"a:\n- {b: 1}\n", "line 2, column 3", "mapping"},
        {"- a\n", "line 1, column 1", "sequence"},
        {"just text\n", "line 1, column 1", "mapping of keys"},
        {"? [a]\n: b\n", "line 1, column 3", "sequence"},
        {"? {a: b}\n: c\n", "line 1, column 3", "mapping"},
        {"\"\": v\n", "line 1, column 1", "key must have"},
        {"\"a\\0b\": 1\n", "line 1, column 1", "key must have"},
        {"a: \"x\\0y\"\n", "line 1, column 4", "NUL"},
        {"a: [1\n", "line", "t.yaml"},
        {"a: 1\n b: 2\n", "line 2", "t.yaml"},
        {"\ta: 1\n", "line 1", "t.yaml"},
        {"a: \xff\n", "t.yaml", "line 1, column 4"},
        {"a: 1\nb: \x01\n", "t.yaml", "line 2, column 4"},
        {"a:\n  b: stop\n", "stopped", "a.b"},
        {"a: {b: {c: {d: {e: {f: {g: {h: {i: 1}}}}}}}}\n", "line 1, column 32", "too deeply"},
        /* the header promises that merge keys are refused; without an alias only the key itself can tell */
        {"<<: {a: 1}\n", "line 1, column 1", "merge"},
        /* what is not YAML is told before what is made of it */
        {"a: stop\nb: [\n", "line 3", "flow"},
    };
    for (size_t i = 0; i < DEQ_COUNT(t); i++) {
        struct deq_buf b;
        struct deq_err e = {0};
        deq_buf_init(&b, 1000);
        enum deq_rc rc = deq_yaml_walk(t[i].text, strlen(t[i].text), "t.yaml", on_item, &b, &e);
        CHECK_MSG(rc == (strstr(e.text, "stopped") ? DEQ_ECANCELED : DEQ_EFORMAT), "case %zu %s", i, t[i].text);
        CHECK_MSG(strstr(e.text, t[i].place) && strstr(e.text, t[i].what), "case %zu: \"%s\" lacks \"%s\" or \"%s\"", i,
                  e.text, t[i].place, t[i].what);
        deq_buf_free(&b);
    }
    struct deq_buf b;
    struct deq_err e;
    deq_buf_init(&b, 10000);
    CHECK(!deq_yaml_walk("a: {b: {c: {d: {e: {f: {g: {h: 1}}}}}}}\n", 40, "t", on_item, &b, &e)); /* eight levels */
    char text[400];
    for (int n = 126; n <= 127; n++) {
        memset(text, 'k', (size_t)n);
        memcpy(text + n, ": 1\n", 5);
        CHECK(deq_yaml_walk(text, (size_t)n + 4, "t", on_item, &b, &e) == (n == 126 ? DEQ_OK : DEQ_EFORMAT));
    }
    char *big = malloc(DEQ_YAML_MAX_BYTES + 1);
    memset(big, '#', DEQ_YAML_MAX_BYTES + 1);
    CHECK(!deq_yaml_walk(big, DEQ_YAML_MAX_BYTES, "t", on_item, &b, &e));
    CHECK(deq_yaml_walk(big, DEQ_YAML_MAX_BYTES + 1, "big.yaml", on_item, &b, &e) == DEQ_EFORMAT &&
          strstr(e.text, "big.yaml"));
    free(big);
    struct deq_buf many;
    deq_buf_init(&many, 100000);
    for (int i = 0; i < 1025; i++)
        deq_buf_fmt(&many, "k%d: 1\n", i);
    deq_buf_free(&b);
    deq_buf_init(&b, 100000);
    CHECK(deq_yaml_walk(many.data, many.len, "t", on_item, &b, &e) == DEQ_EFORMAT && strstr(e.text, "line 1025") &&
          strstr(e.text, "too many"));
    deq_buf_free(&many);
    deq_buf_free(&b);
}

TEST(yaml_without_memory)
{
    static const char text[] = "a: 1\nb: {c: [1, 2]}\n";
    unsigned n = 1;
    for (; n < 50; n++) {
        struct deq_buf b;
        struct deq_err e = {0};
        deq_buf_init(&b, 1000);
        deq_buf_str(&b,
                    "some text that makes the buffer large enough for all the items to come .......................");
        deq_mem_fault(n, false);
        enum deq_rc rc = deq_yaml_walk(text, sizeof text - 1, "t", on_item, &b, &e);
        deq_mem_fault(0, false);
        bool whole = !b.failed;
        deq_buf_free(&b);
        if (!rc && whole)
            break;
        if (rc)
            CHECK_MSG(rc == DEQ_ENOMEM, "allocation %u: %s: %s", n, deq_rc_name(rc), e.text);
    }
    CHECK(n > 2 && n < 50);
}
