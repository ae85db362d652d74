/* server/auth.c, API keys: the file's syntax, comparison, reloading. */
#include "server/auth.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

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
