// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "ac_attention.hpp"
#include "ac_rollout.hpp"
#include "kernels/ac_rows.cuh"
#include "kernels/ac_tokens.cuh"
#include "kernels/pose.cuh"
#include "kernels/rope.cuh"

namespace jepa_edge::cuda {
namespace {

bool all_finite(std::span<const float> values) noexcept {
  return std::ranges::all_of(values, [](float value) { return std::isfinite(value); });
}

/// A block's threads for rows of `width` numbers.
dim3 threads_for(std::size_t width) { return dim3(32 * blocks_for(width, 32 * kGroup)); }

/// Angles of one frame's tokens at every place in the window, (window, tokens, head_dim / 2). A
/// third of a head's channels, made even, turns with time, the next with the row, the next with the
/// column; the rest stays. Frequencies of a third lie f0 f1 .. f0 f1 .., as version 2 was trained.
/// Actions and poses turn with time alone.
std::vector<Turn> turns(const AcSizes& s) {
  const std::size_t half = s.head_dim() / 2;
  const std::size_t third = 2 * (s.head_dim() / 3 / 2);
  std::vector<Turn> table(s.window * s.tokens() * half);
  for (std::size_t i = 0; i < table.size(); ++i) {
    const std::size_t token = i / half % s.tokens();
    const std::size_t patch = token < kConditionTokens ? 0 : token - kConditionTokens;
    const std::size_t places[3] = {i / half / s.tokens(), patch / s.grid, patch % s.grid};
    const auto angle = [&](std::size_t channel) {
      if (third == 0 || channel >= 3 * third) return 0.0;
      const auto step = static_cast<double>(channel % third % (third / 2));
      return static_cast<double>(places[channel / third]) *
             std::pow(s.rope_theta, -step / (static_cast<double>(third) / 2.0));
    };
    const double even = angle(i % half * 2);
    const double odd = angle(i % half * 2 + 1);
    table[i] = {static_cast<float>(std::cos(even)), static_cast<float>(std::sin(even)),
                static_cast<float>(std::cos(odd)), static_cast<float>(std::sin(odd))};
  }
  return table;
}

std::size_t even_chunk(const Limits& limits, std::size_t chunk) {
  const std::size_t futures = limits.candidates * limits.samples;
  if (futures < 1 || limits.horizon < 1 || chunk < 1) {
    throw std::invalid_argument("got limits of " + std::to_string(limits.candidates) +
                                " candidates, horizon " + std::to_string(limits.horizon) + ", " +
                                std::to_string(limits.samples) + " samples and a chunk of " +
                                std::to_string(chunk) + ", expected 1 or more of each");
  }
  const std::size_t chunks = (futures + chunk - 1) / chunk;
  return (futures + chunks - 1) / chunks;
}

/// 16-bit numbers of the attention; int8 and float8 engines use bfloat16 there.
template <Precision precision>
using AttentionNumber =
    std::conditional_t<precision == Precision::kFloat32, float,
                       std::conditional_t<precision == Precision::kFloat16, __half, __nv_bfloat16>>;

}  // namespace

struct AcRollout::Impl {
  Impl(const AcSizes& s, const Limits& asked, std::size_t wanted)
      : sizes{s.window, s.patches() + 1, s.latent_dim, kPoseDim},
        limits(asked),
        chunk(even_chunk(asked, wanted)) {}
  virtual ~Impl() = default;
  virtual Status set_context(const Context& context, const Stream& stream) = 0;
  virtual void enqueue(std::size_t frames, const float* actions, std::size_t candidates,
                       std::size_t horizon, std::size_t samples, DeviceNoise* noise, float* latents,
                       const Stream& stream) = 0;

  RolloutSizes sizes;
  Limits limits;
  std::size_t chunk;
  std::size_t bytes = 0;
};

namespace {

template <Precision precision>
class Engine final : public AcRollout::Impl {
  using Number = AttentionNumber<precision>;
  using In = Operand<precision>;
  using Out = Result<precision>;

