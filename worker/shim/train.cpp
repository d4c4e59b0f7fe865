// What training needs of libtorch and tch lacks: a linear layer that knows its tensor group and
// accumulates its gradients in place, backward with a gradient, the fused optimizer, settings.
#include "internal.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/full.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/native_layer_norm.h>
#include <ATen/ops/native_layer_norm_backward.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cstdlib>
#include <malloc.h>
#include <unistd.h>

namespace {
struct Place {
  c10::intrusive_ptr<rb::Group> group;
  bool row;
  rb_mark mark;
  void* mark_self;
};

template <typename F>
void collectively(F&& body) {
  try {
    body();
  } catch (const std::exception& error) {
    throw std::runtime_error(std::string(rb::kLost) + error.what());
  }
}

// Sums over the group are made in fp32: Gloo would round bf16 at every hop.
class Reduction {
 public:
  Reduction(const Place& place, const at::Tensor& tensor)
      : place_(place), tensor_(tensor), wide_(tensor.to(at::kFloat)) {
    place_.mark(place_.mark_self, 0);
    collectively([&] { work_ = place_.group->sum(wide_); });
  }
  void wait() {
    place_.mark(place_.mark_self, 1);
    collectively([&] { place_.group->order(*work_); });
    if (!wide_.is_same(tensor_)) tensor_.copy_(wide_);
    place_.mark(place_.mark_self, 2);
  }

 private:
  const Place& place_;
  at::Tensor tensor_;
  at::Tensor wide_;
  c10::intrusive_ptr<c10d::Work> work_;
};

// Adds `a * b` to an fp32 gradient; what was computed in bf16 is added in fp32.
void add_product(at::Tensor grad, const at::Tensor& a, const at::Tensor& b) {
  if (a.scalar_type() == grad.scalar_type()) {
    grad.addmm_(a, b);
  } else {
    grad.add_(at::mm(a, b));
  }
}

struct Norm : torch::autograd::Function<Norm> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x,
                            const at::Tensor& weight, const at::Tensor& bias,
                            const at::Tensor& weight_grad, const at::Tensor& bias_grad,
                            double epsilon) {
    auto [y, mean, rstd] = at::native_layer_norm(x, weight.sizes(), weight, bias, epsilon);
    context->save_for_backward({x, weight, bias, mean, rstd});
    context->saved_data["weight_grad"] = weight_grad;
    context->saved_data["bias_grad"] = bias_grad;
    return y;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list grads) {
    const auto saved = context->get_saved_variables();
    auto [dx, dweight, dbias] =
        at::native_layer_norm_backward(grads[0].contiguous(), saved[0], saved[1].sizes(), saved[3],
                                       saved[4], saved[1], saved[2], {true, true, true});
    context->saved_data["weight_grad"].toTensor().add_(dweight);
    context->saved_data["bias_grad"].toTensor().add_(dbias);
    return {dx, {}, {}, {}, {}, {}};
  }
};

struct Linear : torch::autograd::Function<Linear> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x,
                            const at::Tensor& weight, const at::Tensor& bias,
                            const at::Tensor& weight_grad, const at::Tensor& bias_grad,
                            const Place& place) {
    context->save_for_backward({x, weight});
    context->saved_data["weight_grad"] = weight_grad;
    context->saved_data["bias_grad"] = bias_grad;
    if (place.group && !place.row) {
      context->saved_data["group"] = c10::IValue::make_capsule(place.group);
    }
    context->saved_data["mark"] = reinterpret_cast<int64_t>(place.mark);
    context->saved_data["mark_self"] = reinterpret_cast<int64_t>(place.mark_self);
    if (!place.row || !place.group) return at::addmm(bias, x, weight.t());
    at::Tensor y = at::mm(x, weight.t());
    Reduction(place, y).wait();
    return y.add_(bias);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list grads) {
    const auto saved = context->get_saved_variables();
    auto word = [&](const char* name) { return context->saved_data[name].toInt(); };
    c10::intrusive_ptr<rb::Group> group;
    if (context->saved_data.count("group") != 0) {
      group = c10::static_intrusive_pointer_cast<rb::Group>(context->saved_data["group"].toCapsule());
    }
    const Place place{std::move(group), false, reinterpret_cast<rb_mark>(word("mark")),
                      reinterpret_cast<void*>(word("mark_self"))};
    const at::Tensor& dy = grads[0];
    at::Tensor dx = at::mm(dy, saved[1]);
    // The sum over the group travels while the gradients of the weights are computed.
    std::optional<Reduction> sum;
    if (place.group) sum.emplace(place, dx);
    add_product(context->saved_data["weight_grad"].toTensor(), dy.t(), saved[0]);
    context->saved_data["bias_grad"].toTensor().add_(dy.sum({0}, false, at::kFloat));
    if (sum) sum->wait();
    return {dx, {}, {}, {}, {}, {}};
  }
};
} // namespace

