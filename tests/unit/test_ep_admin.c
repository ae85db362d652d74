/* server/api/ep_admin.c: a reload answers when it is done, and says why it was none. */
#include <fcntl.h>
#include <unistd.h>

#include "tests/unit/inside.h"
#include "tests/unit/scratch.h"
#include "tests/unit/test.h"

/* printf %s root | sha256sum */
#define ROOT "adm 4813494d137e1631bba301d5acab6e7bb7aa74ce1185d456565ef51d737677b2 admin\n"

TEST(ep_admin_reload)
{
    static struct outcome o;
    char keys[600];
    const struct exchange head = {.method = "POST", .path = "/admin/reload", .request_id = "r",
                                  .caller = {.id = 1, .weight = 1, .known = true, .admin = true}};
    REQUIRE(scratch_begin());
    scratch_put("keys", ROOT);
    snprintf(keys, sizeof keys, "auth.keys_file=%s", scratch_path("keys"));
    REQUIRE(inside_begin((const char *const[]){keys, NULL}));
    (void)inside_ask_as(&head, "", 0, &o);
    CHECK_EQ(o.status, 200);
    struct served *m = store_acquire(inside.service.store);
    CHECK(strstr(o.text, "{\"status\":\"ok\",\"fingerprint\":\"") && strstr(o.text, m->info.fingerprint));
    store_release(m);
    const int usual = dup(STDERR_FILENO), none = open("/dev/null", O_WRONLY); /* these errors are wanted */
    CHECK(usual >= 0 && dup2(none, STDERR_FILENO) == STDERR_FILENO);
    scratch_put("keys", ROOT "nonsense\n");
    (void)inside_ask_as(&head, "", 0, &o); /* whoever asked mends the file first */
    CHECK_EQ(o.status, 500);
    CHECK(strstr(o.text, "\"reload_failed\"") && strstr(o.text, "line 2"));
    scratch_put("keys", ROOT);
    snprintf(inside.conf.model_path, sizeof inside.conf.model_path, "/nonexistent/model");
    (void)inside_ask_as(&head, "", 0, &o);
    CHECK_EQ(o.status, 500);
    CHECK(strstr(o.text, "\"reload_failed\"") && strstr(o.text, "/nonexistent/model"));
    CHECK(dup2(usual, STDERR_FILENO) == STDERR_FILENO);
    close(usual);
    close(none);
    inside_ask("GET", "/health/live", "", &o); /* the old one serves on */
    CHECK_EQ(o.status, 200);
    inside_end();
    scratch_end("keys", NULL);
}
