// mock.c - a lean OpenAI-style upstream for gateway benchmarks. Single thread, epoll, loopback only.
//   gcc -O2 -o bin/mock mock.c
//   mock [PORT=9100]      env: MOCK_CHUNKS (100) MOCK_DELAY_MS (0) MOCK_LATENCY_MS (0) MOCK_BATCH (1)
//                              MOCK_USAGE=always|opt (always)
// POST /v1/chat/completions (any path ending in /chat/completions; also /completions)
//   "stream": true -> N chunks, a finish chunk, a usage chunk, [DONE]; otherwise one fixed JSON.
//   N: #n=.. in the prompt, else max_completion_tokens / max_tokens, else MOCK_CHUNKS.
//   Delay between chunks (ms, may be fractional): #d=.. in the prompt, else MOCK_DELAY_MS.
//   Delay before the first byte (ms): #l=.. in the prompt, else MOCK_LATENCY_MS.
//   The prompt markers exist because every gateway forwards the message text unchanged.
//   Each chunk's content is " t<16-digit CLOCK_MONOTONIC microseconds>", so a client on the same
//   machine can tell how late each chunk reaches it.
// GET /v1/models, GET /health, GET /stats (requests and chunks served so far).
// GET /mode/ok, /mode/hang (no answer at all), /mode/slow (300 ms more), /mode/429 (Retry-After: 1), /mode/500:
//   how completions are answered from now on.
// With delay 0 active streams take turns, MOCK_BATCH chunks per write (1 = one write per chunk).
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MAXREQ (1024 * 1024 + 65536)
#define MAXBATCH 64

typedef struct Conn {
    int fd;
    char *in; size_t in_len, in_cap;
    char *out; size_t out_len, out_off, out_cap;
    int streaming;          // an SSE answer is under way
    int waiting;            // in the timer heap
    int spin;               // in the delay-0 ring
    int blocked;            // waits for EPOLLOUT
    int close_after, dead;
    long n, sent;           // chunks asked for / sent
    uint64_t due, delay_ns; // next due time
    int plain;              // the timer is for a delayed non-streaming answer
    int heap_i;
    struct Conn *next_dead;
} Conn;

static int ep;
static long def_chunks = 100; static double def_delay = 0, def_lat = 0; static int batch = 1, usage_opt = 0;
static enum { OK, HANG, SLOW, BUSY, BROKEN } mode;
static uint64_t n_req, n_asked, n_chunks, n_stream, n_bad;
static Conn **heap; static int heap_n, heap_cap;
static Conn **ring; static int ring_n, ring_cap;
static Conn *dead_list;

static uint64_t now_ns(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return (uint64_t)t.tv_sec * 1000000000ull + t.tv_nsec; }

static const char BODY[] =
"{\"id\":\"chatcmpl-mock000000000000000000000001\",\"object\":\"chat.completion\",\"created\":1760000000,"
"\"model\":\"mock-model\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":"
"\"Hello! This is a fixed reply from the mock upstream.\",\"refusal\":null},\"logprobs\":null,"
"\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":12,\"completion_tokens\":11,\"total_tokens\":23,"
"\"prompt_tokens_details\":{\"cached_tokens\":0,\"audio_tokens\":0},\"completion_tokens_details\":"
"{\"reasoning_tokens\":0,\"audio_tokens\":0}},\"system_fingerprint\":\"fp_mock\"}";
static const char MODELS[] =
"{\"object\":\"list\",\"data\":[{\"id\":\"mock-model\",\"object\":\"model\",\"created\":1760000000,\"owned_by\":\"mock\"}]}";
static char resp_body[2048]; static int resp_body_n;
static char resp_models[1024]; static int resp_models_n;

#define HEAD "{\"id\":\"chatcmpl-mock000000000000000000000001\",\"object\":\"chat.completion.chunk\",\"created\":1760000000,\"model\":\"mock-model\",\"system_fingerprint\":\"fp_mock\","
static const char SSE_HDR[] =
"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n";
static const char PRE[] = "data: " HEAD "\"choices\":[{\"index\":0,\"delta\":{\"content\":\" t";
static const char PRE1[] = "data: " HEAD "\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\" t";
static const char POST[] = "\"},\"logprobs\":null,\"finish_reason\":null}]}\n\n";
static const char FIN[] = "data: " HEAD "\"choices\":[{\"index\":0,\"delta\":{},\"logprobs\":null,\"finish_reason\":\"stop\"}]}\n\n";

