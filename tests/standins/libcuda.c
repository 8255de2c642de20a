/* A stand-in for libcuda.so.1 on a machine without a GPU: streams are queues that run only when somebody waits for
 * them, device memory is host memory full of 0xCD, and what a real driver refuses is refused. */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { OK = 0, INVALID_VALUE = 1, NO_DEVICE = 100, INVALID_CONTEXT = 201, CAPTURING = 900 };
enum { COPY, CALL, MARK };

typedef struct Node { int kind; void *to, *from; size_t bytes; struct Node *next; } Node;
typedef struct { Node *first, *last; } List;
typedef struct { List queue; List *capture; } Stream;
typedef struct { double at_ms; Stream *stream; } Event;
typedef struct Block { uintptr_t start; size_t bytes; int pinned; struct Block *next; } Block;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static Block *blocks;
static long live;
static size_t taken;
static int context;
static __thread void *current;
static __thread int capturing;

#define NEED_CONTEXT if (!current) return INVALID_CONTEXT
#define NOT_IN_CAPTURE if (capturing) return CAPTURING

static const char *setting(const char *name, const char *otherwise) { const char *v = getenv(name); return v ? v : otherwise; }

/* Contexts, streams, events, graphs and memory that nobody has freed. */
long standin_live(void) { return live; }

int cuInit(unsigned flags) { (void)flags; return atoi(setting("STANDIN_CUINIT", "0")); }
int cuDeviceGetCount(int *count) { *count = atoi(setting("STANDIN_GPUS", "1")); return OK; }
int cuDeviceGet(int *device, int number) { *device = number; return OK; }
int cuDeviceGetName(char *name, int length, int device) {
  (void)device; snprintf(name, length, "%s", setting("STANDIN_GPU", "Stand-in Orin")); return OK;
}
int cuDeviceGetAttribute(int *value, int attribute, int device) {
  int major = 0, minor = 0; (void)device;
  sscanf(setting("STANDIN_CC", "8.7"), "%d.%d", &major, &minor);
  *value = attribute == 75 ? major : attribute == 76 ? minor : 0; return OK;
}
int cuDriverGetVersion(int *version) { *version = 12060; return OK; }
int cuDevicePrimaryCtxRetain(void **handle, int device) { (void)device; live++; *handle = &context; return OK; }
int cuDevicePrimaryCtxRelease_v2(int device) { (void)device; live--; return OK; }
int cuCtxSetCurrent(void *handle) { current = handle; return OK; }
int cuMemGetInfo_v2(size_t *free_, size_t *total) { NEED_CONTEXT; *total = 8ul << 30; *free_ = *total - taken; return OK; }
int cuGetErrorString(int code, const char **text) { (void)code; *text = "a stand-in's error"; return OK; }

static void *take(size_t bytes, int pinned) {
  Block *block = malloc(sizeof *block); void *memory = malloc(bytes);
  memset(memory, 0xCD, bytes);
  pthread_mutex_lock(&lock);
  *block = (Block){(uintptr_t)memory, bytes, pinned, blocks}; blocks = block; live++; taken += pinned ? 0 : bytes;
  pthread_mutex_unlock(&lock);
  return memory;
}
static int give(uintptr_t start, int pinned) {
  int found = INVALID_VALUE;
  pthread_mutex_lock(&lock);
  for (Block **at = &blocks; *at; at = &(*at)->next)
    if ((*at)->start == start && (*at)->pinned == pinned) {
      Block *gone = *at; *at = gone->next; taken -= pinned ? 0 : gone->bytes; live--;
      free((void *)start); free(gone); found = OK; break;
    }
  pthread_mutex_unlock(&lock);
  return found;
}
static int inside(const void *start, size_t bytes, int pinned) {
  int found = 0;
  pthread_mutex_lock(&lock);
  for (Block *b = blocks; b; b = b->next)
    if (b->pinned == pinned && (uintptr_t)start >= b->start && (uintptr_t)start + bytes <= b->start + b->bytes) found = 1;
  pthread_mutex_unlock(&lock);
  return found;
}
int cuMemAlloc_v2(uint64_t *address, size_t bytes) {
  NEED_CONTEXT; NOT_IN_CAPTURE;
  if (!bytes) return INVALID_VALUE;
  if (taken + bytes > (size_t)atol(setting("STANDIN_MEMORY", "8589934592"))) return 2;
  *address = (uint64_t)(uintptr_t)take(bytes, 0); return OK;
}
int cuMemFree_v2(uint64_t address) { NEED_CONTEXT; return give((uintptr_t)address, 0); }
int cuMemHostAlloc(void **address, size_t bytes, unsigned flags) {
  (void)flags; NEED_CONTEXT; NOT_IN_CAPTURE; if (!bytes) return INVALID_VALUE; *address = take(bytes, 1); return OK;
}
int cuMemFreeHost(void *address) { NEED_CONTEXT; return give((uintptr_t)address, 1); }