 public:
  Engine(std::shared_ptr<const AcWeights> weights, const Limits& asked, std::size_t wanted)
      : Impl(weights->sizes, asked, wanted),
        weights_(std::move(weights)),
        s_(weights_->sizes),
        tokens_(s_.tokens()),
        width_(padded(s_.dim)),
        attention_(static_cast<unsigned>(tokens_), static_cast<unsigned>(s_.heads),
                   static_cast<unsigned>(s_.head_dim()), static_cast<unsigned>(width_)),
        frame_(s_.heads * tokens_ * attention_.padded()),
        own_(std::min(s_.window, limits.horizon)),
        gemms_{Gemms(library_, *weights_, 1), Gemms(library_, *weights_, chunk)} {
    const std::size_t rows = chunk * tokens_;
    const std::size_t widest =
        std::max({width_, padded(s_.mlp_dim), padded(s_.latent_dim), padded(3 * s_.dim)});
    const std::size_t context_patches = s_.window * s_.patches();
    take(residual_, rows * width_);
    take(operands_, rows * std::max({width_, padded(s_.mlp_dim), padded(s_.latent_dim)}));
    take(operand_scales_, rows);
    take(results_, rows * widest);
    take(queries_, chunk * frame_);
    take(mixed_, rows * width_);
    take(own_keys_, ((own_ - 1) * s_.depth + 1) * chunk * frame_);
    take(own_values_, own_keys_.size());
    take(context_, s_.window * sizes.tokens * s_.latent_dim);
    take(past_, s_.window * kPoseDim);
    take(embedded_, context_patches * width_);
    take(embedded_scales_, context_patches);
    const std::size_t starts = s_.window < 2 ? 0 : std::min(s_.window - 1, limits.horizon);
    std::size_t slots = 0;
    for (std::size_t start = 0; start < starts; ++start) {
      first_slot_.push_back(slots);
      slots += s_.window - 1 - start;
    }
    take(shared_keys_, slots * s_.depth * frame_);
    take(shared_values_, shared_keys_.size());
    const std::vector<Turn> table = turns(s_);
    take(turns_, table.size());
    turns_.upload(table);
    host_context_ = PinnedBuffer<float>(context_.size() + past_.size());
    check(cudaStreamSynchronize(nullptr), "cudaStreamSynchronize");  // what cudaMemset runs on
  }

  Status set_context(const Context& context, const Stream& stream) override {
    const std::size_t frames = context.frames;
    const std::size_t latent = sizes.tokens * s_.latent_dim;
    if (frames < 1 || frames > s_.window || context.batch != 1 ||
        context.history.size() != frames * latent ||
        context.past_actions.size() != (frames - 1) * kPoseDim) {
      return Status::kBadShape;
    }
    if (!all_finite(context.history) || !all_finite(context.past_actions)) {
      return Status::kNonFiniteInput;
    }
    stream.wait();  // the copies of the context before have been made
    float* const past = host_context_.data() + context_.size();
    std::ranges::copy(context.history, host_context_.data());
    std::ranges::copy(context.past_actions, past);
    copy(context_.data(), host_context_.data(), context.history.size(), stream);
    copy(past_.data(), past, context.past_actions.size(), stream);
    for (std::size_t frame = 0; frame < frames; ++frame) {
      embed(0, 1, context_.data() + frame * latent, 0,
            embedded_.data() + frame * s_.patches() * width_,
            embedded_scales_.data() + frame * s_.patches(), stream);
    }
    for (std::size_t step = 0; step < limits.horizon; ++step) {
      const std::size_t start = first_frame(frames + step);
      if (start + 1 >= frames) break;
      if (step > 0 && start == first_frame(frames + step - 1)) continue;
      for (std::size_t frame = start; frame + 1 < frames; ++frame) {
        FrameInputs inputs = context_inputs(frame);
        inputs.actions = past_.data() + frame * kPoseDim;
        pass({0, 1, start, frame, frames - 1, false}, inputs, stream);
      }
    }
    return Status::kOk;
  }

