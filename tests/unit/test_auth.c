/* server/auth.c, API keys: the file's syntax, comparison, reloading. */
#include "server/auth.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/base/buf.h"
#include "core/base/mem.h"
#include "tests/unit/test.h"

/* printf %s secret | sha256sum, and of "other" */
#define SECRET "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"
#define OTHER "d9298a10d1b0735837dc4bd85dac641b0f3cef27a47e5d53a54f2f3f5b2fcffa"

static char path[64];

static void write_keys(const char *text)
{
    snprintf(path, sizeof path, "/tmp/deqd-keys-%d", (int)getpid());
    FILE *f = fopen(path, "w");
    CHECK(f && fputs(text, f) >= 0 && !fclose(f));
}

static bool check(struct auth *a, const char *key, struct caller *ret)
{
    return auth_check(a, key, strlen(key), ret);
}

TEST(auth_knows_its_keys)
{
    struct auth *a = NULL;
    struct deq_err err;
    struct caller who, other;
    write_keys("# comment\n\nalice " SECRET " weight=3 # trailing\r\n  ops\t" OTHER "\tadmin priority weight=2\n");
    CHECK_MSG(auth_new(path, &a, &err) == DEQ_OK, "%s", err.text);
    CHECK(auth_has_keys(a) && check(a, "secret", &who) && who.known && !who.admin && !who.priority && who.weight == 3);
    CHECK(check(a, "other", &other) && other.admin && other.priority && other.weight == 2 && other.id != who.id);
    static const char *const wrong[] = {"", "s", "secre", "secrets", "Secret", " secret", "secret ", SECRET,
                                        "Bearer secret"};
    for (size_t i = 0; i < DEQ_COUNT(wrong); i++)
        CHECK_MSG(!check(a, wrong[i], &who), "\"%s\" is no key", wrong[i]);
    CHECK(!auth_check(a, "secret\0x", 8, &who));
    write_keys("alice " OTHER "\n");
    CHECK(auth_reload(a, &err) == DEQ_OK && !check(a, "secret", &who) && check(a, "other", &who) && !who.admin);
    write_keys("\xef\xbb\xbf" "alice " SECRET "\r\nbob " OTHER "\r\n"); /* as other systems write text */
    CHECK(auth_reload(a, &err) == DEQ_OK && check(a, "secret", &who) && check(a, "other", &who));
    write_keys("alice nonsense\n");
    CHECK(auth_reload(a, &err) == DEQ_EFORMAT && strstr(err.text, "line 1") && !strstr(err.text, "nonsense") &&
          check(a, "other", &who));
    unlink(path);
    CHECK(auth_reload(a, &err) != DEQ_OK && strstr(err.text, "auth.keys_file") && check(a, "other", &who));
    auth_free(a);
    CHECK(auth_new("", &a, &err) == DEQ_OK && !auth_has_keys(a) && !check(a, "x", &who));
    CHECK(auth_reload(a, &err) == DEQ_OK);
    auth_free(a);
    auth_free(NULL);
    CHECK(auth_anonymous("abcd", 4).id == auth_anonymous("abcd", 4).id &&
          auth_anonymous("abcd", 4).id != auth_anonymous("abce", 4).id);
}

/* Digits of either case, depth by key, and as long a key as may be. */
TEST(auth_of_every_way_to_write_it)
{
    struct auth *a = NULL;
    struct deq_err err;
    struct caller who;
    char upper[] = SECRET, longest[4097];
    for (char *c = upper; *c; c++)
        *c = (char)(*c >= 'a' ? *c - 'a' + 'A' : *c);
    char text[512];
    snprintf(text, sizeof text, "a %s depth=fixed\nb " OTHER " depth=elastic weight=1000\n", upper);
    write_keys(text);
    REQUIRE(!auth_new(path, &a, &err));
    CHECK(check(a, "secret", &who) && who.depth == DEPTH_FIXED && who.weight == 1);
    CHECK(check(a, "other", &who) && who.depth == DEPTH_ELASTIC && who.weight == 1000);
    memset(longest, 'x', sizeof longest);
    CHECK(!auth_check(a, longest, 4096, &who) && !auth_check(a, longest, 4097, &who));
    auth_free(a);
    unlink(path);
}

TEST(auth_of_many_keys)
{
    struct auth *a = NULL;
    struct deq_err err;
    struct deq_buf b;
    for (int more = 0; more < 2; more++) {
        deq_buf_init(&b, 1 << 20);
        for (int i = 0; i < AUTH_KEYS_MAX + more; i++)
            deq_buf_fmt(&b, "k%d %064x\n", i, i);
        write_keys(b.data);
        CHECK_EQ(auth_new(path, &a, &err), more ? DEQ_EFORMAT : DEQ_OK);
        deq_buf_free(&b);
    }
    CHECK_MSG(strstr(err.text, "more than"), "%s", err.text);
    auth_free(a);
    unlink(path);
}

TEST(auth_without_memory)
{
    struct auth *a = NULL;
    struct deq_err err;
    write_keys("alice " SECRET "\n");
    const uint64_t live = deq_mem_live();
    for (uint64_t nth = 1; !a && nth < 20; nth++) {
        deq_mem_fault(nth, false);
        const enum deq_rc rc = auth_new(path, &a, &err);
        deq_mem_fault(0, false);
        CHECK(rc ? rc == DEQ_ENOMEM && deq_mem_live() == live : nth > 2);
    }
    CHECK(a != NULL);
    auth_free(a);
    unlink(path);
}

TEST(auth_refuses_a_zero_byte)
{
    struct auth *a = NULL;
    struct deq_err err;
    write_keys("alice " SECRET "\n");
    FILE *f = fopen(path, "a");
    REQUIRE(f && fwrite("b\0c\n", 1, 4, f) == 4 && !fclose(f));
    CHECK(auth_new(path, &a, &err) == DEQ_EFORMAT && strstr(err.text, "zero byte"));
    unlink(path);
}

TEST(auth_refuses_bad_files)
{
    static const struct {
        const char *text, *says;
    } bad[] = {{"alice\n", "line 1"},
               {"\n\nalice " SECRET "0\n", "line 3"},
               {"alice " SECRET " root\n", "word 3"},
               {"alice " SECRET " weight=0\n", "weight=1..1000"},
               {"alice " SECRET " weight=1001\n", "weight=1..1000"},
               {"alice " SECRET " weight=2x\n", "word 3"},
               {"alice " SECRET " weight=x\n", "word 3"},
               {"alice " SECRET " weight=:\n", "word 3"},
               {"alice 2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25g\n", "line 1"},
               {"alice " SECRET " admin admin admin admin admin admin\n", "line 1"},
               {"alice " SECRET " admin depth=deep\n", "depth=fixed or depth=elastic"},
               {"alice " SECRET "\nbob " SECRET "\n", "twice"},
               {"alice " SECRET "\nalice " OTHER "\n", "twice"},
               {"alice " SECRET "\rbob " OTHER "\r", "line 1"}, /* no line end: nobody is left out in silence */
               {"\xff\xfe" "a", "UTF-16"},
               {"# nobody\n", "no key"},
               {"", "no key"}};
    for (size_t i = 0; i < DEQ_COUNT(bad); i++) {
        struct auth *a = NULL;
        struct deq_err err;
        write_keys(bad[i].text);
        CHECK_MSG(auth_new(path, &a, &err) == DEQ_EFORMAT && !a && strstr(err.text, bad[i].says) &&
                      strstr(err.text, "auth.keys_file"),
                  "%s: %s", bad[i].text, err.text);
    }
    unlink(path);
}
