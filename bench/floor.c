// SPDX-License-Identifier: Apache-2.0
// What any program must pay: the same messages on the same 10 ms tick, and nothing else.
//
//     floor DIRECTORY N
//
// An epoll, a ring of sends, snprintf and strstr. No state machine, no session, no limits, no
// statistics, no tolerance of anything unexpected. Obeys the orders that bench/subject.py lists.

#define _GNU_SOURCE
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { READY_MAX = 1024, LINE_SIZE = 4096 };
static const double INTERVAL = 1.0, TICK = 0.01;

struct vm {
    int socket;
    unsigned outstanding, sequence;
    double next, sent, rtt;
    unsigned invocation;
};

static struct vm *vms;
static struct vm **ring; // by the time of the next send: all have the same interval
static int count;
static volatile long beats, misses, wakeups;

static double now(clockid_t clock) {
    struct timespec time;
    clock_gettime(clock, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void send_line(struct vm *vm, const char *type, const char *key, unsigned value) {
    char line[256];
    int size = snprintf(line, sizeof line,
                        "\n{\"version\":3,\"revision\":1,\"msg_type\":\"%s\",\"sequence\":%u,"
                        "\"%s\":%u}\n",
                        type, ++vm->sequence, key, value);
    if (send(vm->socket, line, size, MSG_NOSIGNAL) != size)
        die("send");
}

static void challenge(struct vm *vm) {
    if (vm->outstanding)
        misses++;
    vm->outstanding = random() | 1;
    vm->sent = now(CLOCK_MONOTONIC);
    send_line(vm, "challenge", "heartbeat_challenge", vm->outstanding);
    vm->next += INTERVAL;
}

static unsigned number_after(const char *line, const char *key) {
    const char *found = strstr(line, key);
    return found ? strtoul(found + strlen(key), NULL, 10) : 0;
}

static void take(struct vm *vm, double woken) {
    char line[LINE_SIZE];
    ssize_t size = recv(vm->socket, line, sizeof line - 1, 0);
    if (size <= 0)
        die("recv");
    line[size] = '\0';
    unsigned response = number_after(line, "\"heartbeat_response\":");
    if (response && response == vm->outstanding) {
        vm->outstanding = 0;
        vm->rtt = woken - vm->sent;
        beats++;
    } else if (strstr(line, "\"init\"")) {
        send_line(vm, "init_ack", "invocation_id", number_after(line, "\"invocation_id\":"));
    }
}

static void *watch(void *unused) {
    (void)unused;
    struct epoll_event ready[READY_MAX];
    int poll = epoll_create1(0), first = 0;
    for (int i = 0; i < count; i++) {
        struct epoll_event wanted = {.events = EPOLLIN, .data.ptr = &vms[i]};
        epoll_ctl(poll, EPOLL_CTL_ADD, vms[i].socket, &wanted);
    }
    for (;;) {
        double wait = fmax(0, ring[first]->next - now(CLOCK_MONOTONIC));
        struct timespec timeout = {.tv_sec = wait, .tv_nsec = (wait - floor(wait)) * 1e9};
        int found = epoll_pwait2(poll, ready, READY_MAX, &timeout, NULL);
        double woken = now(CLOCK_MONOTONIC);
        wakeups++;
        for (int i = 0; i < found; i++)
            take(ready[i].data.ptr, woken);
        for (; ring[first]->next <= woken; first = (first + 1) % count)
            challenge(ring[first]);
    }
    return NULL;
}

static int sooner(const void *a, const void *b) {
    double left = (*(struct vm **)a)->next, right = (*(struct vm **)b)->next;
    return (left > right) - (left < right);
}

// The guests' places in the interval come as numbers on standard input, the first thing there.
static void open_all(const char *directory) {
    double begin = now(CLOCK_MONOTONIC) + 1;
    for (int i = 0; i < count; i++) {
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        snprintf(address.sun_path, sizeof address.sun_path, "%s/%d.sock", directory, i);
        double phase;
        if (scanf("%lf", &phase) != 1)
            die("phase");
        vms[i].socket = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
        if (connect(vms[i].socket, (struct sockaddr *)&address, sizeof address))
            die(address.sun_path);
        vms[i].next = ceil((begin + phase * INTERVAL) / TICK) * TICK;
        vms[i].rtt = NAN;
        ring[i] = &vms[i];
    }
    qsort(ring, count, sizeof *ring, sooner);
}

static long resident(void) {
    long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file || fscanf(file, "%*d %ld", &pages) != 1)
        die("statm");
    fclose(file);
    return pages * sysconf(_SC_PAGE_SIZE);
}

static void mark(pthread_t thread, long empty) {
    clockid_t clock;
    int healthy = 0;
    pthread_getcpuclockid(thread, &clock);
    for (int i = 0; i < count; i++)
        healthy += !isnan(vms[i].rtt);
    printf("{\"at\":%.6f,\"rss\":%ld,\"cpu\":%.9f,\"process_cpu\":%.9f,\"beats\":%ld,"
           "\"misses\":%ld,\"wakeups\":%ld,\"healthy\":%d,\"errors\":0}\n",
           now(CLOCK_MONOTONIC), resident() - empty, now(clock), now(CLOCK_PROCESS_CPUTIME_ID),
           beats, misses, wakeups, healthy);
}

static void exchanges(void) {
    putchar('{');
    for (int i = 0; i < count; i++)
        printf("%s\"%d\":[[%.9f,%.9f]]", i ? "," : "", i, vms[i].sent, vms[i].rtt);
    puts("}");
}

int main(int argc, char **argv) {
    if (argc != 3)
        return 2;
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    long empty = resident();
    count = atoi(argv[2]);
    vms = calloc(count, sizeof *vms);
    ring = calloc(count, sizeof *ring);
    open_all(argv[1]);
    pthread_t thread;
    pthread_create(&thread, NULL, watch, NULL);
    for (char order[64]; fgets(order, sizeof order, stdin);) {
        if (!strcmp(order, "mark\n"))
            mark(thread, empty);
        else if (!strcmp(order, "exchanges\n"))
            exchanges();
        fflush(stdout);
    }
    return 0;
}