void rb_exit(int code) {
  ::_exit(code);
}

char* rb_fused_attention(bool only) {
  return rb::guarded([only] { at::globalContext().setSDPUseMath(!only); });
}

char* rb_setup() {
  return rb::guarded([] {
    // Once in the life of a process, however many threads ask: libtorch refuses a second time.
    static const bool done = [] {
      // c10d's flight recorder fills a map of groups without its lock, so two threads of one process break it; ours is
      // the flight page.
      setenv("TORCH_FR_BUFFER_SIZE", "0", 1);
      // Every step takes and frees the same large blocks: mapped anew each time, their pages are faulted in and
      // cleared again, a tenth of a step on the CPU.
      mallopt(M_MMAP_MAX, 0);
      mallopt(M_TRIM_THRESHOLD, -1);
      at::set_num_threads(1);
      if (at::get_num_interop_threads() != 1) at::set_num_interop_threads(1);
      at::globalContext().setDeterministicAlgorithms(true, false);
      at::globalContext().setDeterministicFillUninitializedMemory(false);
      return true;
    }();
    (void)done;
  });
}

char* rb_linear(at::Tensor* x, at::Tensor* weight, at::Tensor* bias, at::Tensor* weight_grad,
                at::Tensor* bias_grad, rb_group* group, bool row, rb_mark mark, void* mark_self,
                at::Tensor** out) {
  return rb::guarded([&] {
    const Place place{group == nullptr ? c10::intrusive_ptr<rb::Group>() : group->group, row, mark, mark_self};
    *out = new at::Tensor(Linear::apply(*x, *weight, *bias, *weight_grad, *bias_grad, place));
  });
}

char* rb_norm(at::Tensor* x, at::Tensor* weight, at::Tensor* bias, at::Tensor* weight_grad,
              at::Tensor* bias_grad, double epsilon, at::Tensor** out) {
  return rb::guarded([&] {
    *out = new at::Tensor(Norm::apply(*x, *weight, *bias, *weight_grad, *bias_grad, epsilon));
  });
}

char* rb_toss(at::Tensor* out, uint64_t seed, double keep) {
  return rb::guarded([&] {
    if (out->is_cpu()) {
      out->bernoulli_(keep, at::detail::createCPUGenerator(seed));
    } else {
      at::Generator generator = at::globalContext().defaultGenerator(out->device());
      {
        std::lock_guard<std::mutex> lock(generator.mutex());
        generator.set_current_seed(seed);
      }
      out->bernoulli_(keep, generator);
    }
  });
}

char* rb_seed_device(int64_t device, uint64_t seed) {
  return rb::guarded([&] {
    at::Generator generator = at::globalContext().defaultGenerator(
        at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(device)));
    std::lock_guard<std::mutex> lock(generator.mutex());
    generator.set_current_seed(seed);
  });
}

char* rb_backward(at::Tensor* output, at::Tensor* grad) {
  return rb::guarded([&] { output->backward(*grad); });
}

char* rb_adamw(at::Tensor* weights, at::Tensor* grads, at::Tensor* mean, at::Tensor* square,
               int64_t step, double scale, double rate, double beta1, double beta2, double decay,
               double epsilon) {
  return rb::guarded([&] {
    const auto number = [&](double value) { return at::full({}, value, grads->options().dtype(at::kFloat)); };
    at::Tensor steps[] = {number(static_cast<double>(step))};
    // It divides by what it is given.
    std::optional<at::Tensor> divisor;
    if (scale != 1.0) divisor = number(1.0 / scale);
    at::_fused_adamw_(at::TensorList(*weights), at::TensorList(*grads), at::TensorList(*mean),
                      at::TensorList(*square), {}, at::TensorList(steps), rate, beta1, beta2, decay,
                      epsilon, false, false, divisor);
  });
}
