/* libcuda.so.1 of a machine whose kernel module is of another version: everything returns 803, CUDA_ERROR_SYSTEM_DRIVER_MISMATCH, as the real library
   does there. The real one cannot be brought to it without a kernel module. -DCUDA=12040 */
#include <stddef.h>
#include <string.h>
#define MISMATCH 803
static int refuse(void) { return MISMATCH; }
int cuInit(unsigned flags) { (void)flags; return MISMATCH; }
int cuDriverGetVersion(int *version) { *version = CUDA; return 0; }
int cuDeviceGetCount(int *count) { *count = 0; return MISMATCH; }
int cuGetErrorName(int error, const char **text) { (void)error; *text = "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"; return 0; }
int cuGetErrorString(int error, const char **text) { (void)error; *text = "system has unsupported display driver / cuda driver combination"; return 0; }
int cuGetExportTable(const void **table, const void *id) { (void)id; *table = NULL; return 1; }
int cuGetProcAddress_v2(const char *name, void **address, int version, unsigned long flags, int *status) {
    (void)version;
    (void)flags;
    if (status) *status = 0;
    *address = !strcmp(name, "cuInit") ? (void *)cuInit : !strcmp(name, "cuDriverGetVersion") ? (void *)cuDriverGetVersion
             : !strncmp(name, "cuGetProcAddress", 16) ? (void *)cuGetProcAddress_v2 : (void *)refuse;
    return 0;
}
int cuGetProcAddress(const char *name, void **address, int version, unsigned long flags) { return cuGetProcAddress_v2(name, address, version, flags, NULL); }
