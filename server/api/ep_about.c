/* What the daemon says of itself: its version, and the description of its interface. */
#include "server/api/endpoints.h"
#include "server/api/reply.h"

void ep_version(struct service *s, struct served *m, struct exchange *x)
{
    (void)s;
    x->status = 200;
    reply_json(&x->reply, json_pack("{s:s, s:s, s:s, s:s}", "version", DEQ_VERSION, "kernels", m->info.kernels, "model",
                                    m->name, "model_fingerprint", m->info.fingerprint));
    store_release(m);
}

/* server/api/openapi.json, linked in as it stands. */
__asm__(".section .rodata\n"
        ".global openapi_begin\nopenapi_begin:\n.incbin \"server/api/openapi.json\"\n"
        ".global openapi_end\nopenapi_end:\n.byte 0\n"
        ".previous\n");
extern const char openapi_begin[], openapi_end[];

void ep_openapi(struct service *s, struct served *m, struct exchange *x)
{
    (void)s;
    (void)m;
    x->status = 200;
    /* cppcheck-suppress comparePointers; the assembler puts one behind the other */
    deq_buf_add(&x->reply, openapi_begin, (size_t)(openapi_end - openapi_begin));
}