static void heap_swap(int a, int b) { Conn *t = heap[a]; heap[a] = heap[b]; heap[b] = t; heap[a]->heap_i = a; heap[b]->heap_i = b; }
static void heap_up(int i) { while (i && heap[(i - 1) / 2]->due > heap[i]->due) { heap_swap(i, (i - 1) / 2); i = (i - 1) / 2; } }
static void heap_down(int i) {
    for (;;) {
        int l = 2 * i + 1, m = i;
        if (l < heap_n && heap[l]->due < heap[m]->due) m = l;
        if (l + 1 < heap_n && heap[l + 1]->due < heap[m]->due) m = l + 1;
        if (m == i) return;
        heap_swap(i, m); i = m;
    }
}
static void heap_add(Conn *c) {
    if (heap_n == heap_cap) heap = realloc(heap, (heap_cap = heap_cap ? heap_cap * 2 : 256) * sizeof *heap);
    heap[heap_n] = c; c->heap_i = heap_n; c->waiting = 1; heap_up(heap_n++);
}
static void heap_del(Conn *c) {
    int i = c->heap_i; c->waiting = 0; heap_n--;
    if (i != heap_n) { heap[i] = heap[heap_n]; heap[i]->heap_i = i; heap_up(i); heap_down(i); }
}
static void ring_add(Conn *c) {
    if (c->spin) return;
    if (ring_n == ring_cap) ring = realloc(ring, (ring_cap = ring_cap ? ring_cap * 2 : 256) * sizeof *ring);
    ring[ring_n++] = c; c->spin = 1;
}

static void kill_conn(Conn *c) {
    if (c->dead) return;
    c->dead = 1; c->streaming = 0; close(c->fd);
    if (c->waiting) heap_del(c);
    c->next_dead = dead_list; dead_list = c;
}

static void want(Conn *c, int out) {
    struct epoll_event e = { .events = EPOLLIN | EPOLLRDHUP | (out ? EPOLLOUT : 0), .data.ptr = c };
    epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &e); c->blocked = out;
}

