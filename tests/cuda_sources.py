"""CUDA sources for tests of the emulator."""

from __future__ import annotations

VECTOR_ADD = """
extern "C" __global__ void __launch_bounds__(128) add(
    float* __restrict__ c, const float* __restrict__ a, const float* __restrict__ b, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) c[i] = a[i] + b[i];
}
"""

REDUCE_SHARED = """
extern "C" __global__ void __launch_bounds__(256) reduce(float* out, const float* in) {
  __shared__ alignas(64) float partial[256];
  int t = threadIdx.x;
  partial[t] = in[blockIdx.x * 256 + t];
  __syncthreads();  // loaded
  for (int s = 128; s > 0; s >>= 1) {
    if (t < s) partial[t] += partial[t + s];
    __syncthreads();
  }
  if (t == 0) out[blockIdx.x] = partial[0];
}
"""

REDUCE_SHUFFLE = """
extern "C" __global__ void reduce(float* out, const float* in) {
  float v = in[blockIdx.x * blockDim.x + threadIdx.x];
  unsigned mask = __activemask();
  for (int s = 16; s > 0; s >>= 1) v += __shfl_down_sync(mask, v, s, 32);
  extern __shared__ float of_warp[];
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = v;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int w = 1; w < blockDim.x / 32; ++w) v += of_warp[w];
    out[blockIdx.x] = v;
  }
}
"""

WARP_EXCHANGE = """
extern "C" __global__ void reverse(int* out, const int* in) {
  __shared__ int line[32];
  int t = threadIdx.x;
  line[t] = in[t];
  __syncwarp();
  out[t] = line[31 - t] + __shfl_xor_sync(0xffffffff, t, 1) + __popc(__ballot_sync(~0u, t < 5));
}
"""

#: C (16×16) = A (16×32) · B (32×16), of one warp; A and B come through shared memory and ldmatrix.
GEMM = """
#include <cuda_fp16.h>
#include <cuda_bf16.h>
#define K 32
#define N 16
extern "C" __global__ void __launch_bounds__(32) gemm(float* c, const {T}* a, const {T}* b) {{
  __shared__ alignas(16) {T} as[16 * K];
  __shared__ alignas(16) {T} bs[K * N];
  for (int i = threadIdx.x; i < 16 * K; i += 32) as[i] = a[i];
  for (int i = threadIdx.x; i < K * N; i += 32) bs[i] = b[i];
  __syncthreads();
  for (int n = 0; n < N; n += 8) {{
    float d[4] = {{0, 0, 0, 0}};
    for (int k = 0; k < K; k += {k}) {{
      unsigned ra[{na}], rb[{nb}];
      {{
        unsigned int addr = __cvta_generic_to_shared(
            as + (threadIdx.x % 16) * K + k + threadIdx.x / 16 * 8);
        __asm__ __volatile__(
          "ldmatrix.sync.aligned.m8n8.x{na}.shared.b16"
          "{{{ra}}}, [%{na}];\\n"
          : {out_a} : "r"(addr));
        addr = __cvta_generic_to_shared(bs + (k + threadIdx.x % {k}) * N + n);
        asm volatile("ldmatrix.sync.aligned.m8n8.x{nb}.trans.shared.b16 {{{rb}}}, [%{nb}];"
          : {out_b} : "r"(addr));
      }}
      asm volatile("mma.sync.aligned.m16n8k{k}.row.col.f32.{t}.{t}.f32 "
        "{{%0, %1, %2, %3}}, {{{ma}}}, {{{mb}}}, {{%0, %1, %2, %3}};\\n"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : {in_a}, {in_b});
    }}
    float* row = c + threadIdx.x / 4 * N + n + threadIdx.x % 4 * 2;
    row[0] = d[0]; row[1] = d[1]; row[8 * N] = d[2]; row[8 * N + 1] = d[3];
  }}
}}
"""


