// What Rust sees of c10d, and of the parts of libtorch that tch lacks. Tensors are tch's own
// (`at::Tensor*`). A function that can fail returns null, or a message that `rb_free` frees; no
// exception crosses this border.
#pragma once
#include <cstddef>
#include <cstdint>

namespace at {
class Tensor;
}

extern "C" {
struct rb_device;
struct rb_group;
struct rb_work;

// The rendezvous store, kept by Rust. Each call returns whether it worked; what it answers, and what
// went wrong, goes through `rb_emit`.
struct rb_store {
  void* self;
  bool (*set)(void*, const char* key, size_t, const uint8_t* value, size_t, void* error);
  // Waits for the key.
  bool (*get)(void*, const char* key, size_t, void* value, void* error);
  bool (*check)(void*, const char* key, size_t, bool* present, void* error);
  bool (*add)(void*, const char* key, size_t, int64_t amount, int64_t* sum, void* error);
  bool (*compare_set)(void*, const char* key, size_t, const uint8_t* expected, size_t,
                      const uint8_t* desired, size_t, void* value, void* error);
  bool (*remove)(void*, const char* key, size_t, bool* removed, void* error);
  bool (*count)(void*, int64_t* keys, void* error);
};

// Told when a collective of the tensor group begins (0), is waited for (1) and ends (2) inside a forward or
// backward pass.
typedef void (*rb_mark)(void* self, int what);

void rb_emit(void* sink, const uint8_t* bytes, size_t length);
void rb_free(char* message);

// Ends the process at once: running the destructors of libraries under living threads can crash.
[[noreturn]] void rb_exit(int code);

// One thread, and kernels that give the same bits every time.
char* rb_setup();

// Lets libtorch have CUDA: loads libtorch_cuda from where libtorch_cpu lies, and the object at `own` that this shim
// adds to it. Before anything else asks libtorch for a device.
char* rb_cuda_load(const char* own);
// Devices that are there; after `rb_cuda_load`.
char* rb_cuda_count(int* out);
// Makes `device` the one of this process; `rb_free` frees its name.
char* rb_cuda_take(int device, char** name);
// Waits until the device has done all that it was given.
char* rb_cuda_synchronize(int device);
// Most bytes of a device that tensors ever took.
char* rb_cuda_peak(int device, int64_t* bytes);
// A copy of a tensor of the host on a device, without a wait where it can be had.
char* rb_cuda_bring(at::Tensor* tensor, int device, at::Tensor** out);

// Copies from a device into the host's memory, beside what it computes.
struct rb_crossing;
// Room in the host's memory for a copy of `like`, pinned.
char* rb_crossing_room(at::Tensor* like, at::Tensor** out);
// Begins copies that come after all that `device` was given so far.
char* rb_crossing_begin(int device, rb_crossing** out);
char* rb_crossing_copy(rb_crossing*, at::Tensor* into, at::Tensor* from);
// No more copies follow.
char* rb_crossing_sealed(rb_crossing*);
// Waits for the copies.
char* rb_crossing_wait(rb_crossing*);
void rb_crossing_drop(rb_crossing*);
// Lets what `device` is given next come after every copy that was begun.
char* rb_crossings_first(int device);

// `address` is a host address or, where `named`, a network interface.
char* rb_device_open(const char* address, bool named, rb_device** out);
void rb_device_close(rb_device*);

// Blocks until every member is connected.
char* rb_group_form(const rb_store*, const char* prefix, int rank, int size, const rb_device*,
                    uint64_t connect_ms, rb_group** out);
// The same for tensors on a device; `rb_cuda_take` comes before.
char* rb_group_form_on_device(const rb_store*, const char* prefix, int rank, int size, int device,
                              rb_group** out);
// Fails everything under way and to come, and closes the sockets. From any thread; does not block.
void rb_group_abort(rb_group*);
// Waits for what is under way: abort first.
void rb_group_drop(rb_group*);

char* rb_sum(rb_group*, at::Tensor*, rb_work** out);
char* rb_all_to_all(rb_group*, at::Tensor* output, at::Tensor* input, rb_work** out);
char* rb_all_gather(rb_group*, at::Tensor* output, at::Tensor* input, rb_work** out);
char* rb_send(rb_group*, at::Tensor*, int to, int tag, rb_work** out);
char* rb_recv(rb_group*, at::Tensor*, int from, int tag, rb_work** out);
// Waits for it, and frees it.
char* rb_work_wait(rb_work*);
// Lets what this thread computes next come after it, and frees it. On a device the host goes on at once.
char* rb_work_order(rb_work*);
// Whether `rb_work_order` would hold up nobody: it is done, or only a device would wait.
bool rb_work_is_ready(rb_work*);
// Frees it without waiting.
void rb_work_forget(rb_work*);

// y = x * weight^T + bias, whose backward adds into `weight_grad` and `bias_grad` in place. In a tensor group,
// `row` sums y over the group before the bias; otherwise backward sums the gradient of x.
char* rb_linear(at::Tensor* x, at::Tensor* weight, at::Tensor* bias, at::Tensor* weight_grad,
                at::Tensor* bias_grad, rb_group* group, bool row, rb_mark mark, void* mark_self,
                at::Tensor** out);
// The layer norm of x over its last dimension, whose backward adds into `weight_grad` and `bias_grad` in place.
char* rb_norm(at::Tensor* x, at::Tensor* weight, at::Tensor* bias, at::Tensor* weight_grad,
              at::Tensor* bias_grad, double epsilon, at::Tensor** out);
// Causal attention of `[batch, sequence, heads, 3, width]` on the CPU, whose scores `bias` `[1, heads, sequence,
// sequence]` is added to; it is minus infinity for keys ahead. `[batch, sequence, heads, width]` comes out.
char* rb_attention(at::Tensor* qkv, at::Tensor* bias, double scale, at::Tensor** out);
// GELU by its approximation with tanh, as BLOOM's.
// Whether attention that no fused kernel takes is an error, or computed step by step.
char* rb_fused_attention(bool only);
char* rb_gelu(at::Tensor* x, at::Tensor** out);
// The logarithm of the sum of e^x over each row of `[rows, width]`, `[rows, 1]`.
char* rb_log_sum_exp(at::Tensor* x, at::Tensor** out);
// Makes x of `[rows, width]` e^(x - less) * scale, in place; `less` is `[rows, 1]`.
char* rb_exponentials(at::Tensor* x, at::Tensor* less, double scale);
// The sum of the squares of all of x, in fp64.
char* rb_sum_of_squares(at::Tensor* x, double* out);
// Fills `out` with ones, each with probability `keep`, and zeros; the seed alone decides which.
char* rb_toss(at::Tensor* out, uint64_t seed, double keep);
// Seeds the generator of a CUDA device, for what draws from it inside of fused kernels.
char* rb_seed_device(int64_t device, uint64_t seed);
// Backward from `output` with its gradient.
char* rb_backward(at::Tensor* output, at::Tensor* grad);
// One fused AdamW update, in place, with the gradients times `scale`; `step` counts from 1.
char* rb_adamw(at::Tensor* weights, at::Tensor* grads, at::Tensor* mean, at::Tensor* square,
               int64_t step, double scale, double rate, double beta1, double beta2, double decay,
               double epsilon);
}
