/* SPDX-License-Identifier: Apache-2.0
 * Answers heartbeat challenges and reports one check: vmhb-guest DEVICE CHECK FILE
 * FILE has one line, "STATUS text", STATUS being ok, warning, critical or unknown. */
#define _POSIX_C_SOURCE 200809L
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { CLOSED, ENABLING, ENABLED };
enum { LINE_MAX_BYTES = 16384, TEXT_MAX = 160, RETRY_MS = 250, PACE_MS = 1000, SILENCE_MS = 5000 };

static char **argument; /* device, check, file */
static int port = -1, state = CLOSED, reporting, told;
static long sequence, id, rev, init_at, init_due, since;
static char status[16], text[2 * TEXT_MAX];
static volatile sig_atomic_t stop;

static void on_signal(int number) { stop = number; }
static long now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000L + t.tv_nsec / 1000000L;
}

static void send_line(const char *type, const char *fields) { /* whole, however long it takes */
    dprintf(port, "\n{\"version\":3,\"revision\":1,\"msg_type\":\"%s\",\"sequence\":%ld,%s}\n",
            type, ++sequence, fields);
}

static void send_init(long now) {
    char fields[600], name[64] = "";
    gethostname(name, sizeof name - 1);
    id = id % 0x7fffffff + 1;
    snprintf(fields, sizeof fields, "\"invocation_id\":%ld,\"name\":\"%s\",\"vote_secs\":0,"
        "\"heartbeat_interval_ms\":1000,\"shutdown_notice_secs\":0,\"suspend_notice_secs\":0,"
        "\"resume_notice_secs\":0,\"restart_secs\":0,\"corrective_action\":\"log\","
        "\"vmhb\":{\"caps\":[\"checks\"],\"max_line\":%d}", id, name, LINE_MAX_BYTES);
    send_line("init", fields);
    state = ENABLING, init_at = now, init_due = now + SILENCE_MS;
}

static void read_check(long now) { /* what changed is to be told */
    char got[TEXT_MAX] = "", word[16] = "unknown", said[sizeof text] = "";
    int begin = 0, size = 0, input = open(argument[2], O_RDONLY);
    if (read(input, got, sizeof got - 1) <= 0) strcpy(got, "unknown the file has no result");
    close(input);
    sscanf(got, "%15s %n", word, &begin);
    if (strcmp(word, "ok") && strcmp(word, "warning") && strcmp(word, "critical"))
        strcpy(word, "unknown");
    for (const char *c = got + begin; *c; c++) { /* as the inside of a JSON string, ASCII alone */
        if (*c == '"' || *c == '\\') said[size++] = '\\';
        if (*c >= ' ' && *c <= '~') said[size++] = *c;
    }
    told = told && !strcmp(status, word) && !strcmp(text, said);
    if (strcmp(status, word)) since = now;
    strcpy(status, word), strcpy(text, said);
}

static void respond(long challenge, long now) {
    char fields[1000], report[500] = "";
    read_check(now);
    int sick = !strcmp(status, "critical");
    if (reporting && !told++)
        snprintf(report, sizeof report, ",\"vmhb\":{\"checks\":[{\"name\":\"%s\",\"status\":\"%s\","
            "\"text\":\"%s\",\"since_ms\":%ld,\"duration_ms\":0}],\"rev\":%ld,\"more\":false}",
            argument[1], status, text, now - since, ++rev);
    snprintf(fields, sizeof fields, "\"heartbeat_response\":%ld,\"heartbeat_health\":\"%s\","
        "\"corrective_action\":\"%s\",\"log_msg\":\"%s\"%s", challenge,
        sick ? "unhealthy" : "healthy", sick ? "log" : "none", sick ? text : "", report);
    send_line("challenge_response", fields);
}

static int begins(const char *s, const char *with) { return !strncmp(s, with, strlen(with)); }
static const char *value_of(const char *c, const char *key) { /* in this object alone; or "" */
    for (int depth = 0; *c; c++) {
        if (*c == '{' || *c == '[') depth++;
        if ((*c == '}' || *c == ']') && --depth == 0) break;
        if (*c != '"') continue;
        const char *begin = ++c;
        while (*c && *c != '"') c += 1 + (*c == '\\' && c[1]);
        if (!*c) break;
        const char *after = c + 1 + strspn(c + 1, " \t");
        if (depth == 1 && *after == ':' && begins(begin, key) && begin + strlen(key) == c)
            return after + 1 + strspn(after + 1, " \t");
    }
    return "";
}

static long integer(const char *line, const char *key) { /* -1: none within 31 bits */
    char *end;
    const char *value = value_of(line, key);
    long number = *value >= '0' && *value <= '9' ? strtol(value, &end, 10) : -1;
    return number >= 0 && number <= 0x7fffffff && *end && strchr(",} \t", *end) ? number : -1;
}

static void receive_line(const char *line, long now) {
    const char *type = value_of(line, "msg_type");
    long challenge = integer(line, "heartbeat_challenge"), acked = integer(line, "invocation_id");
    if (*line != '{' || integer(line, "version") < 3) return;
    if (begins(type, "\"init_ack\"") && state == ENABLING && (acked == id || acked == id - 1)) {
        reporting = !!strstr(value_of(value_of(line, "vmhb"), "caps"), "\"checks\"");
        told = rev = 0, state = ENABLED, init_due = now + SILENCE_MS;
    } else if (begins(type, "\"challenge\"") && state == ENABLED && challenge >= 0) {
        init_due = now + SILENCE_MS, respond(challenge, now);
    } else if (begins(type, "\"nack\"") && state == ENABLED
               && begins(value_of(line, "log_msg"), "\"no session")) {
        state = ENABLING, init_due = init_at + PACE_MS;
    }
}

static void receive(long now) {
    static char line[LINE_MAX_BYTES + 1], data[4096];
    static size_t filled;
    ssize_t size = read(port, data, sizeof data);
    for (const char *c = data; c < data + size; c++)
        if (*c != '\n') { /* what is too long is cut off */
            line[filled] = *c && *c != '\r' ? *c : ' ', filled += filled < LINE_MAX_BYTES;
        } else {
            line[filled] = 0, filled = 0;
            receive_line(line + strspn(line, " \t"), now);
        }
}

int main(int count, char **arguments) {
    if (count != 4) return fputs("usage: vmhb-guest DEVICE CHECK FILE\n", stderr), 2;
    argument = arguments + 1;
    sigaction(SIGTERM, &(struct sigaction){.sa_handler = on_signal}, NULL);
    id = (time(NULL) * 65599L + getpid()) & 0x3fffffff;
    while (!stop) {
        if (port < 0) port = open(argument[0], O_RDWR | O_NOCTTY);
        struct pollfd readable = {port, POLLIN, 0};
        poll(&readable, 1, RETRY_MS);
        long now = now_ms();
        if (port < 0 || readable.revents & (POLLHUP | POLLERR)) { /* no port, or no host */
            struct stat held, there; /* plugged in again, it is another port of that name */
            if (!fstat(port, &held) && (stat(*argument, &there) || there.st_ino != held.st_ino))
                close(port), port = -1;
            state = CLOSED, init_due = 0, poll(NULL, 0, RETRY_MS);
        } else if (readable.revents & POLLIN) receive(now);
        else if (now >= init_due) send_init(now);
    }
    if (state != CLOSED) send_line("exit", "\"log_msg\":\"stopped by a signal\"");
}
