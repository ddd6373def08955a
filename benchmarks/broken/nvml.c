/* NVML of the machine that broken/machine.py describes: the fake of the tests, with what it says fixed when it is compiled, so that no variable of
   the environment gives it away. -DDRIVER="550.163.01" -DCUDA=12040 -DINIT=0 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#define nvmlSystemGetDriverVersion fake_driver_version
#define nvmlSystemGetCudaDriverVersion fake_cuda_version
#define nvmlSystemGetCudaDriverVersion_v2 fake_cuda_version_v2
#define nvmlDeviceGetCount_v2 fake_count
#define nvmlInit_v2 fake_init
#define nvmlInitWithFlags fake_init_with_flags
#define getenv(name) ((char *)NULL)
#include "../../tests/fakes/nvml.c"
#undef nvmlSystemGetDriverVersion
#undef nvmlSystemGetCudaDriverVersion
#undef nvmlSystemGetCudaDriverVersion_v2
#undef nvmlDeviceGetCount_v2
#undef nvmlInit_v2
#undef nvmlInitWithFlags
R nvmlInit_v2(void) { fake_init(); return INIT; }
R nvmlInit(void) { return nvmlInit_v2(); }
R nvmlInitWithFlags(U flags) { (void)flags; return nvmlInit_v2(); }
R nvmlSystemGetDriverVersion(char *b, U l) { snprintf(b, l, "%s", DRIVER); return 0; }
R nvmlSystemGetNVMLVersion(char *b, U l) { snprintf(b, l, "12.%s", DRIVER); return 0; }
R nvmlSystemGetCudaDriverVersion(int *v) { *v = CUDA; return 0; }
R nvmlSystemGetCudaDriverVersion_v2(int *v) { *v = CUDA; return 0; }
R nvmlDeviceGetCount_v2(U *c) { *c = 1; return 0; }
R nvmlDeviceGetCount(U *c) { *c = 1; return 0; }