def gemm(element: str, k: int) -> str:
    """A product by ``mma.m16n8k{k}`` of halves or bfloats."""
    na, nb = k // 4, k // 8
    names = {"f16": "half", "bf16": "nv_bfloat16"}
    count = range
    return GEMM.format(
        T=names[element], t=element, k=k, na=na, nb=nb,
        ra=", ".join(f"%{i}" for i in count(na)), rb=", ".join(f"%{i}" for i in count(nb)),
        ma=", ".join(f"%{4 + i}" for i in count(na)),
        mb=", ".join(f"%{4 + na + i}" for i in count(nb)),
        out_a=", ".join(f'"=r"(ra[{i}])' for i in count(na)),
        out_b=", ".join(f'"=r"(rb[{i}])' for i in count(nb)),
        in_a=", ".join(f'"r"(ra[{i}])' for i in count(na)),
        in_b=", ".join(f'"r"(rb[{i}])' for i in count(nb)),
    )  # fmt: skip


#: C (16×8) = A (16×8) · B (8×8) in TF32, registers loaded from global memory.
GEMM_TF32 = """
extern "C" __global__ void gemm(float* c, const float* a, const float* b) {
  int g = threadIdx.x / 4, t = threadIdx.x % 4;
  unsigned ra[4], rb[2];
  float va[4] = {a[g * 8 + t], a[(g + 8) * 8 + t], a[g * 8 + t + 4], a[(g + 8) * 8 + t + 4]};
  float vb[2] = {b[t * 8 + g], b[(t + 4) * 8 + g]};
  for (int i = 0; i < 4; ++i) asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(ra[i]) : "f"(va[i]));
  for (int i = 0; i < 2; ++i) asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rb[i]) : "f"(vb[i]));
  float d[4];
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32"
    "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};\\n"
    : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
    : "r"(ra[0]), "r"(ra[1]), "r"(ra[2]), "r"(ra[3]), "r"(rb[0]), "r"(rb[1]),
      "f"(0.f), "f"(0.f), "f"(0.f), "f"(0.f));
  c[g * 8 + 2 * t] = d[0]; c[g * 8 + 2 * t + 1] = d[1];
  c[(g + 8) * 8 + 2 * t] = d[2]; c[(g + 8) * 8 + 2 * t + 1] = d[3];
}
"""

#: C (16×8) = A (16×32) · B (32×8) of bytes.
GEMM_INT8 = """
extern "C" __global__ void gemm(int* c, const int* a, const int* b) {
  int g = threadIdx.x / 4, t = threadIdx.x % 4;
  int d[4];
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
    "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %10, %10, %10};"
    : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
    : "r"(a[g * 8 + t]), "r"(a[(g + 8) * 8 + t]), "r"(a[g * 8 + t + 4]),
      "r"(a[(g + 8) * 8 + t + 4]), "r"(b[g * 8 + t]), "r"(b[g * 8 + t + 4]), "r"(7));
  c[g * 8 + 2 * t] = d[0]; c[g * 8 + 2 * t + 1] = d[1];
  c[(g + 8) * 8 + 2 * t] = d[2]; c[(g + 8) * 8 + 2 * t + 1] = d[3];
}
"""

#: Sums 8 rows of 128 floats that come through two stages of shared memory.
PIPELINE = """
__device__ __forceinline__ void copy16(float* to, const float* from) {
  unsigned addr = (unsigned)__cvta_generic_to_shared(to);
  asm volatile("cp.async.cg.shared.global [%0], [%1], %2;" :: "r"(addr), "l"(from), "n"(16));
}
extern "C" __global__ void __launch_bounds__(32) sum(float* out, const float* in) {
  extern __shared__ alignas(16) unsigned char memory[];
  float* stage = (float*)memory;
  int t = threadIdx.x;
  float s[4] = {0, 0, 0, 0};
  copy16(stage + 4 * t, in + 4 * t);
  asm volatile("cp.async.commit_group;");
  for (int r = 0; r < 8; ++r) {
    if (r < 7) copy16(stage + (r + 1) % 2 * 128 + 4 * t, in + (r + 1) * 128 + 4 * t);
    asm volatile("cp.async.commit_group;");
    asm volatile("cp.async.wait_group 1;");
    __syncthreads();  // arrived
    for (int i = 0; i < 4; ++i) s[i] += stage[r % 2 * 128 + i * 32 + t];
    __syncthreads();  // consumed
  }
  for (int i = 0; i < 4; ++i) out[i * 32 + t] = s[i];
}
"""
