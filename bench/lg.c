// lg.c - load generator for OpenAI-style gateways: closed loop or open loop (constant rate, latency taken
// from the time a request was due, so coordinated omission is corrected), JSON or SSE answers. Single thread, epoll.
//   gcc -O2 -o bin/lg lg.c -lm
//   lg --url http://127.0.0.1:9100/v1/chat/completions --key K --model M [--header 'X: y']...
//      [--stream] [--n CHUNKS] [--d DELAY_MS] [--l LATENCY_MS] [--pad BYTES_OF_PROMPT]
//      [--messages COUNT --message-bytes BYTES]   so many messages before the prompt, users' and assistants' in turn
//      (--c CONNECTIONS [--ramp SECONDS] | --rate REQ_PER_S [--maxconn 1024]) --time SECONDS [--total REQUESTS]
//      [--hangup FRACTION --hangup-ms MAX [--seed N]] [--drain SECONDS]
// --ramp spreads the first requests of a closed loop evenly over a time, so that they do not come in lock step; the
// window of --time then begins after it, and percentiles cover what was sent inside the window.
// --hangup closes that share of the connections before the answer is whole, at a random moment within MAX ms.
// Prints one JSON object. Times in ms. "ttft" = request sent -> first content chunk read. "rej" and "rej_svc" are the
// latencies of answers with another status than 200, from when they were due and from when they were sent; "status"
// counts those by status, "retry_after" those of them that said when to come back. They are errors as well.
// "lag" = mock's write of a chunk -> the chunk read here (the mock stamps CLOCK_MONOTONIC into the content).
// Rates (rps, chunks_s) count what completed inside the time window. Percentiles cover every answer, drained ones too.
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

typedef struct { uint32_t *v; size_t n, cap; } Vec;
static void vadd(Vec *a, double us) {
    if (a->n == a->cap) a->v = realloc(a->v, (a->cap = a->cap ? a->cap * 2 : 4096) * sizeof *a->v);
    a->v[a->n++] = us < 0 ? 0 : us > 4e9 ? 4000000000u : (uint32_t)us;
}
static int cmp(const void *a, const void *b) { uint32_t x = *(uint32_t *)a, y = *(uint32_t *)b; return x < y ? -1 : x > y; }
static double pct(Vec *a, double p) { if (!a->n) return -1; size_t i = (size_t)(p * a->n); if (i >= a->n) i = a->n - 1; return a->v[i] / 1000.0; }
static double mean(Vec *a) { double s = 0; for (size_t i = 0; i < a->n; i++) s += a->v[i]; return a->n ? s / a->n / 1000 : -1; }

enum { IDLE, CONNECTING, HEAD, BODY };
typedef struct Conn {
    int fd, st; size_t sent;
    char hdr[16384]; size_t hn;
    int status, chunked, close, cst; long left; char csz[24]; int cn;
    char *line; size_t ln, lcap;
    uint64_t t_due, t_sent, t_hang; long chunks, events; int done, fresh;
    struct Conn *next, *next_all; int retry_after;
} Conn;

static int ep, stream, nchunks = -1; static char *req; static size_t reqn; static struct sockaddr_in addr;
static uint64_t t0, tend; static long n_started, n_ok, n_err, n_ok_win, n_chunk_win, n_chunk, n_open, total = -1; static int inflight;
static long e_status, e_short, e_conn, e_nodone, e_nousage; static int first_bad; static char first_err[400];
static Vec lat, svc, ttft, lag, rej, rej_svc; static long by_status[600], n_retry_after, n_hung; static uint64_t twin;
static Conn *all; static double hangup; static uint64_t hang_ns;
static int open_loop; static double rate; static long maxconn = 1024, nconn;
static Conn *idle; static uint64_t *queue; static size_t qh, qt, qcap;
static int stopping;

static uint64_t now_ns(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return (uint64_t)t.tv_sec * 1000000000ull + t.tv_nsec; }
static void start(Conn *c, uint64_t due);

