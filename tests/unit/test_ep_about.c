/* server/api/ep_about.c: the version, and the description of the interface as it stands in its file. */
#include "core/base/io.h"
#include "core/base/mem.h"
#include "tests/unit/inside.h"
#include "tests/unit/test.h"

TEST(ep_about_version_and_description)
{
    static struct outcome o;
    char *file = NULL;
    size_t n = 0;
    REQUIRE(inside_begin(NULL));
    inside_ask("GET", "/version", "", &o);
    CHECK_EQ(o.status, 200);
    struct served *m = store_acquire(inside.service.store);
    char want[256];
    snprintf(want, sizeof want,
             "{\"version\":\"" DEQ_VERSION "\",\"kernels\":\"%s\",\"model\":\"tiny\",\"model_fingerprint\":\"%s\"}",
             m->info.kernels, m->info.fingerprint);
    CHECK_EQ(o.text, want);
    store_release(m);
    inside_ask("GET", "/openapi.json", "", &o);
    REQUIRE(!deq_io_read("server/api/openapi.json", 1 << 20, &file, &n, NULL));
    CHECK(o.status == 200 && o.n == n && !memcmp(o.text, file, n));
    deq_free(file);
    inside_end();
}
