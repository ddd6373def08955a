/* A fake libnvidia-ml.so.1, whose faults are chosen by environment variables. Made by tests/fakes/nvml.py.

   FAKE_NVML_INIT=N          nvmlInit returns N (9 driver not loaded, 18 versions differ, 999 unknown)
   FAKE_NVML_COUNT=N         number of GPUs (2); FAKE_NVML_NAME=text
   FAKE_NVML_LOST=I          GPU I is lost: every reading of it returns 15; FAKE_NVML_LOST_HANDLE=I: not even a handle
   FAKE_NVML_RESET=I         GPU I returns 16, it requires a restart
   FAKE_NVML_HANG=FUNCTION   that function sleeps for a minute; FAKE_NVML_CRASH=FUNCTION: it dies with SIGSEGV
   FAKE_NVML_REFUSE=a,b      those functions return 3, not supported
   FAKE_NVML_GARBAGE=1       names that are no text, numbers that cannot be
   FAKE_NVML_MIG=0|N         MIG on, with N instances on every GPU
   FAKE_NVML_ECC=N, _ECC_AGGREGATE=N, _ROWS=corr,uncorr,pending,failed, _THROTTLE=bits, _THROTTLE_ONCE=bits (the first sample only), _BUSY=percent,
   _USED_MIB=N, _PROCESSES=N, _PERSISTENCE=0|1, _PCIE=gen,genmax,gengpu,width,widthmax, _NVLINKS=active,all, _PEER=status, _POWER=mW,limit,default,
   _MODE=N (compute mode), _FABRIC=N, _CUDA=N */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef int R;
typedef unsigned U;
typedef unsigned long long L;
typedef struct Device { int gpu, mig; } *H;
static struct Device gpus[64], parts[64][16];
static int throttle_asked;

static long number(const char *name, int field, long otherwise) {
    char *text = getenv(name);
    for (; text && field; field--) { text = strchr(text, ','); if (text) text++; }
    return text && *text ? strtol(text, NULL, 0) : otherwise;
}
static int named(const char *variable, const char *function) {
    char *text = getenv(variable), *at = text ? strstr(text, function) : NULL;
    size_t length = strlen(function);
    return at && (at == text || at[-1] == ',') && (at[length] == 0 || at[length] == ',');
}
static R fate(const char *function) {
    if (named("FAKE_NVML_HANG", function)) sleep(60);
    if (named("FAKE_NVML_CRASH", function)) raise(SIGSEGV);
    return named("FAKE_NVML_REFUSE", function) ? 3 : 0;
}
static R ask(const char *function, H h) {
    R result = fate(function);
    if (result) return result;
    if (h && h->gpu == number("FAKE_NVML_LOST", 0, -1)) return 15;
    if (h && h->gpu == number("FAKE_NVML_RESET", 0, -1)) return 16;
    return 0;
}
#define ASK(h) do { R result = ask(__func__, h); if (result) return result; } while (0)
static int garbage(void) { return getenv("FAKE_NVML_GARBAGE") != NULL; }