static void epset(Conn *c, int op, uint32_t evs) { struct epoll_event e = { .events = evs, .data.ptr = c }; epoll_ctl(ep, op, c->fd, &e); }
static void dial(Conn *c) {
    int one = 1; n_open++;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    connect(c->fd, (void *)&addr, sizeof addr);
    c->st = CONNECTING; c->fresh = 1; epset(c, EPOLL_CTL_ADD, EPOLLOUT);
}
static void hang(Conn *c) { if (c->fd >= 0) close(c->fd); c->fd = -1; }

static void next(Conn *c) {
    inflight--;
    c->st = IDLE;
    if (open_loop) {
        if (qh < qt) { start(c, queue[qh++]); return; }
        c->next = idle; idle = c; return;
    }
    uint64_t t = now_ns();
    if (stopping || t >= tend || (total >= 0 && n_started >= total)) return;
    start(c, t);
}
// A 64-bit xorshift: the same moments for the same seed.
static uint64_t seed = 88172645463325252ull;
static double chance(void) { seed ^= seed << 13; seed ^= seed >> 7; seed ^= seed << 17; return (seed >> 11) * 0x1p-53; }
static Conn *conn_new(void) { Conn *c = calloc(1, sizeof *c); c->fd = -1; c->next_all = all; all = c; nconn++; return c; }
// Hangs up where it is time, and returns when it is for the next one.
static uint64_t hang_up(uint64_t t, uint64_t wake) {
    for (Conn *c = all; c; c = c->next_all) {
        if (!c->t_hang || c->st == IDLE) continue;
        if (c->t_hang > t) { if (c->t_hang < wake) wake = c->t_hang; continue; }
        n_hung++; hang(c); next(c);
        if (c->t_hang && c->t_hang < wake) wake = c->t_hang;
    }
    return wake;
}
static void note(const char *s, size_t n) { if (!first_bad) { first_bad = 1; if (n > sizeof first_err - 1) n = sizeof first_err - 1; memcpy(first_err, s, n); first_err[n] = 0;
    for (char *p = first_err; *p; p++) if (*p == '"' || *p == '\\' || *p < 32) *p = ' '; } }
static void fail(Conn *c, long *which, const char *why, size_t n) { n_err++; (*which)++; note(why, n); hang(c); next(c); }

static void finish(Conn *c) {
    uint64_t t = now_ns(); int ok = 1;
    if (c->status != 200) { n_err++; e_status++; ok = 0; by_status[c->status < 0 || c->status > 599 ? 0 : c->status]++; n_retry_after += c->retry_after;
        if (c->t_sent >= twin) { vadd(&rej, (t - c->t_due) / 1e3); vadd(&rej_svc, (t - c->t_sent) / 1e3); } note(c->ln ? c->line : "status", c->ln ? c->ln : 6); }
    else if (stream) {
        if (nchunks >= 0 && c->chunks != nchunks) { n_err++; e_short++; ok = 0; char b[80]; int k = snprintf(b, 80, "chunks %ld of %d", c->chunks, nchunks); note(b, k); }
        else if (!c->done) e_nodone++;
    } else if (!c->ln || !memmem(c->line, c->ln, "fixed reply", 11)) { n_err++; e_short++; ok = 0; note(c->line, c->ln); }
    else if (!memmem(c->line, c->ln, "\"usage\"", 7)) e_nousage++;
    if (ok) { n_ok++; if (t >= twin && t <= tend) n_ok_win++;
        if (c->t_sent >= twin) { vadd(&lat, (t - c->t_due) / 1e3); vadd(&svc, (t - c->t_sent) / 1e3); } }
    if (c->close) hang(c);
    next(c);
}