// Sends, keeps what does not fit. Returns 0 when all went out, 1 when blocked, -1 when dead.
static int push(Conn *c, const char *p, size_t n) {
    if (c->out_len == c->out_off) {
        c->out_len = c->out_off = 0;
        ssize_t k = send(c->fd, p, n, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (k < 0) { if (errno != EAGAIN && errno != EINTR) { kill_conn(c); return -1; } k = 0; }
        if ((size_t)k == n) return 0;
        p += k; n -= k;
    }
    if (c->out_len + n > c->out_cap) c->out = realloc(c->out, c->out_cap = (c->out_len + n) * 2);
    memcpy(c->out + c->out_len, p, n); c->out_len += n;
    if (!c->blocked) want(c, 1);
    return 1;
}
static int flush_out(Conn *c) {
    while (c->out_off < c->out_len) {
        ssize_t k = send(c->fd, c->out + c->out_off, c->out_len - c->out_off, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (k < 0) { if (errno == EAGAIN || errno == EINTR) return 1; kill_conn(c); return -1; }
        c->out_off += k;
    }
    c->out_off = c->out_len = 0; want(c, 0);
    return 0;
}

static char *put(char *o, const char *s, size_t n) { memcpy(o, s, n); return o + n; }
static char *put_chunk_hdr(char *o, size_t n) {
    static const char hx[] = "0123456789abcdef"; char t[8]; int i = 0;
    do t[i++] = hx[n & 15]; while (n >>= 4);
    while (i) *o++ = t[--i];
    *o++ = '\r'; *o++ = '\n'; return o;
}
static char *put_us(char *o, uint64_t us) { for (int i = 15; i >= 0; i--) { o[i] = '0' + us % 10; us /= 10; } return o + 16; }

static void process(Conn *c);

// Writes the next chunks of a stream. Returns 0 to go on, 1 blocked, 2 finished, -1 dead.
static int step(Conn *c, int k) {
    char buf[MAXBATCH * 512 + 4096], *o = buf;
    if (k > MAXBATCH) k = MAXBATCH;
    for (; k > 0 && c->sent < c->n; k--) {
        const char *pre = c->sent ? PRE : PRE1; size_t pn = (c->sent ? sizeof PRE : sizeof PRE1) - 1;
        o = put_chunk_hdr(o, pn + 16 + sizeof POST - 1);
        o = put(o, pre, pn); o = put_us(o, now_ns() / 1000); o = put(o, POST, sizeof POST - 1);
        *o++ = '\r'; *o++ = '\n'; c->sent++; n_chunks++;
    }
    int fin = c->sent >= c->n;
    if (fin) {
        char u[1024];
        int un = sprintf(u, "%sdata: " HEAD "\"choices\":[],\"usage\":{\"prompt_tokens\":12,\"completion_tokens\":%ld,\"total_tokens\":%ld}}\n\ndata: [DONE]\n\n", FIN, c->n, c->n + 12);
        if (usage_opt && !c->plain) un = sprintf(u, "%sdata: [DONE]\n\n", FIN);
        o = put_chunk_hdr(o, un); o = put(o, u, un); o = put(o, "\r\n0\r\n\r\n", 7);
        c->streaming = 0; n_stream++;
    }
    int r = push(c, buf, o - buf);
    if (r < 0) return -1;
    return fin ? 2 : r;
}

static const char *find_key(const char *b, const char *e, const char *key) { // -> just after the colon
    size_t kn = strlen(key);
    while ((b = memmem(b, e - b, key, kn))) {
        const char *p = b + kn;
        while (p < e && (*p == ' ' || *p == '\n' || *p == '\t' || *p == '\r')) p++;
        if (p < e && *p == ':') { p++; while (p < e && (*p == ' ' || *p == '\n' || *p == '\t' || *p == '\r')) p++; return p; }
        b += kn;
    }
    return NULL;
}
static int marker(const char *b, const char *e, const char *m, double *v) {
    const char *p = memmem(b, e - b, m, strlen(m));
    if (!p) return 0;
    *v = strtod(p + strlen(m), NULL); return 1;
}

static void simple(Conn *c, const char *status, const char *body) {
    char b[4096]; int n = snprintf(b, sizeof b, "HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s", status, strlen(body), body);
    push(c, b, n);
}

static void answer(Conn *c, const char *req, const char *body, const char *bend) {
    n_req++;
    const char *path = strchr(req, ' '), *pe = path ? strchr(path + 1, ' ') : NULL;
    if (!pe) { n_bad++; simple(c, "400 Bad Request", "{}"); return; }
    path++;
    size_t pl = pe - path; const char *q = memchr(path, '?', pl); if (q) pl = q - path;
    if (!strncmp(req, "POST ", 5) && pl >= 12 && !memcmp(path + pl - 12, "/completions", 12)) {
        n_asked++;
        if (mode == HANG) { c->streaming = 3; return; }       // until the client closes
        if (mode == BUSY) { simple(c, "429 Too Many Requests\r\nRetry-After: 1", "{\"error\":{\"message\":\"busy\"}}"); return; }
        if (mode == BROKEN) { simple(c, "500 Internal Server Error", "{\"error\":{\"message\":\"broken\"}}"); return; }
        const char *s = find_key(body, bend, "\"stream\"");
        double lat = def_lat, d = def_delay, n = -1;
        if (memchr(body, '#', bend - body)) { marker(body, bend, "#l=", &lat); marker(body, bend, "#d=", &d); marker(body, bend, "#n=", &n); }
        if (mode == SLOW) lat += 300;
        if (s && bend - s >= 4 && !memcmp(s, "true", 4)) {
            if (n < 0) {
                const char *m = find_key(body, bend, "\"max_completion_tokens\"");
                if (!m) m = find_key(body, bend, "\"max_tokens\"");
                n = m ? atol(m) : 0; if (n <= 0) n = def_chunks;
            }
            c->n = (long)n; c->sent = 0; c->streaming = 1; c->delay_ns = (uint64_t)(d * 1e6);
            c->plain = find_key(body, bend, "\"include_usage\"") != NULL;   // reused: usage was asked for
            if (push(c, SSE_HDR, sizeof SSE_HDR - 1) < 0) return;
            if (lat > 0 || c->delay_ns) { c->due = now_ns() + (uint64_t)(lat * 1e6); heap_add(c); }
            else ring_add(c);
            return;
        }
        if (lat > 0) { c->streaming = 2; c->due = now_ns() + (uint64_t)(lat * 1e6); heap_add(c); return; }
        push(c, resp_body, resp_body_n); return;
    }
    if (!strncmp(req, "GET ", 4)) {
        if (pl >= 7 && !memcmp(path + pl - 7, "/models", 7)) { push(c, resp_models, resp_models_n); return; }
        if (pl > 6 && !memcmp(path, "/mode/", 6)) {
            static const char *names[] = { "ok", "hang", "slow", "429", "500" };
            for (int i = 0; i < 5; i++) if (pl - 6 == strlen(names[i]) && !memcmp(path + 6, names[i], pl - 6)) { mode = i; simple(c, "200 OK", "{}"); return; }
        }
        if (pl == 7 && !memcmp(path, "/health", 7)) { simple(c, "200 OK", "{\"status\":\"ok\"}"); return; }
        if (pl == 6 && !memcmp(path, "/stats", 6)) {
            char b[256]; struct rusage ru; getrusage(RUSAGE_SELF, &ru);
            snprintf(b, sizeof b, "{\"requests\":%lu,\"completions\":%lu,\"streams\":%lu,\"chunks\":%lu,\"bad\":%lu,\"cpu_s\":%.3f}", n_req, n_asked, n_stream, n_chunks, n_bad,
                ru.ru_utime.tv_sec + ru.ru_stime.tv_sec + (ru.ru_utime.tv_usec + ru.ru_stime.tv_usec) / 1e6);
            simple(c, "200 OK", b); return;
        }
    }
    n_bad++;
    simple(c, "404 Not Found", "{\"error\":{\"message\":\"no such path\",\"type\":\"invalid_request_error\"}}");
}

// Length of a complete request at the buffer's start; 0 = not complete yet; -1 = bad.
// A chunked body is decoded in place; *bp..*be are the body.
static long parse(Conn *c, char **bp, char **be) {
    char *h = c->in, *e = memmem(h, c->in_len, "\r\n\r\n", 4);
    if (!e) return c->in_len > 65536 ? -1 : 0;
    size_t hl = e - h + 4; long cl = 0; int chunked = 0;
    for (char *l = memchr(h, '\n', hl); l && l + 1 < e; l = memchr(l + 1, '\n', e + 2 - (l + 1))) {
        char *p = l + 1;
        if (!strncasecmp(p, "content-length:", 15)) cl = atol(p + 15);
        else if (!strncasecmp(p, "transfer-encoding:", 18)) { char *x = memchr(p, '\r', e + 2 - p); if (x && memmem(p, x - p, "chunked", 7)) chunked = 1; }
        else if (!strncasecmp(p, "connection:", 11)) { char *x = memchr(p, '\r', e + 2 - p); if (x && memmem(p, x - p, "close", 5)) c->close_after = 1; }
    }
    if (cl < 0 || cl > MAXREQ - 65536) return -1;
    *bp = h + hl;
    if (!chunked) { *be = *bp + cl; return c->in_len >= hl + cl ? (long)(hl + cl) : 0; }
    // look for completeness first, decode after
    for (int pass = 0; pass < 2; pass++) {
        char *p = h + hl, *end = c->in + c->in_len, *w = *bp;
        for (;;) {
            char *x = memmem(p, end - p, "\r\n", 2); if (!x) return 0;
            long k = strtol(p, NULL, 16); if (k < 0 || k > MAXREQ) return -1;
            p = x + 2; if (end - p < k + 2) return 0;
            if (k == 0) { if (pass) { *be = w; return p + 2 - c->in; } break; }
            if (pass) { memmove(w, p, k); w += k; }
            p += k + 2;
        }
    }
    return 0;
}

static void process(Conn *c) {
    while (!c->dead && !c->streaming && c->in_len) {
        char *b, *e; long k = parse(c, &b, &e);
        if (k == 0) return;
        if (k < 0) { n_bad++; simple(c, "400 Bad Request", "{}"); kill_conn(c); return; }
        char keep = *e; *e = 0;              // in_cap always exceeds in_len
        answer(c, c->in, b, e);
        *e = keep;
        memmove(c->in, c->in + k, c->in_len - k); c->in_len -= k;
        if (!c->streaming && c->close_after && c->out_off == c->out_len) kill_conn(c);
    }
}

static void after_stream(Conn *c) {
    if (c->close_after && c->out_off == c->out_len) { kill_conn(c); return; }
    process(c);
}

static void on_read(Conn *c) {
    for (;;) {
        if (c->in_len + 1 >= c->in_cap) {
            if (c->in_cap >= MAXREQ) { kill_conn(c); return; }
            c->in = realloc(c->in, c->in_cap *= 2);
        }
        size_t room = c->in_cap - c->in_len - 1;
        ssize_t k = recv(c->fd, c->in + c->in_len, room, MSG_DONTWAIT);
        if (k == 0) { kill_conn(c); return; }
        if (k < 0) { if (errno != EAGAIN && errno != EINTR) { kill_conn(c); return; } break; }
        c->in_len += k;
        if ((size_t)k < room) break;
    }
    process(c);
}

int main(int argc, char **argv) {
    int port = argc > 1 ? atoi(argv[1]) : 9100;
    char *v;
    if ((v = getenv("MOCK_CHUNKS"))) def_chunks = atol(v);
    if ((v = getenv("MOCK_DELAY_MS"))) def_delay = atof(v);
    if ((v = getenv("MOCK_LATENCY_MS"))) def_lat = atof(v);
    if ((v = getenv("MOCK_BATCH"))) batch = atoi(v);
    if ((v = getenv("MOCK_USAGE"))) usage_opt = !strcmp(v, "opt");
    signal(SIGPIPE, SIG_IGN);
    resp_body_n = snprintf(resp_body, sizeof resp_body, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s", strlen(BODY), BODY);
    resp_models_n = snprintf(resp_models, sizeof resp_models, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s", strlen(MODELS), MODELS);
    int ls = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;
    setsockopt(ls, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    if (bind(ls, (void *)&a, sizeof a) || listen(ls, 4096)) { perror("bind"); return 1; }
    ep = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event e = { .events = EPOLLIN, .data.ptr = NULL }, ev[512];
    epoll_ctl(ep, EPOLL_CTL_ADD, ls, &e);
    fprintf(stderr, "mock on 127.0.0.1:%d, %zu-byte body\n", port, strlen(BODY));
    for (;;) {
        struct timespec to, *tp = NULL;
        if (ring_n) { to.tv_sec = to.tv_nsec = 0; tp = &to; }
        else if (heap_n) {
            uint64_t t = now_ns(), d = heap[0]->due > t ? heap[0]->due - t : 0;
            to.tv_sec = d / 1000000000ull; to.tv_nsec = d % 1000000000ull; tp = &to;
        }
        int n = epoll_pwait2(ep, ev, 512, tp, NULL);
        for (int i = 0; i < n; i++) {
            Conn *c = ev[i].data.ptr;
            if (!c) {
                for (int k = 0; k < 64; k++) {
                    int fd = accept4(ls, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
                    if (fd < 0) break;
                    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                    c = calloc(1, sizeof *c); c->fd = fd; c->in = malloc(c->in_cap = 4096);
                    e.events = EPOLLIN | EPOLLRDHUP; e.data.ptr = c; epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e);
                }
                continue;
            }
            if (c->dead) continue;
            if (ev[i].events & (EPOLLERR | EPOLLHUP | EPOLLRDHUP)) { kill_conn(c); continue; }
            if (ev[i].events & EPOLLOUT) {
                if (flush_out(c) == 0) {
                    if (c->streaming == 1 && !c->delay_ns && !c->waiting) ring_add(c);
                    else if (!c->streaming) after_stream(c);
                }
                if (c->dead) continue;
            }
            if (ev[i].events & EPOLLIN) on_read(c);
        }
        // timed streams and delayed answers
        if (heap_n) {
            uint64_t t = now_ns();
            while (heap_n && heap[0]->due <= t) {
                Conn *c = heap[0]; heap_del(c);
                if (c->streaming == 2) {
                    c->streaming = 0;
                    if (push(c, resp_body, resp_body_n) >= 0) after_stream(c);
                    continue;
                }
                if (!c->delay_ns) { ring_add(c); continue; }
                int r = step(c, 1);
                if (r == 2) after_stream(c);
                else if (r >= 0) { c->due += c->delay_ns; heap_add(c); }
            }
        }
        // delay-0 streams take turns
        if (ring_n) {
            int m = ring_n, w = 0;
            for (int i = 0; i < m; i++) {
                Conn *c = ring[i];
                int r = c->dead ? -1 : step(c, batch);
                if (r == 0) { ring[w++] = c; continue; }
                c->spin = 0;
                if (r == 2) { 
                    // a pipelined request may join the ring; it lands behind ring_n and is moved up below
                    after_stream(c);
                }
            }
            int added = ring_n - m;
            if (added > 0) memmove(ring + w, ring + m, added * sizeof *ring);
            ring_n = w + added;
        }
        while (dead_list) { Conn *c = dead_list; dead_list = c->next_dead;
            if (c->spin) { for (int i = 0; i < ring_n; i++) if (ring[i] == c) { ring[i] = ring[--ring_n]; break; } }
            free(c->in); free(c->out); free(c); }
    }
}