static void append(List *list, Node node) {
  Node *made = malloc(sizeof *made); *made = node; made->next = NULL;
  if (list->last) list->last->next = made; else list->first = made;
  list->last = made;
}
static int put(Stream *stream, Node node) { append(stream->capture ? stream->capture : &stream->queue, node); return OK; }
static double now_ms(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1e3 + t.tv_nsec / 1e6; }
static void run(Stream *stream) {
  while (stream->queue.first) {
    Node *node = stream->queue.first;
    stream->queue.first = node->next; if (!node->next) stream->queue.last = NULL;
    if (node->kind == COPY) memcpy(node->to, node->from, node->bytes);
    else if (node->kind == CALL) ((void (*)(void *))node->to)(node->from);
    else ((Event *)node->to)->at_ms = now_ms();
    free(node);
  }
}
int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, Stream *stream) {
  NEED_CONTEXT;
  if (!inside((void *)(uintptr_t)to, bytes, 0) || !inside(from, bytes, 1)) return INVALID_VALUE;
  return put(stream, (Node){COPY, (void *)(uintptr_t)to, (void *)from, bytes, NULL});
}
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, Stream *stream) {
  NEED_CONTEXT;
  if (!inside((void *)(uintptr_t)from, bytes, 0) || !inside(to, bytes, 1)) return INVALID_VALUE;
  return put(stream, (Node){COPY, to, (void *)(uintptr_t)from, bytes, NULL});
}
int cuLaunchHostFunc(Stream *stream, void *function, void *data) {
  NEED_CONTEXT; return put(stream, (Node){CALL, function, data, 0, NULL});
}
int cuStreamCreate(Stream **stream, unsigned flags) {
  NEED_CONTEXT; if (flags != 1) return INVALID_VALUE; /* ours must not wait for the default stream */
  *stream = calloc(1, sizeof **stream); live++; return OK;
}
int cuStreamDestroy_v2(Stream *stream) { NEED_CONTEXT; run(stream); free(stream); live--; return OK; }
int cuStreamSynchronize(Stream *stream) { NEED_CONTEXT; NOT_IN_CAPTURE; run(stream); return OK; }
int cuStreamIsCapturing(Stream *stream, int *answer) { *answer = stream->capture != NULL; return OK; }
int cuStreamBeginCapture_v2(Stream *stream, int mode) {
  NEED_CONTEXT; NOT_IN_CAPTURE;
  if (mode != 1 || atoi(setting("STANDIN_NO_GRAPH", "0"))) return CAPTURING;
  stream->capture = calloc(1, sizeof(List)); capturing = 1; live++; return OK;
}
int cuStreamEndCapture(Stream *stream, void **graph) {
  NEED_CONTEXT; if (!stream->capture) return INVALID_VALUE;
  *graph = stream->capture; stream->capture = NULL; capturing = 0; return OK;
}
static List *copied(const List *from) {
  List *made = calloc(1, sizeof *made);
  for (Node *node = from->first; node; node = node->next) append(made, *node);
  return made;
}
static int dropped(List *list) {
  for (Node *node = list->first; node;) { Node *next = node->next; free(node); node = next; }
  free(list); live--; return OK;
}
int cuGraphInstantiateWithFlags(void **made, List *graph, unsigned long long flags) {
  NEED_CONTEXT; if (flags) return INVALID_VALUE; *made = copied(graph); live++; return OK;
}
int cuGraphLaunch(List *graph, Stream *stream) {
  NEED_CONTEXT;
  for (Node *node = graph->first; node; node = node->next) put(stream, *node);
  return OK;
}
int cuGraphDestroy(List *graph) { return dropped(graph); }
int cuGraphExecDestroy(List *graph) { return dropped(graph); }
int cuEventCreate(Event **event, unsigned flags) {
  (void)flags; NEED_CONTEXT; *event = calloc(1, sizeof **event); live++; return OK;
}
int cuEventDestroy_v2(Event *event) { free(event); live--; return OK; }
int cuEventRecord(Event *event, Stream *stream) {
  NEED_CONTEXT; event->stream = stream; return put(stream, (Node){MARK, event, NULL, 0, NULL});
}
int cuEventSynchronize(Event *event) { NEED_CONTEXT; if (event->stream) run(event->stream); return OK; }
int cuEventElapsedTime(float *ms, Event *start, Event *end) {
  if (!start->at_ms || !end->at_ms) return 600; /* not ready */
  *ms = (float)(end->at_ms - start->at_ms); return OK;
}
