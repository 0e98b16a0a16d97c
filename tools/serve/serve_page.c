/* serve_page.c - the page at /: page.html, which is one file and asks nobody but this server. It is part of the program as it stands. */
#include "serve.h"

#include <microhttpd.h>

/* .incbin: page.html byte for byte; CMakeLists.txt says where it is and that this file depends on it. */
__asm__(".pushsection .rodata\n.global serve_page_html\nserve_page_html:\n.incbin \"" KVRT_SERVE_PAGE
        "\"\n.global serve_page_end\nserve_page_end:\n.byte 0\n.popsection\n");
extern const char serve_page_html[], serve_page_end[];

int serve_page(serve_server *s, struct MHD_Connection *connection, const char *body, size_t len)
{
    (void)s, (void)body, (void)len;
    struct MHD_Response *response = MHD_create_response_from_buffer(
        (size_t)(serve_page_end - serve_page_html), (void *)(uintptr_t)serve_page_html, MHD_RESPMEM_PERSISTENT);
    if (!response) return MHD_NO;
    (void)MHD_add_response_header(response, "Content-Type", "text/html; charset=utf-8");
    (void)MHD_add_response_header(response, "Cache-Control", "no-cache");
    (void)MHD_add_response_header(response, "X-Content-Type-Options", "nosniff");
    (void)MHD_add_response_header(response, "Referrer-Policy", "no-referrer");
    (void)MHD_add_response_header(response, "Content-Security-Policy",
                                  "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
                                  "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
                                  "frame-ancestors 'none'");
    const enum MHD_Result result = MHD_queue_response(connection, MHD_HTTP_OK, response);
    MHD_destroy_response(response);
    return (int)result;
}
