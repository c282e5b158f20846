/* The driver as a C program sees it, through NVIDIA's own header: names, types, layouts of structures.
 * run() returns 0, or the line of the first check that failed. */
#include <cuda.h>
#include <dlfcn.h>
#include <string.h>

#define NAME_(name) #name
#define NAME(name) NAME_(name)
#define GET(name) __typeof__(&name) p_##name = (__typeof__(&name))dlsym(library, NAME(name)); CHECK(p_##name)
#define CHECK(condition) do { if (!(condition)) return __LINE__; } while (0)
#define OK(call) CHECK((call) == CUDA_SUCCESS)

static const char *const ptx =
    ".version 8.0\n.target sm_80\n.address_size 64\n"
    ".visible .entry twice(.param .u64 at) {\n"
    "  .reg .b32 %r<3>; .reg .b64 %rd<2>;\n"
    "  ld.param.u64 %rd1, [at]; ld.global.u32 %r1, [%rd1];\n"
    "  add.u32 %r2, %r1, %r1; st.global.u32 [%rd1], %r2; ret; }\n";

int run(void) {
  void *library = dlopen("libcuda.so", RTLD_NOW | RTLD_LOCAL);
  CHECK(library);
  GET(cuInit); GET(cuDeviceGet); GET(cuDeviceGetProperties); GET(cuDeviceGetUuid);
  GET(cuCtxCreate); GET(cuCtxDestroy); GET(cuCtxSynchronize); GET(cuGetProcAddress);
  GET(cuMemAlloc); GET(cuMemFree); GET(cuMemcpyHtoD); GET(cuMemcpyDtoH); GET(cuMemcpy2D);
  GET(cuMemPoolCreate); GET(cuMemPoolDestroy); GET(cuMemPoolSetAccess); GET(cuMemAllocFromPoolAsync);
  GET(cuMemPoolGetAttribute); GET(cuMemFreeAsync); GET(cuPointerGetAttribute);
  GET(cuModuleLoadDataEx); GET(cuModuleGetFunction); GET(cuModuleUnload);
  GET(cuLaunchKernel); GET(cuLaunchKernelEx); GET(cuEventCreate); GET(cuEventRecord);
  GET(cuEventElapsedTime); GET(cuEventDestroy); GET(cuFuncGetAttribute);

  OK(p_cuInit(0));
  CUdevice device;
  OK(p_cuDeviceGet(&device, 0));
  CUdevprop properties;
  OK(p_cuDeviceGetProperties(&properties, device));
  CHECK(properties.maxThreadsDim[2] == 64 && properties.SIMDWidth == 32);
  CHECK(properties.textureAlign == 512);
  CUuuid uuid;
  OK(p_cuDeviceGetUuid(&uuid, device));
  CUcontext context;
  OK(p_cuCtxCreate(&context, NULL, 0, device));

  CUdeviceptr memory;
  OK(p_cuMemAlloc(&memory, 256));
  unsigned host[64];
  for (unsigned i = 0; i < 64; ++i) host[i] = i;
  OK(p_cuMemcpyHtoD(memory, host, sizeof host));
  CUDA_MEMCPY2D copy;
  memset(&copy, 0, sizeof copy);
  unsigned column[8];
  copy.srcMemoryType = CU_MEMORYTYPE_DEVICE;
  copy.srcDevice = memory;
  copy.srcPitch = 32;
  copy.srcXInBytes = 4;
  copy.dstMemoryType = CU_MEMORYTYPE_HOST;
  copy.dstHost = column;
  copy.dstPitch = 4;
  copy.WidthInBytes = 4;
  copy.Height = 8;
  OK(p_cuMemcpy2D(&copy));
  for (unsigned i = 0; i < 8; ++i) CHECK(column[i] == 8 * i + 1);
  CUmemorytype type;
  OK(p_cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, memory));
  CHECK(type == CU_MEMORYTYPE_DEVICE);

  CUmemPoolProps pool_properties;
  memset(&pool_properties, 0, sizeof pool_properties);
  pool_properties.allocType = CU_MEM_ALLOCATION_TYPE_PINNED;
  pool_properties.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  pool_properties.location.id = device;
  CUmemoryPool pool;
  OK(p_cuMemPoolCreate(&pool, &pool_properties));
  CUmemAccessDesc access;
  access.location = pool_properties.location;
  access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
  OK(p_cuMemPoolSetAccess(pool, &access, 1));
  CUdeviceptr pooled;
  OK(p_cuMemAllocFromPoolAsync(&pooled, 100, pool, CU_STREAM_LEGACY));
  cuuint64_t used;
  OK(p_cuMemPoolGetAttribute(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT, &used));
  CHECK(used == 100);
  OK(p_cuMemFreeAsync(pooled, CU_STREAM_PER_THREAD));
  OK(p_cuMemPoolDestroy(pool));

  char message[256];
  CUjit_option options[2] = {CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES};
  void *values[2] = {message, (void *)sizeof message};
  CUmodule module;
  CHECK(p_cuModuleLoadDataEx(&module, "nonsense", 2, options, values) == CUDA_ERROR_INVALID_PTX);
  CHECK(strstr(message, "line 1"));
  values[1] = (void *)sizeof message;
  OK(p_cuModuleLoadDataEx(&module, ptx, 2, options, values));
  CUfunction twice;
  OK(p_cuModuleGetFunction(&twice, module, "twice"));
  int threads;
  OK(p_cuFuncGetAttribute(&threads, CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK, twice));
  CHECK(threads == 1024);

  CUevent start, end;
  OK(p_cuEventCreate(&start, CU_EVENT_DEFAULT));
  OK(p_cuEventCreate(&end, CU_EVENT_BLOCKING_SYNC));
  OK(p_cuEventRecord(start, NULL));
  CUdeviceptr third = memory + 12;
  void *parameters[] = {&third};
  OK(p_cuLaunchKernel(twice, 1, 1, 1, 1, 1, 1, 0, NULL, parameters, NULL));
  size_t size = sizeof third;
  void *extra[] = {CU_LAUNCH_PARAM_BUFFER_POINTER, &third, CU_LAUNCH_PARAM_BUFFER_SIZE, &size,
                   CU_LAUNCH_PARAM_END};
  OK(p_cuLaunchKernel(twice, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, extra));
  CUlaunchAttribute attributes[2];
  memset(attributes, 0, sizeof attributes);
  attributes[0].id = CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
  attributes[0].value.clusterDim.x = 1;
  attributes[0].value.clusterDim.y = 1;
  attributes[0].value.clusterDim.z = 1;
  attributes[1].id = CU_LAUNCH_ATTRIBUTE_COOPERATIVE;
  attributes[1].value.cooperative = 1;
  CUlaunchConfig config;
  memset(&config, 0, sizeof config);
  config.gridDimX = config.gridDimY = config.gridDimZ = 1;
  config.blockDimX = config.blockDimY = config.blockDimZ = 1;
  config.attrs = attributes;
  config.numAttrs = 2;
  OK(p_cuLaunchKernelEx(&config, twice, parameters, NULL));
  attributes[0].value.clusterDim.x = 2;
  CHECK(p_cuLaunchKernelEx(&config, twice, parameters, NULL) == CUDA_ERROR_NOT_SUPPORTED);
  OK(p_cuEventRecord(end, NULL));
  OK(p_cuCtxSynchronize());
  float milliseconds;
  OK(p_cuEventElapsedTime(&milliseconds, start, end));
  CHECK(milliseconds >= 0);
  OK(p_cuMemcpyDtoH(host, memory, sizeof host));
  CHECK(host[3] == 3 * 2 * 2 * 2 && host[4] == 4);

  void *found;
  CUdriverProcAddressQueryResult status;
  OK(p_cuGetProcAddress("cuMemAlloc", &found, CUDA_VERSION, CU_GET_PROC_ADDRESS_DEFAULT, &status));
  CHECK(status == CU_GET_PROC_ADDRESS_SUCCESS && found);

  OK(p_cuEventDestroy(start));
  OK(p_cuEventDestroy(end));
  OK(p_cuModuleUnload(module));
  OK(p_cuMemFree(memory));
  OK(p_cuCtxDestroy(context));
  return 0;
}