  void enqueue(std::size_t frames, const float* actions, std::size_t candidates,
               std::size_t horizon, std::size_t samples, DeviceNoise* noise, float* latents,
               const Stream& stream) override {
    if (frames < 1 || frames > s_.window || candidates < 1 || candidates > limits.candidates ||
        horizon < 1 || horizon > limits.horizon || samples < 1 || samples > limits.samples ||
        (samples > 1 && noise == nullptr)) {
      throw std::invalid_argument(
          "a rollout of " + std::to_string(candidates) + " candidates, horizon " +
          std::to_string(horizon) + " and " + std::to_string(samples) + " samples after " +
          std::to_string(frames) + " frames was asked for, expected at most " +
          std::to_string(limits.candidates) + ", " + std::to_string(limits.horizon) + ", " +
          std::to_string(limits.samples) + " and " + std::to_string(s_.window) +
          ", with noise for several samples");
    }
    const Rollout rollout{frames, horizon, samples, actions, latents};
    const std::size_t futures = candidates * samples;
    if (noise == nullptr) {
      for (std::size_t first = 0; first < futures; first += chunk) {
        const std::size_t rows = std::min(chunk, futures - first);
        for (std::size_t step = 0; step < horizon; ++step) {
          advance(rollout, first, rows, step, step > 0, stream);
        }
      }
      return;
    }
    const std::size_t latent = sizes.tokens * s_.latent_dim;
    for (std::size_t step = 0; step < horizon; ++step) {
      for (std::size_t first = 0; first < futures; first += chunk) {
        const std::size_t rows = std::min(chunk, futures - first);
        advance(rollout, first, rows, step, step > 0 && futures <= chunk, stream);
      }
      const bool is_first = step == 0;
      noise->enqueue(
          step, candidates, samples, latents + step * latent, horizon * latent,
          is_first ? context_.data() + (frames - 1) * latent : latents + (step - 1) * latent,
          is_first ? 0 : horizon * latent, 1, actions + step * kPoseDim, horizon * kPoseDim,
          stream.get());
    }
  }

 private:
  /// All products of one pass, for so many rows at once.
  struct Gemms {
    Gemms(GemmLibrary& library, const AcWeights& w, std::size_t rows)
        : embed(make(library, w.embed, rows * w.sizes.patches(), w.precision)),
          qkv(make(library, w.blocks.front().qkv, rows * w.sizes.tokens(), w.precision)),
          proj(make(library, w.blocks.front().proj, rows * w.sizes.tokens(), w.precision)),
          fc1(make(library, w.blocks.front().fc1, rows * w.sizes.tokens(), w.precision)),
          fc2(make(library, w.blocks.front().fc2, rows * w.sizes.tokens(), w.precision)),
          head(make(library, w.head, rows * w.sizes.tokens(), w.precision)) {}
    static Gemm make(GemmLibrary& library, const AcLinear& layer, std::size_t rows,
                     Precision numbers) {
      return Gemm(library, numbers, rows, layer.outputs, layer.inputs);
    }
    Gemm embed, qkv, proj, fc1, fc2, head;
  };

  struct Rollout {
    std::size_t frames, horizon, samples;
    const float* actions;
    float* latents;
  };

  /// One frame of some rows through the layers. Frames below `shared` are the same for all rows.
  struct Pass {
    std::size_t products;  ///< which of gemms_
    std::size_t rows;
    std::size_t start;  ///< first frame of the window
    std::size_t frame;
    std::size_t shared;
    bool newest;
  };

  template <typename T>
  void take(DeviceBuffer<T>& buffer, std::size_t count) {
    buffer = DeviceBuffer<T>(count);
    bytes += count * sizeof(T);
    // Padding is zero and stays so.
    if (count > 0) check(cudaMemset(buffer.data(), 0, count * sizeof(T)), "cudaMemset");
  }
  static void copy(float* to, const float* from, std::size_t count, const Stream& stream) {
    if (count == 0) return;
    check(cudaMemcpyAsync(to, from, count * sizeof(float), cudaMemcpyHostToDevice, stream.get()),
          "cudaMemcpyAsync to the device");
  }

