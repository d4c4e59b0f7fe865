// Causal self-attention on the CPU, which libtorch has only without a bias or with all of the scores.
#include "guarded.h"
#include "shim.h"

#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu_backward.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

namespace {
// Queries that are looked at together: keys ahead of all of them are left out, and with them nearly half of the work.
// Shorter blocks leave out more, but the kernel takes only blocks of 192 and more in pieces as large as they should be.
int64_t block_of(int64_t sequence) {
  return sequence > 512 ? 192 : 64;
}

// The n-th of query, key and value of `[batch, sequence, heads, 3, width]`, heads first.
at::Tensor part(const at::Tensor& qkv, int64_t nth) {
  return qkv.select(3, nth).transpose(1, 2);
}

struct Block {
  int64_t start;
  int64_t end;
  at::Tensor queries(const at::Tensor& of) const {
    return of.narrow(2, start, end - start);
  }
  at::Tensor keys(const at::Tensor& of) const {
    return of.narrow(2, 0, end);
  }
  at::Tensor scores(const at::Tensor& of) const {
    return queries(of).narrow(3, 0, end);
  }
};

std::vector<Block> blocks(int64_t sequence) {
  std::vector<Block> all;
  const int64_t size = block_of(sequence);
  for (int64_t start = 0; start < sequence; start += size) {
    all.push_back({start, std::min(start + size, sequence)});
  }
  return all;
}

struct Attention : torch::autograd::Function<Attention> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& qkv,
                            const at::Tensor& bias, double scale) {
    const at::Tensor q = part(qkv, 0), k = part(qkv, 1), v = part(qkv, 2);
    at::Tensor y = at::empty({qkv.size(0), qkv.size(1), qkv.size(2), qkv.size(4)}, qkv.options());
    torch::autograd::variable_list saved = {qkv, bias, y};
    for (const Block& block : blocks(qkv.size(1))) {
      auto [out, sums] = at::_scaled_dot_product_flash_attention_for_cpu(
          block.queries(q), block.keys(k), block.keys(v), 0.0, false, block.scores(bias), scale);
      block.queries(y.transpose(1, 2)).copy_(out);
      saved.push_back(sums);
    }
    context->save_for_backward(std::move(saved));
    context->saved_data["scale"] = scale;
    return y;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list grads) {
    const auto saved = context->get_saved_variables();
    const at::Tensor &qkv = saved[0], &bias = saved[1];
    const at::Tensor q = part(qkv, 0), k = part(qkv, 1), v = part(qkv, 2);
    const at::Tensor y = saved[2].transpose(1, 2), dy = grads[0].transpose(1, 2);
    const double scale = context->saved_data["scale"].toDouble();
    at::Tensor dqkv = at::empty_like(qkv);
    at::Tensor dq = part(dqkv, 0), dk = part(dqkv, 1), dv = part(dqkv, 2);
    const std::vector<Block> all = blocks(qkv.size(1));
    // The last block has every key, so nothing has to be cleared first.
    for (size_t nth = all.size(); nth-- > 0;) {
      const Block& block = all[nth];
      auto [q_part, k_part, v_part] = at::_scaled_dot_product_flash_attention_for_cpu_backward(
          block.queries(dy), block.queries(q), block.keys(k), block.keys(v), block.queries(y),
          saved[3 + nth], 0.0, false, block.scores(bias), scale);
      block.queries(dq).copy_(q_part);
      if (nth + 1 == all.size()) {
        dk.copy_(k_part);
        dv.copy_(v_part);
      } else {
        block.keys(dk).add_(k_part);
        block.keys(dv).add_(v_part);
      }
    }
    return {dqkv, {}, {}};
  }
};
} // namespace

char* rb_attention(at::Tensor* qkv, at::Tensor* bias, double scale, at::Tensor** out) {
  return rb::guarded([&] { *out = new at::Tensor(Attention::apply(*qkv, *bias, scale)); });
}