static void on_line(Conn *c, const char *p, size_t n) {
    if (n < 5 || memcmp(p, "data:", 5)) return;
    c->events++;
    const char *s = memmem(p, n, "\" t0", 4);
    if (s && p + n - s >= 20) {
        uint64_t us = 0; s += 3; for (int i = 0; i < 16; i++) us = us * 10 + (s[i] - '0');
        uint64_t t = now_ns();
        if (!c->chunks && c->t_sent >= twin) vadd(&ttft, (t - c->t_sent) / 1e3);
        c->chunks++; n_chunk++; if (t >= twin && t <= tend) n_chunk_win++;
        if (c->t_sent >= twin) vadd(&lag, (double)t / 1e3 - (double)us);
    } else if (memmem(p, n, "[DONE]", 6)) c->done = 1;
}
static void keep(Conn *c, const char *p, size_t n) {
    if (c->ln + n > c->lcap) c->line = realloc(c->line, c->lcap = (c->ln + n) * 2);
    memcpy(c->line + c->ln, p, n); c->ln += n;
}
static void body(Conn *c, const char *p, size_t n) {
    if (!stream || c->status != 200) { if (c->ln < 65536) keep(c, p, n); return; }
    while (n) {
        const char *nl = memchr(p, '\n', n);
        if (!nl) { keep(c, p, n); return; }
        size_t k = nl - p;
        if (c->ln) { keep(c, p, k); on_line(c, c->line, c->ln); c->ln = 0; }
        else on_line(c, p, k);
        p = nl + 1; n -= k + 1;
    }
}
// Feeds body bytes. Returns 1 when the answer is complete.
static int feed(Conn *c, const char *p, size_t n) {
    if (!c->chunked) {
        if (c->left >= 0) { if ((long)n > c->left) n = c->left; body(c, p, n); c->left -= n; return c->left == 0; }
        body(c, p, n); return 0;
    }
    while (n) {
        if (c->cst == 0) {                      // size line
            char ch = *p++; n--;
            if (ch == '\n') { c->csz[c->cn] = 0; c->left = strtol(c->csz, NULL, 16); c->cn = 0; c->cst = c->left ? 1 : 3; }
            else if (c->cn < 20) c->csz[c->cn++] = ch;
        } else if (c->cst == 1) {               // data
            size_t k = n < (size_t)c->left ? n : (size_t)c->left;
            body(c, p, k); p += k; n -= k; c->left -= k; if (!c->left) c->cst = 2;
        } else if (c->cst == 2) { if (*p == '\n') c->cst = 0; p++; n--; }
        else {                                  // trailer: an empty line ends it
            char ch = *p++; n--;
            if (ch == '\n') { if (c->cn == 0) return 1; c->cn = 0; }
            else if (ch != '\r') c->cn = 1;
        }
    }
    return 0;
}
static void start(Conn *c, uint64_t due) {
    n_started++; inflight++;
    c->t_due = due; c->hn = 0; c->ln = 0; c->chunks = c->events = 0; c->done = 0; c->cst = 0; c->cn = 0; c->sent = 0;
    c->t_sent = now_ns(); c->retry_after = 0;
    c->t_hang = hangup > 0 && chance() < hangup ? c->t_sent + 1 + (uint64_t)(chance() * hang_ns) : 0;
    if (c->fd < 0) { dial(c); return; }
    c->fresh = 0; c->st = HEAD;
    ssize_t k = send(c->fd, req, reqn, MSG_NOSIGNAL);
    if (k < 0 && errno != EAGAIN) { hang(c); dial(c); return; }   // the server closed an idle connection
    c->sent = k < 0 ? 0 : k;
    if (c->sent < reqn) epset(c, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
}
static void on_event(Conn *c, uint32_t evs) {
    static char buf[262144];
    if (c->fd < 0) return;
    if (c->st == CONNECTING) {
        int e = 0; socklen_t l = sizeof e; getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &e, &l);
        if (e || (evs & EPOLLERR)) { fail(c, &e_conn, "connect", 7); return; }
        c->st = HEAD; evs |= EPOLLOUT; epset(c, EPOLL_CTL_MOD, EPOLLIN);
    }
    if ((evs & EPOLLOUT) && c->st == HEAD && c->sent < reqn) {
        ssize_t k = send(c->fd, req + c->sent, reqn - c->sent, MSG_NOSIGNAL);
        if (k > 0) c->sent += k;
        epset(c, EPOLL_CTL_MOD, EPOLLIN | (c->sent < reqn ? EPOLLOUT : 0));
    }
    if (!(evs & (EPOLLIN | EPOLLHUP | EPOLLERR | EPOLLRDHUP))) return;
    ssize_t k = recv(c->fd, buf, sizeof buf, 0);
    if (k < 0 && errno == EAGAIN) return;
    if (k <= 0) {
        if (c->st == IDLE) { hang(c); return; }
        if (c->st == BODY && !c->chunked && c->left < 0) { c->close = 1; finish(c); return; }
        if (c->st == HEAD && !c->hn && !c->fresh) { uint64_t d = c->t_due, s = c->t_sent; hang(c); dial(c); c->sent = 0; c->t_due = d; c->t_sent = s; return; } // idle close raced
        fail(c, &e_conn, "connection closed", 17); return;
    }
    if (c->st == IDLE) { return; }
    char *p = buf; size_t n = k;
    if (c->st == HEAD) {
        size_t take = n < sizeof c->hdr - 1 - c->hn ? n : sizeof c->hdr - 1 - c->hn, old = c->hn;
        memcpy(c->hdr + c->hn, p, take); c->hn += take; c->hdr[c->hn] = 0;
        char *e = memmem(c->hdr, c->hn, "\r\n\r\n", 4);
        if (!e) { if (c->hn >= sizeof c->hdr - 1) fail(c, &e_conn, "long header", 11); return; }
        size_t hl = e + 4 - c->hdr;
        c->status = atoi(c->hdr + 9); c->chunked = 0; c->close = 0; c->left = -1;
        for (char *l = strstr(c->hdr, "\r\n"); l && l < e; l = strstr(l + 2, "\r\n")) {
            char *h = l + 2;
            if (!strncasecmp(h, "content-length:", 15)) c->left = atol(h + 15);
            else if (!strncasecmp(h, "transfer-encoding: chunked", 26)) c->chunked = 1;
            else if (!strncasecmp(h, "connection: close", 17)) c->close = 1;
            else if (!strncasecmp(h, "retry-after:", 12)) c->retry_after = 1;
        }
        p += hl - old; n -= hl - old; c->st = BODY;
        if (!c->chunked && c->left == 0) { finish(c); return; }
        if (!c->chunked && c->left < 0) c->close = 1;
    }
    if (n && feed(c, p, n)) finish(c);
}
static void arrive(uint64_t due) {
    Conn *c = idle;
    if (c) { idle = c->next; start(c, due); return; }
    if (nconn < maxconn) { start(conn_new(), due); return; }
    if (qt == qcap) queue = realloc(queue, (qcap = qcap ? qcap * 2 : 4096) * sizeof *queue);
    queue[qt++] = due;
}
int main(int argc, char **argv) {
    char *url = NULL, *key = NULL, *model = "mock-model", hdrs[4096] = "", *bodyfile = NULL; double T = 10, drain = 30, d = -1, l = -1, ramp = 0; int C = 0, pad = 0, messages = 0, message_bytes = 1000;
    for (int i = 1; i < argc; i++) {
        char *a = argv[i], *v = i + 1 < argc ? argv[i + 1] : "";
        if (!strcmp(a, "--stream")) { stream = 1; continue; }
        i++;
        if (!strcmp(a, "--url")) url = v; else if (!strcmp(a, "--key")) key = v; else if (!strcmp(a, "--model")) model = v;
        else if (!strcmp(a, "--header")) { strcat(hdrs, v); strcat(hdrs, "\r\n"); }
        else if (!strcmp(a, "--n")) nchunks = atoi(v); else if (!strcmp(a, "--d")) d = atof(v); else if (!strcmp(a, "--l")) l = atof(v);
        else if (!strcmp(a, "--pad")) pad = atoi(v); else if (!strcmp(a, "--c")) C = atoi(v); else if (!strcmp(a, "--rate")) rate = atof(v);
        else if (!strcmp(a, "--maxconn")) maxconn = atol(v); else if (!strcmp(a, "--time")) T = atof(v); else if (!strcmp(a, "--total")) total = atol(v);
        else if (!strcmp(a, "--ramp")) ramp = atof(v); else if (!strcmp(a, "--hangup")) hangup = atof(v); else if (!strcmp(a, "--hangup-ms")) hang_ns = (uint64_t)(atof(v) * 1e6);
        else if (!strcmp(a, "--seed")) seed = strtoull(v, NULL, 10) * 2654435761u + 88172645463325252ull;
        else if (!strcmp(a, "--messages")) messages = atoi(v); else if (!strcmp(a, "--message-bytes")) message_bytes = atoi(v);
        else if (!strcmp(a, "--drain")) drain = atof(v); else if (!strcmp(a, "--body")) bodyfile = v;
        else { fprintf(stderr, "unknown %s\n", a); return 2; }
    }
    int port = 80; char host[64] = "127.0.0.1", path[512] = "/";
    if (!url || sscanf(url, "http://%63[^:/]:%d%511s", host, &port, path) < 2) { fprintf(stderr, "--url http://127.0.0.1:PORT/path\n"); return 2; }
    if (!strcmp(host, "localhost")) strcpy(host, "127.0.0.1");
    if ((!C) == (rate <= 0)) { fprintf(stderr, "one of --c and --rate\n"); return 2; }
    if (stream && nchunks < 0) nchunks = 100;
    addr.sin_family = AF_INET; addr.sin_port = htons(port); inet_pton(AF_INET, host, &addr.sin_addr);
    if (messages < 0 || message_bytes < 0 || (double)messages * message_bytes > 1e6) { fprintf(stderr, "at most 1 MB of messages\n"); return 2; }
    char *turns = malloc((size_t)messages * (message_bytes + 64) + 1); size_t tn = 0;
    for (int i = 0; i < messages; i++) {
        tn += sprintf(turns + tn, ",{\"role\":\"%s\",\"content\":\"", i % 2 ? "assistant" : "user");
        for (int j = 0; j < message_bytes; j++) turns[tn++] = j % 7 == 6 ? ' ' : 'a' + (i + j) % 23;
        tn += sprintf(turns + tn, "\"}");
    }
    turns[tn] = 0;
    char *b = malloc((3 << 20) + tn), *prompt = malloc((1 << 20) + 200); int bn, pn = sprintf(prompt, "Say hello.");
    if (stream) { pn += sprintf(prompt + pn, " #n=%d ", nchunks); }
    if (d >= 0) pn += sprintf(prompt + pn, " #d=%g ", d);
    if (l >= 0) pn += sprintf(prompt + pn, " #l=%g ", l);
    for (int i = 0; i < pad && i < 1000000; i++) prompt[pn++] = i % 7 == 6 ? ' ' : 'a' + i % 23;
    prompt[pn] = 0;
    if (bodyfile) { FILE *f = fopen(bodyfile, "r"); if (!f) { perror(bodyfile); return 2; } bn = fread(b, 1, 2 << 20, f); fclose(f); }
    else bn = sprintf(b, "{\"model\":\"%s\",\"messages\":[{\"role\":\"system\",\"content\":\"You are a helpful assistant.\"}%s,{\"role\":\"user\",\"content\":\"%s\"}],\"max_tokens\":%d,\"temperature\":0.7%s}",
        model, turns, prompt, stream ? nchunks : 64, stream ? ",\"stream\":true,\"stream_options\":{\"include_usage\":true}" : "");
    req = malloc(bn + 8192);
    reqn = sprintf(req, "POST %s HTTP/1.1\r\nHost: %s:%d\r\nContent-Type: application/json\r\nAccept: %s\r\n%s%s%s%sContent-Length: %d\r\n\r\n", path, host, port,
        stream ? "text/event-stream" : "application/json", key ? "Authorization: Bearer " : "", key ? key : "", key ? "\r\n" : "", hdrs, bn);
    memcpy(req + reqn, b, bn); reqn += bn;
    signal(SIGPIPE, SIG_IGN); ep = epoll_create1(EPOLL_CLOEXEC); open_loop = rate > 0;
    t0 = now_ns(); twin = t0 + (uint64_t)(ramp * 1e9); tend = twin + (uint64_t)(T * 1e9); uint64_t limit = tend + (uint64_t)(drain * 1e9);
    long planned = open_loop ? (long)(rate * T) : 0, issued = 0;
    if (open_loop && total >= 0 && planned > total) planned = total;
    if (!open_loop) { planned = C; if (total >= 0 && planned > total) planned = total; }
    struct epoll_event ev[512];
    for (;;) {
        uint64_t t = now_ns(), wake = limit;
        if (t >= limit) break;
        if (open_loop) {
            while (issued < planned) { uint64_t due = t0 + (uint64_t)(issued * 1e9 / rate); if (due > t) { wake = due; break; } issued++; arrive(due); }
            if (issued >= planned && !inflight && qh == qt) break;
        } else {
            while (issued < planned) { uint64_t due = t0 + (uint64_t)(issued * ramp * 1e9 / C); if (due > t) { wake = due; break; } issued++; start(conn_new(), t); }
            if (issued >= planned && !inflight) break;
        }
        if (hangup > 0) wake = hang_up(t, wake);
        uint64_t dt = wake > t ? wake - t : 0; struct timespec to = { dt / 1000000000ull, dt % 1000000000ull };
        int n = epoll_pwait2(ep, ev, 512, &to, NULL);
        for (int i = 0; i < n; i++) on_event(ev[i].data.ptr, ev[i].events);
    }
    double wall = (now_ns() - t0) / 1e9; struct rusage ru; getrusage(RUSAGE_SELF, &ru);
    double win = T < wall - ramp ? T : wall - ramp;
    Vec *vs[] = { &lat, &svc, &rej, &rej_svc, &ttft, &lag }; for (int i = 0; i < 6; i++) if (vs[i]->n) qsort(vs[i]->v, vs[i]->n, 4, cmp);
    printf("{\"mode\":\"%s\",\"stream\":%d,\"c\":%d,\"rate\":%g,\"time\":%g,\"wall\":%.3f,\"started\":%ld,\"ok\":%ld,\"errors\":%ld,\"unfinished\":%ld,\"queued\":%ld,"
        "\"rps\":%.2f,\"err_status\":%ld,\"err_content\":%ld,\"err_conn\":%ld,\"no_done\":%ld,\"no_usage\":%ld,\"opened\":%ld,\"lg_cpu_s\":%.3f",
        open_loop ? "open" : "closed", stream, C, rate, T, wall, n_started, n_ok, n_err, (long)inflight, (long)(qt - qh), n_ok_win / win, e_status, e_short, e_conn, e_nodone, e_nousage, n_open,
        ru.ru_utime.tv_sec + ru.ru_stime.tv_sec + (ru.ru_utime.tv_usec + ru.ru_stime.tv_usec) / 1e6);
    printf(",\"hung\":%ld,\"retry_after\":%ld,\"status\":{", n_hung, n_retry_after);
    for (int i = 0, first = 1; i < 600; i++) if (by_status[i]) { printf("%s\"%d\":%ld", first ? "" : ",", i, by_status[i]); first = 0; }
    printf("}");
    const char *nm[] = { "lat", "svc", "rej", "rej_svc", "ttft", "lag" };
    for (int i = 0; i < (stream ? 6 : 4); i++)
        printf(",\"%s\":{\"mean\":%.3f,\"p50\":%.3f,\"p90\":%.3f,\"p99\":%.3f,\"p999\":%.3f,\"max\":%.3f}", nm[i], mean(vs[i]), pct(vs[i], .5), pct(vs[i], .9), pct(vs[i], .99), pct(vs[i], .999), pct(vs[i], 1));
    if (stream) printf(",\"chunks\":%ld,\"chunks_s\":%.1f,\"n\":%d", n_chunk, n_chunk_win / win, nchunks);
    if (first_bad) printf(",\"first_error\":\"%s\"", first_err);
    printf("}\n");
    return n_err || inflight ? 1 : 0;
}
