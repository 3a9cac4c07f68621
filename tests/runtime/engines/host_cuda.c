/* CUDA's driver on host memory, as far as runtime/engines/cuda.py calls it: streams are queues that nothing
 * leaves before cuStreamSynchronize, so a missing wait shows, and captures record instead of queueing.
 * Strict where the real one is only undefined: copies need live memory, page-locked on the host's side. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MANY 4096
enum { INVALID = 1, NO_CONTEXT = 201, ILLEGAL_ADDRESS = 700, IN_CAPTURE = 900, BROKEN_CAPTURE = 901 };

typedef void (*work_t)(long);
typedef struct { int is_call; void *to; const void *from; size_t n; work_t work; long number; } op_t;
typedef struct { op_t ops[MANY]; int count; } list_t;
typedef struct { list_t queue; list_t *recorded; int broken; } stream_t;
typedef struct { char *at; size_t n; int host; } block_t;

static block_t blocks[MANY];
static int context_, syncs, launches;
static __thread int current;
static __thread int capturing;

#define NEED_CONTEXT if (!current) return NO_CONTEXT

static int inside(const void *p, size_t n, int host) {
  for (int i = 0; i < MANY; i++)
    if (blocks[i].at && blocks[i].host == host && (char *)p >= blocks[i].at &&
        (char *)p + n <= blocks[i].at + blocks[i].n) return 1;
  return 0;
}
static int take(void **out, size_t n, int host) {
  NEED_CONTEXT;
  if (capturing) return IN_CAPTURE;
  for (int i = 0; i < MANY; i++)
    if (!blocks[i].at) {
      blocks[i] = (block_t){malloc(n), n, host};
      memset(blocks[i].at, 0xA5, n);
      *out = blocks[i].at;
      return 0;
    }
  return 2;
}
static int give(void *p) {
  NEED_CONTEXT;
  for (int i = 0; i < MANY; i++)
    if (blocks[i].at && blocks[i].at == p) {
      memset(p, 0x5A, blocks[i].n);
      free(p);
      blocks[i].at = 0;
      return 0;
    }
  return INVALID;
}
static int add(stream_t *s, op_t op) {
  NEED_CONTEXT;
  list_t *list = s->recorded ? s->recorded : &s->queue;
  if (list->count == MANY) return 2;
  list->ops[list->count++] = op;
  return 0;
}
static int perform(list_t *list) {
  int status = 0;
  for (int i = 0; i < list->count && !status; i++) {
    op_t *op = &list->ops[i];
    if (op->is_call) op->work(op->number);
    else if ((inside(op->to, op->n, 0) && inside(op->from, op->n, 1)) ||
             (inside(op->to, op->n, 1) && inside(op->from, op->n, 0)))
      memcpy(op->to, op->from, op->n);
    else status = ILLEGAL_ADDRESS;
  }
  return status;
}

int cuInit(unsigned flags) { return (int)flags; }
int cuDriverGetVersion(int *v) { *v = 12060; return 0; }
int cuDeviceGet(int *d, int n) { *d = n; return n; }
int cuDeviceGetName(char *name, int n, int d) { snprintf(name, n, "host memory %d", d); return 0; }
int cuDeviceGetAttribute(int *v, int which, int d) { *v = which == 75 ? 8 : which == 16 ? 4 : 7; return d; }
int cuDevicePrimaryCtxRetain(void **c, int d) { *c = &context_; return d; }
int cuCtxSetCurrent(void *c) { current = c == &context_; return current ? 0 : INVALID; }
int cuGetErrorName(int status, const char **name) {
  *name = status == IN_CAPTURE ? "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"
        : status == BROKEN_CAPTURE ? "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"
        : status == ILLEGAL_ADDRESS ? "CUDA_ERROR_ILLEGAL_ADDRESS" : "CUDA_ERROR_INVALID_VALUE";
  return 0;
}
int cuMemAlloc_v2(uint64_t *p, size_t n) { return take((void **)p, n, 0); }
int cuMemFree_v2(uint64_t p) { return give((void *)p); }
int cuMemAllocHost_v2(void **p, size_t n) { return take(p, n, 1); }
int cuMemFreeHost(void *p) { return give(p); }
int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t n, stream_t *s) {
  return add(s, (op_t){0, (void *)to, from, n, 0, 0});
}
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t n, stream_t *s) {
  return add(s, (op_t){0, to, (void *)from, n, 0, 0});
}
int cuStreamCreate(stream_t **s, unsigned flags) {
  NEED_CONTEXT;
  *s = calloc(1, sizeof(stream_t));
  return flags == 1 ? 0 : INVALID;
}
int cuStreamDestroy_v2(stream_t *s) { NEED_CONTEXT; free(s); return 0; }
int cuStreamSynchronize(stream_t *s) {
  NEED_CONTEXT;
  if (s->recorded) { s->broken = 1; return IN_CAPTURE; }
  int status = perform(&s->queue);
  s->queue.count = 0;
  syncs++;
  return status;
}
int cuStreamBeginCapture_v2(stream_t *s, int mode) {
  NEED_CONTEXT;
  if (s->recorded || s->queue.count || mode != 1) return INVALID;
  s->recorded = calloc(1, sizeof(list_t));
  s->broken = 0;
  capturing = 1;
  return 0;
}
int cuStreamEndCapture(stream_t *s, list_t **graph) {
  NEED_CONTEXT;
  *graph = s->recorded;
  s->recorded = 0;
  capturing = 0;
  if (!s->broken) return 0;
  free(*graph);
  *graph = 0;
  return BROKEN_CAPTURE;
}
int cuGraphInstantiateWithFlags(list_t **launchable, list_t *graph, uint64_t flags) {
  *launchable = malloc(sizeof(list_t));
  memcpy(*launchable, graph, sizeof(list_t));
  return flags ? INVALID : 0;
}
int cuGraphDestroy(list_t *graph) { free(graph); return 0; }
int cuGraphExecDestroy(list_t *launchable) { free(launchable); return 0; }
int cuGraphLaunch(list_t *launchable, stream_t *s) {
  NEED_CONTEXT;
  launches++;
  for (int i = 0; i < launchable->count; i++)
    if (add(s, launchable->ops[i])) return 2;
  return 0;
}

/* What the tests use beside: a kernel, and counts. */
int host_kernel(stream_t *s, work_t work, long number) {
  return add(s, (op_t){1, 0, 0, 0, work, number});
}
void host_break_capture(stream_t *s) { s->broken = s->recorded != 0; }
int host_blocks(int host) {
  int n = 0;
  for (int i = 0; i < MANY; i++) n += blocks[i].at && blocks[i].host == host;
  return n;
}
int host_syncs(void) { return syncs; }
int host_launches(void) { return launches; }