  /// First frame of the window that ends before frame `end`.
  [[nodiscard]] std::size_t first_frame(std::size_t end) const {
    return end > s_.window ? end - s_.window : 0;
  }
  [[nodiscard]] FrameInputs context_inputs(std::size_t frame) const {
    FrameInputs inputs{};
    inputs.poses = context_.data() + (frame * sizes.tokens + s_.patches()) * s_.latent_dim;
    inputs.samples = 1;
    return inputs;
  }
  [[nodiscard]] Products<Out> products(const AcLinear& layer, const Out* results,
                                       const float* scales) const {
    return {results, is_scaled(precision) ? scales : nullptr, layer.column_scales.data(),
            layer.bias.data(), static_cast<unsigned>(layer.outputs)};
  }
  [[nodiscard]] Products<Out> products(const AcLinear& layer) const {
    return products(layer, results_.data(), operand_scales_.data());
  }
  [[nodiscard]] Operands<In> operands(std::size_t width) {
    return {operands_.data(), operand_scales_.data(), static_cast<unsigned>(width)};
  }

  /// Predicts step `step` of rows [first, first + rows). keep: the keys and values of these rows'
  /// older frames are those of the step before.
  void advance(const Rollout& rollout, std::size_t first, std::size_t rows, std::size_t step,
               bool keep, const Stream& stream) {
    const std::size_t latent = sizes.tokens * s_.latent_dim;
    const std::size_t newest = rollout.frames + step - 1;
    const std::size_t start = first_frame(newest + 1);
    const std::size_t shared = rollout.frames - 1;
    const bool slid = step > 0 && start != first_frame(newest);
    const std::size_t stride = rollout.horizon * latent;
    float* const future = rollout.latents + first * stride;
    const std::size_t from = keep && !slid ? newest : std::max(start, shared);
    for (std::size_t frame = from; frame <= newest; ++frame) {
      FrameInputs inputs = context_inputs(shared);
      if (frame >= rollout.frames) {
        const float* const predicted = future + (frame - rollout.frames) * latent;
        inputs.poses = predicted + s_.patches() * s_.latent_dim;
        inputs.pose_stride = stride;
        embed(1, rows, predicted, stride, results_.data(), operand_scales_.data(), stream);
      }
      inputs.actions = rollout.actions + (frame - shared) * kPoseDim;
      inputs.action_stride = rollout.horizon * kPoseDim;
      inputs.first_row = static_cast<unsigned>(first);
      inputs.samples = static_cast<unsigned>(rollout.samples);
      pass({1, rows, start, frame, shared, frame == newest}, inputs, stream);
      if (frame != newest) continue;
      float* const to = future + step * latent;
      launch(write_patches<precision>,
             {dim3(static_cast<unsigned>(s_.patches()), static_cast<unsigned>(rows)),
              threads_for(weights_->head.outputs)},
             stream.get(), products(weights_->head), static_cast<unsigned>(s_.latent_dim),
             s_.target_eps, to, stride);
      launch(compose_poses, {dim3(static_cast<unsigned>(rows)), dim3(128)}, stream.get(), inputs,
             to + s_.patches() * s_.latent_dim, stride, static_cast<unsigned>(s_.latent_dim));
    }
  }

  /// Embeds the patches of latents, row r's at latents + r * stride. results and scales may be
  /// those of the layers: the tokens are gathered before the first of them.
  void embed(std::size_t which, std::size_t rows, const float* latents, std::size_t stride,
             Out* results, float* scales, const Stream& stream) {
    const Operands<In> to{operands_.data(), scales, static_cast<unsigned>(weights_->embed.inputs)};
    launch(to_operands<precision, float>,
           {dim3(static_cast<unsigned>(rows * s_.patches())), threads_for(to.width)}, stream.get(),
           latents, stride, static_cast<unsigned>(s_.patches()), s_.latent_dim,
           static_cast<unsigned>(s_.latent_dim), to);
    gemms_[which].embed.run(operands_.data(), weights_->embed.weight.data(), results, stream.get());
  }

