/* The part of libcuda that pycuda is driven through in test_real_pycuda.py, on a machine without a GPU.
 *
 * "Device" memory is the host's, and streams run at once. What is alive is counted, and a call can be made to fail:
 * stub_fail(n, for_good) fails the n-th call from now on, counted from 0. Release builds of libcuda answer CUresult;
 * 719 is CUDA_ERROR_LAUNCH_FAILED.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned long long CUdeviceptr;

static long calls, fail_at = -1, fail_for_good;
static int live, contexts; /* contexts that are pushed */

void stub_fail(long at, int for_good) { fail_at = at < 0 ? -1 : calls + at; fail_for_good = for_good; }
long stub_calls(void) { return calls; }
int stub_live(void) { return live; }
int stub_contexts(void) { return contexts; }

static int fails(void) {
    long number = calls++;
    return fail_at >= 0 && (number == fail_at || (fail_for_good && number > fail_at));
}
#define ENTER if (fails()) return 719;
#define INSIDE ENTER if (contexts < 1) return 201; /* CUDA_ERROR_INVALID_CONTEXT */

int cuInit(unsigned flags) { ENTER return 0; }
int cuDriverGetVersion(int *version) { *version = 13000; return 0; }
int cuDeviceGetCount(int *count) { ENTER *count = 1; return 0; }
int cuDeviceGet(int *device, int number) { ENTER *device = number; return 0; }
int cuDeviceGetName(char *name, int size, int device) { ENTER snprintf(name, size, "Stub GPU"); return 0; }
int cuDeviceComputeCapability(int *major, int *minor, int device) { ENTER *major = 8; *minor = 7; return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    ENTER
    *value = attribute == 18 && getenv("STUB_INTEGRATED"); /* CU_DEVICE_ATTRIBUTE_INTEGRATED */
    return 0;
}
int cuDevicePrimaryCtxRetain(void **context, int device) { ENTER *context = &contexts; return 0; }
int cuDevicePrimaryCtxRelease_v2(int device) { return 0; }
int cuCtxPushCurrent_v2(void *context) { ENTER contexts++; return 0; }
int cuCtxPopCurrent_v2(void **context) { INSIDE contexts--; *context = &contexts; return 0; }
int cuCtxGetDevice(int *device) { *device = 0; return 0; }
int cuCtxDetach(void *context) { return 0; }
int cuGetErrorString(int error, const char **text) { *text = "a stub made it fail"; return 0; }

static int make(void **thing, size_t size) {
    *thing = NULL;
    if (posix_memalign(thing, 256, size)) return 2; /* CUDA_ERROR_OUT_OF_MEMORY */
    live++;
    return 0;
}
static int drop(void *thing) { free(thing); live--; return 0; }

int cuMemAlloc_v2(CUdeviceptr *address, size_t size) { INSIDE return make((void **)address, size); }
int cuMemFree_v2(CUdeviceptr address) { ENTER return drop((void *)address); }
int cuMemHostAlloc(void **address, size_t size, unsigned flags) { INSIDE return make(address, size); }
int cuMemFreeHost(void *address) { ENTER return drop(address); }
int cuMemHostGetDevicePointer_v2(CUdeviceptr *mapped, void *address, unsigned flags) {
    INSIDE
    *mapped = (CUdeviceptr)address;
    return 0;
}
int cuStreamCreate(void **stream, unsigned flags) { INSIDE return make(stream, 1); }
int cuStreamDestroy_v2(void *stream) { ENTER return drop(stream); }
int cuStreamSynchronize(void *stream) { INSIDE return 0; }
int cuMemcpyHtoDAsync_v2(CUdeviceptr target, const void *source, size_t size, void *stream) {
    INSIDE
    memcpy((void *)target, source, size);
    return 0;
}
int cuMemcpyDtoHAsync_v2(void *target, CUdeviceptr source, size_t size, void *stream) {
    INSIDE
    memcpy(target, (void *)source, size);
    return 0;
}
int cuEventCreate(void **event, unsigned flags) { INSIDE return make(event, 1); }
int cuEventDestroy_v2(void *event) { ENTER return drop(event); }
int cuEventRecord(void *event, void *stream) { INSIDE return 0; }
int cuEventSynchronize(void *event) { INSIDE return 0; }
int cuEventElapsedTime_v2(float *milliseconds, void *began, void *ended) { INSIDE *milliseconds = 0.5f; return 0; }
