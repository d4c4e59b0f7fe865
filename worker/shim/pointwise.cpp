// What a step computes element by element on the CPU in fp32, each in one pass over memory. Elsewhere libtorch's own.
#include "guarded.h"
#include "shim.h"

#include <ATen/Functions.h>
#include <torch/csrc/autograd/custom_function.h>

#include <bit>
#include <cmath>
#include <cstdint>

// GCC makes a version for wider registers, and the loader picks one.
#if defined(__x86_64__) && defined(__gnu_linux__) && !defined(__clang__)
#define RB_WIDE __attribute__((target_clones("arch=x86-64-v3", "default")))
#else
#define RB_WIDE
#endif

namespace {
// Numbers that are worked on side by side: a sum is made in as many parts, however wide the registers are.
constexpr int64_t kLanes = 16;

// e^x to about one unit in the last place, with the polynomial of Cephes' expf. What is no number stays none.
inline float exponential(float x) {
  x = x < -87.336f ? -87.336f : x;
  x = x > 88.376f ? 88.376f : x;
  // Adding this makes whole numbers of what is not too large, which then are in the low bits.
  constexpr float kWhole = 12582912.0f;
  const float shifted = x * 1.44269504088896341f + kWhole;
  const int32_t power = std::bit_cast<int32_t>(shifted) - std::bit_cast<int32_t>(kWhole);
  const float n = shifted - kWhole;
  const float r = x - n * 0.693359375f + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const float y = p * (r * r) + r + 1.0f;
  return y * std::bit_cast<float>((power + 127) << 23);
}

// GELU by its tanh is x times the logistic function of this, which loses nothing where tanh comes near -1:
// 2 root(2 / pi) (x + 0.044715 x^3), of which the derivative is 2 root(2 / pi) (1 + 3 * 0.044715 x^2).
constexpr float kSlope = 1.5957691216057308f;
constexpr float kCube = 0.044715f;

inline float logistic(float x) {
  return 1.0f / (1.0f + exponential(-kSlope * (x + kCube * x * x * x)));
}

RB_WIDE void gelu(const float* x, float* y, int64_t count) {
  for (int64_t at = 0; at < count; ++at) {
    y[at] = x[at] * logistic(x[at]);
  }
}

RB_WIDE void gelu_backward(const float* x, const float* dy, float* dx, int64_t count) {
  for (int64_t at = 0; at < count; ++at) {
    const float s = logistic(x[at]);
    const float slope = kSlope * (1.0f + 3.0f * kCube * x[at] * x[at]);
    dx[at] = dy[at] * (s + x[at] * s * (1.0f - s) * slope);
  }
}

RB_WIDE float log_sum_exp(const float* row, int64_t width) {
  float most[kLanes];
  float sums[kLanes] = {};
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    most[lane] = -INFINITY;
  }
  const int64_t whole = width / kLanes * kLanes;
  for (int64_t at = 0; at < whole; at += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      most[lane] = row[at + lane] > most[lane] ? row[at + lane] : most[lane];
    }
  }
  float largest = -INFINITY;
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    largest = most[lane] > largest ? most[lane] : largest;
  }
  for (int64_t at = whole; at < width; ++at) {
    largest = row[at] > largest ? row[at] : largest;
  }
  for (int64_t at = 0; at < whole; at += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      sums[lane] += exponential(row[at + lane] - largest);
    }
  }
  float sum = 0.0f;
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    sum += sums[lane];
  }
  for (int64_t at = whole; at < width; ++at) {
    sum += exponential(row[at] - largest);
  }
  return largest + std::log(sum);
}

RB_WIDE void exponentials(float* row, float less, float scale, int64_t width) {
  for (int64_t at = 0; at < width; ++at) {
    row[at] = exponential(row[at] - less) * scale;
  }
}

RB_WIDE double sum_of_squares(const float* x, int64_t count) {
  double sums[kLanes] = {};
  const int64_t whole = count / kLanes * kLanes;
  for (int64_t at = 0; at < whole; at += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const double each = x[at + lane];
      sums[lane] += each * each;
    }
  }
  double sum = 0.0;
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    sum += sums[lane];
  }
  for (int64_t at = whole; at < count; ++at) {
    sum += static_cast<double>(x[at]) * x[at];
  }
  return sum;
}

bool is_ours(const at::Tensor& x) {
  return x.is_cpu() && x.scalar_type() == at::kFloat && x.is_contiguous();
}

struct Gelu : torch::autograd::Function<Gelu> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x) {
    context->save_for_backward({x});
    if (!is_ours(x)) return at::gelu(x, "tanh");
    at::Tensor y = at::empty_like(x);
    gelu(x.const_data_ptr<float>(), y.mutable_data_ptr<float>(), x.numel());
    return y;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list grads) {
    const at::Tensor x = context->get_saved_variables()[0];
    const at::Tensor& dy = grads[0];
    if (!is_ours(x) || !is_ours(dy)) return {at::gelu_backward(dy, x, "tanh")};
    at::Tensor dx = at::empty_like(x);
    gelu_backward(x.const_data_ptr<float>(), dy.const_data_ptr<float>(),
                  dx.mutable_data_ptr<float>(), x.numel());
    return {dx};
  }
};
} // namespace

char* rb_gelu(at::Tensor* x, at::Tensor** out) {
  return rb::guarded([&] { *out = new at::Tensor(Gelu::apply(*x)); });
}

char* rb_log_sum_exp(at::Tensor* x, at::Tensor** out) {
  return rb::guarded([&] {
    if (!is_ours(*x)) {
      *out = new at::Tensor(at::logsumexp(*x, {1}, true));
      return;
    }
    const int64_t width = x->size(1);
    at::Tensor sums = at::empty({x->size(0), 1}, x->options());
    const float* from = x->const_data_ptr<float>();
    float* into = sums.mutable_data_ptr<float>();
    for (int64_t row = 0; row < x->size(0); ++row) {
      into[row] = log_sum_exp(from + row * width, width);
    }
    *out = new at::Tensor(sums);
  });
}

char* rb_exponentials(at::Tensor* x, at::Tensor* less, double scale) {
  return rb::guarded([&] {
    if (!is_ours(*x) || !is_ours(*less)) {
      x->sub_(*less).exp_().mul_(scale);
      return;
    }
    const int64_t width = x->size(1);
    float* rows = x->mutable_data_ptr<float>();
    const float* each = less->const_data_ptr<float>();
    for (int64_t row = 0; row < x->size(0); ++row) {
      exponentials(rows + row * width, each[row], static_cast<float>(scale), width);
    }
  });
}

char* rb_sum_of_squares(at::Tensor* x, double* out) {
  return rb::guarded([&] {
    if (is_ours(*x)) {
      *out = sum_of_squares(x->const_data_ptr<float>(), x->numel());
      return;
    }
    // Each piece in fp32, and the pieces in fp64.
    constexpr int64_t kPiece = 1 << 12;
    const at::Tensor flat = x->flatten();
    const int64_t whole = flat.numel() / kPiece * kPiece;
    const auto squares = [](const at::Tensor& rows) {
      return at::linalg_vector_norm(rows, 2, 1).to(at::kDouble).square_().sum();
    };
    const at::Tensor pieces = flat.narrow(0, 0, whole).view({-1, kPiece});
    const at::Tensor rest = flat.narrow(0, whole, flat.numel() - whole).view({1, -1});
    const at::Tensor sum = squares(pieces).add_(squares(rest));
    *out = sum.item<double>();
  });
}