R nvmlInit_v2(void) {
    for (int i = 0; i < 64; i++) { gpus[i].gpu = i; gpus[i].mig = -1; for (int j = 0; j < 16; j++) { parts[i][j].gpu = i; parts[i][j].mig = j; } }
    R result = fate(__func__);
    return result ? result : (R)number("FAKE_NVML_INIT", 0, 0);
}
R nvmlInitWithFlags(U flags) { (void)flags; return nvmlInit_v2(); }
R nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(R r) {
    switch (r) {
        case 3: return "Not Supported";
        case 9: return "Driver Not Loaded";
        case 15: return "GPU is lost";
        case 16: return "GPU requires restart";
        case 18: return "RM has detected an NVML/RM version mismatch.";
        default: return "Unknown Error";
    }
}
R nvmlSystemGetDriverVersion(char *b, U l) { ASK(NULL); snprintf(b, l, garbage() ? "\xff\xfe??" : "580.95.05"); return 0; }
R nvmlSystemGetCudaDriverVersion(int *v) { ASK(NULL); *v = garbage() ? -77 : (int)number("FAKE_NVML_CUDA", 0, 13000); return 0; }
R nvmlSystemGetCudaDriverVersion_v2(int *v) { return nvmlSystemGetCudaDriverVersion(v); }
R nvmlSystemGetProcessName(U pid, char *b, U l) { ASK(NULL); snprintf(b, l, "/usr/bin/python%u", pid); return 0; }
R nvmlDeviceGetCount_v2(U *c) { ASK(NULL); *c = (U)number("FAKE_NVML_COUNT", 0, 2); return 0; }
R nvmlDeviceGetHandleByIndex_v2(U i, H *h) {
    R result = fate(__func__);
    if (result) return result;
    if ((long)i >= number("FAKE_NVML_COUNT", 0, 2) || i > 63) return 2;
    if ((long)i == number("FAKE_NVML_LOST_HANDLE", 0, -1)) return 15;
    *h = &gpus[i];
    return 0;
}
R nvmlDeviceGetName(H h, char *b, U l) {
    ASK(h);
    char *name = getenv("FAKE_NVML_NAME");
    if (garbage()) snprintf(b, l, "\xff\x01\x02");
    else snprintf(b, l, h->mig >= 0 ? "%s MIG 1g.10gb" : "%s", name ? name : "NVIDIA H100 80GB HBM3");
    return 0;
}
R nvmlDeviceGetUUID(H h, char *b, U l) {
    ASK(h);
    if (garbage()) snprintf(b, l, "\x80");
    else if (h->mig >= 0) snprintf(b, l, "MIG-00000000-0000-0000-000%d-00000000000%d", h->mig, h->gpu);
    else snprintf(b, l, "GPU-00000000-0000-0000-0000-%012d", h->gpu);
    return 0;
}
typedef struct { char legacy[16]; U domain, bus, device, id, subsystem; char bus_id[32]; } Pci;
R nvmlDeviceGetPciInfo_v3(H h, Pci *p) {
    ASK(h);
    memset(p, 0, sizeof *p);
    snprintf(p->bus_id, sizeof p->bus_id, garbage() ? "nowhere" : "00000000:%02X:00.0", 0x18 + h->gpu);
    return 0;
}
R nvmlDeviceGetCudaComputeCapability(H h, int *a, int *b) { ASK(h); *a = garbage() ? -3 : 9; *b = 0; return 0; }
typedef struct { L total, free, used; } Memory;
R nvmlDeviceGetMemoryInfo(H h, Memory *m) {
    ASK(h);
    m->total = garbage() ? ~0ULL : h->mig >= 0 ? 10ULL << 30 : 80ULL << 30;
    m->used = (L)number("FAKE_NVML_USED_MIB", 0, 600) << 20;
    m->free = m->total - m->used;
    return 0;
}
R nvmlDeviceGetUtilizationRates(H h, U *u) { ASK(h); u[0] = garbage() ? 4000000000u : (U)number("FAKE_NVML_BUSY", 0, 0); u[1] = 0; return 0; }
typedef struct { U pid; L used; U gpu_instance, compute_instance; } Process;
R nvmlDeviceGetComputeRunningProcesses_v3(H h, U *count, Process *list) {
    ASK(h);
    U have = (U)number("FAKE_NVML_PROCESSES", 0, 0);
    if (*count < have) { *count = have; return 7; }
    for (U i = 0; i < have; i++) { list[i].pid = 1000 + i; list[i].used = 10ULL << 30; list[i].gpu_instance = list[i].compute_instance = ~0u; }
    *count = have;
    return 0;
}
R nvmlDeviceGetComputeMode(H h, U *m) { ASK(h); *m = (U)number("FAKE_NVML_MODE", 0, 0); return 0; }
R nvmlDeviceGetDisplayActive(H h, U *m) { ASK(h); *m = 0; return 0; }
R nvmlDeviceGetPersistenceMode(H h, U *m) { ASK(h); *m = garbage() ? 77 : (U)number("FAKE_NVML_PERSISTENCE", 0, 1); return 0; }
R nvmlDeviceGetMigMode(H h, U *now, U *then) { ASK(h); *now = *then = getenv("FAKE_NVML_MIG") != NULL; return 0; }
R nvmlDeviceGetMaxMigDeviceCount(H h, U *c) { ASK(h); *c = 7; return 0; }
R nvmlDeviceGetMigDeviceHandleByIndex(H h, U i, H *part) {
    ASK(h);
    if ((long)i >= number("FAKE_NVML_MIG", 0, 0) || i > 15) return 6;
    *part = &parts[h->gpu][i];
    return 0;
}
R nvmlDeviceGetEccMode(H h, U *now, U *then) { ASK(h); *now = *then = 1; return 0; }
R nvmlDeviceGetTotalEccErrors(H h, U type, U counter, L *n) {
    ASK(h);
    *n = garbage() ? ~0ULL : type == 0 ? 0 : (L)number(counter ? "FAKE_NVML_ECC_AGGREGATE" : "FAKE_NVML_ECC", 0, 0);
    return 0;
}
R nvmlDeviceGetRemappedRows(H h, U *corrected, U *uncorrected, U *pending, U *failed) {
    ASK(h);
    *corrected = (U)number("FAKE_NVML_ROWS", 0, 0); *uncorrected = (U)number("FAKE_NVML_ROWS", 1, 0);
    *pending = (U)number("FAKE_NVML_ROWS", 2, 0); *failed = (U)number("FAKE_NVML_ROWS", 3, 0);
    return 0;
}
R nvmlDeviceGetRetiredPagesPendingStatus(H h, U *p) { (void)p; ASK(h); return 3; /* replaced by rows since Ampere */ }
R nvmlDeviceGetCurrentClocksEventReasons(H h, L *reasons) {
    ASK(h);
    *reasons = (L)number("FAKE_NVML_THROTTLE", 0, 1) | (throttle_asked++ ? 0 : (L)number("FAKE_NVML_THROTTLE_ONCE", 0, 0));
    return 0;
}
R nvmlDeviceGetTemperature(H h, U sensor, U *t) { (void)sensor; ASK(h); *t = garbage() ? 65535 : 40; return 0; }
R nvmlDeviceGetTemperatureThreshold(H h, U kind, U *t) { (void)kind; ASK(h); *t = 90; return 0; }
R nvmlDeviceGetPowerUsage(H h, U *p) { ASK(h); *p = garbage() ? ~0u : (U)number("FAKE_NVML_POWER", 0, 71000); return 0; }
R nvmlDeviceGetEnforcedPowerLimit(H h, U *p) { ASK(h); *p = (U)number("FAKE_NVML_POWER", 1, 700000); return 0; }
R nvmlDeviceGetPowerManagementDefaultLimit(H h, U *p) { ASK(h); *p = (U)number("FAKE_NVML_POWER", 2, 700000); return 0; }
R nvmlDeviceGetClockInfo(H h, U kind, U *c) { (void)kind; ASK(h); *c = 345; return 0; }
R nvmlDeviceGetMaxClockInfo(H h, U kind, U *c) { (void)kind; ASK(h); *c = 1980; return 0; }
R nvmlDeviceGetApplicationsClock(H h, U kind, U *c) { (void)kind; ASK(h); *c = 1980; return 0; }
R nvmlDeviceGetDefaultApplicationsClock(H h, U kind, U *c) { (void)kind; ASK(h); *c = 1980; return 0; }
R nvmlDeviceGetCurrPcieLinkGeneration(H h, U *v) { ASK(h); *v = garbage() ? 99 : (U)number("FAKE_NVML_PCIE", 0, 5); return 0; }
R nvmlDeviceGetMaxPcieLinkGeneration(H h, U *v) { ASK(h); *v = (U)number("FAKE_NVML_PCIE", 1, 5); return 0; }
R nvmlDeviceGetGpuMaxPcieLinkGeneration(H h, U *v) { ASK(h); *v = (U)number("FAKE_NVML_PCIE", 2, 5); return 0; }
R nvmlDeviceGetCurrPcieLinkWidth(H h, U *v) { ASK(h); *v = garbage() ? 0xffff : (U)number("FAKE_NVML_PCIE", 3, 16); return 0; }
R nvmlDeviceGetMaxPcieLinkWidth(H h, U *v) { ASK(h); *v = (U)number("FAKE_NVML_PCIE", 4, 16); return 0; }
R nvmlDeviceGetNvLinkState(H h, U link, U *active) {
    ASK(h);
    if ((long)link >= number("FAKE_NVML_NVLINKS", 1, 18)) return 2;
    *active = (long)link < number("FAKE_NVML_NVLINKS", 0, 18);
    return 0;
}
R nvmlDeviceGetNvLinkVersion(H h, U link, U *version) { (void)link; (void)version; ASK(h); return 3; } /* asked by jupyterlab-nvdashboard */
R nvmlDeviceGetP2PStatus(H a, H b, U what, U *status) { (void)what; ASK(a); ASK(b); *status = (U)number("FAKE_NVML_PEER", 0, 0); return 0; }
R nvmlDeviceGetTopologyCommonAncestor(H a, H b, U *level) { ASK(a); ASK(b); *level = 40; return 0; }
typedef struct { unsigned char cluster[16]; R status; U clique, state; } Fabric;
R nvmlDeviceGetGpuFabricInfo(H h, Fabric *f) { ASK(h); memset(f, 0, sizeof *f); f->state = (U)number("FAKE_NVML_FABRIC", 0, 3); return 0; }
