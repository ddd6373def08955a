/* A fake libnvidia-ml.so.1 of a driver and GPUs that environment variables choose; no more than a container's start asks. Made by tests/fakes/driver.py.

   FAKE_DRIVER=550.54.14            the version; unset: nvmlInit says that no driver is loaded
   FAKE_CAPABILITIES=6.0,9.0        one GPU for each
   FAKE_DRIVER_FAULT=hang|crash|lost  nvmlInit hangs or dies; the last GPU gives no handle */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int capabilities[64][2];

static int fault(const char *name) {
    char *text = getenv("FAKE_DRIVER_FAULT");
    return text && strcmp(text, name) == 0;
}
static unsigned count(void) {
    unsigned n = 0;
    for (char *text = getenv("FAKE_CAPABILITIES"); text && *text && n < 64; n++) {
        sscanf(text, "%d.%d", &capabilities[n][0], &capabilities[n][1]);
        text = strchr(text, ',');
        if (text) text++;
    }
    return n;
}
int nvmlInit_v2(void) {
    if (fault("hang")) sleep(60);
    if (fault("crash")) raise(SIGSEGV);
    return getenv("FAKE_DRIVER") ? 0 : 9;
}
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int code) { return code ? "fake error" : "Success"; }
int nvmlSystemGetDriverVersion(char *text, unsigned length) { snprintf(text, length, "%s", getenv("FAKE_DRIVER")); return 0; }
int nvmlDeviceGetCount_v2(unsigned *n) { *n = count(); return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **handle) {
    if (i >= count()) return 2;
    if (fault("lost") && i == count() - 1) return 15;
    *handle = capabilities[i];
    return 0;
}
int nvmlDeviceGetCudaComputeCapability(void *handle, int *major, int *minor) { *major = ((int *)handle)[0]; *minor = ((int *)handle)[1]; return 0; }
int nvmlDeviceGetName(void *handle, char *text, unsigned length) { snprintf(text, length, "Fake %d.%d", ((int *)handle)[0], ((int *)handle)[1]); return 0; }
int nvmlDeviceGetUUID(void *handle, char *text, unsigned length) {
    snprintf(text, length, "GPU-%08d-0000-0000-0000-000000000000", (int)((int(*)[2])handle - capabilities));
    return 0;
}