  /// Where the keys (or values) of a frame in a layer are.
  [[nodiscard]] std::pair<std::size_t, bool> place(const Pass& pass, std::size_t frame,
                                                   std::size_t layer) const {
    if (frame < pass.shared) {
      const std::size_t slot = first_slot_[pass.start] + frame - pass.start;
      return {(slot * s_.depth + layer) * frame_, true};
    }
    // The last own frame is always the newest of its window: nobody asks for its keys later.
    const std::size_t own = frame - std::max(pass.start, pass.shared);
    const std::size_t slot = own * s_.depth + (own + 1 < own_ ? layer : 0);
    return {slot * chunk * frame_, false};
  }

  void pass(const Pass& pass, const FrameInputs& inputs, const Stream& stream) {
    const Gemms& gemms = gemms_[pass.products];
    const cudaStream_t queue = stream.get();
    const auto lines = static_cast<unsigned>(pass.rows * tokens_);
    const dim3 by_token(static_cast<unsigned>(tokens_), static_cast<unsigned>(pass.rows));
    const bool of_context = pass.frame <= pass.shared;
    const std::size_t offset = of_context ? pass.frame * s_.patches() : 0;
    launch(gather_tokens<precision>, {by_token, threads_for(width_)}, queue, inputs,
           PoseLayer{weights_->action_weight.data(), weights_->action_bias.data()},
           PoseLayer{weights_->pose_weight.data(), weights_->pose_bias.data()},
           of_context ? products(weights_->embed, embedded_.data() + offset * width_,
                                 embedded_scales_.data() + offset)
                      : products(weights_->embed),
           of_context ? 0 : s_.patches(), static_cast<unsigned>(s_.dim), residual_.data());
    Products<Out> branch{};
    for (std::size_t layer = 0; layer < s_.depth; ++layer) {
      const AcBlock& block = weights_->blocks[layer];
      const bool asks = pass.newest || layer + 1 < s_.depth;
      add_norm(lines, branch, block.norm1, queue);
      gemms.qkv.run(operands_.data(), block.qkv.weight.data(), results_.data(), queue);
      split(pass, layer, asks, by_token, queue);
      if (!asks) return;
      attention_.enqueue(queries_.data(), seen(pass, layer), mixed_.data(), pass.rows, queue);
      gemms.proj.run(mixed_operands(lines, queue), block.proj.weight.data(), results_.data(),
                     queue);
      add_norm(lines, products(block.proj), block.norm2, queue);
      gemms.fc1.run(operands_.data(), block.fc1.weight.data(), results_.data(), queue);
      launch(gelu<precision>, {dim3(lines), threads_for(block.fc1.outputs)}, queue,
             products(block.fc1), operands(block.fc2.inputs));
      gemms.fc2.run(operands_.data(), block.fc2.weight.data(), results_.data(), queue);
      branch = products(block.fc2);
    }
    add_norm(lines, branch, weights_->norm, queue);
    // All tokens, so that the shapes are those of the layers: action and pose are 2 of 258.
    gemms.head.run(operands_.data(), weights_->head.weight.data(), results_.data(), queue);
  }

  void add_norm(unsigned lines, const Products<Out>& branch, const AcNorm& norm,
                cudaStream_t queue) {
    launch(add_and_norm<precision>, {dim3(lines), threads_for(width_)}, queue, residual_.data(),
           branch,
           Norm{norm.gain.data(), norm.offset.data(), s_.norm_eps, static_cast<unsigned>(s_.dim)},
           operands(width_));
  }

  void split(const Pass& pass, std::size_t layer, bool asks, const dim3& by_token,
             cudaStream_t queue) {
    const auto [at, is_shared] = place(pass, pass.frame, layer);
    SplitHeads<Number> to{};
    to.queries = asks ? queries_.data() : nullptr;
    to.keys = (is_shared ? shared_keys_ : own_keys_).data() + at;
    to.values = (is_shared ? shared_values_ : own_values_).data() + at;
    to.turns = turns_.data() + (pass.frame - pass.start) * tokens_ * (s_.head_dim() / 2);
    to.tokens = static_cast<unsigned>(tokens_);
    to.heads = static_cast<unsigned>(s_.heads);
    to.head_dim = static_cast<unsigned>(s_.head_dim());
    to.padded = attention_.padded();
    launch(split_heads<Out, Number>, {by_token, dim3(128)}, queue,
           products(weights_->blocks[layer].qkv), to);
  }

  [[nodiscard]] SeenFrames<Number> seen(const Pass& pass, std::size_t layer) const {
    SeenFrames<Number> seen{};
    for (std::size_t frame = pass.start; frame <= pass.frame; ++frame) {
      const auto [at, is_shared] = place(pass, frame, layer);
      seen.keys[seen.count] = (is_shared ? shared_keys_ : own_keys_).data() + at;
      seen.values[seen.count] = (is_shared ? shared_values_ : own_values_).data() + at;
      seen.row_stride[seen.count] = is_shared ? 0 : frame_;
      ++seen.count;
    }
    return seen;
  }

  /// What attention mixed, as the product takes it: as it is, or rounded to a scale of its row.
  const void* mixed_operands(unsigned lines, cudaStream_t queue) {
    if constexpr (is_scaled(precision)) {
      launch(to_operands<precision, Number>, {dim3(lines), threads_for(width_)}, queue,
             mixed_.data(), width_, 1U, 0, static_cast<unsigned>(s_.dim), operands(width_));
      return operands_.data();
    } else {
      return mixed_.data();
    }
  }

  std::shared_ptr<const AcWeights> weights_;
  const AcSizes& s_;
  std::size_t tokens_;  // of a frame
  std::size_t width_;   // of the residual's rows
  FrameAttention<Number> attention_;
  std::size_t frame_;  // numbers in the keys of one row's frame in one layer
  std::size_t own_;    // frames of a candidate that a window can hold
  GemmLibrary library_;
  Gemms gemms_[2];  // for one row, and for a chunk

  DeviceBuffer<float> residual_;
  DeviceBuffer<In> operands_;
  DeviceBuffer<float> operand_scales_;
  DeviceBuffer<Out> results_;
  DeviceBuffer<Number> queries_, mixed_;
  DeviceBuffer<Number> own_keys_, own_values_;  // [own frame][layer][row]; the last: one layer's
  DeviceBuffer<float> context_, past_;
  DeviceBuffer<Out> embedded_;  // [frame][patch]
  DeviceBuffer<float> embedded_scales_;
  std::vector<std::size_t> first_slot_;               // by first frame of the window
  DeviceBuffer<Number> shared_keys_, shared_values_;  // [slot][layer]
  DeviceBuffer<Turn> turns_;
  PinnedBuffer<float> host_context_;
};

std::unique_ptr<AcRollout::Impl> make(const std::shared_ptr<const AcWeights>& weights,
                                      const Limits& limits, std::size_t chunk) {
  return with_precision(weights->precision, [&](auto numbers) -> std::unique_ptr<AcRollout::Impl> {
    return std::make_unique<Engine<decltype(numbers)::value>>(weights, limits, chunk);
  });
}

}  // namespace

AcRollout::AcRollout(const std::shared_ptr<const AcWeights>& weights, const Limits& limits,
                     std::size_t chunk)
    : impl_(make(weights, limits, chunk)) {}
AcRollout::~AcRollout() = default;

const RolloutSizes& AcRollout::sizes() const noexcept { return impl_->sizes; }
const Limits& AcRollout::limits() const noexcept { return impl_->limits; }
std::size_t AcRollout::chunk() const noexcept { return impl_->chunk; }
std::size_t AcRollout::workspace_bytes() const noexcept { return impl_->bytes; }

Status AcRollout::set_context(const Context& context, const Stream& stream) {
  return impl_->set_context(context, stream);
}
void AcRollout::enqueue(std::size_t frames, const float* actions, std::size_t candidates,
                        std::size_t horizon, std::size_t samples, DeviceNoise* noise,
                        float* latents, const Stream& stream) {
  impl_->enqueue(frames, actions, candidates, horizon, samples, noise, latents, stream);
}

}  // namespace jepa_edge::cuda
